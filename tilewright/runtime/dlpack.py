"""Reading tensors of other frameworks in dtypes that NumPy's own DLPack reader does not know, such as
bfloat16.
"""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np

# DLDataTypeCode of dlpack.h (version 1.1), for the types that NumPy lacks; all have one element a lane.
_DTYPES = {
    (4, 16): ml_dtypes.bfloat16,
    (7, 8): ml_dtypes.float8_e3m4,
    (8, 8): ml_dtypes.float8_e4m3,
    (9, 8): ml_dtypes.float8_e4m3b11fnuz,
    (10, 8): ml_dtypes.float8_e4m3fn,
    (11, 8): ml_dtypes.float8_e4m3fnuz,
    (12, 8): ml_dtypes.float8_e5m2,
    (13, 8): ml_dtypes.float8_e5m2fnuz,
    (14, 8): ml_dtypes.float8_e8m0fnu,
}
_CPU = 1


class _Tensor(ctypes.Structure):
    """``DLTensor``, the first member of ``DLManagedTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Exported:
    """Memory of a DLPack capsule as raw integers, for ``np.asarray``. Arrays made from it keep it, and so
    the capsule.
    """

    def __init__(self, capsule: Any, tensor: _Tensor) -> None:
        self._capsule = capsule
        shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        size = tensor.bits // 8
        strides = tuple(tensor.strides[i] * size for i in range(tensor.ndim)) if tensor.strides else None
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "strides": strides,
            "typestr": f"<u{size}",
            "data": ((tensor.data or 0) + tensor.byte_offset, False),
        }


def from_dlpack(value: Any) -> np.ndarray:
    """A NumPy array on the memory of ``value``, any object with ``__dlpack__`` on the CPU.

    Raises:
        BufferError: the memory is not the CPU's, or the dtype has no NumPy counterpart.
    """
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError) as error:
        array = _read(value.__dlpack__())
        if array is None:
            raise BufferError(str(error)) from error
        return array


def _read(capsule: Any) -> np.ndarray | None:
    """The capsule's tensor if it has one of the dtypes of this module."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # The capsule keeps its name, which leaves the duty to free the tensor with the capsule itself.
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    dtype = _DTYPES.get((tensor.code, tensor.bits))
    if dtype is None or tensor.lanes != 1 or tensor.device_type != _CPU:
        return None
    return np.asarray(_Exported(capsule, tensor)).view(dtype)
