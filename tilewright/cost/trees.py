"""Boosted regression trees: trained by LightGBM, kept as flat arrays, evaluated without it."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MissingDependencyError

#: Rows that are evaluated at a time: what they need stays in the second-level cache.
CHUNK: Final = 512
#: LightGBM's ranking objectives choose no better than plain regression does (docs/cost_models.md). Trees stay
#: small, since what they have in common with new workloads is coarse.
PARAMETERS: Final[Mapping[str, Any]] = {
    "objective": "regression", "learning_rate": 0.08, "num_leaves": 31, "max_depth": 6,
    "min_data_in_leaf": 8, "feature_fraction": 0.6, "bagging_fraction": 0.8, "bagging_freq": 1,
    "lambda_l2": 1.0, "use_missing": False, "deterministic": True, "force_row_wise": True,
    "num_threads": 1, "verbosity": -1,
}  # fmt: skip
ROUNDS: Final = 120


def available() -> bool:
    """Whether trees can be trained here."""
    return importlib.util.find_spec("lightgbm") is not None


@dataclasses.dataclass(frozen=True)
class Trees:
    """A sum of binary decision trees, node by node: a row goes to ``left`` where its feature is at most the
    node's threshold. A leaf is its own child on both sides.

    Attributes:
        feature: ``[nodes]`` int32.
        threshold: ``[nodes]`` float32, rounded down: comparisons with float32 features come out as with the
            float64 threshold.
        left, right: ``[nodes]`` int32.
        value: ``[nodes]`` float64, of leaves.
        roots: ``[trees]`` int32.
        depth: of the deepest tree.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]
    depth: int

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """``[n]`` of ``[n, features]``."""
        result = np.empty(len(x))
        children = np.stack([self.right, self.left], axis=1).ravel().astype(np.intp)
        feature = self.feature.astype(np.intp)
        for start in range(0, len(x), CHUNK):
            part = np.ascontiguousarray(x[start : start + CHUNK], np.float32)
            flat, offset = part.ravel(), np.arange(len(part), dtype=np.intp) * part.shape[1]
            node = np.repeat(self.roots.astype(np.intp)[:, None], len(part), axis=1)
            for _ in range(self.depth):
                goes_left = flat.take(feature.take(node) + offset) <= self.threshold.take(node)
                node = children.take(2 * node + goes_left)
            result[start : start + CHUNK] = self.value.take(node).sum(axis=0)
        return result

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays by name, for :meth:`of_arrays`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "depth": np.array(self.depth, np.int32)}

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[Any]], features: int) -> Trees:
        """From :meth:`arrays`. Raises ValueError for what is no forest over so many features; KeyError where
        an array is missing."""
        count = len(arrays["value"])
        kinds = {
            "feature": np.int32, "threshold": np.float32, "left": np.int32, "right": np.int32,
            "value": np.float64,
        }  # fmt: skip
        for name, kind in kinds.items():
            if arrays[name].shape != (count,) or arrays[name].dtype != kind:
                raise ValueError(f"'{name}' of trees is {arrays[name].dtype}{list(arrays[name].shape)}")
        bounds = {"feature": features, "left": count, "right": count, "roots": count}
        for name, limit in bounds.items():
            array = arrays[name]
            if array.ndim != 1 or array.dtype != np.int32 or (array < 0).any() or (array >= limit).any():
                raise ValueError(f"'{name}' of trees points outside")
        depth = int(arrays["depth"])
        if not 0 <= depth <= 64:
            raise ValueError(f"trees of depth {depth}")
        parts = {name: arrays[name] for name in (*kinds, "roots")}
        return Trees(**parts, depth=depth)


def train_trees(
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    seed: int = 0,
    rounds: int = ROUNDS,
) -> Trees:
    """Trees that predict ``y[n]`` from ``x[n, features]``, by least squares with weights.

    Raises MissingDependencyError without LightGBM.
    """
    return _flat(_booster(x, y, weight, seed, rounds).dump_model()["tree_info"])


def _booster(
    x: NDArray[np.float32], y: NDArray[np.float64], weight: NDArray[np.float64], seed: int, rounds: int
) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise MissingDependencyError(
            f"trees are trained by LightGBM, which is not installed ({error})",
            hint="pip install 'tilewright[train]'; networks are trained without it",
        ) from error
    # Names keep it from asking other libraries what the columns are called.
    names = [f"f{n}" for n in range(x.shape[1])]
    data = lightgbm.Dataset(x, y, weight=weight, feature_name=names, params={"verbosity": -1})
    return lightgbm.train({**PARAMETERS, "seed": seed}, data, num_boost_round=rounds)


def _flat(trees: Sequence[Mapping[str, Any]]) -> Trees:
    """LightGBM's nested trees as arrays."""
    nodes: list[tuple[int, float, int, int, float]] = []
    deepest = 0

    def add(node: Mapping[str, Any], depth: int) -> int:
        nonlocal deepest
        place = len(nodes)
        deepest = max(deepest, depth)
        nodes.append((0, 0.0, place, place, float(node.get("leaf_value", 0.0))))
        if "split_feature" in node:
            sides = add(node["left_child"], depth + 1), add(node["right_child"], depth + 1)
            nodes[place] = (int(node["split_feature"]), _down(float(node["threshold"])), *sides, 0.0)
        return place

    roots = [add(tree["tree_structure"], 0) for tree in trees]
    columns = list(zip(*nodes, strict=True)) if nodes else [()] * 5
    return Trees(
        np.array(columns[0], np.int32),
        np.array(columns[1], np.float32),
        np.array(columns[2], np.int32),
        np.array(columns[3], np.int32),
        np.array(columns[4], np.float64),
        np.array(roots, np.int32),
        deepest,
    )


def _down(threshold: float) -> float:
    """The largest float32 that is not above."""
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
