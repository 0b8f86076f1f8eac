"""Models whose sizes a run decides: one variant for all sizes in range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tests.api.test_model import expected, mlp, sample
from tilewright.dims import Dim
from tilewright.errors import OptionError, ShapeError


@pytest.fixture(scope="module")
def ranged() -> tw.Model:
    return tw.compile(mlp(), dims={"batch": (1, 64)}, cache=False)


def test_one_variant_serves_every_size(ranged: tw.Model) -> None:
    for batch in (1, 2, 5, 16, 17, 63, 64):
        x = sample(batch)
        np.testing.assert_allclose(ranged.run({"x": x})["y"], expected(mlp(), x), rtol=1e-5, atol=1e-6)
    assert [dict(v.binding) for v in ranged.artifact.variants] == [{}]
    assert [str(spec) for spec in ranged.outputs] == ["y: float32[batch, 20]"]


def test_a_size_out_of_range(ranged: tw.Model) -> None:
    for batch in (0, 65):
        with pytest.raises(ShapeError, match=f"'batch' of input 'x' is {batch}, expected 1 to 64"):
            ranged.run({"x": sample(batch)})


def test_a_saved_model_takes_every_size(ranged: tw.Model, tmp_path: Path) -> None:
    ranged.save(tmp_path / "mlp.tw")
    loaded = tw.load(tmp_path / "mlp.tw")
    for batch in (3, 40):
        x = sample(batch)
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], ranged.run({"x": x})["y"])


def test_ranges_in_shapes_and_points() -> None:
    dim = Dim(2, 40, multiple_of=2, points=(2, 8))
    model = tw.compile(mlp(), shapes={"x": (dim, 12)}, cache=False)
    bindings = [dict(v.binding) for v in model.artifact.variants]
    assert bindings == [{}, {"batch": 2}, {"batch": 8}]
    for batch in (2, 4, 8, 40):
        x = sample(batch)
        np.testing.assert_allclose(model.run({"x": x})["y"], expected(mlp(), x), rtol=1e-5, atol=1e-6)
        binding = {"batch": batch} if batch in dim.points else {}
        assert dict(model._executable.variant_for({"x": x}).binding) == binding
    with pytest.raises(ShapeError, match="is 3, expected 2 to 40 in multiples of 2"):
        model.run({"x": sample(3)})


def test_names_for_dimensions() -> None:
    model = tw.compile(mlp(), shapes={"x": ("n", 12)}, dims={"n": (1, 8)}, cache=False)
    assert [str(spec) for spec in model.inputs] == ["x: float32[n, 12]"]
    assert model.run({"x": sample(3)})["y"].shape == (3, 20)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"dims": {"time": (1, 8)}}, ShapeError, "no dimension 'time'"),
        ({"dims": {"batch": (8, 1)}}, OptionError, "cannot be 8 to 1"),
        ({"dims": {"batch": (1, None)}}, OptionError, "is not a range"),
        ({"shapes": {"x": (4, (1, 12))}}, ShapeError, "dimension 1 of input 'x' is 12 in the model"),
        ({"shapes": {"x": ((1, 8), 12)}, "dims": {"batch": (1, 9)}}, ShapeError, "two ranges"),
    ],
)
def test_declarations_that_do_not_fit(kwargs: dict, error: type, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=message):
        tw.compile(mlp(), cache=False, **kwargs)


@pytest.mark.parametrize(
    ("dim", "message"),
    [
        ({"points": (9,)}, "9 is not among the sizes 1 to 8"),
        ({"typical": 20}, "20 is not among"),
        ({"multiple_of": 16}, "no size from 1 to 8 is a multiple of 16"),
    ],
)
def test_dims_that_cannot_be(dim: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(OptionError, match=message):
        Dim(1, 8, **dim)
