"""What the sizes of open dimensions must satisfy for a graph to mean anything.

Types are inferred as if sizes that an operator needs to be equal were so. Where both are numbers, inference
has compared them; what is left over is collected here, decided where the ranges of the dimensions allow, and
otherwise checked when a model is run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from tilewright.errors import ShapeError
from tilewright.graph.graph import Graph, Node
from tilewright.graph.opdef import FusionKind, get_op
from tilewright.graph.shapes import Dims, count
from tilewright.ir.bounds import interval
from tilewright.ir.expr import FALSE, TRUE, Const, Expr, as_expr
from tilewright.ir.linear import LinearForm, factors, linear
from tilewright.ir.simplify import simplify


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A condition on dimensions, and the node that needs it."""

    cond: Expr
    node: Node

    def __str__(self) -> str:
        return f"{self.cond!r} (for {self.node.location})"


def requirements(graph: Graph) -> list[Requirement]:
    """The conditions that must be checked at run time.

    Raises ShapeError for one that no size within the dimensions' ranges satisfies.
    """
    found: dict[Expr, Requirement] = {}
    if graph.is_static:
        return []
    for node in graph.nodes:
        for a, b in _equal(node):
            if a is b or (isinstance(a, Const) and isinstance(b, Const)):
                continue
            a, b = _without_common_factors(a, b)
            cond = simplify(a.eq(b))
            if cond is FALSE:
                raise ShapeError(
                    f"the sizes {a!r} and {b!r} must be equal, which no size in range can make them",
                    location=node.location,
                    hint="give the dimension the size that the model needs; exporters write sizes of their "
                    "example into some models",
                )
            if cond is not TRUE:
                found.setdefault(cond, Requirement(cond, node))
        for a, b in _at_most(node):
            cond = simplify(a <= b)
            if cond is FALSE:
                raise ShapeError(f"{a!r} must not be more than {b!r}", location=node.location)
            if cond is not TRUE:
                found.setdefault(cond, Requirement(cond, node))
    return list(found.values())


def _equal(node: Node) -> Iterator[tuple[Expr, Expr]]:
    """Pairs of sizes that must be equal."""
    opdef = get_op(node.op)
    if opdef.compute is None:
        return  # what it becomes needs the same
    shapes = [v.dims() for v in node.inputs if v is not None]
    out = node.outputs[0].dims()
    if opdef.kind is FusionKind.elementwise:
        for shape in shapes:
            yield from _broadcast(shape, out)
    elif node.op == "expand":
        yield from _broadcast(shapes[0], out)
    elif node.op == "matmul":
        a, b = shapes
        yield from _pairs(a[-1:], b[-2:-1])
        yield from _broadcast(a[:-2], out[:-2])
        yield from _broadcast(b[:-2], out[:-2])
    elif node.op == "concat":
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        axis %= len(out)
        for shape in shapes:
            yield from _pairs(shape[:axis] + shape[axis + 1 :], out[:axis] + out[axis + 1 :])
    elif node.op == "split":
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        parts = [as_expr(v.dims()[axis]) for v in node.outputs]
        yield sum(parts[1:], parts[0]), as_expr(shapes[0][axis])
    elif node.op == "reshape":
        yield from _pairs((count(shapes[0]),), (count(out),))


def _without_common_factors(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Two counts, less the sizes that both are multiples of and that are never 0: what is left says more."""
    forms = linear(a), linear(b)
    (ours, scale), (theirs, other) = (_one_product(form) for form in forms)
    for factor in list(ours):
        if factor in theirs and (interval(factor).lo or 0) > 0:
            ours.remove(factor)
            theirs.remove(factor)
    if not scale or not other:
        return a, b
    common = math.gcd(scale, other)
    scale, other = scale // common, other // common
    return as_expr(count((scale, *ours))), as_expr(count((other, *theirs)))


def _one_product(form: LinearForm | None) -> tuple[list[Expr], int]:
    """The factors and the coefficient of a form that is one product; 0 where it is not."""
    if form is None or (form.const and form.terms) or len(form.terms) > 1:
        return [], 0
    for atom, coefficient in form.terms.items():
        return factors(atom), coefficient
    return [], form.const


def _at_most(node: Node) -> Iterator[tuple[Expr, Expr]]:
    """Pairs of sizes of which the first must not be larger."""
    if node.op == "top_k" and node.inputs[0] is not None:
        k = node.attrs["k"]
        assert isinstance(k, int | Expr)
        yield as_expr(k), node.inputs[0].shape[-1]


def _broadcast(shape: Dims, out: Dims) -> Iterator[tuple[Expr, Expr]]:
    for dim, whole in zip(reversed(shape), reversed(out), strict=False):
        if dim != 1:
            yield as_expr(dim), as_expr(whole)


def _pairs(a: Dims, b: Dims) -> Iterator[tuple[Expr, Expr]]:
    yield from zip(map(as_expr, a), map(as_expr, b), strict=True)
