"""Building graphs: types are inferred and checked as nodes are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tilewright.errors import GraphError
from tilewright.graph.graph import Attr, Graph, Node, Origin, TensorType, Value
from tilewright.graph.limits import check_type
from tilewright.graph.opdef import OpContext, OpDef, const_exprs, get_op
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const, Expr, ExprLike, as_expr
from tilewright.ir.simplify import simplify
from tilewright.ir.sizes import computed_dimension, largest_size
from tilewright.ir.visit import free_vars

#: Integer tensors up to this many elements are followed as expressions through shape arithmetic.
MAX_SYMBOLIC = 64
_FOLLOWED = ("int32", "int64", "bool")


class GraphBuilder:
    """Collects nodes in order. ``emit`` infers types through the operator's definition and rejects bad nodes
    at once.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.origin = Origin()
        self._inputs: list[Value] = []
        self._nodes: list[Node] = []
        self._constants: dict[Value, np.ndarray] = {}
        self._producers: dict[Value, Node] = {}
        self._positions: dict[Value, int] = {}
        self._symbolic: dict[Value, np.ndarray] = {}
        self._names: set[str] = set()
        self._dims: set[str] = set()
        self._made: set[Expr] = set()
        self._suffix: dict[str, int] = {}

    def unique_name(self, base: str) -> str:
        """``base``, with a number appended when it is taken; the name is then taken."""
        name = base or "v"
        if name in self._names:
            n = self._suffix.get(base, 0)
            while f"{name}_{n + 1}" in self._names:
                n += 1
            self._suffix[base] = n + 1
            name = f"{name}_{n + 1}"
        self._names.add(name)
        return name

    def unused_name(self, base: str) -> str:
        """``base``, with a number appended when it is taken; the name is not taken by that."""
        name, n = base, 0
        while name in self._names:
            name, n = f"{base}_{n + 1}", n + 1
        return name

    def nested(self, name: str) -> GraphBuilder:
        """A builder for a graph that a node of this one runs: the dimensions that both make have different
        names.
        """
        inner = GraphBuilder(name)
        self._dims.update(d.name for v in self._inputs for e in v.shape for d in free_vars(e))
        inner._dims, inner.origin = self._dims, self.origin
        return inner

    def know(self, value: Value, exprs: np.ndarray) -> None:
        """The elements of a small integer input are these expressions."""
        self._symbolic[value] = exprs

    def input(self, name: str, shape: Sequence[ExprLike], dtype: str) -> Value:
        """A graph input. Raises GraphError when the name is taken: it is the user's."""
        if name in self._names:
            raise GraphError(f"the name of input '{name}' is taken")
        self._names.add(name)
        value = Value(name, _canonical(TensorType.make(shape, dtype)))
        check_type(value.type, f"input '{name}'", None)
        self._inputs.append(value)
        return value

    def new_dim(self, name: str, most: ExprLike) -> Expr:
        """A dimension that a kernel computes (the operator ``size_of`` says which), of at most ``most``
        elements; the number 0 where it cannot have any. ``name`` is made unique."""
        most = simplify(as_expr(most))
        if largest_size(most) == 0:
            return as_expr(0)
        taken = {d.name for value in self._inputs for e in value.shape for d in free_vars(e)} | self._dims
        unique, n = name, 1
        while unique in taken:
            unique, n = f"{name}_{n}", n + 1
        self._dims.add(unique)
        dim = computed_dimension(unique, most)
        self._made.add(dim)
        return dim

    def makes(self, size: Expr) -> bool:
        """Whether a size depends on a dimension that this graph computes."""
        return any(v in self._made for v in free_vars(size))

    def constant(
        self, data: np.ndarray | float | int | bool, name: str = "const", dtype: str | None = None
    ) -> Value:
        """A value known at compile time; Python numbers need ``dtype`` (default float32 / int64 / bool)."""
        if not isinstance(data, np.ndarray | np.generic):
            kind = dtype or (
                "bool" if isinstance(data, bool) else "int64" if isinstance(data, int) else "float32"
            )
            data = np.asarray(data, dt.to_numpy(kind))
        elif dtype is not None:
            data = np.asarray(data).astype(dt.to_numpy(dtype))
        array = np.asarray(data)
        value = Value(self.unique_name(name), TensorType.of(array))
        self._constants[value] = array
        return value

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Attr] | None = None,
        *,
        name: str = "",
        origin: Origin | None = None,
        output_names: Sequence[str] | None = None,
    ) -> tuple[Value, ...]:
        """Add a node and return its outputs.

        ``name`` is the node's, ``output_names`` wish names of its outputs (default: made from the node's name
        or op). ``origin`` defaults to the builder's current one. Trailing absent inputs are dropped, as are
        attributes that are None. Raises UnsupportedError for an unknown operator and GraphError for operands
        that it rejects.
        """
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        given: dict[str, Attr] = {k: v for k, v in (attrs or {}).items() if v is not None}
        given |= self._computed_parameters(op, operands)
        while operands and operands[-1] is None:
            operands.pop()
        kept = MappingProxyType(given)
        node = Node(op, tuple(operands), (), kept, name, self.origin if origin is None else origin)
        ctx = self.context(node)
        opdef = get_op(op)
        types = tuple(map(_canonical, opdef.infer(ctx)))
        for kind in types:
            check_type(kind, f"the result of {op}", node.location)
        wish = list(output_names or [])
        base = name or op
        wish += [base if n == 0 else f"{base}_{n}" for n in range(len(wish), len(types))]
        outputs = tuple(Value(self.unique_name(w), t) for w, t in zip(wish, types, strict=True))
        self.append(node.with_(outputs=outputs))
        self._follow(opdef, ctx, outputs)
        return outputs

    def op(self, operator: str, /, *inputs: Value | None, name: str = "", **attrs: Attr) -> Value:
        """``emit`` for an operator with one output and keyword attributes."""
        (output,) = self.emit(operator, inputs, attrs, name=name)
        return output

    def append(self, node: Node) -> None:
        """Add a node whose outputs have their types already (a pass that copies it). Names are taken as they
        are.
        """
        self._nodes.append(node)
        for value in node.outputs:
            self._names.add(value.name)
            self._producers[value] = node
            self._positions[value] = len(self._nodes)

    def context(self, node: Node) -> OpContext:
        """What the rules of ``node``'s operator may know of it here."""
        opdef = get_op(node.op)
        return OpContext(
            node.attrs,
            tuple(None if v is None else v.type for v in node.inputs),
            tuple(None if v is None else self._constants.get(v) for v in node.inputs),
            tuple(None if v is None else self._symbolic.get(v) for v in node.inputs),
            node if node.outputs else None,
            opdef.params,
            node.location,
        )

    def producer(self, value: Value) -> Node | None:
        """The node that makes ``value``; None for inputs and constants."""
        return self._producers.get(value)

    def position(self, value: Value) -> int:
        """The place of the producer in the order of nodes, from 1 on; 0 for inputs and constants."""
        return self._positions.get(value, 0)

    def exprs(self, value: Value) -> np.ndarray | None:
        """The elements of a small value of integers or conditions as an object array of Expr, where shape
        arithmetic knows them.
        """
        return self._symbolic.get(value)

    def const(self, value: Value | None) -> np.ndarray | None:
        """The data of a constant, else None."""
        return None if value is None else self._constants.get(value)

    def build(self, outputs: Sequence[Value], output_names: Sequence[str] | None = None) -> Graph:
        """The finished graph. ``output_names`` default to the values' names."""
        names = tuple(output_names) if output_names is not None else tuple(v.name for v in outputs)
        return Graph(
            tuple(self._inputs), tuple(outputs), tuple(self._nodes), dict(self._constants), names, self.name
        )

    def _computed_parameters(self, op: str, operands: list[Value | None]) -> dict[str, Attr]:
        """Inputs that steer the operator and are shape arithmetic become attributes: they are known as
        expressions here, and passes keep attributes. Takes them out of ``operands``.
        """
        found: dict[str, Attr] = {}
        for index, name in get_op(op).params.items():
            value = operands[index] if index < len(operands) else None
            exprs = None if value is None else self._symbolic.get(value)
            if exprs is not None and self.const(value) is None:
                found[name] = tuple(int(e.value) if isinstance(e, Const) else e for e in exprs.reshape(-1))
                operands[index] = None
        return found

    def _follow(self, opdef: OpDef, ctx: OpContext, outputs: Sequence[Value]) -> None:
        """Remember small integer results of shape arithmetic as expressions."""
        if opdef.symbolic is None or not all(_followable(v.type) for v in outputs):
            return
        operands: list[np.ndarray | None] = []
        for kind, data, known in zip(ctx.inputs, ctx.consts, ctx.exprs, strict=True):
            if known is None and data is not None and _followable(TensorType.of(data)):
                known = const_exprs(data)
            if opdef.reads_data and kind is not None and known is None:
                return
            operands.append(known)
        results = opdef.symbolic(ctx, operands)
        if results is not None:
            self._symbolic.update(zip(outputs, results, strict=True))


