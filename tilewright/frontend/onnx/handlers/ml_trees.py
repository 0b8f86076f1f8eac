"""Ensembles of decision trees of ai.onnx.ml."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.handlers.ml import DOMAIN, best, labels_of, pick_label, rows, transformed
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt

_MODES: Final = {
    "BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5,
}  # fmt: skip
_EQUAL: Final = 4
_MEMBER: Final = 6
_AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclasses.dataclass
class _Forest:
    """Nodes of trees; leaves follow themselves. ``weights`` has a row for each node."""

    feature: np.ndarray
    threshold: np.ndarray
    mode: np.ndarray
    missing: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    roots: np.ndarray
    weights: np.ndarray


def _depth(ctx: NodeContext, forest: _Forest) -> int:
    """The most steps from a root to a leaf. Fails on cycles."""
    inner = forest.yes != np.arange(forest.yes.size)
    level, depth = np.unique(forest.roots), 0
    while (level := level[inner[level]]).size:
        depth += 1
        if depth > forest.yes.size:
            ctx.fail("the nodes of a tree form a cycle, or more than one tree")
        level = np.unique(np.concatenate([forest.yes[level], forest.no[level]]))
    return depth


def _scores(ctx: NodeContext, forest: _Forest, aggregate: str) -> Value:
    """The scores ``[N, C]`` of the samples that are the node's input."""
    x = rows(ctx, ctx.x)
    if not dt.is_float(x.dtype):
        x = ctx.op("cast", x, to="float32")
    used = forest.yes != np.arange(forest.yes.size)
    width = x.static_shape[1] if x.static_shape else None
    if (forest.feature[used] < 0).any() or (width is not None and (forest.feature[used] >= width).any()):
        ctx.fail(f"trees ask for features that samples {x.type} do not have")
    modes = np.unique(forest.mode[used])
    mixed = modes.size > 1
    known = forest.missing[used].any()
    weights = forest.weights
    touched = None
    if aggregate in ("MIN", "MAX"):  # targets that a leaf says nothing of do not count
        low = -np.inf if aggregate == "MAX" else np.inf
        touched = ~np.isnan(weights)
        weights = np.where(touched, weights, low)
    else:
        weights = np.nan_to_num(weights, nan=0.0)
    operands = [
        x,
        ctx.constant(forest.feature, "int32"),
        ctx.constant(forest.threshold, x.dtype),
        ctx.constant(forest.yes, "int32"),
        ctx.constant(forest.no, "int32"),
        ctx.constant(forest.roots, "int32"),
        ctx.constant(weights, x.dtype),
        ctx.constant(forest.mode, "int32") if mixed else None,
        ctx.constant(forest.missing, "int32") if known else None,
    ]
    kind = aggregate.lower() if touched is not None else "sum"
    mode = None if mixed else int(modes[0]) if modes.size else 0
    y = ctx.op("tree_ensemble", *operands, depth=_depth(ctx, forest), aggregate=kind, mode=mode)
    if touched is not None:
        y = ctx.op("where", ctx.op("isinf", y), ctx.like(0, y), y)
    if aggregate == "AVERAGE":
        y = ctx.op("mul", y, ctx.like(1 / forest.roots.size, y))
    return y


# -------------------------------------------------------------------------------------- classifier, regressor
def _listed(ctx: NodeContext, name: str) -> np.ndarray:
    """An attribute of numbers, or the tensor in its place."""
    given: Any = ctx.node.attrs.get(f"{name}_as_tensor")
    found = np.asarray(ctx.attr(name, ()) if given is None else given)
    return found.astype(np.float32) if found.dtype != np.float64 or given is None else found


