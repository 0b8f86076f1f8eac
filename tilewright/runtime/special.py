"""Inputs for whose values or numbers of tensors variants are compiled.

The signature of a model counts its inputs and outputs, which may be lists of tensors or missing. A variant
takes and gives tensors: those of a list one after the other, called ``name[0]`` and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tilewright.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from tilewright.runtime.plan import Signature, TensorSpec, Variant

KINDS = ("tensor", "sequence", "optional", "optional sequence")
"""What an input or output may be: an array, a list of arrays, or None in their place."""

ABSENT = -1
"""The number of tensors in a value that is None."""

Given: TypeAlias = "np.ndarray | list[np.ndarray] | None"
"""An input or output of a run, by its kind."""


def is_list(kind: str) -> bool:
    """Whether a value of this kind, if it is there, is a list of tensors."""
    return kind.endswith("sequence")


def count_of(spec: TensorSpec, given: object) -> int:
    """How many tensors a value is. Raises InputError when it is not of the specification's kind."""
    if given is None and spec.kind.startswith("optional"):
        return ABSENT
    if not is_list(spec.kind):
        return 1
    if not isinstance(given, list | tuple):
        raise InputError(
            f"input '{spec.name}' is a {type(given).__name__}, expected a list of arrays of {spec.dtype}"
        )
    return len(given)


def counts_of(specs: Sequence[TensorSpec], given: Mapping[str, object]) -> tuple[int, ...]:
    """How many tensors each value is; empty where all are tensors. Raises as :func:`count_of`."""
    if all(spec.kind == "tensor" for spec in specs):
        return ()
    return tuple(count_of(spec, given.get(spec.name)) for spec in specs)


def flat_specs(specs: Sequence[TensorSpec], counts: Sequence[int]) -> list[TensorSpec]:
    """One specification for each tensor in inputs or outputs of these counts."""
    if not counts:
        return list(specs)
    flat: list[TensorSpec] = []
    for spec, count in zip(specs, counts, strict=True):
        if is_list(spec.kind):
            flat += [dataclasses.replace(spec, name=f"{spec.name}[{n}]") for n in range(count)]
        else:
            flat += [spec] * max(count, 0)
    return flat


def flattened(specs: Sequence[TensorSpec], given: Mapping[str, Any]) -> list[Any]:
    """All tensors in values, in their order."""
    flat: list[Any] = []
    for spec in specs:
        value = given[spec.name]
        if is_list(spec.kind):
            flat += value or ()
        elif value is not None or spec.kind == "tensor":
            flat.append(value)
    return flat


def gathered(specs: Sequence[TensorSpec], counts: Sequence[int], tensors: Sequence[np.ndarray]) -> list[Any]:
    """The values that consist of ``tensors``."""
    if not counts:
        return list(tensors)
    rest = iter(tensors)
    values: list[Any] = []
    for spec, count in zip(specs, counts, strict=True):
        if count == ABSENT:
            values.append(None)
        elif is_list(spec.kind):
            values.append([next(rest) for _ in range(count)])
        else:
            values.append(next(rest))
    return values


def case_key(variant: Variant) -> str:
    """What a variant is for besides sizes of dimensions, as text: NaN is the same as NaN there."""
    shapes = variant.input_shapes if variant.input_counts else ()
    return repr((sorted(variant.values.items()), variant.input_counts, shapes))


def kind_from_json(data: Mapping[str, Any]) -> str:
    """The kind of a specification. Raises ValueError when there is none of that name."""
    kind = data.get("kind", "tensor")
    if kind not in KINDS:
        raise ValueError(f"there is no kind '{kind}'")
    return str(kind)


def case_from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a variant that say which inputs it is for. Raises TypeError for others than numbers."""
    values = {str(name): tuple(elements) for name, elements in data.get("values", {}).items()}
    if not all(isinstance(e, bool | int | float) for elements in values.values() for e in elements):
        raise TypeError("expected numbers as values of inputs")
    counts = {name: tuple(data.get(name, ())) for name in ("input_counts", "output_counts")}
    if not all(type(n) is int for found in counts.values() for n in found):
        raise TypeError("expected whole numbers of tensors")
    return {"values": values, **counts}


def count_tensors(variant: Variant, signature: Signature) -> tuple[int, int]:
    """How many tensors a variant takes and gives. Raises ArtifactError where what it says of them does not
    fit the signature.
    """
    sides = ((variant.input_counts, signature.inputs), (variant.output_counts, signature.outputs))
    for counts, specs in sides:
        if counts and (len(counts) != len(specs) or min(counts) < ABSENT):
            raise ArtifactError(f"variant {dict(variant.binding)} has the wrong number of lists of tensors")
    inputs, outputs = (flat_specs(specs, counts) for counts, specs in sides)
    shapes = {spec.name: shape for spec, shape in zip(inputs, variant.input_shapes, strict=False)}
    for name, elements in variant.values.items():
        shape = shapes.get(name, ("",))
        sizes = [d for d in shape if isinstance(d, int)]
        if len(sizes) != len(shape) or prod(sizes) != len(elements):
            raise ArtifactError(f"variant {dict(variant.binding)} is for a value that '{name}' cannot have")
    return len(inputs), len(outputs)
