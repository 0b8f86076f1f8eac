"""The public surface from an ONNX model to running code: sizes, artifacts, cache, concurrency, errors."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright as tw
from tilewright import api
from tilewright.config import overriding
from tilewright.errors import (
    GraphError,
    InputError,
    OptionError,
    ShapeError,
    TargetError,
    UnsupportedError,
)


def mlp(batch: int | str = "batch", seed: int = 0) -> onnx.ModelProto:
    """x[batch, 12] -> relu(x @ w + b) -> softmax."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((12, 20)).astype(np.float32)
    b = rng.standard_normal(20).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="dense"),
        helper.make_node("Add", ["xw", "b"], ["biased"], name="bias"),
        helper.make_node("Relu", ["biased"], ["active"], name="relu"),
        helper.make_node("Softmax", ["active"], ["y"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 20])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    w, b = (numpy_helper.to_array(t) for t in model.graph.initializer)
    active = np.maximum(x @ w + b, 0)
    e = np.exp(active - active.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sample(batch: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 12)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path):  # type: ignore[no-untyped-def]
    with overriding(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache"


def test_open_dimensions_are_compiled_at_first_use() -> None:
    model = tw.compile(mlp())
    assert [str(spec) for spec in model.inputs] == ["x: float32[batch, 12]"]
    assert [str(spec) for spec in model.outputs] == ["y: float32[batch, 20]"]
    assert not model.artifact.variants
    for batch in (1, 5, 1):
        x = sample(batch)
        np.testing.assert_allclose(model.run({"x": x})["y"], expected(mlp(), x), rtol=1e-5, atol=1e-6)
    assert [dict(v.binding) for v in model.artifact.variants] == [{"batch": 1}, {"batch": 5}]


def test_shapes_fix_dimensions_before_the_first_run() -> None:
    model = tw.compile(mlp(), shapes={"x": (3, 12)})
    assert [str(spec) for spec in model.inputs] == ["x: float32[3, 12]"]
    x = sample(3)
    np.testing.assert_allclose(model(x)[0], expected(mlp(), x), rtol=1e-5, atol=1e-6)


def test_bytes_path_and_proto_give_the_same(tmp_path: Path) -> None:
    proto = mlp(4)
    path = tmp_path / "mlp.onnx"
    onnx.save(proto, path)
    x = sample(4)
    results = [tw.compile(source)(x)[0] for source in (proto, proto.SerializeToString(), path, str(path))]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_saved_models_run_without_the_source(tmp_path: Path) -> None:
    model = tw.compile(mlp())
    x = sample(2)
    first = model.run({"x": x})["y"]
    model.save(tmp_path / "mlp.tw")
    loaded = tw.load(tmp_path / "mlp.tw")
    np.testing.assert_array_equal(loaded.run({"x": x})["y"], first)
    with pytest.raises(ShapeError, match=r"not compiled for x=\[7, 12\]"):
        loaded.run({"x": sample(7)})


def test_saving_needs_sizes(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"open dimensions \(batch\)"):
        tw.compile(mlp()).save(tmp_path / "mlp.tw")
    assert not (tmp_path / "mlp.tw").exists()


def test_second_compilation_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp(4), path)
    x = sample(4)
    first = tw.compile(path)(x)[0]

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(api, "build_variant", never)
    np.testing.assert_array_equal(tw.compile(path)(x)[0], first)
    with pytest.raises(AssertionError, match="compiled again"):
        tw.compile(path, cache=False)


def test_changed_models_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    x = sample(4)
    for seed in (0, 1):
        onnx.save(mlp(4, seed), path)
        np.testing.assert_allclose(tw.compile(path)(x)[0], expected(mlp(4, seed), x), rtol=1e-5, atol=1e-6)