def _by_node_ids(ctx: NodeContext, kind: str, count: int) -> _Forest:
    """The trees of attributes in which nodes and leaves carry numbers; ``kind`` is class or target."""
    trees, ids = (np.asarray(ctx.attr(f"nodes_{n}", ()), np.int64) for n in ("treeids", "nodeids"))
    size = trees.size
    place = {key: n for n, key in enumerate(zip(trees.tolist(), ids.tolist(), strict=True))}
    modes = [str(m) for m in ctx.attr("nodes_modes", ())]
    follow = [np.asarray(ctx.attr(f"nodes_{n}", ()), np.int64) for n in ("truenodeids", "falsenodeids")]
    feature, threshold = np.asarray(ctx.attr("nodes_featureids", ()), np.int64), _listed(ctx, "nodes_values")
    if (
        not size
        or len(place) != size
        or {len(modes), *map(len, follow), len(feature), len(threshold)} != {size}
    ):
        ctx.fail("the nodes of the trees are not lists of one length, or two have the same number")
    for mode in {*modes} - {*_MODES, "LEAF"}:
        ctx.fail(f"there is no mode '{mode}' of nodes")
    leaf = np.array([m == "LEAF" for m in modes])
    own = np.arange(size)
    try:
        yes, no = (
            np.array([n if leaf[n] else place[int(trees[n]), int(at)] for n, at in enumerate(side)], np.int64)
            for side in follow
        )
        at = [
            place[key]
            for key in zip(ctx.attr(f"{kind}_treeids", ()), ctx.attr(f"{kind}_nodeids", ()), strict=True)
        ]
    except (KeyError, ValueError):
        ctx.fail("a tree leads to a node that it does not have")
    missing = np.asarray(ctx.attr("nodes_missing_value_tracks_true", ()) or np.zeros(size), np.int64)
    targets, values = np.asarray(ctx.attr(f"{kind}_ids", ()), np.int64), _listed(ctx, f"{kind}_weights")
    if not len(at) == targets.size == values.size or (
        targets.size and not 0 <= targets.min() <= targets.max() < count
    ):
        ctx.fail(f"the weights of the leaves do not fit {count} scores")
    weights = np.full((size, count), np.nan, values.dtype)
    for row, target, value in zip(at, targets.tolist(), values.tolist(), strict=True):
        old = weights[row, target]
        weights[row, target] = value if np.isnan(old) else old + value
    entered = np.zeros(size, bool)
    for side in (yes, no):
        entered[side[side != own]] = True
    roots = own[~entered]
    if roots.size != np.unique(trees).size or (~leaf & ((yes == own) | (no == own))).any():
        ctx.fail("the nodes of a tree form a cycle, or more than one tree")
    numbered = np.array([_MODES.get(m, 0) for m in modes])
    return _Forest(np.where(leaf, 0, feature), threshold, numbered, missing, yes, no, roots, weights)


@onnx_op("TreeEnsembleRegressor", 1, 3, 5, domain=DOMAIN)
def tree_ensemble_regressor(ctx: NodeContext) -> Value:
    """Sums, averages or extremes of the leaves' weights, then base values and a transform."""
    count = int(ctx.attr("n_targets", 1))
    aggregate = str(ctx.attr("aggregate_function", "SUM"))
    if aggregate not in _AGGREGATES:
        ctx.fail(f"there is no aggregate_function '{aggregate}'")
    y = _based(ctx, _scores(ctx, _by_node_ids(ctx, "target", count), aggregate), count)
    y = transformed(ctx, y, str(ctx.attr("post_transform", "NONE")))
    return y if y.dtype == "float32" else ctx.op("cast", y, to="float32")


def _based(ctx: NodeContext, scores: Value, count: int) -> Value:
    base = _listed(ctx, "base_values")
    if not base.size:
        return scores
    if base.size != count:
        ctx.fail(f"{base.size} base values for {count} scores")
    return ctx.op("add", scores, ctx.constant(base, scores.dtype))


@onnx_op("TreeEnsembleClassifier", 1, 3, 5, domain=DOMAIN, limits="no labels that are texts")
def tree_ensemble_classifier(ctx: NodeContext) -> Sequence[Value]:
    """Scores of classes by the weights of leaves; of two, leaves may know one only."""
    labels = labels_of(ctx)
    forest = _by_node_ids(ctx, "class", labels.size)
    kind = str(ctx.attr("post_transform", "NONE"))
    known = ~np.isnan(forest.weights)
    classes = np.flatnonzero(known.any(axis=0))
    if labels.size == 2 and classes.size == 1:
        return _of_one_score(ctx, forest, labels, kind, int(classes[0]))
    scores = _based(ctx, _scores(ctx, forest, "SUM"), labels.size)
    label = pick_label(ctx, labels, best(ctx, scores))
    return [label, _as_float32(ctx, transformed(ctx, scores, kind))]


def _of_one_score(
    ctx: NodeContext, forest: _Forest, labels: np.ndarray, kind: str, index: int
) -> list[Value]:
    """Two classes and leaves that know the one at ``index``: weights that are never negative are
    probabilities of the second label, others are its score, above 0 where it holds.
    """
    given = forest.weights[~np.isnan(forest.weights)]
    forest.weights = forest.weights[:, index : index + 1]
    score, base = _scores(ctx, forest, "SUM"), _listed(ctx, "base_values")
    if base.size and index:
        ctx.unsupported("base values with weights of the second of two classes only are not supported")
    if base.size:
        score = ctx.op("add", score, ctx.constant(base[-1:], score.dtype))
    share = bool((given >= 0).all())
    flat = ctx.reshape(score, [score.shape[0]])
    positive = ctx.op("cast", ctx.op("less", ctx.like(0.5 if share else 0.0, flat), flat), to="int64")
    if index:
        other = ctx.op("mul", score, ctx.like(0, score))
    elif share and kind != "LOGISTIC":
        other = ctx.op("sub", ctx.like(1, score), score)
    else:
        other = ctx.op("neg", score)
    both = ctx.op("concat", other, score, axis=1)
    if index or kind == "LOGISTIC":
        both = transformed(ctx, both, kind)
    return [pick_label(ctx, labels, positive), _as_float32(ctx, both)]


def _as_float32(ctx: NodeContext, x: Value) -> Value:
    return x if x.dtype == "float32" else ctx.op("cast", x, to="float32")


