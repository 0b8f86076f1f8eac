"""Schedules: transformations of loop programs that keep their meaning, and traces of them."""

from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.state import BlockRef, LoopRef
from tilewright.schedule.trace import Instruction, Trace

__all__ = ["BlockRef", "IndexMap", "Instruction", "LoopRef", "Schedule", "Trace"]
