"""BERT-base as an ONNX model built in memory, with seeded random weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from benchmarks.networks import NetBuilder


class _Layers(NetBuilder):
    """The pieces of a transformer encoder with ``heads`` heads over ``width`` features."""

    def __init__(self, seed: int, width: int, heads: int) -> None:
        super().__init__(seed)
        self.width, self.heads = width, heads
        self.half = self.weight("half", np.full((), 0.5))
        self.one = self.weight("one", np.full((), 1.0))
        self.root_two = self.weight("root_two", np.full((), np.sqrt(2)))
        self.scale = self.weight("scale", np.full((), np.sqrt(width / heads)))

    def integers(self, name: str, *values: int) -> str:
        """Add an int64 initializer; returns its name."""
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def normal(self, name: str, *shape: int) -> str:
        """Weights with BERT's standard deviation, 0.02."""
        return self.weight(name, 0.02 * self.random.standard_normal(shape, dtype=np.float32))

    def dense(self, x: str, name: str, cin: int, cout: int) -> str:
        """``x @ w + b``."""
        product = self.node("MatMul", [x, self.normal(f"{name}.weight", cin, cout)], f"{name}.product")
        return self.node("Add", [product, self.normal(f"{name}.bias", cout)], name)

    def layer_norm(self, x: str, name: str) -> str:
        """Over the last axis."""
        gamma = self.weight(f"{name}.gamma", self.random.uniform(0.5, 1.5, self.width))
        inputs = [x, gamma, self.normal(f"{name}.beta", self.width)]
        return self.node("LayerNormalization", inputs, name, axis=-1, epsilon=1e-12)

    def gelu(self, x: str, name: str) -> str:
        """The exact form, of the error function, as exporters write it."""
        inner = self.node("Erf", [self.node("Div", [x, self.root_two], f"{name}.scaled")], f"{name}.erf")
        weighted = self.node("Mul", [x, self.node("Add", [inner, self.one], f"{name}.cdf")], f"{name}.twice")
        return self.node("Mul", [weighted, self.half], name)

    def attention(self, x: str, mask: str, name: str) -> str:
        """Self-attention of ``x[N,S,width]``; ``mask`` is added to the scores."""
        split = self.integers(f"{name}.split", 0, 0, self.heads, self.width // self.heads)

        def heads(part: str, order: list[int]) -> str:
            dense = self.dense(x, f"{name}.{part}", self.width, self.width)
            apart = self.node("Reshape", [dense, split], f"{name}.{part}.apart")
            return self.node("Transpose", [apart], f"{name}.{part}.heads", perm=order)

        q, k, v = heads("q", [0, 2, 1, 3]), heads("k", [0, 2, 3, 1]), heads("v", [0, 2, 1, 3])
        scores = self.node("Div", [self.node("MatMul", [q, k], f"{name}.qk"), self.scale], f"{name}.scores")
        masked = self.node("Add", [scores, mask], f"{name}.masked")
        shares = self.node("Softmax", [masked], f"{name}.shares", axis=-1)
        mix = self.node("MatMul", [shares, v], f"{name}.mix")
        rows = self.node("Transpose", [mix], f"{name}.rows", perm=[0, 2, 1, 3])
        joint = self.integers(f"{name}.joint", 0, 0, self.width)
        y = self.node("Reshape", [rows, joint], f"{name}.together")
        return self.dense(y, name, self.width, self.width)


def bert_base(seed: int = 0, layers: int = 12, width: int = 768, heads: int = 12) -> onnx.ModelProto:
    """BERT-base (Devlin et al. 2018), uncased: ids[N,S], mask[N,S] (int64) → hidden[N,S,768]; S up to 512.

    As exporters write it at opset 17: GELU and the scaling of scores are nodes of their own. Without segment
    ids and without the pooler. 109 M parameters.
    """
    net = _Layers(seed, width, heads)
    words = net.node("Gather", [net.normal("words", 30522, width), "ids"], "word_rows", axis=0)
    shape = net.node("Shape", ["ids"], "shape")
    length = net.node("Slice", [shape, net.integers("from", 1), net.integers("to", 2)], "length")
    table = net.normal("positions", 512, width)
    rows = net.node("Slice", [table, net.integers("start", 0), length, net.integers("rows_axis", 0)], "rows")
    x = net.layer_norm(net.node("Add", [words, rows], "embedded"), "embedding")
    wide = net.node("Unsqueeze", ["mask", net.integers("mask_axes", 1, 2)], "mask_wide")
    kept = net.node("Cast", [wide], "mask_float", to=TensorProto.FLOAT)
    gone = net.node("Sub", [net.one, kept], "mask_gone")
    mask = net.node("Mul", [gone, net.weight("least", np.full((), -10000.0))], "mask_added")
    for layer in range(layers):
        name = f"layer{layer}"
        y = net.attention(x, mask, f"{name}.attention")
        x = net.layer_norm(net.node("Add", [x, y], f"{name}.add1"), f"{name}.norm1")
        y = net.gelu(net.dense(x, f"{name}.up", width, 4 * width), f"{name}.gelu")
        y = net.dense(y, f"{name}.down", 4 * width, width)
        x = net.layer_norm(net.node("Add", [x, y], f"{name}.add2"), f"{name}.norm2")
    sizes: dict[str, list[int | str]] = {"ids": ["N", "S"], "mask": ["N", "S"]}
    return net.model("bert_base", dict(sizes), [x], TensorProto.INT64)
