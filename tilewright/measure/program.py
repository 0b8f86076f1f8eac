"""Native code of one kernel, with memory of its own to run in."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from tilewright.backend import get_backend
from tilewright.build import Options, always, compile_kernels
from tilewright.errors import InputError, ShapeError
from tilewright.ir import dtype as dt
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import const_int
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.memory import HUGE_PAGE, allocate, data_address
from tilewright.runtime.plan import ALIGNMENT
from tilewright.runtime.pool import ThreadPool
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

_KERNEL = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)
#: Bytes before and after each array in which a program must not write.
GUARD: Final = 4096
_CANARY: Final = 0xA5
#: Bytes of weights and activations that a model of ordinary size goes through between two calls of a kernel.
MODEL_BYTES: Final = 128 << 20


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled kernel.

    Attributes:
        code: the object file.
        symbol: the kernel's function in it.
        ws_shared, ws_thread: bytes of workspace, once and for each thread.
        layouts: by parameter, the layout in which a schedule has it stored (``IndexMap`` as text).
    """

    code: bytes
    symbol: str
    ws_shared: int
    ws_thread: int
    layouts: Mapping[str, str]


def build_program(schedule: Schedule, target: Target) -> Program:
    """Compile a schedule. Raises CompileError, and what lowering raises on programs that the target has no
    place for.
    """
    func = schedule.func
    options = Options(choose=always(lambda *_: schedule), traits=False)
    kernel = compile_kernels([func], target, options)[0]
    layouts = {str(k): str(v) for k, v in dict(func.attr("param_layouts", {})).items()}
    return Program(kernel.code, kernel.symbol, kernel.ws_shared, kernel.ws_thread, layouts)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An argument of a kernel.

    Attributes:
        name: what it is called.
        shape: its shape.
        dtype: its element type.
        strides: elements between neighbours per dimension, of a part of a larger array, such as an operand of
            a concatenation that is written in place; None when it is row-major and compact.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] | None = None


def check_array(param: Parameter, data: np.ndarray) -> None:
    """Raise InputError unless ``data`` has the parameter's shape and element type."""
    if data.shape != param.shape or dt.from_numpy(data.dtype) != param.dtype:
        raise InputError(
            f"'{param.name}' is {param.dtype}{list(param.shape)}, an array of {data.dtype}{list(data.shape)} "
            "was given"
        )


def parameters(func: PrimFunc) -> tuple[Parameter, ...]:
    """The arguments of a function with static shapes, outputs last. Raises ShapeError for others."""
    found = []
    for param in func.params:
        if not isinstance(param, Buffer) or param.static_shape is None:
            raise ShapeError(f"'{func.name}' has symbolic dimensions", hint="give it sizes to run it")
        strides = None if param.strides is None else tuple(const_int(s) for s in param.strides)
        if strides is not None and None in strides:
            raise ShapeError(f"'{func.name}' has symbolic strides", hint="give it sizes to run it")
        found.append(Parameter(param.name, param.static_shape, param.dtype, cast("Any", strides)))
    return tuple(found)


