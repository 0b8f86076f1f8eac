"""Sequences and optional values while a model is imported.

A sequence is a list of the graph's values, an optional value is what is in it or :class:`Absent`. Neither is
part of a graph: which tensors a node takes out of a sequence is known when the model is compiled. They stand
among values by name, and reach only handlers that are registered for them (``lists=True``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx

from tilewright.errors import UnsupportedError
from tilewright.graph.graph import TensorType, Value
from tilewright.runtime.special import KINDS


@dataclasses.dataclass(frozen=True, eq=False)
class Structure(Value):
    """Something by the name of a value that is no tensor; its type holds the element type only."""


@dataclasses.dataclass(frozen=True, eq=False)
class TensorList(Structure):
    """A sequence."""

    items: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Absent(Structure):
    """An optional value that is not there; ``of_list`` says whether it would be a sequence."""

    of_list: bool


def tensor_list(items: Iterable[Value], dtype: str, name: str = "sequence") -> TensorList:
    """A sequence of tensors of one element type."""
    return TensorList(name, TensorType((), dtype), tuple(items))


def absent(dtype: str, of_list: bool, name: str = "optional") -> Absent:
    """An optional value that is not there."""
    return Absent(name, TensorType((), dtype), of_list)


def tensors_of(value: Value) -> tuple[Value, ...]:
    """The tensors that a value consists of."""
    if isinstance(value, TensorList):
        return value.items
    return () if isinstance(value, Absent) else (value,)


def shown(value: Value | None) -> str:
    """A value's type, for messages."""
    if value is None:
        return "none"
    if isinstance(value, TensorList):
        return f"a sequence of {len(value.items)} tensors of {value.dtype}"
    if isinstance(value, Absent):
        return f"an optional {'sequence' if value.of_list else 'tensor'} of {value.dtype} without a value"
    return str(value.type)


def kind_of(proto: onnx.TypeProto, what: str, location: str) -> tuple[str, onnx.TypeProto.Tensor]:
    """The kind of a declared type (:data:`tilewright.runtime.special.KINDS`), and the tensors in it.

    Raises UnsupportedError for maps, sequences of sequences and the like.
    """
    words: list[str] = []
    while (found := proto.WhichOneof("value")) in ("optional_type", "sequence_type"):
        words.append(str(found).removesuffix("_type"))
        proto = getattr(proto, str(found)).elem_type
    kind = " ".join(words) or "tensor"
    if found != "tensor_type" or kind not in KINDS:
        declared = " of ".join([*words, (found or "nothing").removesuffix("_type")])
        raise UnsupportedError(
            f"{what} is declared as {declared}; tensors, sequences of them and optional ones are supported",
            location=location,
        )
    return kind, proto.tensor_type
