from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilewright.runtime.dlpack import _Tensor, from_dlpack


class Foreign:
    """A tensor of another framework: NumPy's, with the dtype in its DLPack record changed."""

    def __init__(self, array: np.ndarray, code: int, device: int = 1) -> None:
        self.array, self.code, self.device = array, code, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)

    def __dlpack__(self, **options: Any) -> Any:
        options.pop("max_version", None)
        capsule = self.array.__dlpack__(**options)
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        record = _Tensor.from_address(pointer(capsule, b"dltensor"))
        record.code = self.code
        record.device_type = self.device
        return capsule


@pytest.mark.parametrize(
    ("code", "bits", "dtype"),
    [
        (4, np.uint16, ml_dtypes.bfloat16),
        (10, np.uint8, ml_dtypes.float8_e4m3fn),
        (12, np.uint8, ml_dtypes.float8_e5m2),
    ],
)
def test_dtypes_that_numpy_does_not_know(code: int, bits: type, dtype: type) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    raw = values.view(bits)
    result = from_dlpack(Foreign(raw, code))
    assert result.dtype == dtype
    assert np.array_equal(result.astype(np.float32), values.astype(np.float32))
    assert np.shares_memory(result.view(bits), raw)
    turned = from_dlpack(Foreign(raw.transpose(2, 0, 1), code))
    assert np.array_equal(turned.astype(np.float32), values.transpose(2, 0, 1).astype(np.float32))


def test_numpys_own_dtypes_take_the_short_way() -> None:
    array = np.arange(6, dtype=np.int64)
    assert np.shares_memory(from_dlpack(array), array)


def test_the_memory_lives_as_long_as_the_array() -> None:
    class Owner(np.ndarray):
        pass

    owner = np.zeros(10, np.uint16).view(Owner)
    gone = weakref.ref(owner)
    result = from_dlpack(Foreign(owner, 4))
    part = result[2:5]
    del owner, result
    gc.collect()
    assert gone() is not None
    assert part.tolist() == [0, 0, 0]
    del part
    gc.collect()
    assert gone() is None


def test_what_cannot_be_read() -> None:
    with pytest.raises(BufferError):
        from_dlpack(Foreign(np.zeros(3, np.uint16), 4, device=2))
    with pytest.raises(BufferError):
        from_dlpack(Foreign(np.zeros(3, np.uint16), 99))
