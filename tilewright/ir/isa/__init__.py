"""The tensor intrinsics of known instruction sets: what their instructions compute. One module each."""

from __future__ import annotations


def register_all() -> None:
    """Register them all. They are only data: no target is needed."""
    from tilewright.ir.isa import aarch64, cuda, x86

    for module in (x86, aarch64, cuda):
        module.register_all()
