"""Schedules: transformations of loop programs that keep their meaning, and traces of them.

The package itself can be called: ``tw.schedule(func)`` is a schedule for people, one that can check and time
itself.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.state import BlockRef, LoopRef
from tilewright.schedule.trace import Instruction, Trace

if TYPE_CHECKING:
    from tilewright.ir.stmt import PrimFunc
    from tilewright.scheduling import Workbench
    from tilewright.target import Target

__all__ = ["BlockRef", "IndexMap", "Instruction", "LoopRef", "Schedule", "Trace"]


class _CallablePackage(ModuleType):
    """A package whose name is also what one does with it."""

    def __call__(self, func: PrimFunc, target: str | Target = "native") -> Workbench:
        """See :class:`tilewright.scheduling.Workbench`, which is above this package in the layers: the root
        package knows it."""
        import tilewright

        return tilewright.Workbench(func, target)


sys.modules[__name__].__class__ = _CallablePackage