# ----------------------------------------------------------------------------------------------- TreeEnsemble
@onnx_op("TreeEnsemble", 5, domain=DOMAIN)
def tree_ensemble(ctx: NodeContext) -> Value:
    """Trees whose inner nodes and leaves are lists of their own; nodes may ask for membership in a set."""
    forest = _by_places(ctx, int(ctx.attr("n_targets", 1)))
    aggregate, kind = int(ctx.attr("aggregate_function", 1)), int(ctx.attr("post_transform", 0))
    if not 0 <= aggregate < len(_AGGREGATES) or not 0 <= kind < len(_TRANSFORMS):
        ctx.fail(f"there is no aggregate_function {aggregate} or no post_transform {kind}")
    return transformed(ctx, _scores(ctx, forest, _AGGREGATES[aggregate]), _TRANSFORMS[kind])


def _by_places(ctx: NodeContext, count: int) -> _Forest:
    def ints(name: str) -> np.ndarray:
        return np.asarray(ctx.attr(name, ()), np.int64)

    feature, threshold = ints("nodes_featureids"), np.asarray(ctx.attr("nodes_splits")).reshape(-1)
    mode = np.asarray(ctx.attr("nodes_modes")).reshape(-1).astype(np.int64)
    size = feature.size
    targets, values = ints("leaf_targetids"), np.asarray(ctx.attr("leaf_weights")).reshape(-1)
    missing = ints("nodes_missing_value_tracks_true")
    missing = missing if missing.size else np.zeros(size, np.int64)
    sides, leafs = (
        [ints(f"nodes_{side}{what}") for side in ("true", "false")] for what in ("nodeids", "leafs")
    )
    lengths = {size, threshold.size, mode.size, missing.size, *(s.size for s in (*sides, *leafs))}
    if len(lengths) != 1 or targets.size != values.size:
        ctx.fail("the nodes of the trees, or their leaves, are not lists of one length")
    for side, leaf in zip(sides, leafs, strict=True):
        limit = np.where(leaf != 0, values.size, size)
        if ((side < 0) | (side >= limit)).any():
            ctx.fail("a tree leads to a node or a leaf that it does not have")
    if values.size and not 0 <= targets.min() <= targets.max() < count:
        ctx.fail(f"the weights of the leaves do not fit {count} scores")
    if ((mode < 0) | (mode > _MEMBER)).any():
        ctx.fail("there are modes of nodes from 0 to 6")
    feature, threshold, mode, missing, yes, no, first = _without_sets(
        ctx, feature, threshold, mode, missing, sides, leafs
    )
    inner = feature.size
    own = inner + np.arange(values.size)
    zeros = np.zeros(values.size, np.int64)
    weights = np.full((inner + values.size, count), np.nan, values.dtype)
    weights[own, targets] = values
    roots = ints("tree_roots")
    if not roots.size or (roots < 0).any() or (roots >= size).any():
        ctx.fail("tree_roots are nodes, one for each tree")
    return _Forest(
        np.concatenate([feature, zeros]),
        np.concatenate([threshold, zeros.astype(threshold.dtype)]),
        np.concatenate([mode, zeros]),
        np.concatenate([missing, zeros]),
        np.concatenate([yes, own]),
        np.concatenate([no, own]),
        first[roots],
        weights,
    )


def _without_sets(
    ctx: NodeContext,
    feature: np.ndarray,
    threshold: np.ndarray,
    mode: np.ndarray,
    missing: np.ndarray,
    sides: Sequence[np.ndarray],
    leafs: Sequence[np.ndarray],
) -> tuple[np.ndarray, ...]:
    """Nodes that ask for membership in a set become a chain of nodes that ask for each member.

    Gives the arrays of inner nodes, ``yes`` and ``no`` among them (leaves count behind), and where each is.
    """
    sets: list[list[float]] = [[]]
    for value in np.asarray(ctx.attr("membership_values", ())).reshape(-1).tolist():
        if value != value:
            sets.append([])
        else:
            sets[-1].append(value)
    members = iter(sets)
    asked = [next(members, []) if m == _MEMBER else [] for m in mode]
    lengths = np.array([max(len(a), 1) for a in asked])
    first = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    source = np.repeat(np.arange(feature.size), lengths)
    chain = np.arange(total) - first[source]
    limits = threshold[source].copy()
    kinds = np.where(mode[source] == _MEMBER, _EQUAL, mode[source])
    for n, values in enumerate(asked):
        if mode[n] == _MEMBER:  # nothing is equal to NaN
            limits[first[n] : first[n] + lengths[n]] = values or [np.nan]
    yes, no = (
        np.where(leaf[source] != 0, total + side[source], first[np.minimum(side, feature.size - 1)][source])
        for side, leaf in zip(sides, leafs, strict=True)
    )
    last = chain == lengths[source] - 1
    no = np.where(last, no, np.arange(total) + 1)
    return feature[source], limits, kinds, missing[source], yes, no, first
