"""Alternatives: several ways to compute one operator, as data between which a rule or a search chooses.

An operator means one thing and may be computed in several ways: a convolution directly, over patches laid out
as a matrix, or by minimal filtering. Each way but the first is an :class:`Alternative`, registered beside the
operator by whoever knows it. One pass, :func:`choose_alternatives`, meets every node for which there are some
and asks a *pick* for a name; :data:`DIRECT`, the operator's own definition, is always among the answers.
``docs/alternatives.md`` shows how to add one and how to time them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from tilewright.errors import GraphError
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.opdef import Compute, OpContext, get_op, make_context
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.ir.sizes import typical_size

#: The name of an operator's own definition.
DIRECT: Final = "direct"
#: The attribute of a node that is computed by an alternative's ``compute``.
COMPUTE: Final = "compute"
#: How many bytes a model's constants may grow by, in all.
MAX_GROWTH_BYTES: Final = 256 << 20

#: Replaces a node: returns the values for its outputs, emitted through the rewriter.
Rewrite: TypeAlias = Callable[[Rewriter, Node], Sequence[Value]]


class Numerics(enum.Enum):
    """How results may differ from the operator's own: ``equal`` bit by bit; ``reordered``: the same terms
    added in another order; ``bounded``: other terms, with an error that ``Alternative.error`` states.
    """

    equal = "equal"
    reordered = "reordered"
    bounded = "bounded"


def _nothing(ctx: OpContext) -> int:
    return 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """Another way to compute an operator. Exactly one of ``compute`` and ``rewrite`` is given.

    Attributes:
        op: the operator.
        name: unique among the operator's alternatives.
        applies: whether it is right for a node, all whose sizes have numbers or ranges
            (dtypes, attributes, constness, whether sizes may be open). Says nothing about speed.
        compute: the same operator by another tensor expression; it fuses as before.
        rewrite: other operators in the node's place. It may transform constants.
        numerics, error: what is known of the results. ``error`` is for people: a bound, and where it is
            tested.
        growth: bytes by which constants become larger.
        preferred: whether to choose it when nobody measures, for a node and a number of threads. None: never.
        option: the name of the option (``tilewright.config``) that must be on.
    """

    op: str
    name: str
    applies: Callable[[OpContext], bool]
    compute: Compute | None = None
    rewrite: Rewrite | None = None
    numerics: Numerics = Numerics.reordered
    error: str = ""
    growth: Callable[[OpContext], int] = _nothing
    preferred: Callable[[OpContext, int], bool] | None = None
    option: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ChoicePoint:
    """A node that can be computed in several ways.

    Attributes:
        node: its sizes are numbers, or have ranges and typical values.
        constants: data of those of its inputs that are known.
        alternatives: those that apply, :data:`DIRECT` not among them.
        threads: of the runs to come.
    """

    node: Node
    constants: Mapping[Value, np.ndarray]
    alternatives: tuple[Alternative, ...]
    threads: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Every answer that a pick may give."""
        return (DIRECT, *(a.name for a in self.alternatives))

    @property
    def context(self) -> OpContext:
        """What rules may know of the node."""
        return _context(self.node, self.constants)

    def graph(self) -> Graph:
        """The node alone, directly computed: its other operands are the graph's inputs."""
        read = dict.fromkeys(v for v in self.node.inputs if v is not None)
        inputs = tuple(v for v in read if v not in self.constants)
        names = tuple(v.name for v in self.node.outputs)
        return Graph(inputs, self.node.outputs, (self.node,), dict(self.constants), names, self.node.op)


#: Answers with one of the point's names.
Pick: TypeAlias = Callable[[ChoicePoint], str]

_registry: dict[str, dict[str, Alternative]] = {}


def register_alternative(alternative: Alternative) -> Alternative:
    """Offer another way to compute an operator, here or from outside of the package.

    Raises ValueError when the operator has one of that name, or when not exactly one of ``compute`` and
    ``rewrite`` is given; UnsupportedError when there is no such operator.
    """
    get_op(alternative.op)
    known = _registry.setdefault(alternative.op, {})
    if alternative.name in known or alternative.name == DIRECT:
        raise ValueError(f"operator '{alternative.op}' has an alternative '{alternative.name}' already")
    if (alternative.compute is None) == (alternative.rewrite is None):
        raise ValueError(f"alternative '{alternative.name}' takes either a compute or a rewrite")
    known[alternative.name] = alternative
    return alternative