def test_damaged_cache_files_are_made_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp(4), path)
    x = sample(4)
    first = tw.compile(path)(x)[0]
    files = [f for f in cache.rglob("*") if f.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    np.testing.assert_array_equal(tw.compile(path)(x)[0], first)


def test_concurrent_runs_specialise_once() -> None:
    model = tw.compile(mlp(), threads=2)
    x = sample(6)
    results: list[np.ndarray] = []

    def work() -> None:
        results.extend(model.run({"x": x})["y"] for _ in range(20))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 80
    assert len(model.artifact.variants) == 1
    for result in results:
        np.testing.assert_allclose(result, expected(mlp(), x), rtol=1e-5, atol=1e-6)


def test_profile_names_the_model_nodes() -> None:
    model = tw.compile(mlp(), shapes={"x": (4, 12)})
    profile = model.profile({"x": sample(4)}, runs=3)
    assert {name for kernel in profile.kernels for name in kernel.origins} >= {"dense", "softmax"}
    assert abs(sum(kernel.share for kernel in profile.kernels) - 1) < 0.2
    text = model.explain()
    assert "dense" in text
    assert "bound by" in text


def test_other_targets_compile_but_do_not_run_here(tmp_path: Path) -> None:
    model = tw.compile(mlp(), target="aarch64", shapes={"x": (2, 12)})
    model.save(tmp_path / "arm.tw")
    assert (tmp_path / "arm.tw").stat().st_size > 1000
    with pytest.raises(TargetError):
        model.run({"x": sample(2)})


def test_avx2_code_agrees_with_native() -> None:
    x = sample(5)
    got = tw.compile(mlp(), target="x86-64-v3")(x)[0]
    np.testing.assert_allclose(got, expected(mlp(), x), rtol=1e-5, atol=1e-6)


def test_dump_writes_every_stage(tmp_path: Path) -> None:
    tw.compile(mlp(), shapes={"x": (2, 12)}, dump=tmp_path / "dump")
    names = " ".join(sorted(f.name for f in (tmp_path / "dump").iterdir()))
    for stage in ("fold_constants", "task", "scheduled", "unroll_loops", "emitted"):
        assert stage in names


def test_progress_reaches_the_end() -> None:
    seen: dict[str, tuple[int, int]] = {}
    tw.compile(
        mlp(), shapes={"x": (2, 12)}, progress=lambda stage, done, total: seen.update({stage: (done, total)})
    )
    assert set(seen) >= {"graph", "schedule", "compile"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"z": sample(1)}, "missing: x"),
        ({"x": sample(1).astype(np.float64)}, "dtype float64, expected float32"),
        ({"x": np.zeros((1, 13), np.float32)}, r"shape \[1, 13\], expected \[batch, 12\]"),
    ],
)
def test_wrong_inputs_are_named(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tw.compile(mlp()).run(feeds)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match="'nope'"):
        tw.compile(mlp(), shapes={"nope": (1, 12)})
    with pytest.raises(ShapeError):
        tw.compile(mlp(), shapes={"x": (1, 13)})


def test_unknown_target_and_threads() -> None:
    with pytest.raises(TargetError, match="unknown target 'z80'"):
        tw.compile(mlp(), target="z80")
    with pytest.raises(OptionError, match="threads=0"):
        tw.compile(mlp(), threads=0)


def test_all_unsupported_operators_are_reported_at_once() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("StringNormalizer", ["x"], ["a"], name="first"),
            helper.make_node("StringConcat", ["a", "a"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    with pytest.raises(UnsupportedError) as caught:
        tw.compile(proto)
    for name in ("StringNormalizer", "StringConcat"):
        assert name in str(caught.value)


def squeezed_if_one() -> onnx.ModelProto:
    """Drops dimension n of x[n, 3] where it is 1: with n open, not even the result's rank is known."""
    info = helper.make_tensor_value_info
    branches = [
        helper.make_graph([helper.make_node(op, reads, [op])], op, [], [info(op, TensorProto.FLOAT, None)])
        for op, reads in (("Squeeze", ["x", "zero"]), ("Identity", ["x"]))
    ]
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], end=1),
        helper.make_node("Equal", ["s", "one"], ["c"]),
        helper.make_node("If", ["c"], ["h"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Neg", ["h"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([v], np.int64), n) for n, v in (("zero", 0), ("one", 1))]
    x, y = info("x", TensorProto.FLOAT, ["n", 3]), info("y", TensorProto.FLOAT, ["m", 3])
    graph = helper.make_graph(nodes, "squeezed", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_open_dimensions_leave_open_is_decided_by_the_first_run() -> None:
    model = tw.compile(squeezed_if_one(), cache=False)
    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == ["x: float32[n, 3]", "y: float32[m, 3]"]
    for n, shape in ((1, (3,)), (4, (4, 3))):
        x = np.ones((n, 3), np.float32)
        (y,) = model(x)
        np.testing.assert_array_equal(y, -x.reshape(shape))
    with pytest.raises(ShapeError, match="no input 'z'"):
        tw.compile(squeezed_if_one(), shapes={"z": (1, 3)}, cache=False)


def test_declared_outputs_of_the_wrong_type_are_found() -> None:
    proto = squeezed_if_one()
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(GraphError, match="output 'y' is declared as int64, but it is float32"):
        tw.compile(proto, cache=False).run({"x": np.ones((2, 3), np.float32)})


def test_outputs_without_a_declared_type_are_inferred() -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
            [onnx.ValueInfoProto(name="y")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    x = np.array([-1, 0, 2], np.float32)
    np.testing.assert_array_equal(
        tw.compile(proto, threads=1, cache=False).run({"x": x})["y"], [0, 0, 2]
    )
