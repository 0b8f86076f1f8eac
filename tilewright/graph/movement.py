"""Simplification of data movement: what moves nothing vanishes, what follows each other merges, views go to
the borders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np

from tilewright.graph.axes import permuted_attrs
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.opdef import FusionKind, get_op
from tilewright.graph.rewrite import Rewriter, rewrite
from tilewright.graph.shapes import (
    Dim,
    Dims,
    Perm,
    broadcast,
    compose,
    count,
    inverse,
    is_identity,
    known,
    transpose_is_view,
    transpose_through_view,
    view_operand,
)

#: A constant may be repeated up to this many elements so that it broadcasts along a merged dimension.
MAX_SPREAD: Final = 1 << 14

Replaced: TypeAlias = Sequence[Value] | None
Rule: TypeAlias = Callable[[Rewriter, Node], Replaced]


def reshape(rw: Rewriter, x: Value, shape: Sequence[Dim], name: str = "") -> Value:
    """``x`` viewed in ``shape``; itself when that is its shape."""
    if x.dims() == tuple(shape):
        return x
    return rw.op("reshape", x, shape=tuple(shape), name=name)


def transpose(rw: Rewriter, x: Value, perm: Sequence[int], name: str = "") -> Value:
    """``x`` with its dimensions permuted; itself for the identity."""
    return x if is_identity(tuple(perm)) else rw.op("transpose", x, perm=tuple(perm), name=name)


def simplify_movement(graph: Graph) -> Graph:
    """One sweep of the rules for identity, casts, views, transposes, slices, pads, expands and single-axis
    reduces.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        for rule in _RULES.get(node.op, ()):
            replaced = rule(rw, node)
            if replaced is not None:
                return replaced
        return _bypass_expand(rw, node)

    return rewrite(graph, visit)


def _operand(node: Node) -> Value:
    operand = node.inputs[0]
    assert operand is not None
    return operand


def _same_type(rw: Rewriter, node: Node) -> Replaced:
    """An operator that, from its result's type alone, cannot have changed anything."""
    x = _operand(node)
    return [x] if x.dtype == node.output.dtype and x.dims() == node.output.dims() else None


def _noop_slice(rw: Rewriter, node: Node) -> Replaced:
    steps = node.attrs.get("steps") or (1,)
    if len(node.inputs) > 1 or not isinstance(steps, tuple) or any(s != 1 for s in steps):
        return None
    return _same_type(rw, node)


def _noop_pad(rw: Rewriter, node: Node) -> Replaced:
    pads = node.attrs.get("pads")
    return [_operand(node)] if isinstance(pads, tuple) and all(p == 0 for p in pads) else None


def _identity(rw: Rewriter, node: Node) -> Replaced:
    return [_operand(node)]


def _merge_reshape(rw: Rewriter, node: Node) -> Replaced:
    x = _operand(node)
    before = rw.producer(x)
    if before is None or before.op != "reshape":
        return None
    return [reshape(rw, _operand(before), node.output.dims(), node.name)]


def _canonical_reshape(rw: Rewriter, node: Node) -> Replaced:
    """Shapes with -1 or 0 in them become plain sizes, so that equal views are equal nodes."""
    shape = node.output.dims()
    if node.attrs.get("shape") == shape and len(node.attrs) == 1 and len(node.inputs) == 1:
        return None
    return rw.emit_like(node, "reshape", [_operand(node)], {"shape": shape})


def _simplify_transpose(rw: Rewriter, node: Node) -> Replaced:
    x = _operand(node)
    perm = node.attrs.get("perm")
    dims = x.dims()
    if not isinstance(perm, tuple):
        return None
    axes = tuple(int(p) for p in perm if isinstance(p, int))
    if is_identity(axes):
        return [x]
    if transpose_is_view(dims, axes):
        return [reshape(rw, x, tuple(dims[a] for a in axes), node.name)]
    before = rw.producer(x)
    if before is not None and before.op == "transpose":
        return [transpose(rw, _operand(before), compose(axes, _perm(before)), node.name)]
    return None


def _perm(node: Node) -> Perm:
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    return tuple(int(p) for p in perm if isinstance(p, int))