def unregister_alternative(alternative: Alternative) -> None:
    """Take an alternative back. Raises KeyError when it is not registered."""
    if _registry.get(alternative.op, {}).get(alternative.name) is not alternative:
        raise KeyError(alternative.name)
    del _registry[alternative.op][alternative.name]


def all_alternatives() -> tuple[Alternative, ...]:
    """Every registered alternative, by operator in order of registration."""
    return tuple(a for op in sorted(_registry) for a in _registry[op].values())


def get_compute(node: Node) -> Compute | None:
    """The tensor expression of a node: its chosen alternative's, or its operator's own (None: it has none).

    Raises GraphError when the alternative is not registered.
    """
    name = node.attrs.get(COMPUTE)
    if name is None:
        return get_op(node.op).compute
    chosen = _registry.get(node.op, {}).get(str(name))
    if chosen is None or chosen.compute is None:
        raise GraphError(f"'{node.op}' has no compute '{name}'", location=node.location)
    return chosen.compute


def default_pick(point: ChoicePoint) -> str:
    """The first alternative that prefers itself, else the direct way: no measurement."""
    for alternative in point.alternatives:
        if alternative.preferred is not None and alternative.preferred(point.context, point.threads):
            return alternative.name
    return DIRECT


def choose_alternatives(
    graph: Graph,
    pick: Pick = default_pick,
    threads: int = 1,
    disabled: Collection[str] = (),
) -> Graph:
    """Compute every node of a graph whose sizes have numbers or ranges in the way that ``pick`` names.

    Alternatives whose option is ``disabled``, or that would let the constants grow by more than
    :data:`MAX_GROWTH_BYTES` in all, are not offered; nodes for which there is only one way are not asked
    about. Raises GraphError when the answer is none of the names.
    """
    left = MAX_GROWTH_BYTES

    def visit(rw: Rewriter, node: Node) -> Sequence[Value] | None:
        nonlocal left
        constants = {v: data for v in node.inputs if v is not None and (data := rw.const(v)) is not None}
        point = _point(node, constants, threads, disabled, left)
        if point is None:
            return None
        name = pick(point)
        if name not in point.names:
            known = ", ".join(point.names)
            raise GraphError(
                f"'{node.op}' cannot be computed by '{name}'", location=node.location, hint=f"known: {known}"
            )
        chosen = next((a for a in point.alternatives if a.name == name), None)
        if chosen is None:
            return None
        left -= chosen.growth(point.context)
        if chosen.rewrite is not None:
            return chosen.rewrite(rw, node)
        return rw.emit_like(node, node.op, node.inputs, {**node.attrs, COMPUTE: name})

    return rewrite(graph, visit)


def choice_points(graph: Graph, threads: int = 1, disabled: Collection[str] = ()) -> tuple[ChoicePoint, ...]:
    """The nodes of an optimised graph that could be computed in another way, in order."""
    found = []
    for node in graph.nodes:
        constants = {v: d for v in node.inputs if v is not None and (d := graph.constant(v)) is not None}
        point = _point(node, constants, threads, disabled, MAX_GROWTH_BYTES)
        if point is not None:
            found.append(point)
    return tuple(found)


def _context(node: Node, constants: Mapping[Value, np.ndarray]) -> OpContext:
    types = [None if v is None else v.type for v in node.inputs]
    data = [None if v is None else constants.get(v) for v in node.inputs]
    return make_context(get_op(node.op), types, node.attrs, data, node=node)


def _point(
    node: Node, constants: Mapping[Value, np.ndarray], threads: int, disabled: Collection[str], left: int
) -> ChoicePoint | None:
    known = _registry.get(node.op)
    if not known or COMPUTE in node.attrs:
        return None
    values = (*node.outputs, *(v for v in node.inputs if v is not None))
    if any(typical_size(d) is None for v in values for d in v.shape):
        return None
    ctx = _context(node, constants)
    offered = tuple(
        a for a in known.values() if a.option not in disabled and a.applies(ctx) and a.growth(ctx) <= left
    )
    return ChoicePoint(node, constants, offered, threads) if offered else None
