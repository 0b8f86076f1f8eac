"""Non-maximum suppression, and what models do with its boxes, beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.api.test_computed import FLOAT, INT64, check, model

Shape = tuple[int, int, int]


def suppression(
    shape: tuple[int | str, ...], operands: str = "bsmit", centred: int = 0, opset: int = 11
) -> onnx.ModelProto:
    """``operands``: b(oxes), s(cores), m(ost), i(ntersection over union), t(hreshold), or ``_`` for none."""
    batch, classes, size = shape
    kinds: dict[str, tuple[int, list[int | str]]] = {
        "b": (FLOAT, [batch, size, 4]),
        "s": (FLOAT, [batch, classes, size]),
        "m": (INT64, [1]),
        "i": (FLOAT, [1]),
        "t": (FLOAT, [1]),
    }
    node = helper.make_node(
        "NonMaxSuppression", [o.replace("_", "") for o in operands], ["y"], center_point_box=centred
    )
    return model([node], {o: kinds[o] for o in operands if o != "_"}, {"y": INT64}, opset=opset)


def boxes(shape: Shape, most: int, overlap: float, threshold: float, coarse: bool) -> dict[str, np.ndarray]:
    """Random boxes; ``coarse``: many are equal, and so are scores."""
    batch, classes, size = shape
    rng = np.random.default_rng(size)
    corners, scores = rng.random((batch, size, 4)), rng.random((batch, classes, size))
    if coarse:
        corners, scores = np.round(corners * 3) / 3, np.round(scores * 3) / 3
    return {
        "b": corners.astype(np.float32),
        "s": scores.astype(np.float32),
        "m": np.array([most]),
        "i": np.array([overlap], np.float32),
        "t": np.array([threshold], np.float32),
    }


@pytest.mark.parametrize(
    ("operands", "centred", "opset"),
    [("bsmit", 0, 11), ("bsm_t", 1, 10), ("bsm", 0, 11)],
)
def test_operands_and_attributes(operands: str, centred: int, opset: int) -> None:
    shape = (2, 3, 20)
    runs = [
        boxes(shape, most, overlap, threshold, coarse)
        for most in (-1, 0, 2, 30)
        for overlap in (0.0, 0.3, 1.0)
        for threshold in (0.0, 0.6, 1.0)
        for coarse in (False, True)
    ]
    runs = [{name: run[name] for name in operands if name != "_"} for run in runs]
    check(suppression(shape, operands, centred, opset), runs, threads=(2,))


def test_all_sizes_from_one_variant() -> None:
    shapes = [(1, 1, 1), (2, 3, 7), (3, 5, 33), (1, 2, 64)]
    runs = [boxes(shape, 4, 0.4, 0.5, False) for shape in shapes]
    check(suppression(("B", "C", "N")), runs, dims={"B": (1, 3), "C": (1, 5), "N": (1, 64)})


def test_no_boxes_at_all() -> None:
    proto = suppression((1, 2, 8), "bs")
    run = {name: boxes((1, 2, 8), 1, 0, 0, False)[name] for name in "bs"}
    check(proto, [run], threads=(1,))


def test_what_detectors_do_with_boxes() -> None:
    """Boxes, scores and labels of what is left, the best ones first."""
    constants = {
        "most": np.array([5]),
        "overlap": np.array([0.5], np.float32),
        "threshold": np.array([0.4], np.float32),
        "column1": np.array([1]),
        "column2": np.array([2]),
        "last": np.array([-1]),
        "unit": np.array([2.0], np.float32),
    }
    nodes = [
        helper.make_node(
            "NonMaxSuppression", ["boxes", "scores", "most", "overlap", "threshold"], ["chosen"]
        ),
        helper.make_node("Gather", ["chosen", "column2"], ["box_column"], axis=1),
        helper.make_node("Gather", ["chosen", "column1"], ["class_column"], axis=1),
        helper.make_node("Reshape", ["box_column", "last"], ["box"]),
        helper.make_node("Squeeze", ["class_column", "column1"], ["label"]),
        helper.make_node("Gather", ["boxes", "box"], ["picked"], axis=1),
        helper.make_node("Squeeze", ["picked", "zero"], ["plain"]),
        helper.make_node("Mul", ["plain", "unit"], ["scaled"]),
        helper.make_node("GatherND", ["scores", "chosen"], ["score"]),
        helper.make_node("Shape", ["score"], ["count"]),
        helper.make_node("Concat", ["count", "limit"], ["both"], axis=0),
        helper.make_node("ReduceMin", ["both"], ["kept"], keepdims=1),
        helper.make_node("TopK", ["score", "kept"], ["best", "order"], axis=0),
        helper.make_node("Gather", ["scaled", "order"], ["best_boxes"], axis=0),
        helper.make_node("Gather", ["label", "order"], ["best_labels"], axis=0),
        helper.make_node("Unsqueeze", ["best", "one"], ["best_column"]),
        helper.make_node("Concat", ["best_boxes", "best_column"], ["detections"], axis=1),
    ]
    constants |= {"zero": np.array([0]), "one": np.array([1]), "limit": np.array([6])}
    proto = model(
        nodes,
        {"boxes": (FLOAT, [1, 24, 4]), "scores": (FLOAT, [1, 3, 24])},
        {"detections": FLOAT, "best_labels": INT64, "count": INT64},
        constants,
        opset=13,
    )
    runs = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        corners = rng.random((1, 24, 4)).astype(np.float32)
        scores = (rng.random((1, 3, 24)) * (0.3 + 0.25 * seed)).astype(np.float32)
        runs.append({"boxes": corners, "scores": scores})
    check(proto, runs)
