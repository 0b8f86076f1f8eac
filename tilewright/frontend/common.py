"""What importers of all frameworks share: what they give, the report of unsupported things, and shapes given
by the user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tilewright.errors import ShapeError, UnsupportedError
from tilewright.graph.graph import Graph, TensorType
from tilewright.ir.expr import Const, Var

#: How many nodes of one kind a report names.
MAX_NAMED = 3


class SteeringError(UnsupportedError):
    """A node needs the elements of inputs whose values are not given.

    Attributes:
        names: those inputs.
    """

    def __init__(self, message: str, names: tuple[str, ...], *, location: str) -> None:
        shown = ", ".join(f"{name!r}: …" for name in names)
        hint = f"give the value: values={{{shown}}}, or --input {names[0]}=FILE.npy"
        super().__init__(message, location=location, hint=hint)
        self.names = names


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model for certain values of inputs.

    Attributes:
        graph: its inputs and outputs are tensors.
        input_counts, output_counts: how many of them each input and output of the model is
            (:func:`tilewright.runtime.special.counts_of`).
    """

    graph: Graph
    input_counts: tuple[int, ...]
    output_counts: tuple[int, ...]


class UnsupportedReport:
    """Collects what a model needs and the importer does not have, to be raised all at once."""

    def __init__(self) -> None:
        self._nodes: dict[str, list[str]] = {}

    def add(self, what: str, node: str) -> None:
        """Record that ``node`` needs ``what`` (an operator, or a use of one)."""
        self._nodes.setdefault(what, []).append(node)

    def items(self) -> list[str]:
        """One line each, the most frequent first: what, how often, and the first nodes by name."""
        lines = []
        for what, nodes in sorted(self._nodes.items(), key=lambda item: (-len(item[1]), item[0])):
            named = ", ".join(f"'{n}'" for n in nodes[:MAX_NAMED])
            more = f" and {len(nodes) - MAX_NAMED} more" if len(nodes) > MAX_NAMED else ""
            lines.append(f"{what}: {len(nodes)} node{'s' if len(nodes) > 1 else ''} ({named}{more})")
        return lines

    def raise_if_any(self, location: str) -> None:
        """Raise UnsupportedError with every line when anything was recorded."""
        items = self.items()
        if items:
            kinds = f"{len(items)} operator" + ("s" if len(items) > 1 else "")
            raise UnsupportedError(
                f"the model uses {kinds} that tilewright does not support",
                items,
                location=location,
                hint="`tilewright ops` lists what is supported",
            )


def bind_dims(
    inputs: Mapping[str, TensorType],
    shapes: Mapping[str, Sequence[int | None]] | None,
    dims: Mapping[str, int | Var] | None,
) -> dict[Var, int | Var]:
    """The sizes of symbolic dimensions that follow from the user's ``shapes`` (by input; None leaves a
    dimension open) and ``dims`` (by name: a size, or a variable to stand for the dimension).

    Raises ShapeError when a name is unknown or a size contradicts the model or another size.
    """
    variables = {d.name: d for t in inputs.values() for d in t.shape if isinstance(d, Var)}
    bound: dict[Var, int | Var] = {}
    for name, size in (dims or {}).items():
        if name not in variables:
            known = ", ".join(variables) or "none"
            raise ShapeError(f"the model has no dimension '{name}'", hint=f"its symbolic dimensions: {known}")
        bound[variables[name]] = (
            size if isinstance(size, Var) else _checked_size(size, f"dimension '{name}'")
        )
    for name, shape in (shapes or {}).items():
        if name not in inputs:
            raise ShapeError(
                f"the model has no input '{name}'", hint=f"its inputs: {', '.join(inputs) or 'none'}"
            )
        _bind_shape(name, inputs[name], shape, bound)
    return bound


def _bind_shape(
    name: str, declared: TensorType, shape: Sequence[int | None], bound: dict[Var, int | Var]
) -> None:
    if len(shape) != declared.rank:
        raise ShapeError(f"input '{name}' is {declared}, a shape of {len(shape)} dimensions does not fit it")
    for axis, (dim, size) in enumerate(zip(declared.shape, shape, strict=True)):
        if size is None:
            continue
        size = _checked_size(size, f"dimension {axis} of input '{name}'")
        if isinstance(dim, Const) and dim.value != size:
            raise ShapeError(f"dimension {axis} of input '{name}' is {dim.value} in the model, not {size}")
        if isinstance(dim, Var) and bound.setdefault(dim, size) != size:
            raise ShapeError(
                f"dimension '{dim.name}' cannot be both {bound[dim]} and {size} (input '{name}')"
            )


def _checked_size(size: int, what: str) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ShapeError(f"{what} must be a size, not {size!r}")
    return size
