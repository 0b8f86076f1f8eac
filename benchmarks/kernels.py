"""Single kernels of known networks: as loop programs of ours, with data and with what NumPy makes of it.

Channels come last, weights are constants, batch 1, float32: what one kernel of a compiled model is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from tilewright.ir import te
from tilewright.ir.expr import Expr, maximum, select
from tilewright.ir.intrinsics import call
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text
from tilewright.ir.stmt import PrimFunc


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a network.

    Attributes:
        network: where it is from.
        kind: ``conv`` (cin, cout, size, kernel, stride; bias and ReLU after it), ``depthwise`` (channels,
            size, stride; 3x3, bias and ReLU), ``dense`` (m, n, k; bias), ``softmax`` (rows, columns).
        sizes: as the kind says.
    """

    network: str
    kind: str
    sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        """As printed, without spaces: a folder's name too."""
        return f"{self.kind}-{'x'.join(map(str, self.sizes))}"

    @property
    def flops(self) -> int:
        """Two for each multiply-add, those with padding too; five for an element of a softmax."""
        return _FLOPS[self.kind](*self.sizes)

    def func(self) -> PrimFunc:
        """The loop program, as traces of records apply to it: inputs, weights, bias, then the output."""
        return parse(canonical_text(_FUNCS[self.kind](*self.sizes)))

    def arrays(self, seed: int = 0) -> list[np.ndarray]:
        """Seeded arguments of :meth:`func`, the last the expected output, computed by NumPy in float64."""
        return _ARRAYS[self.kind](np.random.default_rng(seed), *self.sizes)


#: Six of ResNet-50's, the products of a BERT-base layer at 128 tokens, two of MobileNet-v2, BERT's softmax.
KERNELS: Final = (
    Kernel("ResNet-50", "conv", (3, 64, 224, 7, 2)),
    Kernel("ResNet-50", "conv", (64, 64, 56, 3, 1)),
    Kernel("ResNet-50", "conv", (64, 256, 56, 1, 1)),
    Kernel("ResNet-50", "conv", (256, 256, 28, 3, 2)),
    Kernel("ResNet-50", "conv", (1024, 256, 14, 1, 1)),
    Kernel("ResNet-50", "conv", (512, 512, 7, 3, 1)),
    Kernel("BERT-base", "dense", (128, 768, 768)),
    Kernel("BERT-base", "dense", (128, 3072, 768)),
    Kernel("BERT-base", "dense", (128, 768, 3072)),
    Kernel("MobileNet-v2", "depthwise", (144, 56, 1)),
    Kernel("MobileNet-v2", "depthwise", (576, 14, 1)),
    Kernel("BERT-base", "softmax", (1536, 128)),
)


# ---------------------------------------------------------------------------------------------- loop programs
def _padded(x: te.Tensor, size: int, channels: int, pad: int) -> te.Tensor:
    if not pad:
        return x
    wide = size + 2 * pad

    def value(h: Expr, w: Expr, c: Expr) -> Expr:
        inside = (h >= pad) & (h < size + pad) & (w >= pad) & (w < size + pad)
        return select(inside, x[h - pad, w - pad, c], 0.0)

    return te.compute((wide, wide, channels), value, "padded")


