"""Running lowered programs as machine code, in a child process, with every buffer between guard pages."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from tilewright.backend import get_backend
from tilewright.ir import dtype as dt
from tilewright.ir.stmt import PrimFunc
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.pool import ThreadPool
from tilewright.target import Target

#: Seconds after which a kernel counts as hung.
TIMEOUT = 60.0

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class NativeFailure(AssertionError):
    """Native code crashed, hung, or wrote where it must not."""


def check_native(
    lowered: PrimFunc,
    inputs: Sequence[np.ndarray],
    target: Target,
    compare: Callable[[list[np.ndarray]], None],
) -> None:
    """``compare`` accepts what machine code for ``target`` computes; it stays within its buffers, on one and
    two threads, with data at either end of its pages.
    """
    backend = get_backend(target)
    module = backend.emit(lowered, target, "tw_k_fuzz")
    code = backend.compile([module.text], target)
    runtime = _runtime()
    library = load(code, [module.symbol], runtime)
    address = library.addresses[module.symbol]
    for threads, at_end in ((1, True), (2, False), (1, False), (2, True)):
        workspace = module.workspace(threads)
        compare(_run_guarded(address, lowered, inputs, workspace, threads, at_end, runtime))


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
    address: int,
    lowered: PrimFunc,
    arrays: Sequence[np.ndarray],
    workspace: int,
    threads: int,
    at_end: bool,
    runtime: dict[str, int],
) -> list[np.ndarray]:
    """Outputs of the kernel, run in a child process. Raises NativeFailure."""
    what = f"{threads} thread(s), data at the {'end' if at_end else 'start'} of its page"
    inputs = []
    for array in arrays:
        memory = GuardedMemory(array.nbytes, at_end, array.itemsize, 0)
        memory.data[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        memory.make_read_only()
        inputs.append(memory)
    outputs = []
    for buffer in lowered.outputs:
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
        memory.data.copy().view(dt.to_numpy(b.dtype)).reshape(b.static_shape or ())
        for memory, b in zip(outputs, lowered.outputs, strict=True)
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
