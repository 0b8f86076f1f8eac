"""Tensors and attributes of ONNX files as NumPy arrays and Python values."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from tilewright.config import options
from tilewright.errors import LimitError, ModelFileError, UnsupportedError
from tilewright.frontend.onnx.external import ExternalData
from tilewright.frontend.onnx.files import text
from tilewright.frontend.onnx.raw import AttrRef
from tilewright.ir import dtype as dt

_T = onnx.TensorProto
_A = onnx.AttributeProto
#: ONNX element type -> ours.
DTYPES: Final[dict[int, str]] = {
    _T.FLOAT: "float32", _T.DOUBLE: "float64", _T.FLOAT16: "float16", _T.BFLOAT16: "bfloat16",
    _T.BOOL: "bool",
    _T.INT8: "int8", _T.INT16: "int16", _T.INT32: "int32", _T.INT64: "int64",
    _T.UINT8: "uint8", _T.UINT16: "uint16", _T.UINT32: "uint32", _T.UINT64: "uint64",
    _T.FLOAT8E4M3FN: "float8_e4m3fn", _T.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    _T.FLOAT8E5M2: "float8_e5m2", _T.FLOAT8E5M2FNUZ: "float8_e5m2fnuz", _T.FLOAT8E8M0: "float8_e8m0fnu",
    _T.FLOAT6E2M3: "float6_e2m3fn", _T.FLOAT6E3M2: "float6_e3m2fn", _T.FLOAT4E2M1: "float4_e2m1fn",
    _T.INT4: "int4", _T.UINT4: "uint4", _T.INT2: "int2", _T.UINT2: "uint2",
}  # fmt: skip
#: Our dtype -> the field of TensorProto that holds its elements when there are no raw bytes.
_FIELDS: Final[dict[str, str]] = {
    "float32": "float_data", "float64": "double_data", "int64": "int64_data",
    "uint32": "uint64_data", "uint64": "uint64_data",
}  # fmt: skip
#: Types that stand in ``int32_data`` as bit patterns, one element a number, with the integer of their width.
_AS_BITS: Final = {
    "float16": np.uint16, "bfloat16": np.uint16,
    **{d: np.uint8 for d in dt.STORAGE if dt.bits(d) in (6, 8)},
}  # fmt: skip
#: More dimensions than NumPy has are no tensor.
MAX_RANK: Final = 32


def dtype_name(elem_type: int, what: str, location: str) -> str:
    """Our name of an ONNX element type. Raises UnsupportedError naming ``what`` for strings, complex numbers
    and the like, ModelFileError for types that ONNX does not have.
    """
    if elem_type in DTYPES:
        return DTYPES[elem_type]
    if elem_type == _T.UNDEFINED:
        raise ModelFileError(f"{what} has no element type", location=location)
    known = dict(_T.DataType.items())
    name = next((key for key, number in known.items() if number == elem_type), None)
    if name is None:
        raise ModelFileError(
            f"{what} has the element type {elem_type}, which ONNX does not have", location=location
        )
    raise UnsupportedError(
        f"{what} has the element type {name.lower()}, which is not supported", location=location
    )


def _type(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


class TensorReader:
    """Turns ``TensorProto``s of one file into arrays; external data is looked up in ``folder`` only."""

    def __init__(self, folder: Path | None, location: str) -> None:
        self.location = location
        self.external = ExternalData(folder, location)

    def text(self, value: str | bytes, what: str) -> str:
        """See :func:`tilewright.frontend.onnx.files.text`."""
        return text(value, what, self.location)

    def array(self, tensor: onnx.TensorProto, what: str) -> np.ndarray:
        """The tensor's data, read-only where it shares memory with the file.

        Raises ModelFileError when the data does not fit the declared shape, UnsupportedError for element
        types that are not supported, LimitError when it is larger than ``Options.max_tensor_bytes``.
        """
        dtype = dtype_name(tensor.data_type, what, self.location)
        shape = tuple(int(d) for d in tensor.dims)
        count = self._count(dtype, shape, what)
        nbytes = dt.packed_count(dtype, count)
        if tensor.data_location == _T.EXTERNAL:
            return self._from_bytes(self.external.read(tensor, nbytes, what), dtype, shape, nbytes, what)
        if tensor.HasField("raw_data"):
            raw = np.frombuffer(tensor.raw_data, np.uint8)
            return self._from_bytes(raw, dtype, shape, nbytes, what)
        return self._from_fields(tensor, dtype, shape, count, what)

    def _count(self, dtype: str, shape: tuple[int, ...], what: str) -> int:
        """The number of elements."""
        if any(d < 0 for d in shape) or len(shape) > MAX_RANK:
            raise ModelFileError(
                f"{what} has the impossible shape [{', '.join(map(str, shape[:MAX_RANK]))}]",
                location=self.location,
            )
        limit = options().max_tensor_bytes
        if math.prod(max(d, 1) for d in shape) * dt.bits(dtype) > 8 * limit:
            raise LimitError(
                f"{what} is {_type(dtype, shape)}, more than {limit} bytes",
                location=self.location,
                hint="--max-tensor-bytes raises the limit",
            )
        return math.prod(shape)

    def _from_bytes(
        self, data: np.ndarray, dtype: str, shape: tuple[int, ...], nbytes: int, what: str
    ) -> np.ndarray:
        """Little-endian bytes as an array: a view of them unless elements share bytes."""
        if len(data) != nbytes:
            raise ModelFileError(
                f"{what} holds {len(data)} bytes, but {_type(dtype, shape)} takes {nbytes}: "
                "the file is truncated or corrupt",
                location=self.location,
            )
        if dt.is_packed(dtype):
            return dt.unpack(data, dtype, math.prod(shape)).reshape(shape)
        array = data.view(dt.to_numpy(dtype)).reshape(shape)
        if dtype == "bool" and array.size and int(data.max()) > 1:
            array = (data != 0).reshape(shape)
        return array if sys.byteorder == "little" else array.byteswap()

    def _from_fields(
        self, tensor: onnx.TensorProto, dtype: str, shape: tuple[int, ...], count: int, what: str
    ) -> np.ndarray:
        """Elements from the list of numbers that belongs to the type."""
        numbers = getattr(tensor, _FIELDS.get(dtype, "int32_data"))
        shared = dt.is_packed(dtype) and dtype not in _AS_BITS
        held = dt.packed_count(dtype, count) if shared else count
        if len(numbers) != held:
            raise ModelFileError(
                f"{what} does not hold the data for {_type(dtype, shape)}: {len(numbers)} numbers instead of "
                f"{held}; the file is truncated or corrupt",
                location=self.location,
            )
        target = dt.to_numpy(dtype)
        if dtype in _FIELDS and dtype != "uint32":
            return np.array(numbers, target).reshape(shape)
        wide = np.array(numbers, np.uint64 if dtype == "uint32" else np.int64)
        if shared:
            return dt.unpack(wide.astype(np.uint8), dtype, count).reshape(shape)
        if dtype in _AS_BITS:
            return wide.astype(_AS_BITS[dtype]).view(target).reshape(shape)
        array = wide.astype(target)
        if dtype != "bool" and not np.array_equal(array, wide):
            raise ModelFileError(
                f"{what} holds numbers that {dtype} does not have", location=self.location
            )
        return array.reshape(shape)

    def sparse(self, tensor: onnx.SparseTensorProto, what: str) -> np.ndarray:
        """A sparse tensor with all of its zeros. Raises as :meth:`array`."""
        values = self.array(tensor.values, f"the values of {what}")
        indices = self.array(tensor.indices, f"the indices of {what}")
        shape = tuple(int(d) for d in tensor.dims)
        count = self._count(dt.from_numpy(values.dtype), shape, what)
        if values.ndim != 1 or indices.dtype != np.int64 or indices.shape not in (
            (len(values),),
            (len(values), len(shape)),
        ):
            raise ModelFileError(
                f"{what} of {len(shape)} dimensions has values {list(values.shape)} at indices "
                f"{indices.dtype}{list(indices.shape)}",
                location=self.location,
            )
        if indices.ndim == 2:
            inside = bool(((indices >= 0) & (indices < np.array(shape, np.int64))).all())
            strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            places = indices @ np.array(strides, np.int64)
        else:
            places = indices
            inside = bool(((places >= 0) & (places < count)).all())
        if not inside:
            raise ModelFileError(f"{what} has indices outside of {list(shape)}", location=self.location)
        dense = np.zeros(count, values.dtype)
        dense[places] = values
        return dense.reshape(shape)

    def attribute(self, attr: onnx.AttributeProto, what: str) -> Any:
        """An attribute's value: number, str, tuple of those, array, a reference to an attribute of the
        function around it, or the protobuf itself for subgraphs and types.

        Raises ModelFileError when it has no type, and as :meth:`array`.
        """
        name = f"attribute '{self.text(attr.name, f'an attribute of {what}')}' of {what}"
        if attr.ref_attr_name:
            return AttrRef(self.text(attr.ref_attr_name, f"the reference in {name}"))
        kind = attr.type or _type_of(attr)
        if kind not in _READERS:
            raise ModelFileError(f"{name} has no value", location=self.location)
        return _READERS[kind](self, attr, name)


def _type_of(attr: onnx.AttributeProto) -> int:
    """The type of an attribute that does not say it, as files of the first versions do not."""
    for kind, field in (
        (_A.FLOAT, "f"), (_A.INT, "i"), (_A.STRING, "s"), (_A.TENSOR, "t"), (_A.GRAPH, "g"),
    ):  # fmt: skip
        if attr.HasField(field):
            return int(kind)
    for kind, field in (
        (_A.FLOATS, "floats"), (_A.INTS, "ints"), (_A.STRINGS, "strings"), (_A.TENSORS, "tensors"),
    ):  # fmt: skip
        if getattr(attr, field):
            return int(kind)
    return int(_A.UNDEFINED)


def _string(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_READERS: Final[dict[int, Callable[[TensorReader, Any, str], Any]]] = {
    _A.FLOAT: lambda reader, a, name: float(a.f),
    _A.INT: lambda reader, a, name: int(a.i),
    _A.STRING: lambda reader, a, name: _string(a.s),
    _A.TENSOR: lambda reader, a, name: reader.array(a.t, name),
    _A.GRAPH: lambda reader, a, name: a.g,
    _A.SPARSE_TENSOR: lambda reader, a, name: reader.sparse(a.sparse_tensor, name),
    _A.TYPE_PROTO: lambda reader, a, name: a.tp,
    _A.FLOATS: lambda reader, a, name: tuple(a.floats),
    _A.INTS: lambda reader, a, name: tuple(a.ints),
    _A.STRINGS: lambda reader, a, name: tuple(map(_string, a.strings)),
    _A.TENSORS: lambda reader, a, name: tuple(reader.array(t, name) for t in a.tensors),
    _A.SPARSE_TENSORS: lambda reader, a, name: tuple(reader.sparse(t, name) for t in a.sparse_tensors),
    _A.GRAPHS: lambda reader, a, name: tuple(a.graphs),
    _A.TYPE_PROTOS: lambda reader, a, name: tuple(a.type_protos),
}
