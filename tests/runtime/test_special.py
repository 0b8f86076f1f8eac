from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tilewright.errors import ArtifactError, InputError
from tilewright.runtime.plan import Signature, TensorSpec, Variant, check_variant
from tilewright.runtime.special import (
    ABSENT,
    KINDS,
    case_key,
    count_of,
    counts_of,
    flat_specs,
    flattened,
    gathered,
)

SPECS = tuple(TensorSpec(kind.replace(" ", "_"), (), "float32", kind) for kind in KINDS)
A, B, C = (np.full(n, n, np.float32) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("given", "counts", "names"),
    [
        ([A, [B, C], A, [C]], (1, 2, 1, 1), ["tensor", "sequence[0]", "sequence[1]", "optional"]),
        ([A, [], None, None], (1, 0, ABSENT, ABSENT), ["tensor"]),
        ([A, (B,), None, []], (1, 1, ABSENT, 0), ["tensor", "sequence[0]"]),
    ],
)
def test_values_are_taken_apart_and_put_together(
    given: Any, counts: tuple[int, ...], names: list[str]
) -> None:
    inputs = {spec.name: value for spec, value in zip(SPECS, given, strict=True)}
    assert counts_of(SPECS, inputs) == counts
    assert [spec.name for spec in flat_specs(SPECS, counts)][: len(names)] == names
    flat = flattened(SPECS, inputs)
    assert len(flat) == len(flat_specs(SPECS, counts))
    back = gathered(SPECS, counts, flat)
    for value, want in zip(back, given, strict=True):
        assert (list(want) if isinstance(want, tuple) else want) == value or value is want


def test_tensors_alone_have_no_counts() -> None:
    specs = (TensorSpec("x", (2,), "float32"),)
    assert counts_of(specs, {"x": A}) == ()
    assert gathered(specs, (), [A]) == [A]


def test_a_list_is_needed_where_a_list_is_declared() -> None:
    with pytest.raises(InputError, match="'sequence' is a NoneType, expected a list of arrays of float32"):
        count_of(SPECS[1], None)


def variant(**changes: Any) -> Variant:
    plain = Variant({}, "f", "o", (), ((2,), (3,)), (), 0)
    return dataclasses.replace(plain, **changes)


SIGNATURE = Signature(
    (TensorSpec("axes", (2,), "int64"), TensorSpec("s", (), "float32", "sequence")),
    (),
)


def test_variants_are_written_and_read() -> None:
    written = variant(values={"axes": (1, -1)}, input_counts=(1, 1))
    assert Variant.from_json(written.to_json()) == written
    check_variant(written, SIGNATURE, 0)
    assert case_key(written) != case_key(variant(values={"axes": (1, 1)}, input_counts=(1, 1)))
    spec = TensorSpec("s", (), "float32", "optional sequence")
    assert TensorSpec.from_json(spec.to_json()) == spec
    assert str(spec) == "s: optional sequence of float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_counts": (1,)}, "the wrong number of lists of tensors"),
        ({"input_counts": (1, -2)}, "the wrong number of lists of tensors"),
        ({"input_counts": (1, 2)}, "the wrong number of inputs or outputs"),
        ({"input_counts": (1, 1), "values": {"axes": (1,)}}, "is for a value that 'axes' cannot have"),
        ({"input_counts": (1, 1), "values": {"other": ()}}, "is for a value that 'other' cannot have"),
    ],
)
def test_variants_that_do_not_fit_the_signature(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_variant(variant(**changes), SIGNATURE, 0)


@pytest.mark.parametrize(
    ("record", "data", "message"),
    [
        (TensorSpec, {"kind": "map"}, "malformed tensor: there is no kind 'map'"),
        (Variant, {"values": {"axes": ["1"]}}, "malformed variant: expected numbers as values"),
        (Variant, {"input_counts": [1.5]}, "malformed variant: expected whole numbers of tensors"),
    ],
)
def test_manifests_that_are_malformed(record: Any, data: dict[str, Any], message: str) -> None:
    whole = variant() if record is Variant else TensorSpec("x", (), "float32")
    with pytest.raises(ArtifactError, match=message):
        record.from_json({**whole.to_json(), **data})
