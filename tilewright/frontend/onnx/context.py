"""What a handler of an ONNX operator works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from tilewright.errors import GraphError, UnsupportedError, one_line
from tilewright.frontend.onnx.bodies import Body, Formal
from tilewright.frontend.onnx.lists import Structure, shown
from tilewright.frontend.onnx.raw import RawBody, RawNode
from tilewright.frontend.onnx.sizes import with_computed_sizes
from tilewright.frontend.onnx.steering import Steering
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.fold import fold_node
from tilewright.graph.graph import Attr, Value
from tilewright.graph.limits import FoldBudget
from tilewright.graph.opdef import get_op
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const, Expr, ExprLike, as_expr
from tilewright.ir.visit import const_int

_REQUIRED = object()


class Bodies(Protocol):
    """Imports the bodies of a node."""

    def inline(self, body: RawBody, given: Sequence[Value] = ()) -> list[Value]:
        """A body in the place of the node, whose own inputs are ``given``; its results."""

    def separate(self, body: RawBody, formals: Sequence[Formal] = ()) -> Body:
        """A body as a graph of its own."""


class NodeContext:
    """One node being imported: its operands, attributes, and the graph under construction.

    ``op`` and ``emit`` add graph operators and fold at once what only depends on constants, so that shapes
    computed by the model are known to the nodes after it.
    """

    def __init__(
        self,
        node: RawNode,
        since: int,
        builder: GraphBuilder,
        inputs: Sequence[Value | None],
        location: str,
        bodies: Bodies,
        folding: FoldBudget | None = None,
        steering: Steering | None = None,
    ) -> None:
        self.node = node
        self.since = since
        self.builder = builder
        self.inputs = tuple(inputs)
        self.location = location
        self.bodies = bodies
        self._folding = folding
        self._steering = steering

    # ----------------------------------------------------------------------------------------------- operands
    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def item(self, index: int) -> Value | None:
        """Input ``index``, which may be a sequence or an optional value; None when it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def optional(self, index: int) -> Value | None:
        """Input ``index``, or None when it is left out."""
        value = self.item(index)
        if isinstance(value, Structure):
            self.fail(f"input {index} of {self.node.op_type} is {shown(value)}, not a tensor")
        return value

    def value(self, index: int) -> Value:
        """A required input."""
        found = self.optional(index)
        if found is None:
            self.fail(f"input {index} is missing")
        return found

    @property
    def x(self) -> Value:
        """The first input."""
        return self.value(0)

    @property
    def result_name(self) -> str:
        """What to call something that belongs to the node: its first output, or the node."""
        return next((name for name in self.node.outputs if name), self.node.name or self.node.op_type)

    def wants_output(self, index: int) -> bool:
        """Whether the model names output ``index`` at all."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def data(self, index: int) -> np.ndarray | None:
        """The data of an input that is constant or follows from known shapes, else None."""
        value = self.optional(index)
        if value is None:
            return None
        known = self.builder.const(value)
        if known is not None:
            return known
        return _numbers(self.builder, value)

    def require_data(self, index: int, what: str) -> np.ndarray:
        """The data of an input that must be known when the model is compiled."""
        found = self.data(index)
        if found is None:
            self.require_known(self.value(index), what)
            self.unsupported(f"{what} is computed at run time; it must be constant")
        return found

    def require_known(self, value: Value, what: str) -> None:
        """Raise SteeringError where the elements of ``value`` follow from inputs of the model, whose values
        the model can be compiled for.
        """
        if self._steering is not None:
            self._steering.require(self.builder, value, f"{self.node.op_type}: {what}", self.where)

    def ints(self, index: int, what: str) -> tuple[int, ...] | None:
        """A constant integer input as a tuple, None when it is absent."""
        if not self.has(index):
            return None
        return tuple(int(v) for v in self.require_data(index, what).reshape(-1))

    def scalar(self, index: int, what: str) -> Any:
        """A constant input of one element as a Python number."""
        data = self.require_data(index, what)
        if data.size != 1:
            self.fail(f"{what} must be one number, not {data.size}")
        return data.reshape(()).item()

    # --------------------------------------------------------------------------------------------- attributes
    def attr(self, name: str, default: Any = _REQUIRED) -> Any:
        value = self.node.attrs.get(name, default)
        if value is _REQUIRED:
            self.fail(f"attribute '{name}' is missing")
        return value

    def axis(self, rank: int, default: Any = _REQUIRED) -> int:
        """Attribute ``axis`` counted from the front."""
        return self.check_axis(int(self.attr("axis", default)), rank)

    def check_axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < max(rank, 1):
            self.fail(f"axis {axis} is outside a tensor of rank {rank}")
        return axis % rank if rank else 0

    def check_axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes counted from the front, sorted; fails on doubles."""
        found = sorted(self.check_axis(int(a), rank) for a in axes)
        if len(set(found)) != len(found):
            self.fail(f"axes {tuple(axes)} name a dimension twice")
        return tuple(found)

    # ---------------------------------------------------------------------------------------------- operators
    def op(self, op: str, /, *inputs: Value | None, **attrs: Attr) -> Value:
        """Emit an operator with one output."""
        (output,) = self.emit(op, inputs, **attrs)
        return output

    def emit(self, op: str, inputs: Sequence[Value | None], /, **attrs: Attr) -> tuple[Value, ...]:
        """Emit an operator; results known already become constants.

        Raises SteeringError where it is steered by what follows from inputs of the model.
        """
        builder = self.builder
        inputs, attrs = with_computed_sizes(builder, op, inputs, attrs, self.result_name)
        for index, param in get_op(op).params.items():
            value = inputs[index] if index < len(inputs) else None
            if value is not None and builder.const(value) is None and builder.exprs(value) is None:
                self.require_known(value, f"its {param}")
        name = self.node.outputs[0] if len(self.node.outputs) == 1 else self.node.name
        outputs = builder.emit(op, inputs, attrs, name=name)
        node = builder.producer(outputs[0])
        assert node is not None
        known: list[np.ndarray | None] = [_numbers(builder, v) for v in outputs]
        if any(k is None for k in known):
            folded = fold_node(node, builder.const, self._folding)
            if folded is None:
                return outputs
            known = list(folded)
        return tuple(
            builder.constant(d, v.name) for d, v in zip(known, outputs, strict=True) if d is not None
        )

    def constant(self, data: Any, dtype: str) -> Value:
        """A constant of one of our dtypes. Raises GraphError for a number that the type does not have."""
        try:
            return self.builder.constant(np.asarray(data, dtype=dt.to_numpy(dtype)))
        except (OverflowError, ValueError):
            self.fail(f"{data} is no number of type {dtype}")

    def like(self, number: float, value: Value) -> Value:
        """A scalar constant of the dtype of ``value``."""
        return self.constant(number, value.dtype)

    def reshape(self, x: Value, dims: Sequence[ExprLike]) -> Value:
        """``x`` in the shape ``dims`` (no 0 or -1 with a special meaning)."""
        shape = tuple(as_expr(d) for d in dims)
        if shape == x.shape:
            return x
        attr = tuple(int(d.value) if isinstance(d, Const) else d for d in shape)
        return self.op("reshape", x, shape=attr)

    def static_dims(self, value: Value, what: str) -> tuple[int, ...]:
        """The shape of ``value`` as ints. Raises UnsupportedError naming ``what`` when it is open."""
        shape = value.static_shape
        if shape is None:
            self.unsupported(f"{what} must have a known shape, not {value.type}")
        return shape

    # ------------------------------------------------------------------------------------------------- errors
    def fail(self, message: str) -> NoReturn:
        """The node contradicts its definition."""
        raise GraphError(one_line(message), location=self.where)

    def unsupported(self, message: str) -> NoReturn:
        """The node is valid, but this use of it is not supported."""
        raise UnsupportedError(one_line(f"{self.node.op_type}: {message}"), location=self.where)

    @property
    def where(self) -> str:
        return f"onnx {self.node} in {self.location}"


def _numbers(builder: GraphBuilder, value: Value) -> np.ndarray | None:
    """Data of a value that shape arithmetic has turned into numbers."""
    exprs = builder.exprs(value)
    if exprs is None:
        return None
    numbers = [const_int(e) for e in exprs.reshape(-1)]
    if any(n is None for n in numbers):
        return None
    # Expressions are int64; narrower types wrap, as their arithmetic does.
    wide = np.array([_wrapped(int(n)) for n in numbers if n is not None], dtype=np.int64)
    return wide.astype(dt.to_numpy(value.dtype)).reshape(exprs.shape)


def _wrapped(number: int) -> int:
    """A number as int64 arithmetic leaves it."""
    return (number + 2**63) % 2**64 - 2**63


def product(dims: Sequence[Expr]) -> Expr:
    """The number of elements of a shape."""
    total: Expr = as_expr(1)
    for dim in dims:
        total = total * dim
    return total
