"""Shapes and sample data of models that run without their user's data."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.cli.models import save
from tilewright.errors import InputError, ShapeError
from tilewright.feeds import (
    InputSpec,
    complete_inputs,
    integer_bounds,
    model_inputs,
    resolve_shapes,
    sample_inputs,
)
from tilewright.frontend.onnx.reader import read

F32 = np.dtype(np.float32)
IMAGE = InputSpec("image", ("N", 3, "H", "W"), F32)
MASK = InputSpec("mask", ("N", "H", "W"), np.dtype(bool))


def test_an_open_batch_is_one():
    assert resolve_shapes([InputSpec("x", ("N", 4), F32)]) == {"x": (1, 4)}
    assert resolve_shapes([InputSpec("x", ("?", 4), F32)]) == {"x": (1, 4)}
    assert resolve_shapes([InputSpec("scalar", (), F32)]) == {"scalar": ()}


def test_a_given_shape_binds_symbols_of_other_inputs():
    assert resolve_shapes([IMAGE, MASK], {"image": (2, 3, 5, 7)}) == {
        "image": (2, 3, 5, 7),
        "mask": (2, 5, 7),
    }


def test_unnamed_dimensions_bind_nothing():
    specs = [InputSpec("a", ("?", "?"), F32), InputSpec("b", ("?",), F32)]
    assert resolve_shapes(specs, {"a": (2, 3)}) == {"a": (2, 3), "b": (1,)}


def test_contradictions():
    for shape in ((1, 4, 5, 7), (1, 3, 5), (1, 3, -1, 7)):
        with pytest.raises(ShapeError, match="does not fit"):
            resolve_shapes([IMAGE], {"image": shape})
    with pytest.raises(ShapeError, match="does not fit"):
        resolve_shapes([IMAGE, MASK], {"image": (1, 3, 5, 7), "mask": (1, 5, 8)})
    with pytest.raises(ShapeError, match="no input is called 'z'"):
        resolve_shapes([IMAGE], {"z": (1,)})


def test_what_is_still_open_is_listed_for_all_inputs():
    with pytest.raises(ShapeError) as caught:
        resolve_shapes([IMAGE, MASK])
    assert "H (dimension 2), W (dimension 3)" in str(caught.value)
    assert "mask: bool[N, H, W]" in str(caught.value)


def test_samples_are_seeded_and_of_the_right_dtype():
    specs = [InputSpec(str(np.dtype(t)), (500,), np.dtype(t)) for t in ("f4", "f2", "i8", "i1", "u1", "?")]
    shapes = resolve_shapes(specs)
    first, again, other = (sample_inputs(specs, shapes, seed) for seed in (1, 1, 2))
    for spec in specs:
        assert first[spec.name].dtype == spec.dtype
        np.testing.assert_array_equal(first[spec.name], again[spec.name])
        assert (first[spec.name] != other[spec.name]).any()
    assert abs(first["float32"].mean()) < 0.2
    assert 0 <= first["int64"].min() < 10 < 200 < first["int64"].max() < 256
    assert 0 <= first["int8"].min() < first["int8"].max() <= 127
    assert set(np.unique(first["bool"])) == {False, True}


def test_integers_that_index_stay_inside_the_table(tmp_path):
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axis"], ["column"]),
        helper.make_node("Cast", ["column"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["rows"], axis=0),
        helper.make_node("OneHot", ["kinds", "depth", "values"], ["hot"]),
    ]
    weights = {
        "table": np.zeros((30, 4), np.float32),
        "axis": np.array([1], np.int64),
        "depth": np.array(7, np.int64),
        "values": np.array([0, 1], np.float32),
    }
    inputs = {name: (TensorProto.INT32, ["N"]) for name in ("ids", "kinds", "free")}
    outputs = {"rows": (TensorProto.FLOAT, None), "hot": (TensorProto.FLOAT, None)}
    model = read(save(tmp_path / "m.onnx", nodes, inputs, outputs, weights))
    assert integer_bounds(model) == {"ids": 30, "kinds": 7}
    specs = model_inputs(model)
    assert [spec.describe() for spec in specs] == ["ids: int32[N]", "kinds: int32[N]", "free: int32[N]"]
    feeds = complete_inputs(specs, None, {"ids": (400,)}, 0, integer_bounds(model))
    assert feeds["ids"].max() == 29
    assert feeds["kinds"].max() == 6
    assert feeds["free"].max() > 200


def test_given_arrays_are_kept_and_fix_shapes():
    given = np.ones((2, 3, 4, 5), np.float32)
    feeds = complete_inputs([IMAGE, MASK], {"image": given})
    assert feeds["image"] is given
    assert feeds["mask"].shape == (2, 4, 5)
    with pytest.raises(InputError, match="float64"):
        complete_inputs([IMAGE], {"image": given.astype(np.float64)})
    with pytest.raises(InputError, match="no input is called 'z'"):
        complete_inputs([IMAGE], {"z": given})


def test_initializers_are_not_inputs(tmp_path):
    node = helper.make_node("Add", ["x", "w"], ["y"])
    inputs = {"x": (TensorProto.FLOAT, [2]), "w": (TensorProto.FLOAT, [2])}
    outputs, weights = {"y": (TensorProto.FLOAT, [2])}, {"w": np.ones(2, np.float32)}
    model = read(save(tmp_path / "m.onnx", [node], inputs, outputs, weights))
    assert [spec.name for spec in model_inputs(model)] == ["x"]


def test_files_of_small_types_have_the_type_that_the_model_wants(tmp_path):
    import ml_dtypes

    data = np.arange(6).astype(ml_dtypes.uint4)
    np.save(tmp_path / "x.npy", data)
    loaded = np.load(tmp_path / "x.npy")
    assert loaded.dtype.kind == "V"
    specs = [InputSpec("x", (6,), np.dtype(ml_dtypes.uint4))]
    given = complete_inputs(specs, {"x": loaded})["x"]
    assert given.dtype == ml_dtypes.uint4
    assert given.tolist() == data.tolist()
    with pytest.raises(InputError, match="the model wants float32"):
        complete_inputs([InputSpec("x", (6,), np.dtype(np.float32))], {"x": loaded})
