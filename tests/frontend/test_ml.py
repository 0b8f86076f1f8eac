"""Operators of ai.onnx.ml against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tilewright as tw
from tests.frontend.models import model, run, run_peer, value
from tests.frontend.nodes import floats, rng
from tilewright.errors import GraphError, UnsupportedError

DOMAIN = "ai.onnx.ml"
KINDS = {"float32": 1, "float64": 11, "int64": 7, "int32": 6}
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]


def ml(
    op: str,
    *arrays: np.ndarray,
    labels: bool = False,
    version: int = 3,
    kind: int | None = None,
    **attrs: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node and its inputs; classifiers give labels and scores."""
    feeds = {f"x{n}": a for n, a in enumerate(arrays)}
    outputs = ["label", "scores"] if labels else ["scores"]
    made = helper.make_node(op, list(feeds), outputs, domain=DOMAIN, **attrs)
    infos = [value(n, a.shape, KINDS[a.dtype.name]) for n, a in feeds.items()]
    own = KINDS["float32"] if kind is None else kind
    outs = [value(n, None, 7 if n == "label" else own) for n in outputs]
    return model([made], infos, outs, domains={DOMAIN: version}), feeds


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """onnxruntime leaves the base value out for a target that no leaf adds to, against the standard: no test
    should meet such a forest because others ran before it."""
    rng.bit_generator.state = np.random.default_rng(7).bit_generator.state


def agree(op: str, *arrays: np.ndarray, **more: Any) -> dict[str, np.ndarray]:
    proto, feeds = ml(op, *arrays, **more)
    got, want = run(proto, feeds), run_peer(proto, feeds)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)
    return got


# --------------------------------------------------------------------------------------------------- features
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_features(dtype: str) -> None:
    x = (floats(4, 3) * 4).astype(dtype)
    agree("Scaler", x, offset=[0.5, 1.0, -2.0], scale=[2.0, 0.5, 3.0])
    agree("Scaler", x, offset=[0.5], scale=[2.0])
    for norm in ("MAX", "L1", "L2"):
        agree("Normalizer", np.abs(x) + 1, norm=norm)
    agree("Normalizer", np.zeros_like(x), norm="L2")
    agree("FeatureVectorizer", x, x[:, :2], inputdimensions=[3, 2])
    agree("Binarizer", floats(4, 3), threshold=0.25)
    wide = {"float32": 1, "int64": 7}[dtype]
    agree("ArrayFeatureExtractor", x, np.array([2, 0, 2]), kind=wide)
    agree("ArrayFeatureExtractor", x[0], np.array([1]), kind=wide)


def test_imputers() -> None:
    x = floats(4, 3)
    x[1, 2] = x[3, 0] = np.nan
    agree("Imputer", x, imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan"))
    agree("Imputer", np.where(np.isnan(x), 7, x), imputed_value_floats=[1.5], replaced_value_float=7.0)
    agree("Imputer", rng.integers(0, 3, (4, 3)), imputed_value_int64s=[9], replaced_value_int64=2, kind=7)


def test_categories() -> None:
    x = rng.integers(0, 5, (4, 3))
    agree("OneHotEncoder", x, cats_int64s=[3, 0, 2], zeros=1)
    agree("OneHotEncoder", x.astype(np.float32), cats_int64s=[3, 0, 2], zeros=1)
    agree("LabelEncoder", x, keys_int64s=[1, 3, 4], values_int64s=[7, 8, 9], default_int64=-5, kind=7)
    agree("LabelEncoder", x, keys_int64s=[1, 3, 4], values_floats=[0.5, 8, 9], default_float=2.5)
    y = np.array([1.0, np.nan, 2.5], np.float32)
    agree("LabelEncoder", y, keys_floats=[2.5, np.nan], values_int64s=[7, 8], version=4, kind=7)
    agree("LabelEncoder", y, keys_floats=[2.5, np.nan], values_int64s=[7, 8], version=3, kind=7)
    tensors = {
        "keys_tensor": numpy_helper.from_array(np.array([1, 2])),
        "values_tensor": numpy_helper.from_array(np.array([1.5, 2.5], np.float32)),
        "default_tensor": numpy_helper.from_array(np.array([0.25], np.float32)),
    }
    agree("LabelEncoder", x, version=4, **tensors)


# ---------------------------------------------------------------------------------------------- linear models
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_linear_models(transform: str, classes: int) -> None:
    x = rng.uniform(0.05, 0.2, (6, 4)).astype(np.float32)
    attrs: dict[str, Any] = {
        "coefficients": rng.uniform(0.1, 0.9, classes * 4).astype(np.float32).tolist(),
        "intercepts": (rng.uniform(-0.05, 0.05, classes)).astype(np.float32).tolist(),
        "post_transform": transform,
    }
    if classes > 1 or transform in ("NONE", "PROBIT"):
        agree("LinearRegressor", x, targets=classes, **attrs)
    if classes == 1 and transform == "PROBIT":
        return
    labels = [5, 2, 8][: max(classes, 2)]
    agree("LinearClassifier", x, labels=True, classlabels_ints=labels, multi_class=0, **attrs)


# ------------------------------------------------------------------------------------------------------ trees
@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("one", [0, 1])
def test_support_vectors(kernel: str, one: int) -> None:
    attrs: dict[str, Any] = {
        "kernel_type": kernel, "kernel_params": [0.3, 0.5, 3.0], "coefficients": floats(6).tolist(),
        "support_vectors": floats(24).tolist(), "n_supports": 6, "rho": [0.1], "one_class": one,
    }  # fmt: skip
    agree("SVMRegressor", floats(9, 4), **attrs)


def test_support_vectors_that_are_a_linear_function() -> None:
    attrs = {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 3.0], "rho": [0.1], "n_supports": 0}
    agree("SVMRegressor", floats(9, 4), coefficients=floats(4).tolist(), **attrs)


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def forest(
    kind: str, trees: int, depth: int, count: int, modes: list[str], low: float = -1.0
) -> dict[str, Any]:
    """Random trees of 5 features; thresholds are whole numbers, so that samples meet them."""
    nodes: list[dict[str, Any]] = []
    leaves: list[dict[str, Any]] = []

    def grow(tree: int, level: int) -> int:
        own = sum(n["treeids"] == tree for n in nodes)
        mode = "LEAF" if level == depth or (level and rng.random() < 0.2) else str(rng.choice(modes))
        made = {"treeids": tree, "nodeids": own, "modes": mode, "featureids": int(rng.integers(5)),
                "values": float(rng.integers(-2, 3)), "truenodeids": 0, "falsenodeids": 0,
                "missing_value_tracks_true": int(rng.integers(2))}  # fmt: skip
        nodes.append(made)
        if mode == "LEAF":
            targets = range(count) if rng.random() < 0.5 else [int(rng.integers(count))]
            base = {"treeids": tree, "nodeids": own}
            leaves.extend(base | {"ids": t, "weights": float(rng.uniform(low, 1))} for t in targets)
        else:
            made["truenodeids"], made["falsenodeids"] = grow(tree, level + 1), grow(tree, level + 1)
        return own

    for tree in range(trees):
        grow(tree, 0)
    attrs = {f"nodes_{k}": [n[k] for n in nodes] for k in nodes[0]}
    return attrs | {f"{kind}_{k}": [leaf[k] for leaf in leaves] for k in leaves[0]}


