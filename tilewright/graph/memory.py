"""The static memory plan: where every value lives while the graph runs.

Dimensions known at run time only are planned for at their largest: the system gives out memory page by page
as it is touched, so what a smaller size leaves over costs addresses only.

Graph inputs, outputs and constants live in memory of their own; all other values share one arena. A value's
place is free for others as soon as the last kernel that reads it is done. Views (reshapes) share their
source's place, operands of a concatenation in place lie inside its result, and an elementwise kernel may
write its result over an operand that nobody reads later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tilewright.errors import GraphError
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.inplace import part_layout, sum_of
from tilewright.graph.partition import Group
from tilewright.graph.shapes import Dim, count
from tilewright.ir import dtype as dt
from tilewright.ir.sizes import largest_size

#: Byte alignment of every buffer: a cache line and the widest vector.
ALIGNMENT = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a value lives.

    Attributes:
        kind: ``input``, ``output``, ``constant`` or ``arena``.
        index: position among the graph's inputs or outputs; 0 otherwise.
        offset: byte offset in the arena; in inputs and outputs that of a part of them.
        value: for a constant: the value in ``graph.constants`` whose data it is; else the value itself.
    """

    kind: str
    index: int
    offset: Dim
    value: Value


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """``nbytes`` bytes to be copied from ``source`` to graph output ``output`` after the kernels have run."""

    output: int
    source: Place
    nbytes: Dim


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryPlan:
    """The plan of one graph.

    Attributes:
        arena_size: bytes, a multiple of the alignment.
        places: of every graph input, constant, and kernel input or output (views included).
        copies: outputs that no kernel can write in place (an output that is an input, a constant, or another
            output).
        peak_live: bytes of arena values that are alive at the same time, at most: a lower bound of
            ``arena_size``.
        scratch: byte offset in the arena of what control flow nodes need while they run.
    """

    arena_size: int
    places: Mapping[Value, Place]
    copies: tuple[Copy, ...]
    peak_live: int
    scratch: Mapping[Node, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Interval:
    """A range of kernel steps, both ends included, during which ``size`` bytes are needed."""

    start: int
    end: int
    size: int
    offset: int = -1


def plan_memory(
    graph: Graph, groups: Sequence[Group], needed: Mapping[Node, int] | None = None
) -> MemoryPlan:
    """Places for all values of ``groups`` run in order, and ``needed`` bytes for control flow nodes while
    they run. Raises GraphError when a size has no upper bound.
    """
    homes = _homes(groups)
    places: dict[Value, Place] = {}
    for index, value in enumerate(graph.inputs):
        places[value] = Place("input", index, 0, value)
    for value in graph.constants:
        places[value] = Place("constant", 0, 0, value)
    copies: list[tuple[int, Value]] = []
    for index, value in enumerate(graph.outputs):
        root = homes.root(value)
        if root in places:
            copies.append((index, root))
        else:
            places[root] = Place("output", index, 0, root)
    intervals, slots = _lifetimes(groups, homes, places)
    scratch: dict[Node, _Interval] = {}
    for step, group in enumerate(groups):
        if group.control is not None and needed:
            scratch[group.control] = _Interval(step, step, _aligned(needed[group.control]))
    intervals.extend(scratch.values())
    size = assign_offsets(intervals)
    for value, interval in slots.items():
        places[value] = Place("arena", 0, interval.offset, value)
    for value in homes.inside:
        root, offset = homes.inside[value]
        home = places[root]
        places[value] = dataclasses.replace(home, offset=sum_of(home.offset, offset))
    final = tuple(Copy(index, places[root], _size(graph.outputs[index])) for index, root in copies)
    offsets = {node: interval.offset for node, interval in scratch.items()}
    return MemoryPlan(size, places, final, peak_live(intervals), offsets)


def nbytes(value: Value) -> int:
    """The largest size of a value in bytes. Raises GraphError when it has none."""
    size = largest_size(_size(value))
    if size is None:
        raise GraphError(f"there is no upper bound for the size of '{value.name}': {value.type}")
    return size


def _size(value: Value) -> Dim:
    return count((*value.dims(), dt.nbytes(value.dtype)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Homes:
    """Values inside the memory of others: views and parts of concatenations.

    ``inside`` maps them to (the value whose memory it is, byte offset in it).
    """

    inside: Mapping[Value, tuple[Value, Dim]]
    parts: frozenset[Value]

    def root(self, value: Value) -> Value:
        return self.inside[value][0] if value in self.inside else value


def _homes(groups: Sequence[Group]) -> _Homes:
    parts = {v: p for group in groups for v, p in group.parts.items()}
    inside: dict[Value, tuple[Value, Dim]] = {}
    for value in parts:
        root, offset, _ = part_layout(value, parts)
        inside[value] = root, count((offset, dt.nbytes(value.dtype)))
    for group in groups:
        if not group.is_view or group.is_concat_in_place:
            continue
        for node in group.nodes:
            source = node.inputs[0]
            if source is None:
                raise GraphError("a view of nothing", location=node.location)
            inside[node.output] = inside.get(source, (source, 0))
    return _Homes(inside, frozenset(parts))


def _lifetimes(
    groups: Sequence[Group], homes: _Homes, placed: Mapping[Value, Place]
) -> tuple[list[_Interval], dict[Value, _Interval]]:
    """Intervals of arena memory, and which one each value uses (several values share one when computed in
    place).
    """
    last_read: dict[Value, int] = {}
    for step, group in enumerate(groups):
        if not group.is_view:
            for value in group.inputs:
                last_read[homes.root(value)] = step
    intervals: list[_Interval] = []
    slots: dict[Value, _Interval] = {}
    for step, group in enumerate(groups):
        if group.is_view:
            continue
        for value in group.written:
            root = homes.root(value)
            if root in placed or root in slots:
                continue
            end = max(last_read.get(root, step), step)
            donor = _donor(group, value, step, slots, homes, last_read)
            if donor is not None:
                donor.end = max(donor.end, end)
                slots[root] = donor
                continue
            slots[root] = _Interval(step, end, _aligned(nbytes(root)))
            intervals.append(slots[root])
    return intervals, slots


def _donor(
    group: Group,
    out: Value,
    step: int,
    slots: Mapping[Value, _Interval],
    homes: _Homes,
    last_read: Mapping[Value, int],
) -> _Interval | None:
    """The memory of an operand that ``out`` may overwrite: read at the same index only, and by nobody
    later.
    """
    if not group.is_elementwise or len(group.outputs) != 1 or out in homes.parts:
        return None
    for value in group.inputs:
        root = homes.root(value)
        interval = slots.get(root)
        if interval is None or last_read.get(root) != step or interval.end != step or value in homes.parts:
            continue
        others = [v for v in group.inputs if v is not value and homes.root(v) is root]
        if not others and value.dims() == out.dims() and _size(root) == _size(out):
            return interval
    return None


def _aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def assign_offsets(intervals: Sequence[_Interval]) -> int:
    """Greedy by size: the largest first, each at the lowest offset that is free for its whole life. Returns
    the arena's size.
    """
    done: list[_Interval] = []
    total = 0
    for interval in sorted(intervals, key=lambda i: (-i.size, i.start)):
        offset = 0
        for other in done:
            if other.start > interval.end or other.end < interval.start:
                continue
            if other.offset - offset >= interval.size:
                break
            offset = max(offset, other.offset + other.size)
        interval.offset = offset
        total = max(total, offset + interval.size)
        done.append(interval)
        done.sort(key=lambda i: i.offset)
    return total


def peak_live(intervals: Sequence[_Interval]) -> int:
    """The largest sum of sizes alive at one step."""
    steps = sorted({i.start for i in intervals})
    return max((sum(i.size for i in intervals if i.start <= s <= i.end) for s in steps), default=0)
