"""Activations as scalar expressions and their NumPy twins. Registered by :mod:`tilewright.ops.elementwise`.

Each function takes the element (float32 or float64) and the node's attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from tilewright.ir.expr import Expr, const, maximum, minimum, select
from tilewright.ir.intrinsics import intrinsic

Attrs = Mapping[str, Any]

#: Constants of SELU as ONNX defines them (Klambauer et al. 2017), rounded to float32 there.
SELU_ALPHA: Final = 1.67326319217681884765625
SELU_GAMMA: Final = 1.05070102214813232421875
_GELU_CUBIC: Final = 0.044715
_erf = np.frompyfunc(math.erf, 1, 1)


def erf_numpy(x: np.ndarray) -> np.ndarray:
    """The error function, through the C library in double precision."""
    return np.asarray(_erf(x.astype(np.float64))).astype(x.dtype)


def log1p(u: Expr) -> Expr:
    """log(1 + u) for u in [0, 1], accurate for small u (Kahan: the rounding error of 1 + u cancels in the
    quotient).
    """
    total = u + 1.0
    return select((total - 1.0).eq(0.0), u, intrinsic("log", total) * (u / (total - 1.0)))


def _relu(x: Expr, attrs: Attrs) -> Expr:
    return maximum(x, const(0, x.dtype))


def _relu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.maximum(x, np.zeros((), x.dtype))


def _leaky_relu(x: Expr, attrs: Attrs) -> Expr:
    return select(x < 0.0, x * attrs["alpha"], x)


def _leaky_relu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.where(x < 0, x * x.dtype.type(attrs["alpha"]), x)


def _thresholded_relu(x: Expr, attrs: Attrs) -> Expr:
    return select(attrs["alpha"] < x, x, const(0, x.dtype))  # NaN is not above it


def _thresholded_relu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.where(x > attrs["alpha"], x, x.dtype.type(0))


def _elu(x: Expr, attrs: Attrs) -> Expr:
    return select(x < 0.0, (intrinsic("exp", x) - 1.0) * attrs["alpha"], x)


def _elu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.where(x < 0, (np.exp(x) - 1) * x.dtype.type(attrs["alpha"]), x)


def _celu(x: Expr, attrs: Attrs) -> Expr:
    alpha = attrs["alpha"]
    return select(x < 0.0, (intrinsic("exp", x / alpha) - 1.0) * alpha, x)


def _celu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    alpha = x.dtype.type(attrs["alpha"])
    return np.where(x < 0, (np.exp(x / alpha) - 1) * alpha, x)


def _selu(x: Expr, attrs: Attrs) -> Expr:
    alpha, gamma = attrs["alpha"], attrs["gamma"]
    return select(x <= 0.0, (intrinsic("exp", x) - 1.0) * (alpha * gamma), x * gamma)


def _selu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    alpha, gamma = attrs["alpha"], attrs["gamma"]
    return np.where(x <= 0, (np.exp(x) - 1) * x.dtype.type(alpha * gamma), x * x.dtype.type(gamma))


def _sigmoid(x: Expr, attrs: Attrs) -> Expr:
    return intrinsic("sigmoid", x)


def _sigmoid_numpy(x: np.ndarray, attrs: Attrs | None = None) -> np.ndarray:
    # exp(-|x|) never overflows; both branches are the same function.
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


def _hard_sigmoid(x: Expr, attrs: Attrs) -> Expr:
    return maximum(minimum(x * attrs["alpha"] + attrs["beta"], 1.0), 0.0)


def _hard_sigmoid_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    scaled = x * x.dtype.type(attrs["alpha"]) + x.dtype.type(attrs["beta"])
    return np.maximum(np.minimum(scaled, x.dtype.type(1)), x.dtype.type(0))


def _hard_swish(x: Expr, attrs: Attrs) -> Expr:
    return x * _hard_sigmoid(x, {"alpha": 1 / 6, "beta": 0.5})


def _hard_swish_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return x * _hard_sigmoid_numpy(x, {"alpha": 1 / 6, "beta": 0.5})


def _silu(x: Expr, attrs: Attrs) -> Expr:
    return x * intrinsic("sigmoid", x * attrs["alpha"])


def _silu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return x * _sigmoid_numpy(x * x.dtype.type(attrs["alpha"]))


def _gelu(x: Expr, attrs: Attrs) -> Expr:
    if attrs["approximate"] == "tanh":
        inner = (x + x * x * x * _GELU_CUBIC) * math.sqrt(2 / math.pi)
        return x * 0.5 * (intrinsic("tanh", inner) + 1.0)
    return x * 0.5 * (intrinsic("erf", x * math.sqrt(0.5)) + 1.0)


def _gelu_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    one = x.dtype.type(1)
    if attrs["approximate"] == "tanh":
        inner = (x + x * x * x * x.dtype.type(_GELU_CUBIC)) * x.dtype.type(math.sqrt(2 / math.pi))
        return x * x.dtype.type(0.5) * (np.tanh(inner) + one)
    return x * x.dtype.type(0.5) * (erf_numpy(x * x.dtype.type(math.sqrt(0.5))) + one)


def _softplus(x: Expr, attrs: Attrs) -> Expr:
    # max(x, 0) + log(1 + exp(-|x|)): no overflow, and the small tail keeps its relative precision.
    return maximum(x, const(0, x.dtype)) + log1p(intrinsic("exp", -intrinsic("abs", x)))


def _softplus_numpy(x: np.ndarray, attrs: Attrs | None = None) -> np.ndarray:
    return np.maximum(x, x.dtype.type(0)) + np.log1p(np.exp(-np.abs(x)))


def _softsign(x: Expr, attrs: Attrs) -> Expr:
    return x / (intrinsic("abs", x) + 1.0)


def _softsign_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return x / (1 + np.abs(x))


def _mish(x: Expr, attrs: Attrs) -> Expr:
    return x * intrinsic("tanh", _softplus(x, attrs))


def _mish_numpy(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return x * np.tanh(_softplus_numpy(x))


#: Activation -> (expression, NumPy twin), both of the element and the attributes.
ACTIVATIONS: Final[
    dict[str, tuple[Callable[[Expr, Attrs], Expr], Callable[[np.ndarray, Attrs], np.ndarray]]]
] = {
    "relu": (_relu, _relu_numpy),
    "leaky_relu": (_leaky_relu, _leaky_relu_numpy),
    "thresholded_relu": (_thresholded_relu, _thresholded_relu_numpy),
    "elu": (_elu, _elu_numpy),
    "celu": (_celu, _celu_numpy),
    "selu": (_selu, _selu_numpy),
    "sigmoid": (_sigmoid, _sigmoid_numpy),
    "hard_sigmoid": (_hard_sigmoid, _hard_sigmoid_numpy),
    "hard_swish": (_hard_swish, _hard_swish_numpy),
    "silu": (_silu, _silu_numpy),
    "gelu": (_gelu, _gelu_numpy),
    "softplus": (_softplus, _softplus_numpy),
    "softsign": (_softsign, _softsign_numpy),
    "mish": (_mish, _mish_numpy),
}
