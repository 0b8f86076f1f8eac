"""Models that compute sizes from data: beside ONNX Runtime, for several sizes from one artifact."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import tilewright as tw
from tilewright.errors import ShapeError

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, int],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "computed",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check(
    proto: onnx.ModelProto,
    runs: Sequence[dict[str, np.ndarray]],
    threads: Sequence[int] = (1, 2),
    **kw: object,
) -> tw.Model:
    """Compile and compare every run with ONNX Runtime's."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in threads:
        compiled = tw.compile(proto, threads=count, cache=False, **kw)  # type: ignore[arg-type]
        for feeds in runs:
            for (name, got), wanted in zip(
                compiled.run(feeds).items(), session.run(None, feeds), strict=True
            ):
                assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), name
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    return compiled


def sparse(shape: tuple[int, ...], share: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, rng.standard_normal(shape), 0).astype(np.float32)


def masked() -> onnx.ModelProto:
    """Positions of what is not zero, and what stands there."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Transpose", ["where"], ["rows"]),
        helper.make_node("GatherND", ["x", "rows"], ["found"]),
        helper.make_node("Relu", ["found"], ["positive"]),
    ]
    return model(nodes, {"x": (FLOAT, ["a", "b"])}, {"where": INT64, "positive": FLOAT})


def test_one_variant_for_all_counts_and_sizes(tmp_path: Path) -> None:
    runs = [{"x": sparse((5, 7), share)} for share in (0, 0.1, 0.5, 1)]
    runs += [{"x": sparse(shape, 0.4)} for shape in ((0, 3), (1, 1), (8, 9))]
    compiled = check(masked(), runs, dims={"a": (0, 8), "b": (1, 9)})
    assert [str(spec) for spec in compiled.outputs] == [
        "where: int64[2, where_count]",
        "positive: float32[where_count]",
    ]
    assert len(compiled.artifact.variants) == 1
    compiled.save(tmp_path / "masked.tw")
    loaded = tw.load(tmp_path / "masked.tw")
    for feeds in runs:
        for name, result in loaded.run(feeds).items():
            np.testing.assert_array_equal(result, compiled.run(feeds)[name])


def test_sizes_of_fixed_and_of_open_inputs() -> None:
    runs = [{"x": sparse((5, 7), share)} for share in (0, 0.3, 1)]
    check(masked(), runs, shapes={"x": (5, 7)})
    check(masked(), runs, threads=(1,))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis: int | None) -> None:
    attrs = {} if axis is None else {"axis": axis}
    proto = model(
        [helper.make_node("Compress", ["x", "keep"], ["y"], **attrs)],
        {"x": (FLOAT, [4, 6]), "keep": (BOOL, ["n"])},
        {"y": FLOAT},
    )
    x = sparse((4, 6), 1)
    runs = [{"x": x, "keep": np.array(keep)} for keep in ([True, False, True], [False] * 4, [True] * 4)]
    check(proto, runs, dims={"n": (0, 24)})


def scalars(dtype: np.dtype, *numbers: float) -> dict[str, np.ndarray]:
    return {name: np.array(number, dtype) for name, number in zip("abc", numbers, strict=True)}


def test_range_between_computed_numbers() -> None:
    for kind, numbers in {
        TensorProto.FLOAT: [(0, 10, 1), (0, 1, 0.1), (5, 0, -0.5), (0, 0, 1), (0, 5, -1)],
        TensorProto.INT32: [(0, 10, 3), (7, -7, -2), (3, 3, 1), (0, 5, -1)],
        TensorProto.INT64: [(-5, 10, 3)],
        TensorProto.DOUBLE: [(0, 1, 0.1)],
    }.items():
        proto = model(
            [helper.make_node("Range", ["a", "b", "c"], ["y"])], {n: (kind, []) for n in "abc"}, {"y": kind}
        )
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        check(proto, [scalars(dtype, *n) for n in numbers])
        compiled = tw.compile(proto, cache=False)
        for delta in (0, 1e-9 if kind in (TensorProto.FLOAT, TensorProto.DOUBLE) else 0):
            feeds = scalars(dtype, 0, 9, delta)
            with pytest.raises(ShapeError, match="memory is planned for 0 to 1048576"):
                compiled.run(feeds)


def test_top_k_of_as_many_as_the_data_say() -> None:
    proto = model(
        [helper.make_node("TopK", ["x", "k"], ["best", "where"], axis=0)],
        {"x": (FLOAT, ["n", 3]), "k": (INT64, [1])},
        {"best": FLOAT, "where": INT64},
    )
    runs = [{"x": sparse((n, 3), 1), "k": np.array([k])} for n, k in ((5, 0), (5, 5), (9, 3), (1, 1))]
    compiled = check(proto, runs, dims={"n": (1, 9)})
    with pytest.raises(ShapeError, match=r"best_count=4, n=3: it needs .*TopK"):
        compiled.run({"x": sparse((3, 3), 1), "k": np.array([4])})


def test_sizes_that_must_be_equal() -> None:
    """Elements of two tensors where two masks say so, added to each other."""
    nodes = [
        helper.make_node("Compress", ["x", "m"], ["a"]),
        helper.make_node("Compress", ["y", "k"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["z"]),
    ]
    inputs = {"x": (FLOAT, [6]), "y": (FLOAT, [9]), "m": (BOOL, [6]), "k": (BOOL, [9])}
    proto = model(nodes, inputs, {"z": FLOAT})  # type: ignore[arg-type]
    x, y = sparse((6,), 1), sparse((9,), 1)
    runs = [{"x": x, "y": y, "m": np.arange(6) < n, "k": np.arange(9) >= 9 - n} for n in (2, 0, 6)]
    compiled = check(proto, runs)
    with pytest.raises(ShapeError, match=r"a_count=2, b_count=3: it needs .*Add"):
        compiled.run({**runs[0], "k": np.arange(9) < 3})


#: How many elements of x are above 0: ``n`` of rank 0 and ``nv`` of rank 1.
COUNT = [
    helper.make_node("Greater", ["x", "none"], ["above"]),
    helper.make_node("Cast", ["above"], ["ones"], to=INT64),
    helper.make_node("ReduceSum", ["ones"], ["n"], keepdims=0),
    helper.make_node("Reshape", ["n", "one"], ["nv"]),
    helper.make_node("Reshape", ["x", "all"], ["flat"]),
    helper.make_node("Max", ["nv", "one"], ["positive"]),
]


def from_count(*nodes: tuple[str, list[str], str]) -> onnx.ModelProto:
    """A model whose result ``y`` has sizes that follow from the data of x."""
    constants = {
        "none": np.float32(0),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "four": np.array([4]),
        "all": np.array([-1]),
        "first": np.array(0),
        "step": np.array(2),
        "end": np.array([2**60]),
        "indices": np.array([0, 3, -1]),
        "values": np.array([0, 1], np.float32),
    }
    own = [
        helper.make_node(op, given, [made], **({"axis": 0} if op == "Concat" else {}))
        for op, given, made in nodes
    ]
    kind = INT64 if nodes[-1][0] == "Range" else FLOAT
    used = {name for node in [*COUNT, *own] for name in node.input}
    kept = {name: np.asarray(data) for name, data in constants.items() if name in used}
    return model([*COUNT, *own], {"x": (FLOAT, [3, 4])}, {"y": kind}, kept)


@pytest.mark.parametrize(
    "nodes",
    [
        [("Slice", ["flat", "zero", "nv"], "y")],
        [("Neg", ["nv"], "back"), ("Slice", ["flat", "back", "end"], "y")],
        [("Slice", ["flat", "one", "nv"], "part"), ("Softmax", ["part"], "y")],
        [
            ("Concat", ["nv", "four"], "s"),
            ("Slice", ["x", "zero", "one"], "row"),
            ("Expand", ["row", "s"], "y"),
        ],
        [("Concat", ["nv", "positive", "two"], "s"), ("ConstantOfShape", ["s"], "y")],
        [("Concat", ["one", "nv"], "s"), ("Tile", ["x", "s"], "y")],
        [
            ("Slice", ["flat", "zero", "nv"], "part"),
            ("Concat", ["all", "nv"], "s"),
            ("Slice", ["s", "one", "two"], "n2"),
            ("Concat", ["n2", "one"], "t"),
            ("Reshape", ["part", "t"], "column"),
            ("Mul", ["column", "part"], "y"),
        ],
        [("OneHot", ["indices", "positive", "values"], "y")],
        [("Concat", ["zero", "one", "nv", "zero"], "s"), ("Pad", ["x", "s"], "y")],
        [("Range", ["first", "n", "step"], "y")],
        [("HannWindow", ["n"], "y")],
    ],
    ids=lambda nodes: nodes[-1][0],
)
def test_sizes_that_follow_from_data(nodes: list[tuple[str, list[str], str]]) -> None:
    rng = np.random.default_rng(0)
    runs = [{"x": (rng.standard_normal((3, 4)) + mean).astype(np.float32)} for mean in (-5, -1, 0, 1, 5)]
    compiled = check(from_count(*nodes), runs, threads=(2,))
    assert len(compiled.artifact.variants) == 1


def test_a_limit_of_computed_sizes() -> None:
    proto = from_count(("Range", ["first", "n", "step"], "y"))
    with tw.config.overriding(max_computed=5):
        compiled = tw.compile(proto, cache=False)
    x = np.ones((3, 4), np.float32)
    x[0] = 0
    assert compiled(x)[0].tolist() == [0, 2, 4, 6]
    with pytest.raises(ShapeError, match="computes a size of 6 where memory is planned for 0 to 5") as error:
        compiled(np.ones((3, 4), np.float32))
    assert "--max-computed" in str(error.value)


def behind_rows() -> onnx.ModelProto:
    """Operators of all kinds on the rows of x whose sum is positive."""

    def node(op: str, given: list[str], made: str, **attrs: object) -> onnx.NodeProto:
        return helper.make_node(op, given, [made], **attrs)

    nodes = [
        node("ReduceSum", ["x", "one"], "sums", keepdims=0),
        node("Greater", ["sums", "none"], "mask"),
        node("NonZero", ["mask"], "where"),
        node("Squeeze", ["where", "zero"], "rows"),
        node("Gather", ["x", "rows"], "r"),
        node("MatMul", ["r", "w"], "product"),
        node("Transpose", ["r"], "turned"),
        node("MatMul", ["turned", "r"], "gram"),
        node("Softmax", ["r"], "softmax"),
        node("ReduceSum", ["r", "zero"], "total", keepdims=0),
        node("MatMul", ["x", "w"], "other"),
        node("Concat", ["product", "other"], "both", axis=0),
        node("Relu", ["both"], "joined"),
        node("Reshape", ["r", "halves"], "h"),
        node("Transpose", ["h"], "swapped", perm=[2, 0, 1]),
        node("Slice", ["r", "zero", "two", "zero"], "first_two"),
        node("Shape", ["r"], "shape"),
        node("ConstantOfShape", ["shape"], "zeros"),
        node("Add", ["zeros", "r"], "same"),
        node("Unsqueeze", ["rows", "one"], "places"),
        node("Neg", ["r"], "negated"),
        node("ScatterND", ["x", "places", "negated"], "put_back"),
        node("Greater", ["r", "none"], "positive"),
        node("NonZero", ["positive"], "inner"),
        node("Transpose", ["inner"], "inner_rows"),
        node("GatherND", ["r", "inner_rows"], "nested"),
        node("NonZero", ["mask"], "again"),
        node("Squeeze", ["again", "zero"], "rows_again"),
        node("Gather", ["x", "rows_again"], "r2"),
        node("Mul", ["r", "r2"], "squared"),
        node("CumSum", ["r", "axis"], "running"),
    ]
    constants = {
        "one": np.array([1]),
        "zero": np.array([0]),
        "two": np.array([2]),
        "none": np.float32(0),
        "halves": np.array([-1, 2, 3]),
        "axis": np.array(0),
        "w": sparse((6, 5), 1),
    }
    results = ["product", "gram", "softmax", "total", "joined", "swapped", "first_two", "same", "put_back"]
    results += ["nested", "squared", "running"]
    kept = {name: np.asarray(data) for name, data in constants.items()}
    return model(nodes, {"x": (FLOAT, ["n", 6])}, {**dict.fromkeys(results, FLOAT), "shape": INT64}, kept)


def test_operators_behind_a_computed_size() -> None:
    runs = [{"x": sparse((n, 6), 1, n) + shift} for n, shift in ((9, 0), (9, -9), (9, 9), (1, 9), (16, 0.5))]
    check(
        behind_rows(), [{"x": run["x"].astype(np.float32)} for run in runs], threads=(2,), dims={"n": (1, 16)}
    )


@pytest.fixture(scope="module")
def ranged() -> tw.Model:
    return tw.compile(masked(), threads=2, dims={"a": (0, 8), "b": (1, 9)}, cache=False)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.integers(0, 8), columns=st.integers(1, 9))
def test_any_data_of_any_size(ranged: tw.Model, data: st.DataObject, rows: int, columns: int) -> None:
    size = rows * columns
    numbers = data.draw(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0]), min_size=size, max_size=size))
    x = np.array(numbers, np.float32).reshape(rows, columns)
    where, positive = ranged(x)
    np.testing.assert_array_equal(where, np.stack(np.nonzero(x)))
    np.testing.assert_array_equal(positive, np.maximum(x[x != 0], 0))


def test_runs_at_the_same_time_have_their_own_sizes(ranged: tw.Model) -> None:
    xs = [sparse((8, 9), share / 40, share) for share in range(40)]

    def run(n: int) -> bool:
        x = xs[n % len(xs)]
        return np.array_equal(ranged(x)[0], np.stack(np.nonzero(x)))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(400)))


def test_results_are_arrays_of_their_own(ranged: tw.Model) -> None:
    """Contiguous, aligned, readable through DLPack, and not touched by later runs."""
    x = sparse((5, 7), 0.5)
    first = ranged(x)
    kept = [result.copy() for result in first]
    ranged(sparse((5, 7), 1))
    for result, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(result, copy)
        np.testing.assert_array_equal(np.from_dlpack(result), copy)
        assert result.flags.c_contiguous
        assert result.ctypes.data % 64 == 0