def _canonical(kind: TensorType) -> TensorType:
    """The type with its sizes in canonical form, so that equal sizes are one expression."""
    if kind.static_shape is not None:
        return kind
    return TensorType(tuple(map(simplify, kind.shape)), kind.dtype)


def _followable(kind: TensorType) -> bool:
    shape = kind.static_shape
    # Expressions of integers are int64: they would not wrap as narrower types do.
    return shape is not None and kind.dtype in _FOLLOWED and int(np.prod(shape)) <= MAX_SYMBOLIC


def check_types(graph: Graph) -> None:
    """Re-infer every node and compare with its outputs' types; symbolic dimensions are compared by identity
    where both are constants. Raises GraphError naming the first node that differs.
    """
    builder = GraphBuilder(graph.name)
    builder._constants.update(graph.constants)
    for node in graph.nodes:
        types = tuple(get_op(node.op).infer(builder.context(node)))
        declared = tuple(v.type for v in node.outputs)
        if len(types) != len(declared) or not all(map(_compatible, types, declared)):
            shown = ", ".join(map(str, types))
            raise GraphError(
                f"declared {', '.join(map(str, declared))}, inferred {shown}: {node!r}",
                location=node.location,
            )
        builder.append(node)


def _compatible(a: TensorType, b: TensorType) -> bool:
    return a.dtype == b.dtype and len(a.shape) == len(b.shape) and all(map(_same_dim, a.shape, b.shape))


def _same_dim(a: Expr, b: Expr) -> bool:
    return a is b or not (isinstance(a, Const) and isinstance(b, Const))