def _transpose_of_view_of_transpose(rw: Rewriter, node: Node) -> Replaced:
    """``transpose(reshape(transpose(x)))``: swap the inner two when the view allows it, so that the
    transposes merge.
    """
    view = rw.producer(_operand(node))
    if view is None or view.op != "reshape":
        return None
    inner = rw.producer(_operand(view))
    if inner is None or inner.op != "transpose":
        return None
    x = _operand(inner)
    swapped = transpose_through_view(x.dims(), _perm(inner), _operand(node).dims())
    if swapped is None:
        return None
    shape, perm = swapped
    return [transpose(rw, reshape(rw, x, shape), compose(_perm(node), perm), node.name)]


def _reshape_of_transpose_is_view(rw: Rewriter, node: Node) -> Replaced:
    """``reshape(transpose(x))`` where the transpose, seen in the new shape, only moves size-1 dimensions."""
    inner = rw.producer(_operand(node))
    if inner is None or inner.op != "transpose":
        return None
    x = _operand(inner)
    target = node.output.dims()
    swapped = transpose_through_view(x.dims(), _perm(inner), target)
    if swapped is None or not transpose_is_view(*swapped):
        return None
    return [reshape(rw, x, target, node.name)]


def _slice_before_transpose(rw: Rewriter, node: Node) -> Replaced:
    """``slice(transpose(x))`` becomes ``transpose(slice(x))``: less to move, and the slice may be read in
    place.
    """
    inner = rw.producer(_operand(node))
    if inner is None or inner.op != "transpose":
        return None
    attrs = permuted_attrs(node, inverse(_perm(inner)))
    if attrs is None:
        return None
    part = rw.emit("slice", [inner.inputs[0]], attrs, name=node.name)
    return rw.emit("transpose", part, {"perm": _perm(inner)})


def _reduce_keeps_dims(rw: Rewriter, node: Node) -> Replaced:
    """Reductions keep their dimensions; dropping them is a view. A reduction over dimensions of size 1 is
    nothing at all.
    """
    x, axes = _operand(node), node.attrs.get("axes")
    dims, out = x.dims(), node.output.dims()
    if axes is None:
        return None
    op = node.attrs.get("op")
    unit = op in ("sum", "mean", "max", "min", "prod") and dims.count(0) == 0 and count(dims) == count(out)
    if unit and x.dtype == node.output.dtype:
        return [reshape(rw, x, out, node.name)]
    if node.attrs.get("keepdims", True):
        return None
    (kept,) = rw.emit("reduce", node.inputs, {**node.attrs, "keepdims": True}, name=node.name)
    return [reshape(rw, kept, out)]


def _bypass_expand(rw: Rewriter, node: Node) -> Replaced:
    """An elementwise operator broadcasts by itself: an expand before it is not needed when the result keeps
    its shape.
    """
    if get_op(node.op).kind is not FusionKind.elementwise or len(node.inputs) < 2:
        return None
    inputs = list(node.inputs)
    for index, value in enumerate(inputs):
        producer = None if value is None else rw.producer(value)
        if producer is None or producer.op != "expand":
            continue
        fresh = [*inputs[:index], _operand(producer), *inputs[index + 1 :]]
        if broadcast(*(v.dims() for v in fresh if v is not None)) == node.output.dims():
            inputs = fresh
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return None
    return rw.emit_like(node, node.op, inputs, dict(node.attrs))


