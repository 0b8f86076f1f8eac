"""Operator definitions: one record per operator says everything the compiler knows of it.

Operators are a small, framework-neutral set with lower-case names (docs/graph.md lists the conventions);
importers map their framework's operators to them. Passes ask the registry and never switch on a framework's
names.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tilewright.errors import GraphError, UnsupportedError, one_line
from tilewright.graph.graph import Attr, Node, TensorType, Value
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.te import Tensor

if TYPE_CHECKING:
    from tilewright.graph.builder import GraphBuilder

_REQUIRED = object()


class FusionKind(enum.Enum):
    """How an operator's output element depends on its inputs; fusion is decided by it.

    ``elementwise``: on the elements at the same (right-aligned broadcast) index. ``injective``: on one
    element of each input, at an index computed from the output's (data movement). ``reduction``: on many
    elements, each of which is read by few outputs (reduce, pool). ``contraction``: on many elements, each
    read by many outputs (matmul, conv). ``opaque``: anything else, never fused.
    """

    elementwise = "elementwise"
    injective = "injective"
    reduction = "reduction"
    contraction = "contraction"
    opaque = "opaque"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class OpContext:
    """What a rule of an OpDef may know of a node.

    Attributes:
        attrs: the node's attributes.
        inputs: types of the inputs, None for an absent optional input.
        consts: data of the inputs that are compile-time constants, else None.
        exprs: for small integer inputs whose elements are known as (symbolic) expressions: object arrays of
            Expr, else None.
        node: the node, for messages; None while it is being built.
        params: the operator's ``params`` (input index -> attribute name).
        where: location for messages.
    """

    attrs: Mapping[str, Attr]
    inputs: tuple[TensorType | None, ...]
    consts: tuple[np.ndarray | None, ...]
    exprs: tuple[np.ndarray | None, ...] = ()
    node: Node | None = None
    params: Mapping[int, str] = dataclasses.field(default_factory=dict)
    where: str = ""

    def attr(self, name: str, default: Any = _REQUIRED) -> Any:
        """An attribute; rejects the node when it is missing and no default is given."""
        value = self.attrs.get(name, default)
        if value is _REQUIRED:
            self.fail(f"attribute '{name}' is missing")
        return value

    def arg(self, name: str) -> tuple[Any, ...] | None:
        """A parameter that is an attribute or an input (``OpDef.params``), as a flat tuple.

        Elements are numbers, or expressions where only those are known. None when it is absent or not known
        yet: tell the two apart by ``has_arg``.
        """
        if self.attrs.get(name) is not None:
            value = self.attrs[name]
            return value if isinstance(value, tuple) else (value,)
        index = self._param_index(name)
        if index is None:
            return None
        data = self.consts[index]
        if data is not None:
            return tuple(data.reshape(-1).tolist())
        symbolic = self.exprs[index] if index < len(self.exprs) else None
        return None if symbolic is None else tuple(symbolic.reshape(-1).tolist())

    def has_arg(self, name: str) -> bool:
        """Whether a parameter is given at all, as an attribute or as an input."""
        return self.attrs.get(name) is not None or self._param_index(name) is not None

    def _param_index(self, name: str) -> int | None:
        for index, param in self.params.items():
            if param == name and index < len(self.inputs) and self.inputs[index] is not None:
                return index
        return None

    def input(self, index: int) -> TensorType:
        """The type of a required input; rejects the node when it is absent."""
        kind = self.inputs[index] if index < len(self.inputs) else None
        if kind is None:
            self.fail(f"input {index} is missing")
        return kind

    def has_input(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def unknown_dim(self, name: str = "d") -> Expr:
        """A fresh symbolic dimension, for a size that cannot be inferred before the graph is specialised."""
        return Var(name, lo=0)

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Reject the node: raises GraphError located at its origin, with its input types."""
        types = ", ".join("none" if t is None else str(t) for t in self.inputs)
        text = one_line(f"{message} (inputs: {types})")
        raise GraphError(text, location=self.where or None, hint=hint)


