"""A program through the whole kernel path: scheduled, lowered, interpreted, run natively between guard
pages.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import mmap
import os
import signal
import time
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from tests.kernels.programs import Case
from tilewright.backend import get_backend
from tilewright.ir import dtype as dt
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.interp import run
from tilewright.ir.stmt import Block, Buffer, For, PrimFunc, Stmt, Store
from tilewright.ir.verify import verify
from tilewright.ir.visit import child_stmts, const_int, find_blocks
from tilewright.lower import lower
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.pool import ThreadPool
from tilewright.schedule.default import default_schedule
from tilewright.schedule.index_map import IndexMap
from tilewright.target import Target

#: Seconds after which a kernel counts as hung.
TIMEOUT = 60.0
#: Statements of a lowered program beyond which code size is out of proportion for programs of these sizes.
MAX_STATEMENTS = 40_000

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class NativeFailure(AssertionError):
    """Native code crashed, hung, or wrote where it must not."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The stages of one program for one target, and inputs in the layouts that its schedule wants."""

    collapsed: PrimFunc
    scheduled: PrimFunc
    lowered: PrimFunc
    inputs: list[np.ndarray]
    shapes: list[tuple[int, ...]]

    def scheduled_blocks(self) -> list[Block]:
        """The blocks that are left after inlining and those that the schedule made."""
        return find_blocks(self.scheduled.body)


def prepare(case: Case, target: Target) -> Prepared:
    """Collapse, schedule and lower ``case``; every pass's result is verified."""
    func = collapse_dims(case.func)
    scheduled = default_schedule(func, target).func
    verify(scheduled)
    lowered = lower(scheduled, _verify_pass)
    assert statements(lowered.body) <= MAX_STATEMENTS, "the lowered program is too large"
    layouts = dict(scheduled.attr("param_layouts", {}))
    inputs = []
    for param, array in zip(func.inputs, case.inputs, strict=True):
        assert isinstance(param, Buffer)
        array = array.reshape(param.static_shape)
        inputs.append(IndexMap.parse(layouts[param.name]).apply(array) if param.name in layouts else array)
    return Prepared(
        func, scheduled, lowered, inputs, [tuple(b.static_shape or ()) for b in case.func.outputs]
    )


def _verify_pass(name: str, result: PrimFunc) -> None:
    # Between these passes register buffers are still allocated at the root.
    if name not in ("flatten_blocks", "simplify_body"):
        verify(result)


def statements(stmt: Stmt) -> int:
    """Statements in ``stmt``."""
    return 1 + sum(statements(child) for child in child_stmts(stmt))


def check_interpreted(case: Case, prepared: Prepared, expected: Sequence[np.ndarray]) -> None:
    """The scheduled and the lowered function compute what the original does, in the interpreter."""
    for func in (prepared.scheduled, prepared.lowered):
        results = run(func, prepared.inputs, check_undefined=True)
        case.check([r.reshape(s) for r, s in zip(results, prepared.shapes, strict=True)], expected)


def check_native(case: Case, prepared: Prepared, target: Target, expected: Sequence[np.ndarray]) -> None:
    """Machine code for ``target`` computes it too and stays within its buffers, on one and two threads."""
    backend = get_backend(target)
    module = backend.emit(prepared.lowered, target, "tw_k_fuzz")
    code = backend.compile([module.text], target)
    runtime = _runtime()
    library = load(code, [module.symbol], runtime)
    for threads, at_end in ((1, True), (2, False), (1, False), (2, True)):
        results = _run_guarded(
            library.addresses[module.symbol], prepared, module.workspace(threads), threads, at_end, runtime
        )
        case.check([r.reshape(s) for r, s in zip(results, prepared.shapes, strict=True)], expected)


@functools.cache
def _runtime() -> dict[str, int]:
    host = Target.host()
    backend = get_backend(host)
    return load_runtime(backend.compile([backend.emit_runtime(host)], host)[0])


