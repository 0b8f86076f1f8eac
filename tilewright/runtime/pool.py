"""Thread pools as Python objects, shared by the models of a process."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
import weakref
from collections.abc import Mapping

from tilewright.errors import TargetError

_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[tuple[int, int], ThreadPool] = weakref.WeakValueDictionary()
_all: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


class ThreadPool:
    """Native threads for parallel regions.

    Threads start when :attr:`address` is read first, and end when the object is garbage-collected. In a
    forked child, which inherits no threads, they start anew.

    Args:
        functions: addresses of the runtime's functions (:func:`tilewright.runtime.loader.load_runtime`).
        threads: threads in a region, the caller's included.
    """

    def __init__(self, functions: Mapping[str, int], threads: int) -> None:
        self.threads = threads
        self._functions = functions
        self._native = [0]
        _all.add(self)
        # Not at exit: threads that still run a model then may use it, and the system ends them all anyway.
        weakref.finalize(self, _destroy, self._native, functions["tw_pool_destroy"]).atexit = False

    @staticmethod
    def shared(functions: Mapping[str, int], threads: int) -> ThreadPool:
        """The process's pool with this number of threads, for all models with the same runtime object."""
        key = (functions["tw_pool_create"], threads)
        with _lock:
            pool = _shared.get(key)
            if pool is None:
                pool = _shared[key] = ThreadPool(functions, threads)
            return pool

    @property
    def address(self) -> int:
        """The native pool, to be passed to an entry function.

        Raises:
            TargetError: the system has no memory for it.
        """
        return self._native[0] or self._start()

    def _start(self) -> int:
        with _lock:
            if not self._native[0]:
                create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int32)(self._functions["tw_pool_create"])
                address = create(self.threads)
                if not address:
                    raise TargetError(f"there is no memory for a pool of {self.threads} threads")
                count = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self._functions["tw_pool_threads"])
                if (started := count(address)) < self.threads:
                    warnings.warn(
                        f"the system started only {started} of {self.threads} threads; models run slower",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                self._native[0] = address
            return self._native[0]


def _destroy(native: list[int], function: int) -> None:
    if native[0]:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(native[0])
        native[0] = 0


def _after_fork() -> None:
    """The child has the pools' memory but none of their threads: forget the memory, start anew on the next
    use.
    """
    _lock.release()
    for pool in _all:
        pool._native[0] = 0


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
