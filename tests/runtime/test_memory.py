from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest

from tilewright.runtime.memory import OutputMemory, address_of, allocate, data_address


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (5, 7, 2), (1 << 20,), (1000, 1000)])
def test_outputs(dtype: type, shape: tuple[int, ...]) -> None:
    memory = OutputMemory(shape, np.dtype(dtype))
    (a, at), (b, bt) = memory.new(), memory.new()
    for array, address in ((a, at), (b, bt)):
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert address % 64 == 0
        assert data_address(array) == address or array.size == 0
    assert not np.shares_memory(a, b)
    a[...] = 1
    b[...] = 0
    assert (a == 1).all()


def test_large_outputs_are_reused_when_nobody_looks_at_them() -> None:
    memory = OutputMemory((1 << 20,), np.dtype(np.uint8))
    first, address = memory.new()
    view = first[5:10].reshape(5, 1)
    view[...] = 7
    del first
    gc.collect()
    second, other = memory.new()
    second[...] = 0
    assert other != address  # the view still needs the first block
    assert (view == 7).all()
    del view
    third, again = memory.new()
    assert again == address
    del memory, second
    third[...] = 1


def test_not_all_blocks_are_kept() -> None:
    memory = OutputMemory((1 << 20,), np.dtype(np.uint8))
    arrays = [memory.new() for _ in range(20)]
    assert len({address for _, address in arrays}) == 20
    arrays.clear()
    assert len(memory._free) == 2


def test_addresses() -> None:
    block = allocate(100)
    assert address_of(block) % 4096 == 0
    assert address_of(memoryview(block)[64:].toreadonly()) == address_of(block) + 64
    assert len(allocate(0)) == 1
    readonly = np.arange(4)
    address = data_address(readonly)
    readonly.flags.writeable = False
    assert data_address(readonly) == address
    assert data_address(np.ones(3, ml_dtypes.bfloat16)) % 2 == 0


def test_too_much_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match=r"GiB cannot be allocated"):
        allocate(1 << 60)