class GuardedMemory:
    """Shared memory between two pages that cannot be touched; the data ends (or begins) at one of them."""

    def __init__(self, nbytes: int, at_end: bool, align: int, fill: int) -> None:
        self.size = -(-max(nbytes, 1) // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, self.size + 2 * _PAGE)
        self._whole = np.frombuffer(self._map, np.uint8)
        base = self._whole.ctypes.data
        _protect(base, _PAGE, 0)
        _protect(base + _PAGE + self.size, _PAGE, 0)
        self.start = _PAGE + (self.size - -(-nbytes // align) * align if at_end else 0)
        self.nbytes = nbytes
        self.address = base + self.start
        self._inside = self._whole[_PAGE : _PAGE + self.size]
        self._inside[:] = 0xA5
        self.data = self._whole[self.start : self.start + nbytes]
        self.data[:] = fill

    def make_read_only(self) -> None:
        _protect(self._whole.ctypes.data + _PAGE, self.size, mmap.PROT_READ)

    def canaries_live(self) -> bool:
        """Whether the bytes of the pages that are not data were left alone."""
        first = self.start - _PAGE
        return bool(
            np.all(self._inside[:first] == 0xA5) and np.all(self._inside[first + self.nbytes :] == 0xA5)
        )


def _protect(address: int, size: int, flags: int) -> None:
    if _libc.mprotect(address, size, flags):
        raise OSError(ctypes.get_errno(), "mprotect")


def _run_guarded(
    address: int, prepared: Prepared, workspace: int, threads: int, at_end: bool, runtime: dict[str, int]
) -> list[np.ndarray]:
    """Outputs of the kernel, run in a child process. Raises NativeFailure."""
    what = f"{threads} thread(s), data at the {'end' if at_end else 'start'} of its page"
    inputs = []
    for array in prepared.inputs:
        memory = GuardedMemory(array.nbytes, at_end, array.itemsize, 0)
        memory.data[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        memory.make_read_only()
        inputs.append(memory)
    outputs = []
    for buffer in prepared.lowered.outputs:
        size = prod(buffer.static_shape or ()) * dt.nbytes(buffer.dtype)
        outputs.append(GuardedMemory(size, at_end, dt.nbytes(buffer.dtype), 0xFF))
    scratch = GuardedMemory(workspace, at_end, 64, 0xFF)
    slots = (ctypes.c_int64 * max(len(inputs) + len(outputs), 1))(*(m.address for m in inputs + outputs))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            pool = ThreadPool(runtime, threads)
            kernel = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)(address)
            status = kernel(pool.address, ctypes.addressof(slots), scratch.address)
        finally:
            os._exit(status)
    status = _wait(child)
    if os.WIFSIGNALED(status):
        raise NativeFailure(f"the kernel died of {signal.Signals(os.WTERMSIG(status)).name} ({what})")
    if os.WEXITSTATUS(status):
        raise NativeFailure(f"the kernel returned {os.WEXITSTATUS(status)} ({what})")
    if not all(m.canaries_live() for m in [*outputs, scratch]):
        raise NativeFailure(f"the kernel wrote outside its buffers ({what})")
    return [
        memory.data.copy().view(dt.to_numpy(b.dtype))
        for memory, b in zip(outputs, prepared.lowered.outputs, strict=True)
    ]


def _wait(child: int) -> int:
    deadline = time.monotonic() + TIMEOUT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise NativeFailure(f"the kernel did not end within {TIMEOUT:.0f} s")
        time.sleep(0.0005)


def check(case: Case, targets: Sequence[str], native: Sequence[str]) -> None:
    """The whole path: ``targets`` in the interpreter, those of ``native`` as machine code too."""
    expected = case.expected()
    for name in targets:
        target = Target.parse(name)
        prepared = prepare(case, target)
        check_interpreted(case, prepared, expected)
        if name in native:
            check_native(case, prepared, target, expected)


# -------------------------------------------------------------------------------------------- poor schedules


@dataclasses.dataclass(frozen=True)
class Slow:
    """A store that runs often without vectors, or much work outside parallel loops."""

    block: str
    reason: str
    count: int


def slow_parts(prepared: Prepared, scalar: int = 5_000, serial: int = 1_000_000) -> Iterator[Slow]:
    """Blocks of the scheduled function that were left to plain loops although they run often."""

    def visit(stmt: Stmt, trips: int, vector: bool, parallel: bool) -> Iterator[Slow]:
        if isinstance(stmt, For):
            extent = const_int(stmt.extent) or 1
            yield from visit(
                stmt.body,
                trips * extent,
                vector or stmt.kind == "vectorized",
                parallel or stmt.kind == "parallel",
            )
            return
        if isinstance(stmt, Block) and isinstance(stmt.body, Store):
            if not vector and trips >= scalar:
                yield Slow(stmt.name, "scalar", trips)
            if not parallel and trips >= serial:
                yield Slow(stmt.name, "serial", trips)
        for child in child_stmts(stmt):
            yield from visit(child, trips, vector, parallel)

    yield from visit(prepared.scheduled.body, 1, False, False)
