"""Models made to do harm: shapes, growth, nesting, and external data."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_SIZES: Final = (0, 1, 2, 3, 1000, 2**20, 2**31, 2**33, 2**40, 2**62, 2**63 - 1)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    weights: list[onnx.TensorProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    infos = [onnx.ValueInfoProto(name=o) for o in outputs]
    graph = helper.make_graph(nodes, "g", inputs, infos, weights or [])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [], ir_version=10)


def _float(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def _ints(name: str, data: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(data, np.int64), name)


def huge_shapes(rng: random.Random) -> onnx.ModelProto:
    """One operator on inputs of enormous or empty dimensions."""
    op, count = rng.choice(
        [("Relu", 1), ("Add", 2), ("MatMul", 2), ("Softmax", 1), ("Transpose", 1), ("Conv", 2), ("Concat", 2),
         ("GlobalAveragePool", 1), ("Flatten", 1), ("Gather", 2), ("Shape", 1), ("Size", 1), ("Where", 3),
         ("NonZero", 1), ("LSTM", 3), ("Resize", 1), ("Einsum", 2), ("DepthToSpace", 1), ("Gemm", 2)]
    )  # fmt: skip
    shared = [rng.choice(_SIZES) for _ in range(rng.randrange(5))]
    names = [f"x{n}" for n in range(count)]
    other = [rng.choice(_SIZES) for _ in range(rng.randrange(5))]
    inputs = [_float(name, list(shared) if rng.random() < 0.5 else other) for name in names]
    attrs = {"Concat": {"axis": 0}, "Einsum": {"equation": "ij,jk->ik"}, "DepthToSpace": {"blocksize": 2}}
    node = helper.make_node(op, names, ["y"], **attrs.get(op, {}))
    return _model([node], inputs, ["y"])


def huge_results(rng: random.Random) -> onnx.ModelProto:
    """A small input, a constant that asks for an enormous result."""
    numbers = [rng.choice((*_SIZES, -1, -2, -(2**63))) for _ in range(rng.choice((1, 2, 2, 2, 4)))]
    op = rng.choice(
        ["Expand", "Tile", "Reshape", "ConstantOfShape", "Range", "Pad", "OneHot", "Upsample", "Split"]
    )
    inputs = ["x", "n"]
    weights = [_ints("n", numbers)]
    attrs: dict[str, object] = {}
    if op == "ConstantOfShape":
        inputs = ["n"]
    elif op == "Range":
        inputs = ["a", "n", "s"]
        weights = [
            numpy_helper.from_array(np.array(rng.choice((0, numbers[0])), np.int64), "a"),
            numpy_helper.from_array(np.array(numbers[0], np.int64), "n"),
            numpy_helper.from_array(np.array(rng.choice((1, 0, -1)), np.int64), "s"),
        ]
    elif op == "OneHot":
        inputs = ["i", "n", "v"]
        weights += [_ints("i", [1, 2]), numpy_helper.from_array(np.array([0, 1], np.float32), "v")]
        weights[0] = numpy_helper.from_array(np.array(numbers[0], np.int64), "n")
    elif op == "Upsample":
        op, inputs = "Resize", ["x", "", "", "n"]
    elif op == "Split":
        attrs = {"axis": 0}
    return _model([helper.make_node(op, inputs, ["y"], **attrs)], [_float("x", [2, 3])], ["y"], weights)


def windows(rng: random.Random) -> onnx.ModelProto:
    """Pools and convolutions with enormous kernels, strides, dilations and pads."""
    op = rng.choice(["MaxPool", "AveragePool", "LpPool", "Conv", "ConvTranspose", "Unfold", "Col2Im"])
    pick = lambda: [rng.choice((*_SIZES, -1, 1, 1, 2)) for _ in range(2)]  # noqa: E731
    attrs: dict[str, object] = {"kernel_shape": pick()}
    for name, count in (("strides", 1), ("dilations", 1), ("pads", 2)):
        if rng.random() < 0.4:
            attrs[name] = list(chain.from_iterable(pick() for _ in range(count)))
    inputs, weights = ["x"], []
    if op.startswith("Conv"):
        inputs.append("w")
        weights = [numpy_helper.from_array(np.ones((2, 2, 2, 2), np.float32), "w")]
        if rng.random() < 0.5:
            del attrs["kernel_shape"]
    constant = rng.random() < 0.5
    x = numpy_helper.from_array(np.ones((1, 2, 4, 4), np.float32), "x")
    node = helper.make_node(op, inputs, ["y"], **attrs)
    return _model(
        [node], [] if constant else [_float("x", [1, 2, 4, 4])], ["y"], weights + ([x] if constant else [])
    )


def doubling(rng: random.Random) -> onnx.ModelProto:
    """Constants or shapes that double with every node."""
    length = rng.choice((20, 40, 64, 200))
    kind = rng.randrange(4)
    names = ["c", *(f"d{n}" for n in range(length))]
    if kind == 0:
        nodes = [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)]
        return _model(nodes, [], [names[-1]], [_ints("c", list(range(3000)))])
    if kind == 1:
        nodes = [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)]
        return _model(nodes, [_float("c", [3])], [names[-1]])
    if kind == 2:  # sizes as expressions of an open dimension
        op = rng.choice(["Mul", "Add"])
        nodes = [helper.make_node("Shape", ["x"], ["c"])]
        nodes += [helper.make_node(op, [a, a], [b]) for a, b in pairwise(names)]
        nodes.append(helper.make_node("Expand", ["x", names[-1]], ["y"]))
        return _model(nodes, [_float("x", [rng.choice((2, "n"))])], ["y"])
    nodes = [helper.make_node("MatMul", [a, a], [b]) for a, b in pairwise(names)]
    data = np.full((64, 64), 1 / 64, np.float32)
    return _model(nodes, [], [names[-1]], [numpy_helper.from_array(data, "c")])


def long_chain(rng: random.Random) -> onnx.ModelProto:
    """Thousands of nodes in a row, or in parallel."""
    length = rng.choice((500, 1500))
    op = rng.choice(["Relu", "Identity", "Neg", "Exp", "Transpose", "Add"])
    names = ["x", *(f"d{n}" for n in range(length))]
    if rng.random() < 0.3:
        nodes = [helper.make_node("Relu", ["x"], [n]) for n in names[1:]]
        return _model([*nodes, helper.make_node("Sum", names[1:], ["y"])], [_float("x", [2, 3])], ["y"])
    nodes = [helper.make_node(op, [a, "x"] if op == "Add" else [a], [b]) for a, b in pairwise(names)]
    return _model(nodes, [_float("x", [2, 3])], [names[-1]])


def calls(rng: random.Random) -> onnx.ModelProto:
    """Functions that call each other: in a circle, very deep, or twice on every level."""
    depth = rng.choice((3, 20, 31, 40, 400))
    kind = rng.randrange(3)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for n in range(depth):
        last = n + 1 == depth
        following = f"F{(n + 1) % depth if kind == 0 else n + 1}"
        nodes = [helper.make_node("Relu", ["a"], ["b"])] if last and kind else []
        if not nodes:
            nodes = [helper.make_node(following, ["a"], ["m"], domain="own")]
            nodes.append(
                helper.make_node(following, ["m"], ["b"], domain="own")
                if kind == 2
                else helper.make_node("Neg", ["m"], ["b"])
            )
        functions.append(helper.make_function("own", f"F{n}", ["a"], ["b"], nodes, opsets))
    node = helper.make_node("F0", ["x"], ["y"], domain="own")
    return _model([node], [_float("x", [2])], ["y"], None, functions)


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes on the wire."""
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def nested(rng: random.Random) -> bytes:
    """Branches within branches, put together by hand: protobuf refuses to copy deep ones."""
    depth = rng.choice((2, 8, 20, 30, 34, 60, 2000))
    result = onnx.ValueInfoProto(name="b").SerializeToString()
    node = helper.make_node("Relu", ["x"], ["b"]).SerializeToString()
    for _ in range(depth):
        body = _field(1, node) + _field(2, b"b") + _field(12, result)
        branches = [
            _field(1, name) + _field(6, body) + bytes([20 << 3 & 127 | 128, 20 << 3 >> 7, 5])
            for name in (b"then_branch", b"else_branch")[: 1 if depth > 8 else 2]
        ]
        if depth > 8:
            branches.append(_field(1, b"else_branch") + _field(6, b"") + bytes([160, 1, 5]))
        node = _field(1, b"f") + _field(2, b"b") + _field(4, b"If") + b"".join(_field(5, a) for a in branches)
    flag = TensorProto(name="f", data_type=TensorProto.BOOL, raw_data=b"\1").SerializeToString()
    x = _float("x", [2]).SerializeToString()
    graph = _field(1, node) + _field(2, b"g") + _field(5, flag) + _field(11, x) + _field(12, result)
    opset = helper.make_opsetid("", 17).SerializeToString()
    return bytes([8, 10]) + _field(7, graph) + _field(8, opset)