def _conv(cin: int, cout: int, size: int, kernel: int, stride: int) -> PrimFunc:
    out = (size - 1) // stride + 1
    x = te.placeholder((size, size, cin), "float32", "x")
    weight = te.placeholder((kernel, kernel, cin, cout), "float32", "weight")
    bias = te.placeholder((cout,), "float32", "bias")
    source = _padded(x, size, cin, (kernel - 1) // 2)
    product = te.compute(
        (out, out, cout),
        lambda h, w, c: te.reduce(
            "sum",
            (kernel, kernel, cin),
            lambda kh, kw, ci: source[h * stride + kh, w * stride + kw, ci] * weight[kh, kw, ci, c],
        ),
        "conv",
    )
    y = te.compute((out, out, cout), lambda h, w, c: maximum(product[h, w, c] + bias[c], 0.0), "y")
    return te.primfunc("conv", [x, weight, bias], [y], const_inputs=[weight, bias])


def _depthwise(channels: int, size: int, stride: int) -> PrimFunc:
    out = (size - 1) // stride + 1
    x = te.placeholder((size, size, channels), "float32", "x")
    weight = te.placeholder((3, 3, channels), "float32", "weight")
    bias = te.placeholder((channels,), "float32", "bias")
    source = _padded(x, size, channels, 1)
    product = te.compute(
        (out, out, channels),
        lambda h, w, c: te.reduce(
            "sum", (3, 3), lambda kh, kw: source[h * stride + kh, w * stride + kw, c] * weight[kh, kw, c]
        ),
        "depthwise",
    )
    y = te.compute((out, out, channels), lambda h, w, c: maximum(product[h, w, c] + bias[c], 0.0), "y")
    return te.primfunc("depthwise", [x, weight, bias], [y], const_inputs=[weight, bias])


def _dense(m: int, n: int, k: int) -> PrimFunc:
    x = te.placeholder((m, k), "float32", "x")
    weight = te.placeholder((k, n), "float32", "weight")
    bias = te.placeholder((n,), "float32", "bias")
    product = te.compute(
        (m, n), lambda i, j: te.reduce("sum", (k,), lambda at: x[i, at] * weight[at, j]), "dense"
    )
    y = te.compute((m, n), lambda i, j: product[i, j] + bias[j], "y")
    return te.primfunc("dense", [x, weight, bias], [y], const_inputs=[weight, bias])


def _softmax(rows: int, columns: int) -> PrimFunc:
    x = te.placeholder((rows, columns), "float32", "x")
    most = te.compute((rows,), lambda i: te.reduce("max", (columns,), lambda j: x[i, j]), "most")
    power = te.compute((rows, columns), lambda i, j: call("exp", [x[i, j] - most[i]]), "power")
    total = te.compute((rows,), lambda i: te.reduce("sum", (columns,), lambda j: power[i, j]), "total")
    y = te.compute((rows, columns), lambda i, j: power[i, j] / total[i], "y")
    return te.primfunc("softmax", [x], [y])


_FUNCS: Final[Mapping[str, Callable[..., PrimFunc]]] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "dense": _dense,
    "softmax": _softmax,
}
_FLOPS: Final[Mapping[str, Callable[..., int]]] = {
    "conv": lambda cin, cout, size, k, stride: 2 * cin * cout * (k * ((size - 1) // stride + 1)) ** 2,
    "depthwise": lambda channels, size, stride: 2 * channels * (3 * ((size - 1) // stride + 1)) ** 2,
    "dense": lambda m, n, k: 2 * m * n * k,
    "softmax": lambda rows, columns: 5 * rows * columns,
}


# ------------------------------------------------------------------------------------------------------- data
def _windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """``[out, out, channels, kernel, kernel]`` of ``x[size, size, channels]``, padded for its size."""
    pad = (kernel - 1) // 2
    wide = np.pad(x.astype(np.float64), ((pad, pad), (pad, pad), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (0, 1))[::stride, ::stride]


def _normal(rng: np.random.Generator, shape: tuple[int, ...], fan: int = 1) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(fan**-0.5)


def _conv_arrays(rng: np.random.Generator, cin: int, cout: int, size: int, kernel: int, stride: int) -> Any:
    x = _normal(rng, (size, size, cin))
    weight = _normal(rng, (kernel, kernel, cin, cout), kernel**2 * cin)
    bias = _normal(rng, (cout,))
    patches = _windows(x, kernel, stride)
    product = np.tensordot(patches, weight.astype(np.float64), axes=((3, 4, 2), (0, 1, 2)))
    return [x, weight, bias, np.maximum(product + bias, 0.0).astype(np.float32)]


def _depthwise_arrays(rng: np.random.Generator, channels: int, size: int, stride: int) -> Any:
    x = _normal(rng, (size, size, channels))
    weight = _normal(rng, (3, 3, channels), 9)
    bias = _normal(rng, (channels,))
    product = np.einsum("hwcij,ijc->hwc", _windows(x, 3, stride), weight.astype(np.float64))
    return [x, weight, bias, np.maximum(product + bias, 0.0).astype(np.float32)]


def _dense_arrays(rng: np.random.Generator, m: int, n: int, k: int) -> Any:
    x, weight, bias = _normal(rng, (m, k)), _normal(rng, (k, n), k), _normal(rng, (n,))
    return [x, weight, bias, (x.astype(np.float64) @ weight + bias).astype(np.float32)]


def _softmax_arrays(rng: np.random.Generator, rows: int, columns: int) -> Any:
    x = _normal(rng, (rows, columns))
    power = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return [x, (power / power.sum(axis=1, keepdims=True)).astype(np.float32)]


_ARRAYS: Final[Mapping[str, Callable[..., list[np.ndarray]]]] = {
    "conv": _conv_arrays,
    "depthwise": _depthwise_arrays,
    "dense": _dense_arrays,
    "softmax": _softmax_arrays,
}
