"""Tensors and attributes of ONNX files as NumPy arrays and Python values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from tilewright.errors import ModelFileError, UnsupportedError
from tilewright.ir import dtype as dt

_T = onnx.TensorProto
#: ONNX element type -> ours.
DTYPES: Final[dict[int, str]] = {
    _T.FLOAT: "float32", _T.DOUBLE: "float64", _T.FLOAT16: "float16", _T.BFLOAT16: "bfloat16",
    _T.BOOL: "bool",
    _T.INT8: "int8", _T.INT16: "int16", _T.INT32: "int32", _T.INT64: "int64",
    _T.UINT8: "uint8", _T.UINT16: "uint16", _T.UINT32: "uint32", _T.UINT64: "uint64",
    _T.FLOAT8E4M3FN: "float8_e4m3fn", _T.FLOAT8E5M2: "float8_e5m2", _T.INT4: "int4", _T.UINT4: "uint4",
}  # fmt: skip


def dtype_name(elem_type: int, what: str, location: str) -> str:
    """Our name of an ONNX element type. Raises UnsupportedError naming ``what`` for strings, complex numbers
    and the like.
    """
    if elem_type in DTYPES:
        return DTYPES[elem_type]
    known = (
        _T.DataType.keys()[elem_type] if 0 < elem_type < len(_T.DataType.keys()) else f"number {elem_type}"
    )
    raise UnsupportedError(
        f"{what} has the element type {known.lower()}, which is not supported", location=location
    )


def _type(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


class TensorReader:
    """Turns ``TensorProto``s of one file into arrays; external data is looked up in ``folder`` only."""

    def __init__(self, folder: Path | None, location: str) -> None:
        self.folder = folder
        self.location = location

    def array(self, tensor: onnx.TensorProto, what: str) -> np.ndarray:
        """The tensor's data, read-only where it shares memory with the file.

        Raises ModelFileError when the data does not fit the declared shape.
        """
        dtype = dtype_name(tensor.data_type, what, self.location)
        shape = tuple(int(d) for d in tensor.dims)
        if tensor.data_location == _T.EXTERNAL:
            return self._from_bytes(self._external(tensor, what), dtype, shape, what)
        if tensor.HasField("raw_data") and dtype not in ("int4", "uint4"):
            return self._from_bytes(tensor.raw_data, dtype, shape, what)
        try:
            return np.ascontiguousarray(numpy_helper.to_array(tensor), dtype=dt.to_numpy(dtype)).reshape(
                shape
            )
        except (ValueError, TypeError) as error:
            raise ModelFileError(
                f"{what} does not hold the data for {_type(dtype, shape)}: the file is truncated or corrupt",
                location=self.location,
            ) from error

    def _from_bytes(
        self, data: bytes | memoryview, dtype: str, shape: tuple[int, ...], what: str
    ) -> np.ndarray:
        if dtype in ("int4", "uint4"):
            raise UnsupportedError(
                f"{what}: external data of {dtype} is not supported", location=self.location
            )
        numpy_dtype = dt.to_numpy(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        expected = count * numpy_dtype.itemsize
        if len(data) != expected:
            raise ModelFileError(
                f"{what} holds {len(data)} bytes, but {_type(dtype, shape)} takes {expected}: "
                "the file is truncated or corrupt",
                location=self.location,
            )
        array = np.frombuffer(data, dtype=numpy_dtype, count=count).reshape(shape)
        return array if sys.byteorder == "little" else array.byteswap()

    def _external(self, tensor: onnx.TensorProto, what: str) -> memoryview:
        """Bytes of a tensor kept in a file beside the model."""
        entries = {e.key: e.value for e in tensor.external_data}
        if self.folder is None:
            raise ModelFileError(
                f"{what} keeps its data in the file '{entries.get('location', '')}', which can only be found "
                "beside a model file",
                location=self.location,
                hint="pass the model's path instead of its bytes",
            )
        root = self.folder.resolve()
        path = (root / entries.get("location", "")).resolve()
        if not path.is_relative_to(root):
            raise ModelFileError(
                f"{what} points outside the model's folder: '{path}'", location=self.location
            )
        if not path.is_file():
            raise ModelFileError(
                f"{what} needs the data file '{path.name}', which is missing", location=self.location
            )
        offset = int(entries.get("offset", 0))
        size = path.stat().st_size
        length = int(entries.get("length", size - offset))
        if offset + length > size:
            raise ModelFileError(
                f"{what} needs bytes {offset} to {offset + length} of '{path.name}', which has only {size}",
                location=self.location,
            )
        if length == 0:
            return memoryview(b"")
        return np.memmap(path, np.uint8, "r", offset, (length,)).data

    def attribute(self, attr: onnx.AttributeProto, what: str) -> Any:
        """An attribute's value: number, str, tuple of those, array, or the protobuf itself for subgraphs."""
        kind = attr.type
        if kind == onnx.AttributeProto.TENSOR:
            return self.array(attr.t, f"attribute '{attr.name}' of {what}")
        if kind == onnx.AttributeProto.TENSORS:
            return tuple(self.array(t, f"attribute '{attr.name}' of {what}") for t in attr.tensors)
        if kind == onnx.AttributeProto.STRING:
            return attr.s.decode("utf-8", "replace")
        if kind == onnx.AttributeProto.STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in attr.strings)
        value = onnx.helper.get_attribute_value(attr)
        if kind in (onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS):
            return tuple(value)
        return value