#: What a case is called, and who makes it.
GRAPHS: Final[tuple[Callable[[random.Random], onnx.ModelProto | bytes], ...]] = (
    huge_shapes, huge_shapes, huge_results, huge_results, windows, windows, doubling, long_chain, calls,
    nested,
)  # fmt: skip


def hostile_graph(rng: random.Random) -> bytes:
    """A serialized model of one of the kinds above."""
    made = rng.choice(GRAPHS)(rng)
    return made if isinstance(made, bytes) else made.SerializeToString()


# --------------------------------------------------------------------------------------------- external data
_LOCATIONS: Final = (
    "w.bin", "w.bin", "w.bin", "./w.bin", "sub/w.bin", "../secret", "../../secret", "/etc/passwd",
    "sub/../../secret", "link_out", "link_in", "link_folder/secret", "loop", "sub", ".", "", "missing",
    "pipe", "empty", "sparse",
    "\0", "a\0b", "x" * 300, "x/" * 3000, "C:\\w.bin", "..\\secret", "\\\\host\\w", "~/w.bin", "w.bin\n",
    "/dev/zero", "file:///etc/passwd", "%2e%2e/secret", "sub//w.bin", "W.BIN", "$HOME/x", "*",
)  # fmt: skip
_NUMBERS: Final = (
    "0", "0", "8", "16", "24", "32", "1", "-1", "-8", "", " 8", "8 ", "0x10", "1e3", "9" * 18, "9" * 30, "+8",
    "1_0", "4096", "2147483648", "1099511627776", "nan", "٣",
)  # fmt: skip


