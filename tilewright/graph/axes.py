"""How axis-carrying attributes follow when the dimensions of all operands are permuted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from tilewright.graph.graph import Attr, Node
from tilewright.graph.shapes import Perm, inverse

Attrs: TypeAlias = dict[str, Attr]
Remap: TypeAlias = Callable[[Node, Perm], Attrs | None]


def permuted_attrs(node: Node, perm: Perm) -> dict[str, Attr] | None:
    """Attributes of ``node`` for operands transposed by ``perm``, so that its result is the old one
    transposed.

    None when the operator is not known to commute with transposes, or its attributes are not numbers yet.
    Elementwise operators, which have no axes, are not this table's business.
    """
    remap = _REMAP.get(node.op)
    return None if remap is None else remap(node, perm)


def _numbers(attr: Attr) -> tuple[int | float, ...] | None:
    if not isinstance(attr, tuple):
        return None
    found = tuple(a for a in attr if isinstance(a, int | float))
    return found if len(found) == len(attr) else None


def _axis(node: Node, perm: Perm) -> Attrs | None:
    axis = node.attrs.get("axis")
    if not isinstance(axis, int):
        return None
    return {**node.attrs, "axis": inverse(perm)[axis % len(perm)]}


def _arg_axis(node: Node, perm: Perm) -> Attrs | None:
    return _axis(node, perm) if node.attrs.get("keepdims", True) else None


def _axes(node: Node, perm: Perm) -> Attrs | None:
    axes = _numbers(node.attrs.get("axes"))
    if axes is None or not node.attrs.get("keepdims", True) or len(_tensors(node)) > 1:
        return None
    place = inverse(perm)
    return {**node.attrs, "axes": tuple(sorted(place[int(a) % len(perm)] for a in axes))}


def _slice(node: Node, perm: Perm) -> Attrs | None:
    starts = _numbers(node.attrs.get("starts"))
    if starts is None or len(_tensors(node)) > 1:
        return None
    axes = _numbers(node.attrs.get("axes")) or tuple(range(len(starts)))
    place = inverse(perm)
    return {**node.attrs, "axes": tuple(place[int(a) % len(perm)] for a in axes)}


def _pad(node: Node, perm: Perm) -> Attrs | None:
    pads = _numbers(node.attrs.get("pads"))
    if pads is None or any(v is not None for n, v in enumerate(node.inputs) if n in (1, 3)):
        return None
    count = len(pads) // 2
    axes = _numbers(node.attrs.get("axes")) or tuple(range(count))
    place = inverse(perm)
    return {**node.attrs, "axes": tuple(place[int(a) % len(perm)] for a in axes)}


def _per_dim(*names: str) -> Remap:
    def remap(node: Node, perm: Perm) -> Attrs | None:
        attrs = dict(node.attrs)
        if len(_tensors(node)) > 1:
            return None
        for name in names:
            if attrs.get(name) is None:
                continue
            values = _numbers(attrs[name])
            if values is None or len(values) != len(perm):
                return None
            attrs[name] = tuple(values[p] for p in perm)
        return attrs

    return remap


def _tensors(node: Node) -> list[object]:
    return [v for v in node.inputs if v is not None]


_REMAP: Final[Mapping[str, Remap]] = {
    "concat": _axis,
    "split": _axis,
    "softmax": _axis,
    "log_softmax": _axis,
    "cumsum": _axis,
    "prefix_sum": _axis,
    "argmax": _arg_axis,
    "argmin": _arg_axis,
    "reduce": _axes,
    "slice": _slice,
    "pad": _pad,
    "tile": _per_dim("repeats"),
    "expand": _per_dim("shape"),
}
