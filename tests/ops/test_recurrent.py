from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import tilewright
from tests.frontend.models import agree, model, run, run_peer, value
from tests.ops.harness import check, floats, type_of
from tilewright.errors import GraphError, UnsupportedError
from tilewright.graph.graph import TensorType
from tilewright.ir import interp, te
from tilewright.ir.expr import Expr
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.stmt import For
from tilewright.ir.verify import verify
from tilewright.ir.visit import walk_stmt
from tilewright.ops.recurrent import GATES
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

GATE_COUNT = {"RNN": 1, "LSTM": 4, "GRU": 3}
T, B, C, H = 5, 3, 4, 6


def _layer(
    kind: str, directions: int = 1, lengths: bool = False, **attrs: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    g = GATE_COUNT[kind]
    arrays = {
        "x": floats(T, B, C),
        "w": floats(directions, g * H, C, low=-0.5, high=0.5),
        "r": floats(directions, g * H, H, low=-0.5, high=0.5),
        "b": floats(directions, 2 * g * H),
        "n": np.array([T, 2, 3], np.int32) if lengths else None,
        "h": floats(directions, B, H),
    }
    outputs = ["y", "yh"]
    if kind == "LSTM":
        arrays |= {"c": floats(directions, B, H), "p": floats(directions, 3 * H)}
        outputs.append("yc")
    if attrs.get("layout"):
        for name in ("x", "h", "c"):
            if name in arrays:
                arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(0, 1))
    names = [name if array is not None else "" for name, array in arrays.items()]
    feeds = {name: array for name, array in arrays.items() if array is not None}
    infos = [value(n, a.shape, helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()]
    node = helper.make_node(kind, names, outputs, hidden_size=H, **attrs)
    return model([node], infos, outputs, opset=14), feeds


@pytest.mark.parametrize("kind", list(GATE_COUNT))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_layers_agree_with_onnxruntime(kind: str, direction: str, lengths: bool) -> None:
    agree(*_layer(kind, 2 if direction == "bidirectional" else 1, lengths, direction=direction))


@pytest.mark.parametrize("attrs", [{"linear_before_reset": 1}, {"linear_before_reset": 0}, {"clip": 0.4}])
def test_gru_variants(attrs: dict[str, Any]) -> None:
    agree(*_layer("GRU", **attrs))


@pytest.mark.parametrize("attrs", [{"input_forget": 1}, {"clip": 0.3}])
def test_lstm_variants(attrs: dict[str, Any]) -> None:
    agree(*_layer("LSTM", **attrs))


@pytest.mark.parametrize("name", ["Relu", "HardSigmoid", "ScaledTanh", "Affine", "LeakyRelu", "Softsign"])
def test_activations(name: str) -> None:
    alphas = {"Affine": 0.7, "LeakyRelu": 0.2, "HardSigmoid": 0.3, "ScaledTanh": 0.8}
    betas = {"Affine": 0.1, "HardSigmoid": 0.4, "ScaledTanh": 0.6}
    attrs: dict[str, Any] = {"activations": [name]}
    if name in alphas:
        attrs["activation_alpha"] = [alphas[name]]
    if name in betas:
        attrs["activation_beta"] = [betas[name]]
    agree(*_layer("RNN", **attrs))


def test_batch_first_is_a_transposition() -> None:
    rows, feeds = _layer("LSTM", layout=1, direction="reverse")
    got = run(rows, feeds)
    first, _ = _layer("LSTM", direction="reverse")
    turned = {n: a.swapaxes(0, 1) if n in ("x", "h", "c") else a for n, a in feeds.items()}
    want = run_peer(first, turned)
    np.testing.assert_allclose(got["y"], want["y"].transpose(2, 0, 1, 3), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["yc"], want["yc"].swapaxes(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("full", [False, True])
def test_cells_give_what_their_references_give(cell: str, full: bool) -> None:
    g = GATE_COUNT[cell.upper()]
    h, lengths = (floats(B, H), np.array([T, 0, 2])) if full else (None, None)
    extra = {"rnn": [], "lstm": [floats(B, H), floats(3, H)], "gru": [floats(H)]}[cell]
    gates = {"rnn": ("tanh",), "lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh")}[cell]
    arrays = [floats(T, B, g * H), floats(H, g * H), h, *(extra if full else [None] * len(extra)), lengths]
    while arrays[-1] is None:
        arrays.pop()
    activations = tuple((name, 1.0, 0.0) for name in gates)
    check(cell, arrays, consts=[1], rtol=1e-4, atol=1e-5, activations=activations)
    check(cell, [arrays[0][:0], *arrays[1:]], consts=[1], activations=activations)


def test_compiled_layers_agree_with_onnxruntime() -> None:
    for kind in GATE_COUNT:
        proto, feeds = _layer(kind, 2, True, direction="bidirectional")
        want = run_peer(proto, feeds)
        for name, got in tilewright.compile(proto, threads=2, cache=False).run(feeds).items():
            np.testing.assert_allclose(got, want[name], rtol=1e-4, atol=1e-5)


def test_wrong_layers_are_rejected() -> None:
    x, r = TensorType.make((T, B, 4 * H), "float32"), TensorType.make((H, 4 * H), "float32")
    with pytest.raises(GraphError, match=r"lstm takes \[T, B, 4 \* H\]"):
        type_of("lstm", [x, TensorType.make((H, 3 * H), "float32")], activations=())
    gates = tuple((name, 0.0, 0.0) for name in ("sigmoid", "tanh", "tanh"))
    with pytest.raises(GraphError, match="operand 'h' has the shape"):
        type_of("lstm", [x, r, TensorType.make((B + 1, H), "float32")], activations=gates)
    with pytest.raises(GraphError, match="no activation 'swish'"):
        type_of("lstm", [x, r], activations=(("swish", 0.0, 0.0),) * 3)
    with pytest.raises(UnsupportedError, match="no activation 'Cubic'"):
        run(*_layer("RNN", activations=["Cubic"]))
    assert set(GATES) >= {"tanh", "sigmoid", "affine"}


# ---------------------------------------------------------------------------------------------------- te.scan
def _powers(steps: int) -> te.PrimFunc:
    """``[steps + 1, 4]``: a vector multiplied by a matrix again and again."""
    v, m = te.placeholder((4,), "float32", "v"), te.placeholder((4, 4), "float32", "m")
    start = te.compute((4,), lambda i: v[i], "start")

    def step(s: te.Tensor) -> list[te.Tensor]:
        def body(t: Expr, i: Expr) -> Expr:
            return te.reduce("sum", (4,), lambda k: s[t, k] * m[k, i])

        return [te.compute((steps, 4), body, "after")]

    (states,) = te.scan(steps, [start], step, ["states"])
    return te.primfunc("powers", [v, m], [states], [m])


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_scan(steps: int) -> None:
    func = _powers(steps)
    verify(func)
    assert to_text(parse(to_text(func))) == to_text(func)
    v, m = floats(4), floats(4, 4, low=-0.5, high=0.5)
    want = np.stack([v @ np.linalg.matrix_power(m, n) for n in range(steps + 1)])
    for program in (func, default_schedule(func, Target.parse("native")).func):
        np.testing.assert_allclose(interp.run(program, [v, m])[0], want, rtol=1e-4, atol=1e-6)


def test_steps_run_one_after_the_other() -> None:
    scheduled = default_schedule(_powers(64), Target.parse("native")).func
    steps = [s for s in walk_stmt(scheduled.body) if isinstance(s, For) and s.var.name == "t"]
    assert [s.kind for s in steps] == ["serial"]
    assert any(isinstance(s, For) and s.kind == "vectorized" for s in walk_stmt(steps[0]))


def test_what_does_not_follow_a_state_is_refused() -> None:
    zero = te.compute((4,), lambda i: te.as_expr(0.0), "zero")
    with pytest.raises(ValueError, match="does not follow the state"):
        te.scan(3, [zero], lambda s: [te.compute((3, 5), lambda t, i: s[t, i], "after")], ["s"])

    def late(s: te.Tensor) -> list[te.Tensor]:
        sums = te.compute((4,), lambda i: s[0, i], "sums")
        return [te.compute((3, 4), lambda t, i: sums[i], "after")]

    with pytest.raises(ValueError, match="'sums' depends on a state, but its first axis is not the step"):
        te.scan(3, [zero], late, ["s"])
