"""Loading object code into this process.

Objects are linked in memory by LLVM's ORC (one JIT instance for the process). A :class:`Library` owns the
code of one model variant and unloads it when it is garbage-collected; the thread pool's code is loaded once
for each distinct object and stays, since its threads may be inside it at any time.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from tilewright.errors import ArtifactError, TargetError
from tilewright.runtime.threadpool import EXPORTS

_lock = threading.Lock()
_jit: Any = None
_numbers = itertools.count()
_runtimes: dict[str, dict[str, int]] = {}

# A fork waits until no thread is linking, so that the child finds the linker in a sound state.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _linker() -> Any:
    """The process's JIT. Never disposed: at exit, memory that threads may still execute must stay mapped."""
    global _jit
    import llvmlite.binding as llvm

    if _jit is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        try:
            llvm.check_jit_execution()
        except OSError as error:
            raise TargetError(
                f"this system does not let programs create executable memory ({error.strerror})",
                hint="a security policy (SELinux or the like) forbids it",
            ) from error
        _jit = llvm.create_lljit_compiler(use_jit_link=True)
        _jit._owned = True  # llvmlite's mark for "another owner disposes of this"
    return _jit


class Library:
    """Object code linked into this process.

    Attributes:
        addresses: the address of each exported symbol.
    """

    def __init__(self, tracker: Any, symbols: Iterable[str]) -> None:
        self._tracker = tracker
        self.addresses: dict[str, int] = {name: tracker[name] for name in symbols}


def load(
    objects: Iterable[bytes], exports: Iterable[str], imports: Mapping[str, int] | None = None
) -> Library:
    """Link ``objects`` with each other, with ``imports`` (symbol → address) and with the C library of this
    process.

    Raises:
        ArtifactError: an object is not one for this machine, or a symbol is missing.
        TargetError: this system forbids executable memory.
    """
    import llvmlite.binding as llvm

    names = list(dict.fromkeys(exports))
    with _lock:
        jit = _linker()
        builder = llvm.JITLibraryBuilder()
        for data in objects:
            builder.add_object_img(data)
        for name, address in (imports or {}).items():
            builder.import_symbol(name, address)
        builder.add_current_process()
        for name in names:
            builder.export_symbol(name)
        try:
            tracker = builder.link(jit, f"tilewright.{next(_numbers)}")
        except RuntimeError as error:
            raise ArtifactError(f"the native code could not be loaded: {str(error).strip()}") from error
    return Library(tracker, names)


def load_runtime(data: bytes) -> dict[str, int]:
    """Addresses of the thread pool's functions (:data:`tilewright.runtime.threadpool.EXPORTS`) in the
    object ``data``.

    The same bytes are loaded once, so pools can be shared by all models that bring the same runtime object.

    Raises:
        ArtifactError: ``data`` is not the runtime object for this machine.
    """
    key = hashlib.sha256(data).hexdigest()
    addresses = _runtimes.get(key)
    if addresses is None:
        library = load([data], EXPORTS)
        library._tracker.detach()
        addresses = _runtimes.setdefault(key, library.addresses)
    return addresses
