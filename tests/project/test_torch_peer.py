"""torch as an engine: every operator against its NumPy reference, models against onnxruntime."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

import tilewright.ops  # noqa: F401  (registers the operators)
from tests.cli.models import save
from tilewright.errors import MissingDependencyError, UnsupportedError
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.opdef import all_ops, get_op
from tilewright.peers import open_peer

F, INT, B = "float32", "int64", "bool"
#: Operator, inputs (shape and dtype, or the data itself), attributes.
CASES: list[tuple[str, list, dict]] = [
    *((name, [((2, 3, 5), F)], {}) for name in (
        "neg", "abs", "sign", "identity", "exp", "reciprocal", "floor", "ceil", "round", "sin", "cos", "tan",
        "atan", "sinh", "cosh", "asinh", "tanh", "erf", "isnan", "isinf", "relu", "sigmoid", "hard_swish",
        "softplus", "softsign", "mish",
    )),
    ("div", [((2, 3), F), ((3,), F)], {}),
    ("div", [((40,), INT), (np.array([-7]),)], {}),
    ("mod", [((40,), INT), (np.array([-7]),)], {}),
    ("fmod", [((40,), F), (np.array([0.75], F),)], {}),
    *((name, [((2, 1, 4), F), ((3, 1), F)], {}) for name in (
        "add", "sub", "mul", "minimum", "maximum", "less", "less_equal", "equal",
    )),
    *((name, [((2, 4), B), ((4,), B)], {}) for name in ("and", "or", "xor")),
    *((name, [((2, 4), INT), ((4,), INT)], {}) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")),
    *((name, [((9,), INT), (np.arange(9),)], {}) for name in ("shift_left", "shift_right")),
    ("not", [((4,), B)], {}),
    ("bitwise_not", [((4,), INT)], {}),
    ("where", [((2, 1), B), ((3,), F), ((1, 3), F)], {}),
    ("isinf", [(np.array([1, np.inf, -np.inf], F),)], {"negative": False}),
    ("leaky_relu", [((9,), F)], {"alpha": 0.2}),
    ("thresholded_relu", [((9,), F)], {"alpha": 0.4}),
    ("elu", [((9,), F)], {"alpha": 0.7}),
    ("celu", [((9,), F)], {"alpha": 0.7}),
    ("selu", [((9,), F)], {"alpha": 1.6, "gamma": 1.1}),
    ("hard_sigmoid", [((9,), F)], {"alpha": 0.2, "beta": 0.5}),
    ("hard_sigmoid", [((9,), F)], {"alpha": 1 / 6, "beta": 0.5}),
    ("silu", [((9,), F)], {"alpha": 1.5}),
    ("gelu", [((9,), F)], {"approximate": "none"}),
    ("gelu", [((9,), F)], {"approximate": "tanh"}),
    ("prelu", [((2, 3, 4), F), ((3, 1), F)], {}),
    ("prelu", [((2, 3, 4), F), ((4,), F)], {}),
    ("cast", [((9,), F)], {"to": "int32"}),
    ("clip", [((9,), F), (np.float32(-0.5),), None], {}),
    ("clip", [((9,), F), ((), F), ((1,), F)], {}),
    ("matmul", [((2, 1, 3, 4), F), ((5, 4, 2), F)], {}),
    ("conv", [((1, 4, 9), F), ((6, 2, 3), F), ((6,), F)], {"groups": 2, "pads": (1, 1), "dilations": (2,)}),
    ("conv", [((1, 2, 9, 8), F), ((6, 2, 3, 2), F)], {"pads": (0, 1, 2, 1), "strides": (2, 1)}),
    ("conv", [((1, 2, 9, 8), F), ((6, 2, 3, 2), F)], {"auto_pad": "same_upper", "strides": (2, 2)}),
    ("conv_transpose", [((1, 4, 5), F), ((4, 2, 3), F), ((4,), F)], {"groups": 2, "strides": (2,)}),
    ("conv_transpose", [((1, 2, 5, 4), F), ((2, 3, 3, 3), F)],
     {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 0)}),
    ("conv_transpose", [((1, 2, 5, 4), F), ((2, 3, 3, 3), F), ((3,), F)],
     {"strides": (2, 2), "pads": (0, 0, 2, 1), "dilations": (1, 2)}),
    ("max_pool", [((1, 2, 9, 8), F)], {"kernel": (3, 2), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ("max_pool", [((1, 2, 9, 8), F)], {"kernel": (3, 3), "strides": (2, 3), "ceil_mode": True}),
    ("max_pool", [((1, 2, 9, 8), F)], {"kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 2, 1)}),
    ("max_pool", [((1, 2, 9), F)], {"kernel": (3,), "strides": (2,), "dilations": (2,), "pads": (0, 1)}),
    *(("avg_pool", [((1, 2, 9, 8), F)],
       {"kernel": (3, 3), "strides": (2, 2), "pads": pads, "count_include_pad": counted, "ceil_mode": ceil})
      for pads in ((1, 1, 1, 1), (0, 1, 1, 0)) for counted in (False, True) for ceil in (False, True)),
    *(("reduce", [((2, 3, 4), F)], {"op": op, "axes": (0, -1), "keepdims": op == "sum"})
      for op in ("sum", "mean", "max", "min", "prod")),
    ("reduce", [((2, 3), F)], {"op": "sum", "axes": ()}),
    ("reduce", [((2, 3), INT)], {"op": "mean"}),
    ("softmax", [((2, 3, 4), F)], {"axis": 1}),
    ("log_softmax", [((2, 3, 4), F)], {"axis": -1}),
    *((name, [(np.array([[1, 3, 3], [0, 0, 2]]),)], {"axis": 1, "keepdims": last, "select_last": last})
      for name in ("argmax", "argmin") for last in (False, True)),
    *(("cumsum", [((2, 4), F)], {"axis": 1, "exclusive": e, "reverse": r}) for e in (0, 1) for r in (0, 1)),
    ("layer_norm", [((2, 3, 4), F), ((4,), F), ((4,), F)], {"axis": -1}),
    ("layer_norm", [((2, 3, 4), F), ((4,), F), ((3, 4), F)], {"axis": 1}),
    ("rms_norm", [((2, 3, 4), F), ((4,), F)], {"axis": -1}),
    ("rms_norm", [((2, 3, 4), F), ((3, 4), F), ((4,), F)], {"axis": 1}),
    ("batch_norm", [((2, 3, 4), F), ((3,), F), ((3,), F), ((3,), F), (np.array([1, 2, 3], F),)], {}),
    ("group_norm", [((2, 4, 5), F), ((4,), F), ((4,), F)], {"groups": 2}),
    ("group_norm", [((2, 4, 5), F)], {}),
    *(("lrn", [((1, 7, 2, 2), F)], {"size": size, "alpha": 0.5}) for size in (3, 4)),
    ("reshape", [((2, 6), F), (np.array([0, -1, 3]),)], {"copy_zeros": True}),
    ("transpose", [((2, 3, 4), F)], {"perm": (2, 0, 1)}),
    ("expand", [((3, 1), F), (np.array([2, 1, 4]),)], {}),
    ("concat", [((2, 3), F), ((2, 1), F)], {"axis": -1}),
    ("tile", [((2, 3), F), (np.array([2, 1]),)], {}),
    ("shape", [((2, 3, 4), F)], {"start": 1}),
    ("slice", [((5, 9), F)], {"starts": (1, 7), "ends": (4, -20), "axes": (0, 1), "steps": (2, -3)}),
    ("trilu", [((4, 5), F)], {"upper": False, "k": 1}),
    ("pad", [((2, 3), F), (np.array([1, 0, -1, 2]),), (np.float32(7),)], {}),
    *(("pad", [((1, 2, 5, 6), F)], {"pads": (0, 0, 1, 2, 0, 0, 2, 0), "mode": mode})
      for mode in ("reflect", "edge", "wrap")),
    ("pad", [((4, 5), INT)], {"pads": (1, -1, 2, 0), "mode": "edge"}),
    ("gather", [((3, 5), F), (np.array(-1),)], {"axis": 1}),
    ("gather", [((3, 5), F), (np.array([[0, -1], [2, 2]]),)], {"axis": 0}),
    ("gather_elements", [((3, 5), F), (np.array([[0, -1]]),)], {"axis": 1}),
    ("gather_nd", [((2, 3, 4), F), (np.array([[[0, -1]], [[2, 2]]]),)], {"batch_dims": 1}),
    ("range", [(np.array(3),), (np.array(-4),), (np.array(-2),)], {"dtype": INT}),
    ("one_hot", [(np.array([[0, -1], [9, 2]]),), ((2,), F)], {"depth": (3,), "axis": 1}),
    *(("resize", [((1, 2, 4, 6), F)],
       {"scales": (1.0, 1.0, 2.0, 1.5), "mode": mode, "coordinates": coordinates, "nearest": "floor"})
      for mode in ("nearest", "linear", "cubic")
      for coordinates in ("half_pixel", "align_corners", "asymmetric")),
    ("resize", [((4, 6), F)], {"sizes": (5, 3), "mode": "linear", "coordinates": "half_pixel"}),
    *((name, [(np.linspace(1.1, 3, 9, dtype=F),)], {}) for name in ("log", "sqrt", "acosh")),
    *((name, [(np.linspace(-0.9, 0.9, 9, dtype=F),)], {}) for name in ("asin", "acos", "atanh")),
    ("pow", [(np.linspace(0.1, 3, 9, dtype=F),), ((9,), F)], {}),
    ("split", [((2, 5), F)], {"axis": 1, "sizes": (2, 3)}),
]  # fmt: skip


def _data(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == F:
        return random.standard_normal(shape, np.float32)
    return random.integers(0, 2, shape).astype(bool) if dtype == B else random.integers(-9, 9, shape)


def test_every_counterpart_is_tested():
    pytest.importorskip("torch")
    from tilewright.torch_peer.registry import MAKERS

    # Other operators are reported as unsupported when a model with them is opened.
    assert set(MAKERS) <= set(all_ops())
    assert set(MAKERS) == {name for name, _, _ in CASES}


@pytest.mark.parametrize("constant", [False, True], ids=["inputs", "weights"])
@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_operator(case, constant):
    """Operands after the first are inputs once, and constants once; the reference is the oracle."""
    torch = pytest.importorskip("torch")
    from tilewright.torch_peer import GraphModule

    op, operands, attrs = case
    random, builder, feeds, values = np.random.default_rng(0), GraphBuilder(), {}, []
    for n, operand in enumerate(operands):
        if operand is None:
            values.append(None)
            continue
        data = np.asarray(operand[0]) if len(operand) == 1 else _data(random, *operand)
        if n in get_op(op).params or (constant and n):
            values.append(builder.constant(data, f"c{n}"))
        else:
            feeds[f"x{n}"] = data
            values.append(builder.input(f"x{n}", data.shape, data.dtype.name))
    outputs = builder.emit(op, values, attrs)
    graph = builder.build(list(outputs), [f"y{n}" for n in range(len(outputs))])
    wanted = interpret(graph, feeds)
    results = GraphModule(graph)(*(torch.from_numpy(np.array(feeds[v.name])) for v in graph.inputs))
    for got, want in zip(results, wanted.values(), strict=True):
        assert got.numpy().dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)


def _model(path):
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[0, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Softmax", ["mean"], ["share"], axis=1),
        helper.make_node("Add", ["k", "k"], ["kk"]),
        helper.make_node("Mul", ["share", "kk"], ["y"]),
    ]
    weights = {"w": random.standard_normal((4, 3, 3, 3), np.float32), "k": np.ones((4, 1, 1), np.float32)}
    outputs = {"y": (TensorProto.FLOAT, ["n", 4, 1, 1]), "positive": (TensorProto.FLOAT, ["n", 4, 7, 8])}
    return save(path, nodes, {"x": (TensorProto.FLOAT, ["n", 3, 8, 8])}, outputs, weights)


def test_outputs_by_name_agree_with_onnxruntime(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    model = _model(tmp_path / "m.onnx").read_bytes()
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)}
    feeds["x"].flags.writeable = False
    ours, theirs = (open_peer(name, model, feeds) for name in ("torch", "onnxruntime"))
    assert ours.name == "torch"
    assert ours.load_seconds > 0
    for _ in range(2):
        got, want = ours.run(), theirs.run()
        assert list(got) == list(want) == ["y", "positive"]
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_all_operators_without_a_counterpart_are_named(tmp_path):
    pytest.importorskip("torch")
    nodes = [
        helper.make_node("Resize", ["x", "roi", "scales"], ["r"], name="crop", mode="linear",
                         coordinate_transformation_mode="tf_crop_and_resize"),
        helper.make_node("Cast", ["r"], ["c"], name="narrow", to=TensorProto.UINT32),
        helper.make_node("Cast", ["c"], ["y"], name="widen", to=TensorProto.FLOAT),
    ]  # fmt: skip
    weights = {
        "roi": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    kinds = {name: (TensorProto.FLOAT, [1, 1, 4, 4]) for name in "x"}
    model = save(tmp_path / "m.onnx", nodes, kinds, {"y": (TensorProto.FLOAT, None)}, weights)
    with pytest.raises(UnsupportedError) as caught:
        open_peer("torch", model.read_bytes(), {"x": np.zeros((1, 1, 4, 4), np.float32)})
    text = str(caught.value)
    assert "Resize with cropping: 1 node ('crop')" in text
    assert "Cast with dtype uint32: 2 nodes ('narrow', 'widen')" in text


def test_torch_compile_needs_a_compiler(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = _model(tmp_path / "m.onnx").read_bytes()
    with pytest.raises(MissingDependencyError, match="no-such-compiler"):
        open_peer("torch_compile", model, {"x": np.zeros((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize("engine", ["torch", "torch_compile"])
def test_missing_torch_names_the_extra(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    model = _model(tmp_path / "m.onnx").read_bytes()
    with pytest.raises(MissingDependencyError, match=r"torch is not installed") as caught:
        open_peer(engine, model, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    assert "pip install 'tilewright[torch]'" in str(caught.value)
