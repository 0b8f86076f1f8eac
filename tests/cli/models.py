"""Writing small ONNX models."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper, numpy_helper


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: dict, outputs: dict, weights: dict | None = None
) -> Path:
    """Write an ONNX model; inputs and outputs are ``{name: (type, shape)}``."""
    infos = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in values.items()]
        for values in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", *infos, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