def samples(count: int = 9, dtype: str = "float32") -> np.ndarray:
    return rng.integers(-3, 4, (count, 5)).astype(dtype)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tree_regressors(aggregate: str, mixed: bool, dtype: str) -> None:
    trees = forest("target", 4, 3, 2, MODES if mixed else ["BRANCH_LEQ"])
    base = {} if aggregate in ("MIN", "MAX") else {"base_values": [0.5, -0.25]}
    agree(
        "TreeEnsembleRegressor",
        samples(dtype=dtype),
        n_targets=2,
        aggregate_function=aggregate,
        **base,
        **trees,
    )


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_transforms_of_trees(transform: str) -> None:
    trees = forest("target", 3, 4, 3, MODES[:4])
    agree("TreeEnsembleRegressor", samples(), n_targets=3, post_transform=transform, **trees)


def test_missing_values_take_the_branch_that_nodes_say() -> None:
    x = samples(20)
    x[rng.random(x.shape) < 0.4] = np.nan
    for mode in MODES:
        agree("TreeEnsembleRegressor", x, n_targets=1, **forest("target", 3, 3, 1, [mode]))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("based", [False, True])
def test_tree_classifiers(classes: int, low: float, transform: str, based: bool) -> None:
    trees = forest("class", 5, 3, classes, ["BRANCH_LT"], low)
    base = {"base_values": rng.uniform(-0.3, 0.3, classes).tolist()} if based else {}
    x = samples(30, str(rng.choice(["float32", "int64", "int32", "float64"])))
    attrs = {"classlabels_int64s": [4, 7, 1][:classes], "post_transform": transform, **base, **trees}
    if classes > 2:
        agree("TreeEnsembleClassifier", x, labels=True, **attrs)
        return
    # Of two scores onnxruntime does not look for the larger one, and gives labels 0 and 1.
    proto, feeds = ml("TreeEnsembleClassifier", x, labels=True, **attrs)
    got, want = run(proto, feeds), ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_array_equal(got["label"], want[0])
    np.testing.assert_allclose(got["scores"], want[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("target", [0, 1])
def test_tree_classifiers_of_one_score(low: float, transform: str, target: int) -> None:
    trees = forest("class", 3, 3, 1, ["BRANCH_LEQ"], low)
    trees["class_ids"] = [target] * len(trees["class_ids"])
    trees["class_weights"] = [w / 3 for w in trees["class_weights"]]
    agree(
        "TreeEnsembleClassifier", samples(30), labels=True, classlabels_int64s=[3, 8],
        post_transform=transform, **trees,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- TreeEnsemble
def by_places(trees: int, depth: int, count: int, modes: list[int]) -> dict[str, Any]:
    """Random trees in which inner nodes and leaves are lists of their own."""
    nodes: list[dict[str, Any]] = []
    leaves: list[tuple[int, float]] = []
    members: list[float] = []

    def grow(level: int) -> tuple[int, int]:
        if level == depth:
            leaves.append((int(rng.integers(count)), float(rng.uniform(-1, 1))))
            return len(leaves) - 1, 1
        made: dict[str, Any] = {"featureids": int(rng.integers(5)), "modes": int(rng.choice(modes))}
        made["splits"] = float(rng.integers(-2, 3))
        nodes.append(made)
        own = len(nodes) - 1
        if made["modes"] == 6:
            members.extend(
                [*rng.choice(np.arange(-3.0, 4.0), int(rng.integers(1, 4)), False).tolist(), np.nan]
            )
        for side in ("true", "false"):
            made[f"{side}nodeids"], made[f"{side}leafs"] = grow(level + 1)
        return own, 0

    roots = [grow(0)[0] for _ in range(trees)]
    attrs: dict[str, Any] = {f"nodes_{k}": [n[k] for n in nodes] for k in nodes[0]}
    attrs["nodes_modes"] = numpy_helper.from_array(np.array(attrs["nodes_modes"], np.uint8))
    attrs["nodes_splits"] = numpy_helper.from_array(np.array(attrs["nodes_splits"], np.float32))
    attrs["leaf_targetids"] = [t for t, _ in leaves]
    attrs["leaf_weights"] = numpy_helper.from_array(np.array([w for _, w in leaves], np.float32))
    if members:
        attrs["membership_values"] = numpy_helper.from_array(np.array(members[:-1], np.float32))
    return attrs | {"tree_roots": roots, "n_targets": count}


@pytest.mark.parametrize("modes", [[0], [1, 2, 3], [4, 5, 6], [6]])
@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_tree_ensembles(modes: list[int], aggregate: int) -> None:
    attrs = by_places(3, 3, 2, modes)
    agree("TreeEnsemble", samples(25), version=5, aggregate_function=aggregate, **attrs)


def test_one_artifact_takes_any_number_of_samples() -> None:
    trees = forest("class", 20, 5, 3, MODES)
    proto, _ = ml("TreeEnsembleClassifier", samples(1), labels=True, classlabels_int64s=[4, 7, 1], **trees)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    compiled = tw.compile(proto.SerializeToString(), dims={"n": (0, 300)})
    for count in (1, 0, 7, 300):
        x = samples(count)
        x[rng.random(x.shape) < 0.1] = np.nan
        got, want = compiled.run({"x0": x}), run_peer(proto, {"x0": x})
        np.testing.assert_array_equal(got["label"], want["label"])
        np.testing.assert_allclose(got["scores"], want["scores"], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- messages
def test_what_is_not_supported_says_so() -> None:
    x = floats(2, 5)
    linear: dict[str, Any] = {"coefficients": [1.0] * 5, "intercepts": [0.0]}
    for message, op, attrs in (
        ("labels that are texts", "LinearClassifier", linear | {"classlabels_strings": ["a", "b"]}),
        ("engines disagree", "LinearRegressor", linear | {"post_transform": "LOGISTIC"}),
        (
            "PROBIT of one score",
            "LinearClassifier",
            linear | {"classlabels_ints": [0, 1], "post_transform": "PROBIT"},
        ),
        ("categories that are texts", "OneHotEncoder", {"cats_strings": ["a"]}),
        ("an error for unknown categories", "OneHotEncoder", {"cats_int64s": [1], "zeros": 0}),
        ("values that are texts", "LabelEncoder", {"keys_floats": [1.0], "values_strings": ["a"]}),
    ):
        with pytest.raises(UnsupportedError, match=message):
            run(*ml(op, x, labels=op == "LinearClassifier", **attrs))


def test_maps_are_refused_with_advice() -> None:
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain=DOMAIN, classlabels_int64s=[0, 1])
    with pytest.raises(UnsupportedError, match=r"ZipMap .*options=\{'zipmap': False\}"):
        run(model([zipped], [value("x", [3, 2])], ["y"], domains={DOMAIN: 3}), {"x": floats(3, 2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": [9, 0, 0]}, "a node that it does not have"),
        ({"nodes_truenodeids": [0, 0, 0]}, "form a cycle"),
        ({"nodes_featureids": [7, 0, 0]}, "features that samples"),
        ({"target_ids": [3, 0]}, "do not fit 1 scores"),
        ({"nodes_modes": ["BRANCH_LEQ", "LEAF", "ROOT"]}, "no mode 'ROOT'"),
        ({"nodes_nodeids": [0, 1, 1]}, "two have the same number"),
    ],
)
def test_broken_trees(change: dict[str, Any], message: str) -> None:
    attrs: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    }  # fmt: skip
    with pytest.raises(GraphError, match=message):
        run(*ml("TreeEnsembleRegressor", floats(2, 5), n_targets=1, **(attrs | change)))