def sink_reshapes(graph: Graph) -> Graph:
    """Move views behind elementwise operators: ``relu(reshape(x))`` becomes ``reshape(relu(x))``.

    The elementwise work then fuses with what made ``x``, and views gather at the borders of kernels, where
    they cost nothing. Other operands are viewed in the same way, constants at compile time. The operand that
    is computed last
    decides: its kernel is the one that the elementwise work can join.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if get_op(node.op).kind is not FusionKind.elementwise or len(node.outputs) != 1:
            return None
        whole = node.output.dims()
        for value in node.inputs:
            view = None if value is None else rw.producer(value)
            if value is None or view is None or view.op != "reshape":
                continue
            x = _operand(view)
            if value.dims() != whole or rw.producer(x) is None:
                continue
            if any(_made_at(rw, v) > _made_at(rw, x) for v in node.inputs if v is not None):
                continue
            operands = _viewed_operands(rw, node, whole, x.dims())
            if operands is not None:
                (result,) = rw.emit(node.op, operands, dict(node.attrs), name=node.name)
                return [reshape(rw, result, whole)]
        return None

    return rewrite(graph, visit)


def _made_at(rw: Rewriter, value: Value) -> int:
    """The place in the order of nodes where the memory behind ``value`` is written."""
    node = rw.producer(value)
    while node is not None and node.op == "reshape":
        value = _operand(node)
        node = rw.producer(value)
    return rw.position(value)


def sink_transposes(graph: Graph) -> Graph:
    """Move transposes behind elementwise operators whose other operands are constants, or transposed in the
    same way.

    The elementwise work then fuses with what made the data; the transpose stays one pass over it.
    """

    def visit(rw: Rewriter, node: Node) -> Replaced:
        if get_op(node.op).kind is not FusionKind.elementwise or len(node.outputs) != 1:
            return None
        inner = next((p for p in (_transposed(rw, v) for v in node.inputs) if p is not None), None)
        if inner is None or inner.output.dims() != node.output.dims():
            return None
        perm = _perm(inner)
        operands = [_untransposed(rw, v, perm) for v in node.inputs]
        if any(new is None and old is not None for new, old in zip(operands, node.inputs, strict=True)):
            return None
        (result,) = rw.emit(node.op, operands, dict(node.attrs), name=node.name)
        return [transpose(rw, result, perm)]

    return rewrite(graph, visit)


def _transposed(rw: Rewriter, value: Value | None) -> Node | None:
    return None if value is None else rw.single_use(value, "transpose")


def _untransposed(rw: Rewriter, value: Value | None, perm: Perm) -> Value | None:
    """The operand that, transposed by ``perm``, is ``value``; None when it takes work at run time to make
    it.
    """
    if value is None:
        return None
    producer = _transposed(rw, value)
    if producer is not None and _perm(producer) == perm:
        return _operand(producer)
    data = rw.const(value)
    if data is None:
        return None
    if data.size == 1 and data.ndim <= len(perm):
        return value
    aligned = data.reshape((1,) * (len(perm) - data.ndim) + data.shape)
    return rw.constant(np.ascontiguousarray(aligned.transpose(inverse(perm))), value.name)


def _viewed_operands(rw: Rewriter, node: Node, whole: Dims, other: Dims) -> list[Value | None] | None:
    """The operands of an elementwise node for a result of shape ``other``, views where needed."""
    views: list[tuple[Dims, Dims] | None] = []
    for value in node.inputs:
        if value is None:
            views.append(None)
            continue
        dims = value.dims()
        data = rw.const(value)
        if count(dims) == 1 and len(dims) <= len(other):
            view: tuple[Dims, Dims] | None = dims, dims
        else:
            view = view_operand(dims, whole, other, spread=data is not None)
        if view is None or (data is not None and not _spreads_little(data, view[0])):
            return None
        views.append(view)
    pairs = zip(node.inputs, views, strict=True)
    return [None if v is None or view is None else _view(rw, v, *view) for v, view in pairs]


def _spreads_little(data: np.ndarray, expanded: Dims) -> bool:
    """Whether a constant may be repeated in ``expanded``: a known shape, and not a large one."""
    size = count(expanded)
    return isinstance(size, int) and size <= max(data.size, MAX_SPREAD)


def _view(rw: Rewriter, value: Value, expanded: Dims, shape: Dims) -> Value:
    """``viewed``, of a constant after broadcasting it to ``expanded``."""
    data = rw.const(value)
    if data is not None and count(expanded) != data.size:
        return rw.constant(np.broadcast_to(data, known(expanded)).reshape(known(shape)), value.name)
    return viewed(rw, value, shape)


def viewed(rw: Rewriter, value: Value, shape: Dims) -> Value:
    """``value`` in another shape of equal size: a view, or a new constant."""
    if value.dims() == shape:
        return value
    data = rw.const(value)
    if data is not None:
        return rw.constant(np.reshape(data, known(shape)), f"{value.name}.view")
    view = rw.producer(value)
    if view is not None and view.op == "reshape":
        return reshape(rw, _operand(view), shape)
    return reshape(rw, value, shape)


_RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "identity": (_identity,),
    "cast": (_same_type,),
    "reshape": (_same_type, _canonical_reshape, _merge_reshape, _reshape_of_transpose_is_view),
    "transpose": (_simplify_transpose, _transpose_of_view_of_transpose),
    "expand": (_same_type,),
    "tile": (_same_type,),
    "pad": (_noop_pad,),
    "slice": (_noop_slice, _slice_before_transpose),
    "concat": (_same_type,),
    "reduce": (_reduce_keeps_dims,),
}
