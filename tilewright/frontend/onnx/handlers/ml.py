"""Operators of ai.onnx.ml that prepare features, linear models, support vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.visit import const_int

DOMAIN: Final = "ai.onnx.ml"
#: Winitzki's approximation of the inverse error function, the one that onnxruntime has.
_WINITZKI: Final = 0.147
#: Scores below this are zero to SOFTMAX_ZERO.
_ZERO: Final = 1e-7


# --------------------------------------------------------------------------------------------- what is shared
def as_float(ctx: NodeContext, x: Value) -> Value:
    """Numbers of any type as float32."""
    return x if x.dtype == "float32" else ctx.op("cast", x, to="float32")


def rows(ctx: NodeContext, x: Value) -> Value:
    """Samples as ``[N, F]``; one alone may be a list."""
    if x.rank == 1:
        return ctx.reshape(x, [1, x.shape[0]])
    return x if x.rank == 2 else ctx.unsupported(f"samples are lists of features, not {x.type}")


def numbers(ctx: NodeContext, name: str, dtype: str = "float32") -> np.ndarray:
    """An attribute of numbers as an array; empty where it is left out."""
    return np.asarray(ctx.attr(name, ()), dt.to_numpy(dtype))


def transformed(ctx: NodeContext, x: Value, kind: str) -> Value:
    """Scores ``[N, C]`` after ``post_transform``. Raises UnsupportedError for one score alone where
    onnxruntime leaves out what the standard defines.
    """
    if kind == "NONE":
        return x
    if const_int(x.shape[1]) == 1 and kind != "PROBIT":
        ctx.unsupported(f"post_transform {kind} of one score is not supported: engines disagree on it")
    if kind == "LOGISTIC":
        return ctx.op("sigmoid", x)
    if kind == "SOFTMAX":
        return ctx.op("softmax", x, axis=1)
    if kind == "SOFTMAX_ZERO":
        return _softmax_zero(ctx, x)
    if kind == "PROBIT":
        return _probit(ctx, x)
    return ctx.fail(f"there is no post_transform '{kind}'")


def _softmax_zero(ctx: NodeContext, x: Value) -> Value:
    """Softmax of the scores that are not zero; the others stay near it."""
    most = ctx.op("reduce", x, op="max", axes=(1,), keepdims=True)
    shown = ctx.op("less", ctx.like(_ZERO, x), ctx.op("abs", x))
    powers = ctx.op("exp", ctx.op("sub", x, most))
    kept = ctx.op("mul", x, ctx.op("exp", ctx.op("neg", most)))
    parts = ctx.op("where", shown, powers, kept)
    sums = ctx.op(
        "reduce", ctx.op("where", shown, powers, ctx.like(0, x)), op="sum", axes=(1,), keepdims=True
    )
    return ctx.op("div", parts, sums)


def _probit(ctx: NodeContext, p: Value) -> Value:
    """``sqrt(2) * erfinv(2 * p - 1)``."""

    def number(value: float) -> Value:
        return ctx.like(value, p)

    x = ctx.op("sub", ctx.op("mul", p, number(2)), number(1))
    log = ctx.op("log", ctx.op("mul", ctx.op("sub", number(1), x), ctx.op("add", number(1), x)))
    v = ctx.op("add", ctx.op("mul", log, number(0.5)), number(2 / (math.pi * _WINITZKI)))
    inner = ctx.op("sub", ctx.op("mul", v, v), ctx.op("mul", log, number(1 / _WINITZKI)))
    size = ctx.op("sqrt", ctx.op("sub", ctx.op("sqrt", inner), v))
    return ctx.op("mul", ctx.op("mul", ctx.op("sign", x), size), number(math.sqrt(2)))


def labels_of(ctx: NodeContext, names: str = "classlabels_int64s") -> np.ndarray:
    """The numbers of classes. Raises UnsupportedError where they are texts and wanted."""
    if ctx.attr("classlabels_strings", ()):
        if ctx.wants_output(0):
            ctx.unsupported(
                "labels that are texts are not supported; export the model with numbers as labels"
            )
        return np.arange(len(ctx.attr("classlabels_strings")))
    return numbers(ctx, names, "int64")


def pick_label(ctx: NodeContext, labels: np.ndarray, index: Value) -> Value:
    """Labels at positions ``[N]``."""
    return ctx.op("gather", ctx.constant(labels, "int64"), index, axis=0)


def best(ctx: NodeContext, scores: Value) -> Value:
    """The position of the largest score in each row."""
    return ctx.op("argmax", scores, axis=1, keepdims=False)


# --------------------------------------------------------------------------------------------------- features
@onnx_op("Scaler", 1, domain=DOMAIN)
def scaler(ctx: NodeContext) -> Value:
    """``(x - offset) * scale``, as floats."""
    x = as_float(ctx, ctx.x)
    shifted = ctx.op("sub", x, ctx.constant(numbers(ctx, "offset"), "float32"))
    return ctx.op("mul", shifted, ctx.constant(numbers(ctx, "scale"), "float32"))


@onnx_op("Normalizer", 1, domain=DOMAIN)
def normalizer(ctx: NodeContext) -> Value:
    """Rows divided by their largest element, the sum of sizes, or the root of the sum of squares."""
    x = as_float(ctx, ctx.x)
    axis, kind = x.rank - 1, str(ctx.attr("norm", "MAX"))
    if kind == "MAX":
        return ctx.op("div", x, ctx.op("reduce", x, op="max", axes=(axis,), keepdims=True))
    if kind not in ("L1", "L2"):
        ctx.fail(f"there is no norm '{kind}'")
    square = ctx.op("abs", x) if kind == "L1" else ctx.op("mul", x, x)
    norm = ctx.op("reduce", square, op="sum", axes=(axis,), keepdims=True)
    norm = norm if kind == "L1" else ctx.op("sqrt", norm)
    empty = ctx.op("equal", norm, ctx.like(0, norm))
    return ctx.op("div", x, ctx.op("where", empty, ctx.like(1, norm), norm))


@onnx_op("Binarizer", 1, domain=DOMAIN)
def binarizer(ctx: NodeContext) -> Value:
    """1 above the threshold, else 0."""
    above = ctx.op("less", ctx.like(float(ctx.attr("threshold", 0.0)), ctx.x), ctx.x)
    return ctx.op("cast", above, to=ctx.x.dtype)


@onnx_op("Imputer", 1, domain=DOMAIN)
def imputer(ctx: NodeContext) -> Value:
    """Another number in the places of one."""
    x = ctx.x
    whole = dt.is_int(x.dtype)
    imputed = numbers(ctx, "imputed_value_int64s" if whole else "imputed_value_floats", x.dtype)
    replaced = ctx.attr("replaced_value_int64", 0) if whole else ctx.attr("replaced_value_float", 0.0)
    if not imputed.size:
        ctx.fail(f"an Imputer of {x.dtype} needs values of that type")
    absent = (
        ctx.op("isnan", x)
        if isinstance(replaced, float) and math.isnan(replaced)
        else ctx.op("equal", x, ctx.like(replaced, x))
    )
    return ctx.op("where", absent, ctx.constant(imputed, x.dtype), x)


@onnx_op("ArrayFeatureExtractor", 1, domain=DOMAIN)
def array_feature_extractor(ctx: NodeContext) -> Value:
    """The elements at positions of the last dimension."""
    x, places = ctx.value(0), ctx.value(1)
    x = rows(ctx, x) if x.rank == 1 else x
    return ctx.op("gather", x, ctx.reshape(places, [product(places.shape)]), axis=x.rank - 1)


@onnx_op("FeatureVectorizer", 1, domain=DOMAIN)
def feature_vectorizer(ctx: NodeContext) -> Value:
    """Features of several tensors side by side, as floats."""
    parts = [as_float(ctx, rows(ctx, ctx.value(n))) for n in range(len(ctx.inputs))]
    return parts[0] if len(parts) == 1 else ctx.op("concat", *parts, axis=1)


@onnx_op("OneHotEncoder", 1, domain=DOMAIN, limits="no texts")
def one_hot_encoder(ctx: NodeContext) -> Value:
    """A 1 in the place of the category, in one more dimension."""
    cats = numbers(ctx, "cats_int64s", "int64")
    if not cats.size:
        ctx.unsupported("categories that are texts are not supported")
    if not ctx.attr("zeros", 1):
        ctx.unsupported("zeros=0 (an error for unknown categories) is not supported")
    x = ctx.x if ctx.x.dtype == "int64" else ctx.op("cast", ctx.x, to="int64")
    found = ctx.op("equal", ctx.reshape(x, [*x.shape, 1]), ctx.constant(cats, "int64"))
    return ctx.op("cast", found, to="float32")


# ---------------------------------------------------------------------------------------------- label encoder
_KINDS: Final = {"int64s": "int64", "floats": "float32"}


@onnx_op("LabelEncoder", 2, 4, domain=DOMAIN, limits="no texts")
def label_encoder(ctx: NodeContext) -> Value:
    """Numbers in the places of others; a default where there is none."""
    keys, values = (_table(ctx, name) for name in ("keys", "values"))
    if keys.size != values.size or keys.dtype != dt.to_numpy(ctx.x.dtype):
        ctx.fail(f"{keys.size} keys of {keys.dtype} and {values.size} values do not encode {ctx.x.type}")
    given: Any = ctx.attr("default_tensor", None)
    if given is None:
        given = ctx.attr("default_int64", -1) if values.dtype.kind == "i" else ctx.attr("default_float", -0.0)
    default = np.asarray(given, values.dtype).reshape(1)
    first = np.sort(np.unique(keys, return_index=True)[1])  # of equal keys the first counts
    keys, values = keys[first], values[first]
    x = ctx.reshape(ctx.x, [*ctx.x.shape, 1])
    found = ctx.op("equal", x, ctx.constant(keys, ctx.x.dtype))
    if ctx.since >= 4 and keys.dtype.kind == "f" and np.isnan(keys).any():
        unknown = ctx.op("and", ctx.op("isnan", x), ctx.constant(np.isnan(keys), "bool"))
        found = ctx.op("or", found, unknown)
    place = ctx.op(
        "where", found, ctx.constant(np.arange(1, keys.size + 1), "int64"), ctx.constant(0, "int64")
    )
    index = ctx.op("reduce", place, op="max", axes=(ctx.x.rank,), keepdims=False)
    table = np.concatenate([default, values])
    return ctx.op("gather", ctx.constant(table, dt.from_numpy(table.dtype)), index, axis=0)


def _table(ctx: NodeContext, name: str) -> np.ndarray:
    """Keys or values. Raises UnsupportedError where they are texts."""
    if ctx.node.attrs.get(f"{name}_tensor") is not None:
        return np.asarray(ctx.attr(f"{name}_tensor")).reshape(-1)
    for kind, dtype in _KINDS.items():
        if ctx.node.attrs.get(f"{name}_{kind}") is not None:
            return numbers(ctx, f"{name}_{kind}", dtype)
    return ctx.unsupported(f"{name} that are texts are not supported")


# ---------------------------------------------------------------------------------------------- linear models
@onnx_op("LinearRegressor", 1, domain=DOMAIN)
def linear_regressor(ctx: NodeContext) -> Value:
    """``x @ coefficients^T + intercepts``, and a transform of that."""
    scores = _linear(ctx, int(ctx.attr("targets", 1)))
    return transformed(ctx, scores, str(ctx.attr("post_transform", "NONE")))


def _linear(ctx: NodeContext, targets: int) -> Value:
    x = as_float(ctx, rows(ctx, ctx.x))
    weights, offsets = numbers(ctx, "coefficients"), numbers(ctx, "intercepts")
    width = const_int(x.shape[1])
    if targets < 1 or weights.size % targets or width not in (None, weights.size // targets):
        ctx.fail(f"{weights.size} coefficients do not fit {targets} targets and samples {x.type}")
    matrix = np.ascontiguousarray(weights.reshape(targets, -1).T)
    scores = ctx.op("matmul", x, ctx.constant(matrix, "float32"))
    return ctx.op("add", scores, ctx.constant(offsets, "float32")) if offsets.size else scores


@onnx_op("LinearClassifier", 1, domain=DOMAIN, limits="no labels that are texts")
def linear_classifier(ctx: NodeContext) -> Sequence[Value]:
    """Scores of classes; of two, one score may do."""
    labels = labels_of(ctx, "classlabels_ints")
    count = numbers(ctx, "intercepts").size or 1
    scores = _linear(ctx, count)
    kind = str(ctx.attr("post_transform", "NONE"))
    if count > 1:
        return [pick_label(ctx, labels, best(ctx, scores)), transformed(ctx, scores, kind)]
    if labels.size != 2:
        ctx.unsupported(f"one score for {labels.size} labels is not supported")
    flat = ctx.reshape(scores, [scores.shape[0]])
    positive = ctx.op("cast", ctx.op("less", ctx.like(0, flat), flat), to="int64")
    if kind == "PROBIT":
        ctx.unsupported("post_transform PROBIT of one score for two labels is not supported")
    if kind == "LOGISTIC":
        scores = ctx.op("sigmoid", scores)
    other = ctx.op("sub", ctx.like(1, scores), scores)
    return [pick_label(ctx, labels, positive), ctx.op("concat", other, scores, axis=1)]


# -------------------------------------------------------------------------------------------- support vectors
@onnx_op("SVMRegressor", 1, domain=DOMAIN)
def svm_regressor(ctx: NodeContext) -> Value:
    """Weighted kernels of the samples and the support vectors; without these, one linear function."""
    x = as_float(ctx, rows(ctx, ctx.x))
    weights, rho, count = numbers(ctx, "coefficients"), numbers(ctx, "rho"), int(ctx.attr("n_supports", 0))
    vectors = numbers(ctx, "support_vectors")
    if rho.size < 1 or (count and (vectors.size % count or weights.size != count)):
        ctx.fail(f"{vectors.size} numbers and {weights.size} coefficients are not {count} support vectors")
    values = _kernel(ctx, x, vectors.reshape(count, -1)) if count else x
    score = ctx.op("matmul", values, ctx.constant(weights[:, None], "float32"))
    score = ctx.op("add", score, ctx.constant(rho[:1], "float32"))
    if ctx.attr("one_class", 0):
        positive = ctx.op("less", ctx.like(0, score), score)
        score = ctx.op("where", positive, ctx.like(1, score), ctx.like(-1, score))
    return transformed(ctx, score, str(ctx.attr("post_transform", "NONE")))


def _kernel(ctx: NodeContext, x: Value, vectors: np.ndarray) -> Value:
    """Similarities ``[N, M]`` of samples and support vectors."""
    kind = str(ctx.attr("kernel_type", "LINEAR"))
    gamma, offset, degree = (*numbers(ctx, "kernel_params").tolist(), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        apart = ctx.op("sub", ctx.reshape(x, [x.shape[0], 1, x.shape[1]]), ctx.constant(vectors, "float32"))
        squares = ctx.op("reduce", ctx.op("mul", apart, apart), op="sum", axes=(2,), keepdims=False)
        return ctx.op("exp", ctx.op("mul", squares, ctx.like(-gamma, x)))
    dots = ctx.op("matmul", x, ctx.constant(np.ascontiguousarray(vectors.T), "float32"))
    if kind == "LINEAR":
        return dots
    scaled = ctx.op("add", ctx.op("mul", dots, ctx.like(gamma, x)), ctx.like(offset, x))
    if kind == "POLY":
        return ctx.op("pow", scaled, ctx.like(degree, x))
    return ctx.op("tanh", scaled) if kind == "SIGMOID" else ctx.fail(f"there is no kernel '{kind}'")
