"""Records of branches and loops: their JSON form, and artifacts whose regions do not fit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tilewright.errors import ArtifactError
from tilewright.runtime.control import Branch, Loop, Region, Rows, State, Stop, control_from_json
from tilewright.runtime.plan import KernelCall, Operand, Signature, TensorSpec, Variant, check_variant

HERE = Operand.arena(0)
LOOP = Loop(
    body=0,
    scratch=64,
    trip=Operand.input(0),
    states=(State(Operand.input(1), Operand.output(0), 128, 4, None, 4, None),),
    stacked=(Rows(Operand.output(1), True, 4),),
    same=(Operand.weight(0),),
    most=7,
    count=HERE,
)
BRANCH = Branch(Operand.input(0), 0, 1, (Operand.input(1),), (Operand.output(0),))
SIGNATURE = Signature(
    (TensorSpec("n", (), "int64"), TensorSpec("x", (), "float32")),
    (TensorSpec("y", (), "float32"), TensorSpec("ys", (7,), "float32")),
)


def variant(control: Branch | Loop | Stop, *regions: Region, **changes: Any) -> Variant:
    own = KernelCall("step", "", (), workspace=0, control=control)
    copy = KernelCall.copy("copy", Operand.input(0), Operand.output(0), 4)
    copies = [dataclasses.replace(copy, name=f"copy{n}") for n in range(sum(r.steps for r in regions))]
    given: dict[str, Any] = {"regions": regions, **changes}
    return Variant({}, "main", "key", (own, *copies), ((), ()), ((), (7,)), 192, **given)


def region(first: int = 1, **changes: Any) -> Region:
    return dataclasses.replace(Region(first, 1, 3, 2, 64), **changes)


@pytest.mark.parametrize(
    "control", [LOOP, BRANCH, Stop("no", "there"), Loop(0, 0, going=HERE, conditional=True)]
)
def test_records_survive_json(control: Branch | Loop | Stop) -> None:
    assert control_from_json(json.loads(json.dumps(control.to_json()))) == control
    whole = variant(control, region())
    assert Variant.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_variants_that_fit_pass() -> None:
    check_variant(variant(LOOP, region()), SIGNATURE, 4)
    sides = {"inputs": 1, "outputs": 1}
    check_variant(variant(BRANCH, region(**sides), region(2, **sides)), SIGNATURE, 4)
    check_variant(variant(Stop("no", "there")), SIGNATURE, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (variant(LOOP), "does not fit the regions"),
        (variant(LOOP, region(inputs=2)), "does not fit the regions"),
        (variant(LOOP, region(outputs=1)), "does not fit the regions"),
        (variant(LOOP, region(arena_bytes=193)), "workspace outside the arena"),
        (variant(dataclasses.replace(LOOP, scratch=192), region()), "workspace outside the arena"),
        (variant(dataclasses.replace(LOOP, index=0), region()), "defines a dimension that there is not"),
        (variant(dataclasses.replace(LOOP, trip_size=0), region()), "refers to a size"),
        (variant(dataclasses.replace(LOOP, trip=Operand.input(2)), region()), "refers to input 2 of only 2"),
        (variant(LOOP, region(checks=(0,))), "refers to a check"),
        (variant(LOOP, region(), region(3)), "region 1 .* does not stand behind"),
        (variant(dataclasses.replace(BRANCH, otherwise=2), region(), region(2)), "does not fit the regions"),
        (variant(LOOP, region(2)), "do not hold all of its steps"),
    ],
)
def test_regions_that_do_not_fit_are_refused(wrong: Variant, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_variant(wrong, SIGNATURE, 4)


def test_regions_that_run_themselves_are_refused() -> None:
    good = variant(LOOP, region())
    kernels = (good.kernels[0], dataclasses.replace(good.kernels[0], name="again"))
    with pytest.raises(ArtifactError, match="runs itself"):
        check_variant(dataclasses.replace(good, kernels=kernels), SIGNATURE, 4)


def test_wrong_json_is_refused() -> None:
    with pytest.raises(ArtifactError, match="malformed control flow step"):
        control_from_json({**LOOP.to_json(), "scratch": "far"})
    with pytest.raises(ArtifactError, match="malformed region"):
        Region.from_json({"first": 0})