def make_folder(root: Path) -> Path:
    """The folder that models with external data lie in: files, links, a pipe, a sparse file of a terabyte."""
    folder = root / "model"
    (folder / "sub").mkdir(parents=True)
    (root / "secret").write_bytes(b"s" * 64)
    for name in ("w.bin", "sub/w.bin"):
        (folder / name).write_bytes(np.arange(16, dtype=np.float32).tobytes())
    (folder / "empty").touch()
    (folder / "link_out").symlink_to(root / "secret")
    (folder / "link_in").symlink_to("w.bin")
    (folder / "link_folder").symlink_to(root)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    return folder


def external_data(rng: random.Random) -> bytes:
    """A model whose weight lies in one of the files of :func:`make_folder`, or says so."""
    dims = rng.choice(([4], [2, 2], [16], [0], [], [3], [2**28], [2**38], [-1], [2**33]))
    weight = TensorProto(name="w", data_type=rng.choice((FLOAT, FLOAT, INT64, TensorProto.INT4)), dims=dims)
    weight.data_location = TensorProto.EXTERNAL
    entries = (("location", _LOCATIONS), ("offset", _NUMBERS), ("length", _NUMBERS), ("checksum", ("x",)))
    for key, values in entries:
        if rng.random() < (0.95 if key == "location" else 0.5):
            weight.external_data.add(key=key, value=rng.choice(values))
    if rng.random() < 0.1:
        weight.external_data.add(key=rng.choice(("location", "offset", "other")), value="0")
    if rng.random() < 0.1:
        weight.raw_data = b"\0" * 16
    node = helper.make_node("Add", ["x", "w"], ["y"])
    if rng.random() < 0.2:
        weight.name = ""
        constant = helper.make_node("Constant", [], ["w"], value=weight)
        return _model([constant, node], [_float("x", [4])], ["y"]).SerializeToString()
    return _model([node], [_float("x", [4])], ["y"], [weight]).SerializeToString()
