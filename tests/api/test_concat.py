"""Concatenations that producers write in place, also straight into a model's output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

import tilewright as tw


def test_parts_of_an_output_are_written_where_they_belong() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Reshape", ["t", "shape"], ["b"]),
        helper.make_node("Neg", ["x"], ["c"]),
        helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "parts",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [9, 5])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [3, 5])],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    got = tw.compile(model, cache=False).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.concatenate([np.exp(x), x.T.reshape(3, 5), -x]), rtol=1e-5)
