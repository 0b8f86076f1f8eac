"""Sizes that are known at run time only, as the steps of a variant refer to them."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.assembly.program import Program
from tilewright.backend.module import RunTimeSizes
from tilewright.graph.graph import Graph, Value
from tilewright.graph.memory import Place
from tilewright.graph.requirements import Requirement, requirements
from tilewright.graph.shapes import Dim, as_dim, count, typical
from tilewright.ir.expr import Expr, Var
from tilewright.ir.linear import linear
from tilewright.ir.sizes import dims_of, largest_size
from tilewright.runtime.plan import Operand, Space


class Sizes:
    """What is computed at run time for dimensions that are known then only.

    Attributes:
        dims: those dimensions, by name.
        bytes: the byte counts that operands and copies refer to by number.
        checks: conditions on the dimensions; the first ``given_checks`` of them on those that inputs have
            only, the next, ``own_checks``, are other ones that the graph needs, the rest those of regions.
        capacities: as :attr:`Variant.capacities`.
    """

    def __init__(self, program: Program, checks: Sequence[Requirement]) -> None:
        graph = program.graph
        programs = list(program.walk())
        nodes = [node for p in programs for node in p.graph.nodes]
        values = [v for p in programs for v in p.graph.inputs] + [v for n in nodes for v in n.outputs]
        found = dict.fromkeys(dims_of(d for value in values for d in value.shape))
        params = (p for k in program.all_kernels() for p in k.func.params if isinstance(p, Var))
        found.update(dict.fromkeys(params))
        self.dims = tuple(sorted(found, key=lambda d: d.name))
        self.bytes: list[Expr] = []
        given = set(graph.dims.values())
        own = {c.cond: c for c in (*checks, *requirements(graph))}
        inside = {c.cond: c for p in programs[1:] for c in requirements(p.graph) if c.cond not in own}
        early = [c for c in own.values() if not set(dims_of([c.cond])) - given]
        # What no kernel computes any more matters to none.
        possible = given | set(self.dims)
        late, region = (
            [c for c in wanted if c not in early and not set(dims_of([c.cond])) - possible]
            for wanted in (own.values(), inside.values())
        )
        self.checks = [*early, *late, *region]
        self.own_checks = range(len(early), len(early) + len(late))
        self.given_checks = len(early)
        self.capacities = tuple(_capacity(v, given) for v in graph.outputs) if set(self.dims) - given else ()
        self._outputs = tuple(d for value in graph.outputs for d in value.shape)

    def checks_of(self, graph: Graph) -> list[int]:
        """The checks that are not on inputs' sizes alone and that nodes of ``graph`` need."""
        needed = {c.cond for c in requirements(graph)}
        late = enumerate(self.checks[self.given_checks :], self.given_checks)
        return [n for n, check in late if check.cond in needed]

    def number(self, dim: Var) -> int:
        """The place of ``dim`` in the table of dimensions."""
        return self.dims.index(dim)

    def operand(self, place: Place) -> Operand:
        """A kernel's operand that lives at ``place``, which is no constant's."""
        at = 0 if place.kind == "arena" else place.index
        space = Space(place.kind)
        if isinstance(place.offset, int):
            return Operand(space, place.offset) if space is Space.ARENA else Operand(space, at, place.offset)
        fixed = linear(place.offset)
        base = fixed.const if fixed is not None and space is Space.ARENA and fixed.const > 0 else 0
        size = self.bytes_of(as_dim(place.offset - base))
        return Operand(space, base if space is Space.ARENA else at, 0, size)

    def bytes_of(self, size: Dim) -> int | None:
        """The number under which ``size`` is computed; None when it is a constant."""
        if isinstance(size, int):
            return None
        if size not in self.bytes:
            self.bytes.append(size)
        return self.bytes.index(size)

    def amount(self, size: Dim) -> tuple[int, int | None]:
        """A number of bytes: a typical one, and the number under which it is computed, if it is."""
        return typical(size), self.bytes_of(size)

    def texts(self) -> list[str]:
        """All that is computed, for the name of the entry function."""
        return [repr(e) for e in (*self.dims, *self.bytes, *(c.cond for c in self.checks), *self._outputs)]

    def needed(self, symbol: str) -> RunTimeSizes | None:
        """What the entry function must compute; None when every size is fixed."""
        if not self.dims:
            return None
        checks = tuple(c.cond for c in self.checks)
        return RunTimeSizes(symbol, self.dims, tuple(self.bytes), self._outputs, checks, self.given_checks)


def _capacity(value: Value, given: set[Var]) -> int:
    """The most elements of an output with a size that kernels compute; -1 for any other."""
    if not set(dims_of(value.shape)) - given:
        return -1
    most = largest_size(count(value.dims()))
    assert most is not None  # or there would be no plan for its memory
    return max(most, 0)


def shape_text(value: Value) -> tuple[int | str, ...]:
    """The shape of a value: numbers, and text where sizes are known at run time only."""
    return tuple(d if isinstance(d, int) else repr(d) for d in value.dims())
