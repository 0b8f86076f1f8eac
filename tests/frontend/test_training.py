"""Optimizers of ai.onnx.preview.training, whose cases of ONNX's suite have single tensors or two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests.frontend.models import INT64, model, run, value
from tilewright.errors import GraphError

DOMAIN = "ai.onnx.preview.training"


def _model(op: str, tensors: int, states: int, **attrs: Any) -> tuple[Any, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    kinds = ["x", "g", *(f"s{n}" for n in range(states))]
    feeds = {"r": np.float32(0.1).reshape(()), "t": np.array(3)}
    for kind in kinds:
        for n in range(tensors):
            feeds[f"{kind}_{n}"] = np.abs(rng.standard_normal((2, n + 1))).astype(np.float32)
    outputs = [f"o{n}" for n in range(tensors * (states + 1))]
    infos = [value(n, a.shape, INT64 if n == "t" else 1) for n, a in feeds.items()]
    node = helper.make_node(op, list(feeds), outputs, domain=DOMAIN, **attrs)
    return model([node], infos, outputs, opset=17, domains={DOMAIN: 1}), feeds


@pytest.mark.parametrize(
    ("op", "states", "attrs"),
    [
        ("Adagrad", 1, {"norm_coefficient": 0.01, "epsilon": 1e-5, "decay_factor": 0.1}),
        ("Adam", 2, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.99, "epsilon": 1e-7}),
        ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.5, "mode": "nesterov"}),
        ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.5, "mode": "standard"}),
    ],
)
def test_steps_of_several_tensors(op: str, states: int, attrs: dict[str, Any]) -> None:
    proto, feeds = _model(op, 2, states, **attrs)
    want = ReferenceEvaluator(proto).run(None, feeds)
    for got, array in zip(run(proto, feeds).values(), want, strict=True):
        np.testing.assert_allclose(got, array, rtol=1e-4, atol=1e-6)


def test_inputs_stand_in_groups() -> None:
    proto, feeds = _model("Adagrad", 1, 1)
    proto.graph.node[0].input.pop()
    with pytest.raises(GraphError, match="groups of 3 tensors"):
        run(proto, feeds)
