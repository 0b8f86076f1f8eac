"""How backends do tensor intrinsics: a table that anybody may add to.

What an implementation is, is its backend's business: a function that emits instructions for ``llvm``
(``backend.llvm.tensors``), a record of inline assembly for ``cuda`` (``backend.cuda.mma``).
"""

from __future__ import annotations

from typing import Any

from tilewright.errors import TargetError
from tilewright.ir.tensor_intrinsics import tensor_intrinsic

_table: dict[tuple[str, str], Any] = {}


def register_implementation(backend: str, intrinsic: str, implementation: Any) -> None:
    """Say how ``backend`` does ``intrinsic``; a later call replaces an earlier one. Raises IntrinsicError
    when no intrinsic has that name.
    """
    tensor_intrinsic(intrinsic)
    _table[backend, intrinsic] = implementation


def implementation(backend: str, intrinsic: str) -> Any:
    """What was registered. Raises TargetError when nothing was."""
    found = _table.get((backend, intrinsic))
    if found is None:
        known = sorted(name for owner, name in _table if owner == backend)
        raise TargetError(
            f"backend '{backend}' does not know how to do tensor intrinsic '{intrinsic}'",
            hint=f"it does {', '.join(known) or 'none'}; register_implementation adds to them",
        )
    return found


def implemented(backend: str) -> list[str]:
    """The intrinsics that ``backend`` does, by name."""
    return sorted(name for owner, name in _table if owner == backend)
