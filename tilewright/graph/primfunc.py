"""From a group to its loop program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.errors import GraphError
from tilewright.graph.alternatives import get_compute
from tilewright.graph.graph import Graph, Node, Origin, Value
from tilewright.graph.inplace import Part, part_layout
from tilewright.graph.opdef import OpContext, get_op
from tilewright.graph.partition import Group
from tilewright.ir import te
from tilewright.ir.expr import Const, Expr, Load, Reduce, as_expr, const, load
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import dims_of
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import replace_buffers, rewrite_expr


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A group's loop program and what its parameters stand for.

    Attributes:
        func: parameters are dimensions, ``inputs``, then ``outputs``; those of constants are in its
            ``const_params``.
        inputs: the graph values read, in parameter order. Constants of one element are not among them: their
            number stands in
            the code.
        outputs: the graph values written.
        origins: places in the user's model that this kernel computes.
    """

    func: PrimFunc
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    origins: tuple[Origin, ...]
    group: Group

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The parameters that are tensors: those of ``inputs``, then those of ``outputs``."""
        return tuple(p for p in self.func.params if isinstance(p, Buffer))


def group_primfunc(graph: Graph, group: Group) -> PrimFunc:
    """The loop program of a group. Equal groups give equal programs: names come from operators and positions
    only.
    """
    return lower_group(graph, group).func


def lower_group(graph: Graph, group: Group) -> Kernel:
    """Compute every node of the group, in order, from its operators' definitions.

    Raises GraphError for an operator without ``compute`` (decompose first) or one that computes other types
    than it infers.
    """
    tensors: dict[Value, te.Tensor] = {}
    inputs: list[Value] = []
    constants: list[te.Tensor] = []
    literals: dict[te.Tensor, Const] = {}
    for value in group.inputs:
        data = graph.constant(value)
        prefix = "x" if data is None else "w"
        tensor = te.placeholder(value.shape, value.dtype, f"{prefix}{len(inputs)}")
        tensors[value] = tensor
        if data is not None and data.size == 1:
            literals[tensor] = const(data.reshape(()).item(), value.dtype)
            continue
        inputs.append(value)
        if data is not None:
            constants.append(tensor)
    for node in group.nodes:
        if node is group.permuted:
            assert node.inputs[0] is not None
            tensors[node.output] = _permuted(tensors[node.inputs[0]], node)
            continue
        results = _compute(graph, node, tensors)
        tensors.update(zip(node.outputs, results, strict=True))
    outputs = [tensors[v] for v in group.outputs]
    for tensor in _computed(outputs):
        _embed(tensor, literals)
    func = te.primfunc(group.name, [tensors[v] for v in inputs], outputs, constants)
    func = _with_strides(func, [*inputs, *group.outputs], group.parts)
    origins = tuple(dict.fromkeys(n.origin for n in group.nodes if n.origin.op_type or n.origin.name))
    return Kernel(func, tuple(inputs), group.outputs, origins, group)


def _with_strides(func: PrimFunc, values: Sequence[Value], parts: Mapping[Value, Part]) -> PrimFunc:
    """Parameters that live inside larger values get those values' strides."""
    fresh: dict[Buffer, Buffer] = {}
    buffers = [p for p in func.params if isinstance(p, Buffer)]
    for param, value in zip(buffers, values, strict=True):
        if value in parts:
            _, _, strides = part_layout(value, parts)
            fresh[param] = param.with_(strides=tuple(as_expr(s) for s in strides))
    if not fresh:
        return func
    params = tuple(fresh.get(p, p) if isinstance(p, Buffer) else p for p in func.params)
    dims = dims_of(s for b in fresh.values() for s in b.strides or ())
    more = tuple(d for d in dims if d not in params)
    return func.with_(params=(*more, *params), body=replace_buffers(func.body, fresh))


def _compute(graph: Graph, node: Node, tensors: Mapping[Value, te.Tensor]) -> Sequence[te.Tensor]:
    opdef, compute = get_op(node.op), get_compute(node)
    if compute is None:
        raise GraphError(
            f"'{node.op}' has no loop program of its own", location=node.location, hint="decompose it first"
        )
    types = tuple(None if v is None else v.type for v in node.inputs)
    consts: tuple[np.ndarray | None, ...] = tuple(graph.constant(v) for v in node.inputs)
    ctx = OpContext(node.attrs, types, consts, (None,) * len(types), node, opdef.params, node.location)
    results = compute(ctx, [None if v is None else tensors[v] for v in node.inputs])
    for value, tensor in zip(node.outputs, results, strict=True):
        if tensor.shape != tuple(map(simplify, value.shape)) or tensor.dtype != value.dtype:
            raise GraphError(f"'{node.op}' computes {tensor!r}, not {value.type}", location=node.location)
    return results


def _permuted(tensor: te.Tensor, node: Node) -> te.Tensor:
    """A contraction's result with its dimensions in the order of the transpose ``node`` behind it.

    The same elements are computed by loops in another order. All tensors from the reduction on change alike,
    so that they still read each other at the same index.
    """
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    order = [int(p) for p in perm if isinstance(p, int)]
    fresh: dict[te.Tensor, te.Tensor] = {}

    def visit(t: te.Tensor) -> te.Tensor:
        if t in fresh:
            return fresh[t]
        assert t.body is not None
        shape, axes = tuple(t.shape[p] for p in order), tuple(t.axes[p] for p in order)
        body, sources = t.body, t.sources
        if not isinstance(body, Reduce):
            follow = {s.buffer: visit(s) for s in sources if s.body is not None and s.shape == t.shape}

            def read(e: Expr) -> Expr | None:
                if isinstance(e, Load) and e.buffer in follow:
                    return load(follow[e.buffer].buffer, [e.indices[p] for p in order])
                return None

            body = rewrite_expr(body, read)
            sources = tuple(follow.get(s.buffer, s) for s in sources)
        fresh[t] = te.Tensor(t.buffer.with_(shape=shape), axes, body, sources)
        return fresh[t]

    return visit(tensor)


def _computed(outputs: Sequence[te.Tensor]) -> list[te.Tensor]:
    """All tensors with a body behind ``outputs``."""
    seen: dict[te.Tensor, None] = {}
    stack = list(outputs)
    while stack:
        tensor = stack.pop()
        if tensor not in seen:
            seen[tensor] = None
            stack.extend(tensor.sources)
    return [tensor for tensor in seen if tensor.body is not None]


def _embed(tensor: te.Tensor, literals: Mapping[te.Tensor, Const]) -> None:
    """Replace reads of one-element constants by their number."""
    if not any(source in literals for source in tensor.sources):
        return
    buffers = {t.buffer: number for t, number in literals.items()}

    def visit(e: Expr) -> Expr | None:
        return buffers.get(e.buffer) if isinstance(e, Load) else None

    assert tensor.body is not None
    tensor.body = rewrite_expr(tensor.body, visit)
    if tensor.update is not None:
        indices = tuple(rewrite_expr(i, visit) for i in tensor.update.indices)
        value = rewrite_expr(tensor.update.value, visit)
        tensor.update = dataclasses.replace(tensor.update, indices=indices, value=value)
    tensor.sources = tuple(s for s in tensor.sources if s not in literals)