class Arrays:
    """Arrays between guards, which show when something was written beside them."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._spread: list[tuple[np.ndarray, np.ndarray]] = []  # memory of strided arrays, where its gaps are

    def put(self, data: np.ndarray, strides: Sequence[int] | None = None) -> np.ndarray:
        """A copy of ``data`` at an address that is a multiple of 64; with ``strides`` (in elements) its
        elements lie so far apart.
        """
        result = self._place(data.shape, data.dtype, strides)
        result[...] = data
        return result

    def blank(
        self, shape: tuple[int, ...], dtype: np.dtype, strides: Sequence[int] | None = None
    ) -> np.ndarray:
        """An array as :meth:`put` makes it, of bytes that no result has."""
        result = self._place(shape, dtype, strides)
        result[...] = np.full(dtype.itemsize, 0xFF, np.uint8).view(dtype).reshape(())
        return result

    def _place(self, shape: tuple[int, ...], dtype: np.dtype, strides: Sequence[int] | None) -> np.ndarray:
        size = _extent(shape, strides) * dtype.itemsize
        block = np.empty(size + 2 * GUARD + ALIGNMENT, np.uint8)
        start = GUARD + -(data_address(block) + GUARD) % ALIGNMENT
        for guard in (block[:start], block[start + size :]):
            guard[...] = _CANARY
            self._blocks.append(guard)
        own = block[start : start + size]
        room = own.view(dtype)
        if strides is None or not size:
            return room.reshape(shape)
        own[...] = _CANARY
        gaps = np.ones(room.shape, np.bool_)
        _strided(gaps, shape, strides)[...] = False
        self._spread.append((room, gaps))
        return _strided(room, shape, strides)

    def damaged(self) -> bool:
        """Whether something was written beside an array, or between its elements."""
        return any(bool((block != _CANARY).any()) for block in self._blocks) or any(
            bool((room[gaps].view(np.uint8) != _CANARY).any()) for room, gaps in self._spread
        )


class Blocks:
    """Memory such as a model's weights are in, which is used again: fresh pages cost more than filling them.

    Args:
        most: bytes of blocks that wait to be used again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[mmap.mmap] = []

    def take(self, nbytes: int) -> mmap.mmap:
        """A block of at least so many bytes, with what others have left in it. Raises OutOfMemoryError."""
        fitting = [block for block in self._free if nbytes <= len(block) <= 2 * nbytes]
        if not fitting:
            return allocate(-(-nbytes // HUGE_PAGE) * HUGE_PAGE)
        found = min(fitting, key=len)
        self._free = [block for block in self._free if block is not found]
        return found

    def give(self, block: mmap.mmap) -> None:
        """Take back a block that nobody uses any more; those that have waited longest go."""
        self._free.append(block)
        while sum(map(len, self._free)) > self._most:
            del self._free[0]


def flush_bytes(target: Target, times: int = 2) -> int:
    """How many bytes of copies of weights calls should take turns over, to find them where a model's are: so
    many times the last cache, in memory then; where caches are larger than models, no more than those have.
    """
    return min(times * target.l3_bytes, MODEL_BYTES)


def copies(
    data: np.ndarray, strides: Sequence[int] | None, count: int, take: Callable[[int], mmap.mmap] = allocate
) -> tuple[list[np.ndarray], mmap.mmap]:
    """Copies of ``data`` like those of :meth:`Arrays.put` without guards, one after the other in a block that
    ``take`` gives; and the block.
    """
    size = _extent(data.shape, strides) * data.dtype.itemsize
    apart = -(-(size + GUARD) // ALIGNMENT) * ALIGNMENT
    memory = take(count * apart)
    block = np.frombuffer(memory, np.uint8)
    found = []
    for start in range(0, count * apart, apart):
        room = block[start : start + size].view(data.dtype)
        compact = strides is None or not size
        found.append(room.reshape(data.shape) if compact else _strided(room, data.shape, strides or ()))
        found[-1][...] = data
    return found, memory


def _extent(shape: Sequence[int], strides: Sequence[int] | None) -> int:
    """Elements from the first to the last one of an array, both included."""
    if strides is None or 0 in shape:
        return math.prod(shape)
    return sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) + 1


def _strided(room: np.ndarray, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(room, shape, [stride * room.itemsize for stride in strides])


class Bound:
    """A program with its arguments in place: a call runs it once.

    Args:
        loaded: the program.
        arrays: inputs, then outputs. More than one list: calls take turns over them, so that what differs
            between them comes from memory.
        workspace: what the kernel works in.
        outputs: how many of the arrays are outputs.
        turns: numbers of the calls. Programs that share them share arrays in such a way that none has what
            another one has just brought into the caches.
    """

    def __init__(
        self,
        loaded: Loaded,
        arrays: Sequence[Sequence[np.ndarray]],
        workspace: np.ndarray,
        outputs: int,
        turns: Iterator[int],
    ) -> None:
        self._loaded = loaded  # the code is there as long as this
        self._kernel, self._pool = _KERNEL(loaded.address), loaded.pool.address
        self._workspace = workspace
        self._arrays = arrays
        known = {id(x): data_address(x) for x in itertools.chain(*arrays)}
        self._table = np.array([[known[id(x)] for x in a] for a in arrays], np.uintp)
        first, row = data_address(self._table), self._table.strides[0]
        self._args = [first + row * n for n in range(len(arrays))]
        self._where = data_address(workspace)
        self._turns = turns
        self.inputs = list(arrays[0][: len(arrays[0]) - outputs])
        self.outputs = list(arrays[0][len(arrays[0]) - outputs :])

    def __call__(self) -> int:
        """One call; the kernel's status, 0 when all is well."""
        args = self._args[next(self._turns) % len(self._args)]
        return int(self._kernel(self._pool, args, self._where))

    def first(self) -> int:
        """One call on the first list of arrays; as calling it otherwise."""
        return int(self._kernel(self._pool, self._args[0], self._where))


class Loaded:
    """A program in this process.

    Attributes:
        address: of its function.
        pool: the threads that it runs on.

    Raises:
        ArtifactError: the code is not for this machine.
    """

    def __init__(self, program: Program, functions: Mapping[str, int], threads: int) -> None:
        self.program, self.threads = program, threads
        self._library = load([program.code], [program.symbol], functions)
        self.pool = ThreadPool.shared(functions, threads)
        self.address = self._library.addresses[program.symbol]

    def bind(
        self,
        params: Sequence[Parameter],
        inputs: Sequence[np.ndarray],
        memory: Arrays,
        laid: Callable[[Parameter, np.ndarray, str], Sequence[np.ndarray]] | None = None,
        turns: Iterator[int] | None = None,
    ) -> Bound:
        """The program on copies of ``inputs``, its outputs filled with what no result looks like.

        Args:
            params: all arguments, outputs last.
            memory: where the arrays live.
            laid: gives copies of an input in a layout, more than one where calls are to take turns.
            turns: as of :class:`Bound`; of its own when left out.
        """
        wanted = params[: len(inputs)]
        columns: list[Sequence[np.ndarray]] = []
        for param, data in zip(wanted, inputs, strict=True):
            layout = self.program.layouts.get(param.name, "")
            own = laid(param, data, layout) if laid else [memory.put(*laid_out(param, data, layout))]
            columns.append(own)
        results = params[len(inputs) :]
        outputs = [memory.blank(p.shape, dt.to_numpy(p.dtype), p.strides) for p in results]
        size = self.program.ws_shared + self.threads * self.program.ws_thread
        rows = max((len(c) for c in columns), default=1)
        arrays = [[*(c[n % len(c)] for c in columns), *outputs] for n in range(rows)]
        workspace = memory.put(np.zeros(max(size, 1), np.uint8))
        return Bound(self, arrays, workspace, len(outputs), turns or itertools.count(1))


def in_layout(data: np.ndarray, layout: str) -> np.ndarray:
    """``data`` in a layout as text; itself where that is empty."""
    return IndexMap.parse(layout).apply(data) if layout else data


def laid_out(param: Parameter, data: np.ndarray, layout: str) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """``data`` as a program stores it that has the parameter in a layout, and its strides."""
    return in_layout(data, layout), None if layout else param.strides


@functools.cache
def runtime_code(target: Target) -> bytes:
    """The object with the thread pool's functions. Raises CompileError."""
    backend = get_backend(target)
    return backend.compile([backend.emit_runtime(target)], target)[0]


def runtime_functions(target: Target) -> dict[str, int]:
    """Addresses of the thread pool's functions in this process."""
    return load_runtime(runtime_code(target))