Infer = Callable[[OpContext], Sequence[TensorType]]
Compute = Callable[[OpContext, Sequence["Tensor | None"]], Sequence[Tensor]]
Decompose = Callable[["GraphBuilder", OpContext, Sequence["Value | None"]], Sequence[Value]]
Reference = Callable[[OpContext, Sequence["np.ndarray | None"]], Sequence[np.ndarray]]
Symbolic = Callable[[OpContext, Sequence["np.ndarray | None"]], "Sequence[np.ndarray] | None"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class OpDef:
    """One operator.

    Attributes:
        name: lower case, unique.
        kind: how it fuses (of ``compute``; irrelevant for one that only decomposes).
        infer: output types from the context; rejects bad nodes through ``ctx.fail``. One type per output.
        reference: the meaning in NumPy, the oracle of tests and the constant folder. Must not modify its
            inputs.
        compute: the outputs as tensor expressions over the inputs, or None when the operator decomposes.
            Inputs that are
            ``params`` already moved to attributes are absent.
        decompose: the outputs as other operators, emitted through the builder, or None. May itself return
            values of operators
            that decompose further.
        params: input index -> attribute name for inputs that steer the operator and must be known when code
            is generated
            (the shape of a reshape, the axes of a reduce). A pass moves them from constants to attributes
            (tuples of numbers); ``ctx.arg(name)`` reads either form.
        symbolic: for operators that occur in shape arithmetic: outputs as object arrays of Expr, given such
            inputs. Often the
            reference itself works. None, as an attribute or a result: not known before specialisation.
        reads_data: False when the results depend on the inputs' types only (``shape``); ``symbolic`` may then
            be called
            with operands that are None.
        deferred: whether nodes with constant operands stay as they are until a pass has seen them: what they
            stand for is lost in their results.
        control: whether nodes are control flow, which may run the graphs in their attributes: the entry
            function does that, so the operator has neither ``compute`` nor ``decompose``.
    """

    name: str
    kind: FusionKind
    infer: Infer
    reference: Reference
    compute: Compute | None = None
    decompose: Decompose | None = None
    params: Mapping[int, str] = dataclasses.field(default_factory=dict)
    symbolic: Symbolic | None = None
    reads_data: bool = True
    deferred: bool = False
    control: bool = False


_registry: dict[str, OpDef] = {}


def register(opdef: OpDef) -> OpDef:
    """Add an operator. Raises ValueError when the name is taken or neither compute nor decompose is given."""
    if opdef.name in _registry:
        raise ValueError(f"operator '{opdef.name}' is registered twice")
    if opdef.compute is None and opdef.decompose is None and not opdef.control:
        raise ValueError(f"operator '{opdef.name}' has neither compute nor decompose")
    _registry[opdef.name] = opdef
    return opdef


def get_op(name: str) -> OpDef:
    """The definition of an operator. Raises UnsupportedError when there is none."""
    opdef = _registry.get(name)
    if opdef is None:
        raise UnsupportedError(f"there is no operator '{name}'")
    return opdef


def all_ops() -> Mapping[str, OpDef]:
    """Every registered operator by name."""
    return dict(sorted(_registry.items()))


def make_context(
    opdef: OpDef,
    inputs: Sequence[TensorType | None],
    attrs: Mapping[str, Attr],
    consts: Sequence[np.ndarray | None] | None = None,
    exprs: Sequence[np.ndarray | None] | None = None,
    node: Node | None = None,
    where: str = "",
) -> OpContext:
    """A context for calling the rules of ``opdef`` directly; absent ``consts``/``exprs`` mean that nothing is
    known.
    """
    none = (None,) * len(inputs)
    return OpContext(
        attrs,
        tuple(inputs),
        none if consts is None else tuple(consts),
        none if exprs is None else tuple(exprs),
        node,
        opdef.params,
        where or (node.location if node is not None else ""),
    )


def const_exprs(data: np.ndarray) -> np.ndarray:
    """An array of integers or conditions as an object array of Const expressions (int64 or bool), the input
    form of ``OpDef.symbolic``.
    """
    out = np.empty(data.shape, dtype=object)
    for index, value in np.ndenumerate(data):
        out[index] = as_expr(value.item())
    return out
