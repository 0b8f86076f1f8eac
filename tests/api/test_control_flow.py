"""Branches, loops and scans that compiled models decide: beside ONNX Runtime, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tilewright as tw
from tests.api.control_programs import Maker, feeds
from tilewright import config
from tilewright.errors import GraphError, LimitError, ShapeError, UnsupportedError

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
Inputs = Mapping[str, tuple[int, Sequence[int | str]]]


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Inputs,
    outputs: Sequence[str],
    weights: Mapping[str, Any] | None = None,
) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Inputs,
    outputs: Mapping[str, int],
    weights: Mapping[str, Any] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    graph = body(nodes, inputs, [], weights)
    graph.output.extend(helper.make_tensor_value_info(n, t, None) for n, t in outputs.items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def agree(compiled: Any, session: onnxruntime.InferenceSession, runs: Sequence[dict[str, Any]]) -> None:
    for data in runs:
        data = {name: np.asarray(array) for name, array in data.items()}
        wanted = session.run(None, data)
        for (name, got), want in zip(compiled.run(data).items(), wanted, strict=True):
            if want.size or got.size:  # ONNX Runtime forgets the shape of rows when there are none
                assert (got.shape, got.dtype) == (want.shape, want.dtype), name
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)


def check(proto: onnx.ModelProto, runs: Sequence[dict[str, Any]], threads: int = 1, **kw: Any) -> tw.Model:
    """Compile, and compare every run with ONNX Runtime's."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    compiled = tw.compile(proto, threads=threads, cache=False, **kw)
    agree(compiled, session, runs)
    return compiled


def steps(compiled: tw.Model) -> list[str]:
    return [k.name.split(".")[0] for k in compiled.artifact.kernels() if k.control is not None]


X = np.array([1.0, -2.0, 3.0], np.float32)


# --------------------------------------------------------------------------------------------------- branches
def branches(
    then: onnx.GraphProto, other: onnx.GraphProto, outputs: Sequence[str] = ("y",)
) -> onnx.NodeProto:
    return node("If", ["c"], list(outputs), then_branch=then, else_branch=other)


def test_branches_give_computed_captured_and_constant_values() -> None:
    then = body([node("Relu", ["x"], ["a"])], {}, ["a", "x", "k"], {"k": np.float32([7, 8, 9])})
    other = body([node("Neg", ["x"], ["a"]), node("Identity", ["x"], ["b"])], {}, ["b", "a", "h"])
    nodes = [node("Abs", ["x"], ["h"]), branches(then, other, ["p", "q", "r"])]
    proto = model(nodes, {"x": (FLOAT, [3]), "c": (BOOL, [])}, {"p": FLOAT, "q": FLOAT, "r": FLOAT})
    # A branch may only give what it makes: ONNX Runtime wants copies of what it captures.
    for graph in (a.g for a in proto.graph.node[1].attribute):
        for n, out in enumerate(graph.output):
            if out.name in ("x", "h", "k"):
                graph.node.append(node("Identity", [out.name], [f"{out.name}{n}"]))
                out.name = f"{out.name}{n}"
    compiled = check(proto, [{"x": X, "c": c} for c in (True, False)])
    assert steps(compiled) == ["if"]


