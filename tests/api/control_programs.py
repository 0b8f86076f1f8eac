"""Random ONNX programs of nested branches, loops and scans, with inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
WIDTH = 3
node = helper.make_node


def info(name: str, kind: int | None = None, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    if kind is None:
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, kind, shape)


class Maker:
    """Makes programs over float32[3] vectors; every choice is one of ``rng``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def one_of(self, items: Sequence[str]) -> str:
        return str(items[self.rng.integers(len(items))])

    def program(self) -> onnx.ModelProto:
        """Inputs x, y: float32[3]; n: int64, at most 4; c, d: bool; rows: float32[4, 3]."""
        inputs = [
            info("x", FLOAT, [WIDTH]),
            info("y", FLOAT, [WIDTH]),
            info("n", INT64, []),
            info("c", BOOL, []),
            info("d", BOOL, []),
            info("rows", FLOAT, [4, WIDTH]),
        ]
        nodes: list[onnx.NodeProto] = []
        scope, stacked = ["x", "y"], []
        for _ in range(self.rng.integers(1, 4)):
            stacked += self.step(nodes, scope, 0)
        outputs = list(dict.fromkeys([scope[-1], self.one_of(scope), *stacked]))
        weights = [
            onnx.numpy_helper.from_array(np.linspace(-1, 1, WIDTH, dtype=np.float32), "w"),
            onnx.numpy_helper.from_array(np.float32(2.0), "limit"),
            onnx.numpy_helper.from_array(np.array([WIDTH]), "three"),
        ]
        graph = helper.make_graph(nodes, "random", inputs, [info(o, FLOAT) for o in outputs], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def step(self, nodes: list[onnx.NodeProto], scope: list[str], depth: int) -> list[str]:
        """Add something that makes vectors from those in ``scope``; names of stacked results."""
        kinds = ["plain"] if depth > 2 else ["plain", "if", "loop", "while", "scan"]
        kind = self.one_of(kinds)
        if kind == "plain":
            out = self.name()
            nodes.append(self.plain(scope, out))
            scope.append(out)
            return []
        return getattr(self, f"add_{kind}")(nodes, scope, depth)  # type: ignore[no-any-return]

    def plain(self, scope: Sequence[str], out: str) -> onnx.NodeProto:
        op = self.one_of(["Add", "Sub", "Min", "Max", "Tanh", "Neg"])
        operands = [self.one_of([*scope, "w"]) for _ in range(1 if op in ("Tanh", "Neg") else 2)]
        return node(op, operands, [out])

    def inside(
        self, scope: Sequence[str], depth: int, results: int
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """Nodes of a body that reads ``scope``, and ``results`` vectors that it gives."""
        nodes: list[onnx.NodeProto] = []
        known = list(scope)
        for _ in range(self.rng.integers(0, 3)):
            self.step(nodes, known, depth + 1)
        own = [*known, "w"]
        given = []
        for _ in range(results):
            out, source = self.name(), self.one_of(own)
            # A body may give what it captures, an input, or a constant as it is.
            nodes.append(node("Identity", [source], [out]))
            given.append(out)
        return nodes, given

    def add_if(self, nodes: list[onnx.NodeProto], scope: list[str], depth: int) -> list[str]:
        results = int(self.rng.integers(1, 3))
        branches = []
        for _ in range(2):
            inner, given = self.inside(scope, depth, results)
            branches.append(helper.make_graph(inner, "branch", [], [info(g, FLOAT, [WIDTH]) for g in given]))
        outs = [self.name() for _ in range(results)]
        flag = self.one_of(["c", "d"])
        nodes.append(node("If", [flag], outs, then_branch=branches[0], else_branch=branches[1]))
        scope.extend(outs)
        return []

    def add_loop(self, nodes: list[onnx.NodeProto], scope: list[str], depth: int) -> list[str]:
        return self.make_loop(nodes, scope, depth, False)

    def add_while(self, nodes: list[onnx.NodeProto], scope: list[str], depth: int) -> list[str]:
        return self.make_loop(nodes, scope, depth, True)

    def make_loop(
        self, nodes: list[onnx.NodeProto], scope: list[str], depth: int, conditional: bool
    ) -> list[str]:
        states = int(self.rng.integers(1, 3))
        number, going, goes_on, moved, as_float = (self.name() for _ in range(5))
        carried = [self.name() for _ in range(states)]
        inner, given = self.inside([*scope, *carried, moved], depth, states + 1)
        first = [node("Cast", [number], [as_float], to=FLOAT), node("Add", [as_float, carried[0]], [moved])]
        last = [node("Identity", [going], [goes_on])]
        if conditional:
            total = self.name()
            last = [
                node("ReduceSum", [given[0]], [total], keepdims=0),
                node("Less", [total, "limit"], [goes_on]),
            ]
        body = helper.make_graph(
            [*first, *inner, *last],
            "body",
            [info(number, INT64, []), info(going, BOOL, []), *(info(v, FLOAT, [WIDTH]) for v in carried)],
            [info(goes_on), *(info(g, FLOAT, [WIDTH]) for g in given)],
        )
        outs = [self.name() for _ in range(states + 1)]
        begin = [self.one_of(scope) for _ in range(states)]
        nodes.append(node("Loop", ["n", self.one_of(["c", "d", ""]), *begin], outs, body=body))
        scope.extend(outs[:states])
        return [outs[-1]]

    def add_scan(self, nodes: list[onnx.NodeProto], scope: list[str], depth: int) -> list[str]:
        states = int(self.rng.integers(0, 3))
        row, rolled = self.name(), self.name()
        carried = [self.name() for _ in range(states)]
        inner, given = self.inside([*scope, *carried, rolled], depth, states + 1)
        axis = int(self.rng.integers(2))
        first = [node("Identity", [row], [rolled])]
        if axis:
            # Along the columns a row has 4 elements: its sum, three times.
            total = self.name()
            first = [
                node("ReduceSum", [row], [total], keepdims=1),
                node("Tile", [total, "three"], [rolled]),
            ]
        body = helper.make_graph(
            [*first, *inner],
            "body",
            [*(info(v, FLOAT, [WIDTH]) for v in carried), info(row, FLOAT, [WIDTH if axis == 0 else 4])],
            [info(g, FLOAT, [WIDTH]) for g in given],
        )
        outs = [self.name() for _ in range(states + 1)]
        attrs = {
            "num_scan_inputs": 1,
            "scan_input_axes": [axis - 2 if self.rng.integers(2) else axis],
            "scan_input_directions": [int(self.rng.integers(2))],
            "scan_output_directions": [int(self.rng.integers(2))],
            "scan_output_axes": [int(self.rng.integers(-2, 2))],
        }
        begin = [self.one_of(scope) for _ in range(states)]
        nodes.append(node("Scan", [*begin, "rows"], outs, body=body, **attrs))
        scope.extend(outs[:states])
        return [outs[-1]]


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of a program."""
    return {
        "x": rng.standard_normal(WIDTH).astype(np.float32),
        "y": rng.standard_normal(WIDTH).astype(np.float32),
        "n": np.array(rng.integers(0, 5)),
        "c": np.array(bool(rng.integers(4))),
        "d": np.array(bool(rng.integers(2))),
        "rows": rng.standard_normal((4, WIDTH)).astype(np.float32),
    }
