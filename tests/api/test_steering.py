from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tilewright as tw
from tests.frontend.models import INT64, constant, model, value
from tilewright.config import overriding
from tilewright.errors import InputError, LimitError, OptionError, ShapeError, UnsupportedError
from tilewright.graph.builder import GraphBuilder

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
rng = np.random.default_rng(5)
X = rng.standard_normal((2, 3, 4)).astype(np.float32)


def sums(axes: int | str = 1, x: list[int | str] | None = None) -> onnx.ModelProto:
    """Sums over axes that are an input; they are also data."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("Cast", ["axes"], ["f"], to=FLOAT),
        helper.make_node("ReduceSum", ["f"], ["t"], keepdims=0),
        helper.make_node("Add", ["s", "t"], ["y"]),
    ]
    inputs = [value("x", x or [2, 3, 4]), value("axes", [axes], INT64)]
    return model(nodes, inputs, [value("y", None, FLOAT)])


def one(proto: onnx.ModelProto, **feeds: object) -> np.ndarray:
    with tw.compile(proto, threads=1) as compiled:
        return compiled.run({name: np.asarray(data) for name, data in feeds.items()})["y"]


# ------------------------------------------------------------------------------------------- what is compiled
def test_each_value_is_compiled_for_once() -> None:
    with tw.compile(sums(), threads=1) as compiled:
        assert compiled.steering == ("axes",)
        for axis, compilations in ((1, 1), (2, 2), (1, 2), (-1, 3), (2, 3)):
            y = compiled.run({"x": X, "axes": np.array([axis])})["y"]
            np.testing.assert_allclose(y, X.sum(axis) + axis, rtol=1e-5)
            assert compiled.compilations == compilations
        assert "variant axes=[1]:" in compiled.explain()


def test_values_can_be_given_when_compiling() -> None:
    with tw.compile(sums(), threads=1, values=[{"axes": [1]}, {"axes": np.array([2])}]) as compiled:
        for axis in (1, 2):
            assert compiled.run({"x": X, "axes": np.array([axis])})["y"].ndim == 2
        assert compiled.compilations == 0
        assert compiled(X, np.array([0]))[0].shape == (3, 4)
        assert compiled.compilations == 1


def test_values_that_follow_by_arithmetic() -> None:
    """The shape is a part of another shape times an input, plus a constant, cast."""
    nodes = [
        helper.make_node("Shape", ["x"], ["whole"]),
        helper.make_node("Slice", ["whole", "zero", "one"], ["first"]),
        helper.make_node("Mul", ["first", "k"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["f"], to=FLOAT),
        helper.make_node("Cast", ["f"], ["i"], to=TensorProto.INT64),
        helper.make_node("Concat", ["i", "rest"], ["to"], axis=0),
        helper.make_node("Expand", ["x", "to"], ["y"]),
    ]
    constants = [constant("zero", [0]), constant("one", [1]), constant("rest", [3])]
    inputs = [value("x", [1, 3]), value("k", [1], INT64)]
    proto = model(nodes, inputs, [value("y", None, FLOAT)], constants)
    for k in (2, 5):
        assert one(proto, x=X[:1, :, 0], k=[k]).shape == (k, 3)


def test_floats_and_flags_steer() -> None:
    resize = helper.make_node("Resize", ["x", "", "scales"], ["r"], mode="nearest")
    drop = helper.make_node("Dropout", ["r", "ratio", "training"], ["y"])
    inputs = [value("x", [1, 1, 2, 2]), value("scales", [4]), value("ratio", []), value("training", [], BOOL)]
    proto = model([resize, drop], inputs, [value("y", None, FLOAT)])
    with tw.compile(proto, threads=1) as compiled:
        feeds = {"x": np.ones((1, 1, 2, 2), np.float32), "scales": np.array([1, 1, 2.5, 1], np.float32)}
        feeds |= {"ratio": np.float32(1.0), "training": np.array(False)}
        assert compiled.run(feeds)["y"].shape == (1, 1, 5, 2)
        # What steers in training only is found when training is on.
        assert compiled.steering == ("scales", "training")
        assert not compiled.run({**feeds, "training": np.array(True)})["y"].any()
        assert compiled.steering == ("scales", "training", "ratio")


def test_with_dimensions_in_ranges() -> None:
    with tw.compile(sums(x=["n", 3, 4]), threads=1, dims={"n": (1, 8)}, values={"axes": [1]}) as compiled:
        for n, axis, compilations in ((2, 1, 0), (7, 1, 0), (7, 2, 1)):
            x = rng.standard_normal((n, 3, 4)).astype(np.float32)
            y = compiled.run({"x": x, "axes": np.array([axis])})["y"]
            np.testing.assert_allclose(y, x.sum(axis) + axis, rtol=1e-5)
            assert compiled.compilations == compilations
        with pytest.raises(ShapeError, match="expected 1 to 8"):
            compiled.run({"x": np.ones((9, 3, 4), np.float32), "axes": np.array([1])})


def test_open_dimensions_are_those_of_the_run() -> None:
    with tw.compile(sums("k", ["n", 3, 4]), threads=1) as compiled:
        for n, axes in ((2, [1]), (3, [1, 2]), (2, [1])):
            x = rng.standard_normal((n, 3, 4)).astype(np.float32)
            y = compiled.run({"x": x, "axes": np.array(axes)})["y"]
            np.testing.assert_allclose(y, x.sum(tuple(axes)) + sum(axes), rtol=1e-5)
        assert compiled.compilations == 2
    # The size of what steers is that of its value, whatever its range.
    with tw.compile(sums("k"), threads=1, dims={"k": (1, 2)}, values={"axes": [0, 1]}) as compiled:
        assert compiled.run({"x": X, "axes": np.array([0, 1])})["y"].shape == (4,)
        assert compiled.run({"x": X, "axes": np.array([2])})["y"].shape == (2, 3)


def test_the_least_recent_value_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with overriding(max_variants=2), tw.compile(sums(), threads=1) as compiled:
        caplog.set_level(logging.INFO, "tilewright")
        for axis, compilations in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
            compiled.run({"x": X, "axes": np.array([axis])})
            assert compiled.compilations == compilations
        assert [dict(v.values) for v in compiled.artifact.variants] == [{"axes": (0,)}, {"axes": (1,)}]
        needed = {key for v in compiled.artifact.variants for key in v.objects()}
        assert set(compiled.artifact.objects) == needed
    assert "compiled it in" in caplog.messages[0]
    assert "axes=[1] of value [1]" in caplog.messages[1]
    assert any("more than 2 values" in m and "--max-variants" in m for m in caplog.messages)


# -------------------------------------------------------------------------------------------------- artifacts
def test_artifacts_hold_the_values_that_were_compiled(tmp_path: Path) -> None:
    with tw.compile(sums(), threads=1, values=[{"axes": [1]}, {"axes": [2]}]) as compiled:
        compiled.save(tmp_path / "sums.tw")
    with tw.load(tmp_path / "sums.tw") as loaded:
        assert loaded.steering == ("axes",)
        for axis in (2, 1):
            y = loaded.run({"x": X, "axes": np.array([axis])})["y"]
            np.testing.assert_allclose(y, X.sum(axis) + axis, rtol=1e-5)
        with pytest.raises(
            ShapeError, match=r"not compiled for x=\[2, 3, 4\], axes=\[1\] of value \[0\]"
        ) as error:
            loaded.run({"x": X, "axes": np.array([0])})
        assert "axes=[1] of value [2]" in str(error.value.hint)
        assert "values={…}" in str(error.value.hint)


def test_scales_that_are_not_numbers_find_their_variant(tmp_path: Path) -> None:
    """Elements are compared by their bits, also after they were written as JSON."""
    clip = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    proto = model([clip], [value("x", [1, 1, 2, 2]), value("scales", [4])], [value("y", None, FLOAT)])
    scales = np.array([1, 1, 1.1, 1.7], np.float32)
    x = np.ones((1, 1, 2, 2), np.float32)
    with tw.compile(proto, threads=1, values={"scales": scales}) as compiled:
        compiled.save(tmp_path / "r.tw")
    with tw.load(tmp_path / "r.tw") as loaded:
        assert loaded.run({"x": x, "scales": scales})["y"].shape == (1, 1, 2, 3)


def test_nothing_to_save() -> None:
    with tw.compile(sums("k"), threads=1) as compiled, pytest.raises(ShapeError) as error:
        compiled.save("never.tw")
    assert "open dimensions (k) and inputs that steer (axes) and nothing is compiled" in error.value.message


# ----------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"axis": [1]}, InputError, "no input is called 'axis'"),
        ({"axes": [0.5]}, InputError, r"the value of input 'axes' is \[0.5\], expected elements of int64"),
        ({"axes": [True]}, InputError, r"expected elements of int64"),
        ({"axes": [1, 2]}, InputError, r"input 'axes: int64\[1\]' cannot have a value of shape \[2\]"),
        ({"axes": [1], "x": X}, OptionError, "the input 'x' does not steer"),
        ({"x": X}, UnsupportedError, "ReduceSum: the axes .*, decided by the input 'axes', must be known"),
        ([{"axes": [n]} for n in range(65)], OptionError, "65 values are given; 64 are kept"),
    ],
)
def test_values_that_do_not_fit(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tw.compile(sums(), threads=1, values=values)  # type: ignore[arg-type]


def test_values_need_the_other_sizes() -> None:
    with pytest.raises(ShapeError, match="values are given, but dimensions are open: n"):
        tw.compile(sums(x=["n", 3, 4]), threads=1, values={"axes": [1]})


def test_graphs_have_no_values() -> None:
    builder = GraphBuilder()
    graph = builder.build([builder.op("relu", builder.input("x", [2], "float32"))])
    with pytest.raises(OptionError, match="values are for inputs of ONNX models"):
        tw.compile(graph, values={"x": [1]})


@pytest.mark.parametrize("size", [300, "n"])
def test_large_inputs_do_not_steer(size: int | str) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["many"], ["k"], keepdims=1),
        helper.make_node("Expand", ["x", "k"], ["y"]),
    ]
    inputs = [value("x", [1]), value("many", [size], INT64)]
    proto = model(nodes, inputs, [value("y", None, FLOAT)])
    with pytest.raises(LimitError, match="decided by the input 'many' of 300 elements") as e:
        one(proto, x=np.ones(1, np.float32), many=np.arange(300))
    assert e.value.hint == "--max-steering raises the limit"
    with overriding(max_steering=300):
        assert one(proto, x=np.ones(1, np.float32), many=np.arange(300)).shape == (299,)


def test_threads_that_run_different_values() -> None:
    """Each gets its own result, while others compile and code is dropped."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, 3, 12)
        for axis in order.tolist():
            y = compiled.run({"x": X, "axes": np.array([axis])})["y"]
            if y.shape != X.sum(axis).shape or not np.allclose(y, X.sum(axis) + axis, rtol=1e-5):
                wrong.append(axis)

    with overriding(max_variants=2), tw.compile(sums(), threads=1) as compiled:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
        assert compiled.compilations >= 3