def test_branches_of_different_shapes() -> None:
    then = body([node("Concat", ["x", "x"], ["t"], axis=0)], {}, ["t"])
    other = body([node("Slice", ["x", "zero", "n"], ["e"])], {}, ["e"])
    nodes = [branches(then, other), node("Mul", ["y", "y"], ["z"]), node("Shape", ["y"], ["s"])]
    inputs: Inputs = {"x": (FLOAT, ["rows", 2]), "c": (BOOL, [])}
    weights = {"zero": np.array([0]), "n": np.array([1])}
    proto = model(nodes, inputs, {"z": FLOAT, "s": INT64, "y": FLOAT}, weights)
    runs = [
        {"x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2), "c": c}
        for rows in (1, 3, 5)
        for c in (True, False)
    ]
    compiled = check(proto, runs, dims={"rows": (1, 6)})
    assert len(compiled.artifact.variants) == 1


def test_conditions_of_one_element_and_branches_without_operands() -> None:
    then, other = (
        body([node("Constant", [], [n], value_floats=[v])], {}, [n]) for n, v in (("t", 1.0), ("e", 2.0))
    )
    proto = model([branches(then, other)], {"c": (BOOL, [1])}, {"y": FLOAT})
    check(proto, [{"c": [True]}, {"c": [False]}])


def test_only_the_branch_taken_must_fit_the_sizes() -> None:
    """Branches for other sizes of the input than the ones compiled for are ordinary in exported models."""
    wrong = body(
        [node("Reshape", ["x", "shape"], ["r"]), node("ReduceSum", ["r"], ["t"], keepdims=0)], {}, ["t"]
    )
    right = body([node("ReduceSum", ["x"], ["e"], keepdims=0)], {}, ["e"])
    inputs: Inputs = {"x": (FLOAT, ["n"]), "c": (BOOL, [])}
    proto = model([branches(wrong, right)], inputs, {"y": FLOAT}, {"shape": np.array([2, -1])})
    compiled = check(proto, [{"x": X, "c": False}], shapes={"x": (3,)})
    with pytest.raises(ShapeError, match="reshape"):
        compiled.run({"x": X, "c": np.array(True)})
    # The same with sizes that a run decides: the check belongs to the branch.
    compiled = check(proto, [{"x": X[:n], "c": c} for n, c in ((3, False), (2, True))], dims={"n": (1, 4)})
    with pytest.raises(ShapeError, match=r"needs .*n"):
        compiled.run({"x": X, "c": np.array(True)})
    both = model([branches(wrong, wrong)], inputs, {"y": FLOAT}, {"shape": np.array([2, -1])})
    with pytest.raises(GraphError, match="reshape"):
        tw.compile(both, shapes={"x": (3,)}, cache=False)


def test_branches_that_cannot_be_joined() -> None:
    flat = body([node("Reshape", ["x", "one"], ["t"])], {}, ["t"], {"one": np.array([1, -1])})
    same = body([node("Neg", ["x"], ["e"])], {}, ["e"])
    truth = body([node("Cast", ["x"], ["b"], to=BOOL)], {}, ["b"])
    # A small input that decides: code for each of its values.
    proto = model([branches(flat, same)], {"x": (FLOAT, [3]), "c": (BOOL, [])}, {"y": FLOAT})
    check(proto, [{"x": X, "c": True}, {"x": X, "c": False}])
    inputs: Inputs = {"x": (FLOAT, [3000])}
    decide = [node("ReduceSum", ["x"], ["total"], keepdims=0), node("Cast", ["total"], ["c"], to=BOOL)]
    with pytest.raises(LimitError, match="the condition of branches whose results differ in rank"):
        tw.compile(model([*decide, branches(flat, same)], inputs, {"y": FLOAT}), cache=False)
    with pytest.raises(GraphError, match="one branch gives bool"):
        tw.compile(model([*decide, branches(truth, same)], inputs, {"y": FLOAT}), cache=False)


def test_weights_of_branches_are_stored_once() -> None:
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    then = body([node("MatMul", ["x", "w"], ["t"])], {}, ["t"])
    other = body([node("MatMul", ["x", "v"], ["m"]), node("Relu", ["m"], ["e"])], {}, ["e"], {"v": w})
    proto = model([branches(then, other)], {"x": (FLOAT, [8, 64]), "c": (BOOL, [])}, {"y": FLOAT}, {"w": w})
    compiled = check(proto, [{"x": w[:8], "c": c} for c in (True, False)], threads=2)
    assert compiled.artifact.weights.nbytes < 2 * w.nbytes


# ------------------------------------------------------------------------------------------------------ loops
def counting(trip: str = "n", going: str = "c", conditional: bool = False) -> onnx.ModelProto:
    """Adds x to a state, stacks it, and goes on (if ``conditional``) while its largest element is small."""
    nodes = [
        node("Add", ["s", "x"], ["t"]),
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Mul", ["t", "f"], ["r"]),
    ]
    if conditional:
        nodes += [node("ReduceMax", ["t"], ["m"], keepdims=0), node("Less", ["m", "limit"], ["o"])]
    else:
        nodes += [node("Identity", ["g"], ["o"])]
    inner = body(nodes, {"i": (INT64, []), "g": (BOOL, []), "s": (FLOAT, [3])}, ["o", "t", "r"])
    inputs: dict[str, tuple[int, list[int | str]]] = {"x": (FLOAT, [3])}
    if trip:
        inputs["n"] = INT64, []
    if going == "c":
        inputs["c"] = BOOL, []
    weights: dict[str, Any] = {"zero": np.zeros(3, np.float32), "yes": np.array(True)}
    if conditional:
        weights["limit"] = np.float32(7)
    loop = node("Loop", [trip, going, "zero"], ["last", "rows"], body=inner, name="count")
    return model([loop], inputs, {"last": FLOAT, "rows": FLOAT}, weights)


@pytest.mark.parametrize("conditional", [False, True])
def test_loops_with_counts_and_conditions_at_run_time(conditional: bool, tmp_path: Path) -> None:
    proto = counting(conditional=conditional)
    runs = [{"x": X, "n": n, "c": c} for n in (0, 1, 2, 5) for c in (True, False)]
    compiled = check(proto, runs)
    assert compiled.run({"x": X, "n": np.array(0), "c": np.array(True)})["rows"].shape == (0, 3)
    compiled.save(tmp_path / "loop.tw")
    loaded = tw.load(tmp_path / "loop.tw")
    for data in runs:
        arrays = {name: np.asarray(array) for name, array in data.items()}
        for name, want in compiled.run(arrays).items():
            np.testing.assert_array_equal(loaded.run(arrays)[name], want)


def test_loops_without_a_limit() -> None:
    check(counting("", "yes", conditional=True), [{"x": X}, {"x": X + 9}])


def test_results_of_a_loop_have_a_limit() -> None:
    with config.overriding(max_computed=4):
        compiled = tw.compile(counting(), cache=False)
    run = {"x": X, "c": np.array(True)}
    assert compiled.run({**run, "n": np.array(4)})["rows"].shape == (4, 3)
    with pytest.raises(ShapeError, match="a loop needs more than the 4 iterations") as caught:
        compiled.run({**run, "n": np.array(5)})
    assert caught.value.location == "count"


def test_states_that_swap_and_states_that_stay() -> None:
    inner = body(
        [node("Identity", [a], [b]) for a, b in (("g", "o"), ("q", "p2"), ("p", "q2"), ("k", "k2"))],
        {"i": (INT64, []), "g": (BOOL, []), **{n: (FLOAT, [3]) for n in "pqk"}},
        ["o", "p2", "q2", "k2"],
    )
    proto = model(
        [node("Loop", ["n", "", "x", "y", "x"], ["a", "b", "c"], body=inner)],
        {"x": (FLOAT, [3]), "y": (FLOAT, [3]), "n": (INT64, [])},
        {"a": FLOAT, "b": FLOAT, "c": FLOAT},
    )
    compiled = check(proto, [{"x": X, "y": -X, "n": n} for n in range(4)])
    (loop,) = [k.control for k in compiled.artifact.kernels() if k.control is not None]
    assert len(loop.states) == 2  # type: ignore[union-attr]


def test_loops_of_few_iterations_are_written_out_and_constant_ones_folded() -> None:
    def proto(count: int, constant: bool) -> onnx.ModelProto:
        inner = body(
            [node("Identity", ["g"], ["o"]), node("Concat", ["s", "x"], ["t"], axis=0)],
            {"i": (INT64, []), "g": (BOOL, []), "s": (FLOAT, [3])},
            ["o", "t"],
        )
        weights = {"n": np.array(count), "x": X} if constant else {"n": np.array(count)}
        inputs: Inputs = {} if constant else {"x": (FLOAT, [3])}
        loop = node("Loop", ["n", "", "x"], ["y0"], body=inner)
        return model([loop, node("Neg", ["y0"], ["y"])], inputs, {"y": FLOAT}, weights)

    assert steps(check(proto(3, False), [{"x": X}])) == []
    # States that grow are written out whatever it costs, where the number of iterations is known.
    assert steps(check(proto(40, False), [{"x": X}])) == []
    assert [k.name for k in check(proto(3, True), [{}]).artifact.kernels()] == ["copy_output_0"]


def growing(*extra: onnx.NodeProto, result: str = "t") -> onnx.ModelProto:
    """x, and x again for each iteration; what comes behind."""
    inner = body(
        [node("Identity", ["g"], ["o"]), node("Concat", ["s", "x"], ["t"], axis=0), *extra],
        {"i": (INT64, []), "g": (BOOL, []), "s": (FLOAT, ["d", 2])},
        ["o", result],
    )
    nodes = [node("Loop", ["n", "", "x"], ["y"], body=inner, name="grow"), node("Shape", ["y"], ["size"])]
    return model(nodes, {"x": (FLOAT, [3, 2]), "n": (INT64, [])}, {"y": FLOAT, "size": INT64})


def test_states_may_grow(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    with config.overriding(max_computed=18):
        compiled = check(growing(), [{"x": x, "n": n} for n in (0, 1, 2, 5)])
    assert len(compiled.artifact.variants) == 1
    compiled.save(tmp_path / "grown.tw")
    assert tw.load(tmp_path / "grown.tw").run({"x": x, "n": np.array(4)})["y"].shape == (15, 2)
    with pytest.raises(ShapeError, match="computes a size of 21 where memory is planned for 0 to 18"):
        compiled.run({"x": x, "n": np.array(6)})


def test_decoders_append_until_they_are_done() -> None:
    """The next token is the best one behind the last; 0 ends the text."""
    inner = body(
        [
            node("Slice", ["s", "last", "end", "one"], ["token"]),
            node("Gather", ["table", "token"], ["scores"]),
            node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
            node("Concat", ["s", "best"], ["t"], axis=1),
            node("ReduceMin", ["best"], ["least"], keepdims=0),
            node("Greater", ["least", "zero"], ["o"]),
        ],
        {"i": (INT64, []), "g": (BOOL, []), "s": (INT64, [1, "length"])},
        ["o", "t"],
        {"last": np.array([-1]), "end": np.array([1 << 40]), "one": np.array([1]), "zero": np.array(0)},
    )
    table = np.random.default_rng(4).standard_normal((9, 9)).astype(np.float32)
    proto = model(
        [node("Loop", ["n", "", "s0"], ["text"], body=inner)],
        {"s0": (INT64, [1, "length"]), "n": (INT64, [])},
        {"text": INT64},
        {"table": table},
    )
    with config.overriding(max_computed=100):
        runs = [{"s0": [[3] * k], "n": n} for k in (1, 2, 4) for n in (0, 1, 5, 40)]
        compiled = check(proto, runs, dims={"length": (1, 8)})
    assert len(compiled.artifact.variants) == 1


def test_states_keep_their_rank() -> None:
    stacked = [node("Unsqueeze", ["t", "axis"], ["u"]), node("Constant", [], ["axis"], value_ints=[0])]
    with pytest.raises(UnsupportedError, match="a state changes its shape"):
        tw.compile(growing(*stacked[::-1], result="u"), cache=False)


def test_slices_at_the_iteration() -> None:
    inner = body(
        [
            node("Identity", ["g"], ["o"]),
            node("Add", ["i", "one"], ["j"]),
            node("Unsqueeze", ["i", "axis"], ["from"]),
            node("Unsqueeze", ["j", "axis"], ["to"]),
            node("Slice", ["x", "from", "to"], ["row"]),
            node("Add", ["s", "row"], ["t"]),
        ],
        {"i": (INT64, []), "g": (BOOL, []), "s": (FLOAT, [1, 4])},
        ["o", "t", "row"],
        {"one": np.array(1), "axis": np.array([0])},
    )
    proto = model(
        [node("Loop", ["n", "", "zero"], ["sum", "rows"], body=inner)],
        {"x": (FLOAT, [5, 4]), "n": (INT64, [])},
        {"sum": FLOAT, "rows": FLOAT},
        {"zero": np.zeros((1, 4), np.float32)},
    )
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    compiled = check(proto, [{"x": x, "n": n} for n in (1, 3, 5)])
    with pytest.raises(ShapeError, match="the model cannot run with"):  # a sixth row there is not
        compiled.run({"x": x, "n": np.array(6)})


def test_profiles_count_all_iterations_and_no_branch_that_is_not_taken() -> None:
    compiled = tw.compile(counting(), cache=False)
    names = [k.name for k in compiled.artifact.kernels()]
    assert len(set(names)) == len(names)
    profile = compiled.profile({"x": X, "n": np.array(0), "c": np.array(True)})
    inside = {k.name for k in compiled.artifact.variants[0].kernels} - {
        k.name for k in compiled.artifact.variants[0].own_kernels
    }
    assert inside
    assert all(k.median_ns == 0 for k in profile.kernels if k.name in inside)
    profile = compiled.profile({"x": X, "n": np.array(2000), "c": np.array(True)}, runs=3)
    busy = sum(k.median_ns for k in profile.kernels if k.name in inside)
    assert busy > 0.5 * profile.total_ns
    assert {k.calls for k in profile.kernels if k.name in inside} == {2000}


# ------------------------------------------------------------------------------------------------------ scans
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("backwards", [0, 1])
def test_scans_over_sequences_of_any_length(axis: int, backwards: int) -> None:
    inner = body(
        [
            node("MatMul", ["s", "w"], ["h"]),
            node("Add", ["h", "row"], ["pre"]),
            node("Tanh", ["pre"], ["t"]),
            node("Concat", ["t", "t"], ["out"], axis=0),
        ],
        {"s": (FLOAT, [4]), "row": (FLOAT, [4])},
        ["t", "out"],
    )
    for value in inner.output:
        value.type.tensor_type.elem_type = FLOAT
        value.type.tensor_type.shape.dim.add().dim_value = 8 if value.name == "out" else 4
    attrs = {
        "num_scan_inputs": 1,
        "scan_input_axes": [axis],
        "scan_input_directions": [backwards],
        "scan_output_axes": [axis],
        "scan_output_directions": [1 - backwards],
    }
    shape: list[int | str] = ["t", 4] if axis == 0 else [4, "t"]
    proto = model(
        [node("Scan", ["first", "x"], ["last", "ys"], body=inner, **attrs)],
        {"x": (FLOAT, shape), "first": (FLOAT, [4])},
        {"last": FLOAT, "ys": FLOAT},
        {"w": np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)},
    )
    rng = np.random.default_rng(2)
    runs = []
    for t in (1, 2, 7, 12):
        x = rng.standard_normal((t, 4)).astype(np.float32)
        runs.append({"x": x if axis == 0 else np.ascontiguousarray(x.T), "first": x[0]})
    compiled = check(proto, runs, dims={"t": (0, 12)})
    assert len(compiled.artifact.variants) == 1
    empty = np.zeros((0, 4) if axis == 0 else (4, 0), np.float32)
    got = compiled.run({"x": empty, "first": np.ones(4, np.float32)})
    np.testing.assert_array_equal(got["last"], np.ones(4))
    assert got["ys"].size == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_scans_of_batches(batch: int) -> None:
    """Opset 8: a batch in front of everything, one scan for each of its elements."""
    inner = body(
        [node("Add", ["s", "row"], ["t"]), node("Mul", ["t", "two"], ["out"])],
        {"s": (FLOAT, [2]), "row": (FLOAT, [2])},
        [],
        {"two": np.float32(2)},
    )
    inner.output.extend(helper.make_tensor_value_info(n, FLOAT, [2]) for n in ("t", "out"))
    scan = node("Scan", ["", "s0", "x"], ["last", "ys"], body=inner, num_scan_inputs=1, directions=[1])
    inputs: Inputs = {"s0": (FLOAT, [batch, 2]), "x": (FLOAT, [batch, "t", 2])}
    rng = np.random.default_rng(0)
    runs = [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for shapes in ({"s0": (batch, 2), "x": (batch, t, 2)} for t in (1, 4))
    ]
    check(model([scan], inputs, {"last": FLOAT, "ys": FLOAT}, opset=8), runs, dims={"t": (1, 5)})


# ----------------------------------------------------------------------------------------- everything at once
def test_a_loop_in_a_branch_in_a_loop_reads_what_stands_two_levels_around() -> None:
    innermost = body(
        [
            node("Identity", ["g2"], ["o2"]),
            node("Add", ["s2", "h"], ["a2"]),
            node("Mul", ["a2", "w"], ["t2"]),
        ],
        {"i2": (INT64, []), "g2": (BOOL, []), "s2": (FLOAT, [3])},
        ["o2", "t2"],
        {"w": np.float32([0.5, 0.5, 0.5])},
    )
    then = body([node("Loop", ["m", "", "s"], ["u"], body=innermost)], {}, ["u"])
    other = body([node("Sub", ["s", "x"], ["e"])], {}, ["e"])
    outer = body(
        [
            node("Identity", ["g"], ["o"]),
            node("Mod", ["i", "two"], ["odd"]),
            node("Cast", ["odd"], ["c"], to=BOOL),
            branches(then, other, ["t"]),
        ],
        {"i": (INT64, []), "g": (BOOL, []), "s": (FLOAT, [3])},
        ["o", "t", "t"],
    )
    outer.node.append(node("Identity", ["t"], ["row"]))
    outer.output[2].name = "row"
    proto = model(
        [node("Tanh", ["x"], ["h"]), node("Loop", ["n", "", "x"], ["y", "rows"], body=outer)],
        {"x": (FLOAT, [3]), "n": (INT64, []), "m": (INT64, [])},
        {"y": FLOAT, "rows": FLOAT},
        {"two": np.array(2)},
    )
    check(proto, [{"x": X, "n": n, "m": m} for n in (0, 1, 4) for m in (0, 1, 3)])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 30))
def test_random_programs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    proto = Maker(rng).program()
    check(proto, [feeds(rng) for _ in range(3)])
