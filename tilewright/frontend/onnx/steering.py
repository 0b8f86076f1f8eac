"""Inputs of a model that steer: operators need their elements, not only their shapes, to be compiled.

The axes of a reduction or the shape of a reshape are mostly constants. Where they are inputs, perhaps with
arithmetic in between, the model is imported for given values of those inputs, which are constants then.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from tilewright.config import options
from tilewright.errors import InputError, LimitError
from tilewright.frontend.common import SteeringError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Value
from tilewright.graph.opdef import get_op


class Steering:
    """Finds the inputs from which the elements of a value follow."""

    def __init__(self) -> None:
        self._inputs: set[Value] = set()
        self._outer: dict[Value, tuple[GraphBuilder, Value]] = {}

    def add_input(self, value: Value) -> None:
        """An input of the model whose elements are not known."""
        self._inputs.add(value)

    def add_captures(self, around: GraphBuilder, captured: Mapping[Value, Value]) -> None:
        """Values of the graph that ``around`` builds, and what they are inside of a body."""
        self._outer.update({inner: (around, outer) for outer, inner in captured.items()})

    def require(self, builder: GraphBuilder, value: Value, what: str, where: str) -> None:
        """Raise SteeringError naming the inputs that decide ``what``, the elements of ``value``.

        Does nothing where none does: where they follow from shapes, or from what a loop computes.

        Raises:
            LimitError: one of those inputs has more elements than values are compiled for.
        """
        found = self._sources(builder, value)
        for source in found:
            shape = source.static_shape
            if shape is not None:
                check_size(source.name, shape, what, where)
        if found:
            names = tuple(source.name for source in found)
            listed = ", ".join(f"'{name}'" for name in names)
            some = "the input" if len(names) == 1 else "the inputs"
            raise SteeringError(f"{what}, decided by {some} {listed}, must be known", names, location=where)

    def _sources(self, builder: GraphBuilder, value: Value) -> list[Value]:
        found: dict[Value, None] = {}
        waiting, seen = [(builder, value)], {value}
        while waiting:
            builder, value = waiting.pop()
            if value in self._inputs:
                found[value] = None
            node = builder.producer(value)
            if node is None:
                reads = [self._outer[value]] if value in self._outer else []
            else:
                reads = [(builder, v) for v in node.inputs if v is not None and get_op(node.op).reads_data]
            for place in reads:
                if place[1] not in seen:
                    seen.add(place[1])
                    waiting.append(place)
        return list(found)


def check_size(name: str, shape: tuple[int, ...], what: str, where: str | None) -> None:
    """Raise LimitError when an input that steers has more elements than values are compiled for."""
    count, most = prod(shape), options().max_steering
    if count > most:
        raise LimitError(
            f"{what}, decided by the input '{name}' of {count} elements, must be known; models are compiled "
            f"for each value of inputs of at most {most}",
            location=where,
            hint="--max-steering raises the limit",
        )


def as_value(name: str, given: object, dtype: np.dtype) -> np.ndarray:
    """A value of an input as an array of its dtype. Raises InputError when its elements are of another kind,
    or do not fit.
    """
    array = np.asarray(given)
    if array.dtype == dtype:
        return array
    # A list without elements is float64 to NumPy.
    if not array.size or (array.dtype.kind in "biuf" and (array.dtype.kind == "b") == (dtype.kind == "b")):
        with np.errstate(all="ignore"):
            cast = array.astype(dtype)
        if dtype.kind not in "biu" or np.array_equal(cast, array):
            return cast
    raise InputError(f"the value of input '{name}' is {given!r}, expected elements of {dtype}")
