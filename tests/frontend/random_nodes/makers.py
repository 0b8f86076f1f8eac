"""Makers of random nodes: operands, attributes and versions of the most used operators of the standard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from onnx import helper

OPSETS: Final = (13, 14, 15, 16, 17, 18, 19, 20, 21, 22)
FLOATS: Final = ("float32", "float64")
NUMBERS: Final = ("float32", "float64", "int32", "int64")


@dataclasses.dataclass(frozen=True)
class Case:
    """A node, its operands (those in ``fixed`` are weights) and the opset that it is of."""

    op: str
    opset: int
    arrays: dict[str, np.ndarray | None]
    attrs: dict[str, Any]
    fixed: tuple[str, ...] = ()
    outputs: int = 1

    def __str__(self) -> str:
        operands = ", ".join(
            "none"
            if a is None
            else f"{a.dtype}{list(a.shape)}" + (f"={a.tolist()}" if n in self.fixed else "")
            for n, a in self.arrays.items()
        )
        return f"{self.op}-{self.opset}({operands}) {self.attrs}"


class Draw:
    """Random choices for one node."""

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def shape(self, low: int = 0, high: int = 4, zeros: bool = True) -> tuple[int, ...]:
        dims = [self.int(1, 5) for _ in range(self.int(low, high))]
        if zeros and dims and self.chance(0.08):
            dims[self.int(0, len(dims) - 1)] = 0
        return tuple(dims)

    def data(self, shape: Sequence[int], dtype: str = "float32", special: bool = True) -> np.ndarray:
        if dtype == "bool":
            return self.rng.integers(0, 2, shape).astype(bool)
        if dtype.startswith(("int", "uint")):
            return self.rng.integers(0 if dtype[0] == "u" else -6, 7, shape).astype(dtype)
        x = (self.rng.standard_normal(shape) * 2).astype(dtype)
        if self.chance(0.3):
            x = np.round(x * 2) / 2  # ties, zeros of both signs
        if special and self.chance(0.2) and x.size:
            x = np.where(
                self.rng.random(shape) < 0.2, self.rng.choice([np.nan, np.inf, -np.inf, -0.0], shape), x
            )
        return np.asarray(x, dtype)

    def axis(self, rank: int) -> int:
        return self.int(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        chosen = self.rng.permutation(rank)[: self.int(1, rank)]
        return [int(a) - rank if self.chance(0.5) else int(a) for a in chosen]

    def broadcast(self, count: int, high: int = 4) -> list[tuple[int, ...]]:
        full = self.shape(0, high)
        shapes = []
        for _ in range(count):
            dims = [1 if self.chance(0.25) else d for d in full]
            shapes.append(tuple(dims[self.int(0, len(dims)) if self.chance(0.3) else 0 :]))
        return shapes


_Maker = Callable[[Draw], tuple[dict[str, np.ndarray | None], dict[str, Any], tuple[str, ...], int]]
MAKERS: Final[dict[str, _Maker]] = {}


def _maker(*ops: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers what makes operands, attributes, names of weights and the number of outputs of operators."""

    def decorate(make: Callable[..., Any]) -> Callable[..., Any]:
        for op in ops:

            def named(d: Draw, op: str = op) -> Any:
                arrays, attrs, *rest = make(d, op)
                return arrays, attrs, rest[0] if rest else (), rest[1] if len(rest) > 1 else 1

            MAKERS[op] = named
        return make

    return decorate


# ---------------------------------------------------------------------------------------------- elementwise
@_maker("Add", "Sub", "Mul", "Div", "Mod", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Pow")
def _binary(d: Draw, op: str) -> Any:
    dtype = d.one(NUMBERS)
    a, b = (d.data(s, dtype) for s in d.broadcast(2))
    attrs = {}
    if op in ("Div", "Mod") and dtype[0] == "i":
        b = np.where(b == 0, b.dtype.type(3), b)
    if op == "Mod":
        attrs = {"fmod": 1} if dtype[0] == "f" or d.chance(0.4) else {}
    if op == "Pow":
        b = np.abs(b) if dtype[0] == "i" else b
        b = b.astype(d.one(NUMBERS)) if np.isfinite(b).all() else b
        b = np.abs(b) if dtype[0] == "i" else b
    return {"a": a, "b": b}, attrs


@_maker("And", "Or", "Xor")
def _logical(d: Draw, op: str) -> Any:
    a, b = (d.data(s, "bool") for s in d.broadcast(2))
    return {"a": a, "b": b}, {}


@_maker("Where")
def _where(d: Draw, op: str) -> Any:
    c, a, b = d.broadcast(3)
    dtype = d.one(NUMBERS)
    return {"c": d.data(c, "bool"), "a": d.data(a, dtype), "b": d.data(b, dtype)}, {}


@_maker("Max", "Min", "Sum", "Mean")
def _variadic(d: Draw, op: str) -> Any:
    dtype = d.one(NUMBERS if op in ("Max", "Min") else FLOATS)
    return {f"x{n}": d.data(s, dtype) for n, s in enumerate(d.broadcast(d.int(1, 3)))}, {}


@_maker("Abs", "Neg", "Sign")
def _unary_numbers(d: Draw, op: str) -> Any:
    return {"x": d.data(d.shape(), d.one(NUMBERS))}, {}


@_maker("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Round", "Erf", "Reciprocal", "Sin",
        "Cos", "Softplus", "Softsign", "IsNaN", "IsInf")  # fmt: skip
def _unary_floats(d: Draw, op: str) -> Any:
    return {"x": d.data(d.shape(), d.one(FLOATS))}, {}


@_maker("LeakyRelu", "Elu", "Selu", "HardSigmoid", "ThresholdedRelu", "HardSwish", "Celu", "Gelu", "Mish")
def _activation(d: Draw, op: str) -> Any:
    attrs: dict[str, Any] = {}
    if op in ("LeakyRelu", "Elu", "HardSigmoid", "ThresholdedRelu", "Celu") and d.chance(0.6):
        attrs["alpha"] = d.one([0.1, 0.5, 1.5])
    if op == "HardSigmoid" and d.chance(0.5):
        attrs["beta"] = d.one([0.1, 0.7])
    if op == "Gelu" and d.chance(0.5):
        attrs["approximate"] = "tanh"
    return {"x": d.data(d.shape())}, attrs


@_maker("Clip")
def _clip(d: Draw, op: str) -> Any:
    dtype = d.one(NUMBERS)
    bounds = [d.data((), dtype, special=False) if d.chance(0.7) else None for _ in range(2)]
    return {"x": d.data(d.shape(), dtype), "low": bounds[0], "high": bounds[1]}, {}


@_maker("PRelu")
def _prelu(d: Draw, op: str) -> Any:
    shape = d.shape(1)
    slope = tuple(1 if d.chance(0.4) else n for n in shape)[d.int(0, len(shape) - 1) :]
    return {"x": d.data(shape), "s": d.data(slope)}, {}


@_maker("Cast")
def _cast(d: Draw, op: str) -> Any:
    source, target = d.one([*NUMBERS, "bool", "uint8"]), d.one([*NUMBERS, "bool", "uint8", "int8"])
    x = d.data(d.shape(), source, special=target in FLOATS or target == "bool")
    if target == "uint8":
        x = np.abs(x) if x.dtype != bool else x
    return {"x": x}, {"to": helper.np_dtype_to_tensor_dtype(np.dtype(target))}


# ---------------------------------------------------------------------------------------------- products
@_maker("MatMul")
def _matmul(d: Draw, op: str) -> Any:
    m, k, n = (d.int(0 if d.chance(0.1) else 1, 6) for _ in range(3))
    a, b = (tuple(s) for s in d.broadcast(2, 2))
    left, right = (*a, m, k), (*b, k, n)
    if d.chance(0.2):
        left = (k,)
    if d.chance(0.2):
        right = (k,)
    dtype = d.one(FLOATS)
    return (
        {"a": d.data(left, dtype, False), "b": d.data(right, dtype, False)},
        {},
        ("b",) if d.chance(0.5) else (),
    )


@_maker("Gemm")
def _gemm(d: Draw, op: str) -> Any:
    m, k, n = (d.int(1, 6) for _ in range(3))
    ta, tb = d.int(0, 1), d.int(0, 1)
    c = d.one([None, (n,), (1, n), (m, 1), (m, n), (1,), ()])
    attrs = {"transA": ta, "transB": tb}
    if d.chance(0.5):
        attrs |= {"alpha": 0.5, "beta": d.one([0.0, 1.0, 2.0])}
    arrays = {
        "a": d.data((k, m) if ta else (m, k), special=False),
        "b": d.data((n, k) if tb else (k, n), special=False),
        "c": None if c is None else d.data(c, special=False),
    }
    return arrays, attrs, ("b",) if d.chance(0.5) else ()


# ---------------------------------------------------------------------------------------------- windows
def _windowed(d: Draw, spatial: Sequence[int], kernel: Sequence[int], dilate: bool = True) -> dict[str, Any]:
    rank = len(spatial)
    attrs: dict[str, Any] = {"strides": [d.int(1, 3) for _ in range(rank)]}
    if dilate and d.chance(0.3):
        attrs["dilations"] = [d.int(1, 2) if 2 * k <= n else 1 for k, n in zip(kernel, spatial, strict=True)]
    auto = d.one(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
        if auto != "VALID":  # onnxruntime computes these pads as if there were no dilations
            attrs.pop("dilations", None)
    elif d.chance(0.7):
        attrs["pads"] = [d.int(0, k - 1) for k in (*kernel, *kernel)]
    return attrs


@_maker("Conv", "ConvTranspose")
def _conv(d: Draw, op: str) -> Any:
    rank, groups = d.int(1, 2), d.int(1, 2)
    spatial, kernel = [d.int(4, 8) for _ in range(rank)], [d.int(1, 3) for _ in range(rank)]
    ci, co = groups * d.int(1, 3), groups * d.int(1, 3)
    attrs = _windowed(d, spatial, kernel) | {"group": groups}
    transposed = op == "ConvTranspose"
    w = (ci, co // groups, *kernel) if transposed else (co, ci // groups, *kernel)
    if transposed:
        attrs.pop("auto_pad", None)
        if d.chance(0.3):
            attrs["output_padding"] = [d.int(0, s - 1) for s in attrs["strides"]]
    arrays = {
        "x": d.data((d.int(1, 2), ci, *spatial), special=False), "w": d.data(w, special=False),
        "b": d.data((co,), special=False) if d.chance(0.5) else None,
    }  # fmt: skip
    return arrays, attrs, ("w",) if d.chance(0.7) else ()


@_maker("MaxPool", "AveragePool", "LpPool")
def _pool(d: Draw, op: str) -> Any:
    rank = d.int(1, 3) if op != "LpPool" else d.int(1, 2)
    spatial, kernel = [d.int(4, 8) for _ in range(rank)], [d.int(1, 3) for _ in range(rank)]
    attrs = _windowed(d, spatial, kernel, dilate=op == "MaxPool" or d.opset >= 19) | {"kernel_shape": kernel}
    if d.chance(0.4) and (op != "LpPool" or d.opset >= 18):
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and d.chance(0.5):
        attrs["count_include_pad"] = 1
    if op == "LpPool":
        attrs["p"] = d.int(1, 3)
    outputs = 2 if op == "MaxPool" and d.chance(0.3) else 1
    return {"x": d.data((d.int(1, 2), d.int(1, 3), *spatial), special=False)}, attrs, (), outputs


@_maker("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(d: Draw, op: str) -> Any:
    return {
        "x": d.data((d.int(1, 2), d.int(1, 3), *(d.int(1, 6) for _ in range(d.int(1, 3)))), special=False)
    }, {}


# ---------------------------------------------------------------------------------------------- rows
@_maker("Softmax", "LogSoftmax", "Hardmax")
def _softmax(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1), special=False)
    return {"x": x}, {"axis": d.axis(x.ndim)} if d.chance(0.8) else {}


@_maker("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
        "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
def _reduce(d: Draw, op: str) -> Any:
    shape, ordered = d.shape(1, zeros=op in ("ReduceSum", "ReduceProd")), op in ("ReduceMax", "ReduceMin")
    x = d.data(shape, d.one(["float32", "float64", "int32"]), special=not ordered)  # NaN: NumPy's rule here
    if op.startswith("ReduceLog") and x.dtype == np.int32:
        x = np.abs(x).astype(np.float32) + 1  # how these round to integers is nowhere said
    attrs: dict[str, Any] = {"keepdims": d.int(0, 1)} if d.chance(0.7) else {}
    arrays: dict[str, np.ndarray | None] = {"x": x}
    if d.chance(0.7):
        axes = d.axes(x.ndim)
        if op == "ReduceSum" or d.opset >= 18:
            arrays["axes"] = np.array([] if d.chance(0.15) else axes, np.int64)
            if d.chance(0.3):
                attrs["noop_with_empty_axes"] = 1
        else:
            attrs["axes"] = axes
    return arrays, attrs, ("axes",)


@_maker("ArgMax", "ArgMin")
def _arg(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), d.one(["float32", "int32"]), special=False)
    return {"x": x}, {"axis": d.axis(x.ndim), "keepdims": d.int(0, 1), "select_last_index": d.int(0, 1)}


@_maker("CumSum")
def _cumsum(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1), d.one(NUMBERS), special=False)
    axis = np.array(d.axis(x.ndim), d.one(["int32", "int64"]))
    return {"x": x, "axis": axis}, {"exclusive": d.int(0, 1), "reverse": d.int(0, 1)}, ("axis",)


@_maker("TopK")
def _topk(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), d.one(NUMBERS), special=False)
    axis = d.axis(x.ndim)
    k = np.array([d.int(0, x.shape[axis])], np.int64)
    return {"x": x, "k": k}, {"axis": axis, "largest": d.int(0, 1), "sorted": 1}, ("k",), 2


@_maker("LayerNormalization")
def _layer_norm(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), special=False)
    axis = d.axis(x.ndim)
    shape = x.shape[axis % x.ndim :]
    arrays = {
        "x": x,
        "g": d.data(shape, special=False),
        "b": d.data(shape, special=False) if d.chance(0.6) else None,
    }
    return arrays, {"axis": axis, "epsilon": 1e-3}, (), d.int(1, 3)


@_maker("InstanceNormalization", "BatchNormalization")
def _channel_norm(d: Draw, op: str) -> Any:
    n, c = d.int(1, 2), d.int(1, 4)
    x = d.data((n, c, *(d.int(2, 5) for _ in range(d.int(1, 3)))), special=False)
    count = 2 if op == "InstanceNormalization" else 4
    arrays = {"x": x} | {f"p{i}": np.abs(d.data((c,), special=False)) + 0.1 for i in range(count)}
    return arrays, {"epsilon": 1e-3}


# ---------------------------------------------------------------------------------------------- movement
@_maker("Concat")
def _concat(d: Draw, op: str) -> Any:
    shape = list(d.shape(1))
    axis, dtype = d.axis(len(shape)), d.one([*NUMBERS, "bool"])
    arrays = {}
    for n in range(d.int(1, 4)):
        shape[axis] = d.int(0 if d.chance(0.1) else 1, 4)
        arrays[f"x{n}"] = d.data(shape, dtype)
    return arrays, {"axis": axis}


@_maker("Split")
def _split(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), d.one(NUMBERS))
    axis = d.axis(x.ndim)
    size, attrs = x.shape[axis], {"axis": axis}
    if d.chance(0.6):
        cut = d.int(0, size)
        return {"x": x, "s": np.array([cut, size - cut], np.int64)}, attrs, ("s",), 2
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    count = d.one(divisors)
    if d.opset >= 18:
        count = d.int(1, size)
        if -(-size // count) * (count - 1) >= size:
            count = 1
        attrs["num_outputs"] = count
    return {"x": x}, attrs, (), count


@_maker("Slice")
def _slice(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1), d.one(NUMBERS))
    axes = d.axes(x.ndim)
    count, kind = len(axes), d.one(["int32", "int64"])
    far = [-(2**31) + 1, 2**31 - 1] if kind == "int32" else [-(2**63) + 1, 2**63 - 1]

    def bounds() -> np.ndarray:
        return np.array([d.one(far) if d.chance(0.15) else d.int(-7, 7) for _ in range(count)], kind)

    arrays = {"x": x, "starts": bounds(), "ends": bounds(), "axes": np.array(axes, kind)}
    if d.chance(0.7):
        steps = np.array([d.one([1, 1, 2, 3, -1, -2]) for _ in axes], kind)
        # onnxruntime has the largest end mean the first element there
        arrays["ends"] = np.where((steps < 0) & (arrays["ends"] == far[1]), 7, arrays["ends"]).astype(kind)
        arrays["steps"] = steps
    return arrays, {}, ("starts", "ends", "axes", "steps")


@_maker("Transpose")
def _transpose(d: Draw, op: str) -> Any:
    x = d.data(d.shape(0, 5), d.one([*NUMBERS, "bool"]))
    return {"x": x}, {"perm": [int(p) for p in d.rng.permutation(x.ndim)]} if x.ndim and d.chance(0.8) else {}


@_maker("Reshape")
def _reshape(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), d.one(NUMBERS))
    flat, target = x.size, list(x.shape)
    if d.chance(0.4):
        target = [flat]
    if d.chance(0.5) and flat:
        target[d.int(0, len(target) - 1)] = -1
    if d.chance(0.3):
        target.insert(0, 1)
    elif flat and d.chance(0.4) and len(target) == x.ndim:
        at = d.int(0, len(target) - 1)
        target[at] = 0 if target[at] == x.shape[at] else target[at]
    return {"x": x, "s": np.array(target, np.int64)}, {}, ("s",)


@_maker("Squeeze", "Unsqueeze")
def _squeeze(d: Draw, op: str) -> Any:
    shape = list(d.shape(0, 3))
    rank = len(shape) + d.int(1, 2)
    places = sorted(int(a) for a in d.rng.permutation(rank)[: rank - len(shape)])
    axes = np.array([a - rank if d.chance(0.5) else a for a in places], np.int64)
    if op == "Squeeze":
        for a in places:
            shape.insert(a, 1)
    return {"x": d.data(shape), "axes": axes}, {}, ("axes",)


@_maker("Flatten")
def _flatten(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1))
    return {"x": x}, {"axis": d.int(-x.ndim, x.ndim)}


@_maker("Expand")
def _expand(d: Draw, op: str) -> Any:
    a, b = d.broadcast(2)
    return {"x": d.data(a, d.one(NUMBERS)), "s": np.array(b, np.int64)}, {}, ("s",)


@_maker("Tile")
def _tile(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1), d.one(NUMBERS))
    return (
        {"x": x, "r": np.array([d.int(0 if d.chance(0.1) else 1, 3) for _ in x.shape], np.int64)},
        {},
        ("r",),
    )


@_maker("Pad")
def _pad(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), d.one(["float32", "int32"]))
    mode = d.one(["constant", "edge", "reflect", *(["wrap"] if d.opset >= 19 else [])])
    axes = d.axes(x.ndim) if d.opset >= 18 and d.chance(0.4) else None
    sizes = [x.shape[a] for a in (range(x.ndim) if axes is None else axes)]
    pads = [d.int(0, min(2, s - 1)) for s in sizes + sizes]
    if mode == "constant" and d.chance(0.3):
        pads = [d.int(-(s // 2), 2) for s in sizes + sizes]
    arrays: dict[str, np.ndarray | None] = {"x": x, "pads": np.array(pads, np.int64), "v": None, "axes": None}
    if mode == "constant" and d.chance(0.5):
        arrays["v"] = d.data((), x.dtype.name)
    if axes is not None:
        arrays["axes"] = np.array(axes, np.int64)
    return arrays, {"mode": mode}, ("pads", "v", "axes")


@_maker("Gather")
def _gather(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), d.one(NUMBERS))
    axis = d.axis(x.ndim)
    at = d.rng.integers(-x.shape[axis], x.shape[axis], d.shape(0, 2)).astype(d.one(["int32", "int64"]))
    return {"x": x, "i": at}, {"axis": axis}, ("i",) if d.chance(0.5) else ()


@_maker("GatherElements", "ScatterElements")
def _elements(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False), "float32", special=False)
    axis = d.axis(x.ndim)
    shape = [d.int(1, n) for n in x.shape]
    at = np.argsort(d.rng.random(shape), axis)  # no position twice, so that the order does not matter
    at = np.where(d.rng.random(shape) < 0.3, at - x.shape[axis], at)
    arrays = {"x": x, "i": at.astype(np.int64)}
    attrs: dict[str, Any] = {"axis": axis}
    if op == "ScatterElements":
        arrays["u"] = d.data(shape, special=False)
        if d.opset >= 16:
            attrs["reduction"] = d.one(["none", "add", "mul", *(["min", "max"] if d.opset >= 18 else [])])
    return arrays, attrs


@_maker("GatherND")
def _gather_nd(d: Draw, op: str) -> Any:
    x = d.data(d.shape(1, zeros=False))
    batch = d.int(0, min(1, x.ndim - 1))
    depth = d.int(1, x.ndim - batch)
    outer = [*x.shape[:batch], *(d.int(1, 3) for _ in range(d.int(0 if batch else 1, 2)))]
    at = np.stack([d.rng.integers(-n, n, outer) for n in x.shape[batch : batch + depth]], -1)
    return {"x": x, "i": at.astype(np.int64)}, {"batch_dims": batch}


@_maker("OneHot")
def _one_hot(d: Draw, op: str) -> Any:
    at = d.rng.integers(-5, 7, d.shape(0, 3)).astype(d.one(["int32", "int64"]))
    arrays = {"i": at, "n": np.array(5, np.int64), "v": d.data((2,), special=False)}
    return arrays, {"axis": d.axis(at.ndim + 1)}, ("n",)


@_maker("DepthToSpace", "SpaceToDepth")
def _blocks(d: Draw, op: str) -> Any:
    block, c = d.int(1, 3), d.int(1, 2)
    if op == "SpaceToDepth":
        return {"x": d.data((d.int(1, 2), c, block * d.int(1, 3), block * d.int(1, 3)))}, {"blocksize": block}
    x = d.data((d.int(1, 2), c * block**2, d.int(1, 3), d.int(1, 3)))
    return {"x": x}, {"blocksize": block, "mode": d.one(["DCR", "CRD"])}


@_maker("Resize")
def _resize(d: Draw, op: str) -> Any:
    x = d.data((1, d.int(1, 2), d.int(2, 5), d.int(2, 5)), special=False)
    mode = d.one(["nearest", "linear", "cubic"])
    attrs = {
        "mode": mode,
        "coordinate_transformation_mode": d.one(
            ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
        ),
    }
    if mode == "nearest":
        attrs["nearest_mode"] = d.one(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    scales = np.array([1, 1, d.one([0.5, 1.0, 1.5, 2.0]), d.one([0.6, 1.0, 2.0, 3.0])], np.float32)
    if d.chance(0.5):
        sizes = np.array([*x.shape[:2], d.int(1, 9), d.int(1, 9)], np.int64)
        return {"x": x, "r": None, "s": None, "z": sizes}, attrs, ("z",)
    return {"x": x, "r": None, "s": scales}, attrs, ("s",)


@_maker("Trilu")
def _trilu(d: Draw, op: str) -> Any:
    x = d.data((*d.shape(0, 1), d.int(1, 5), d.int(1, 5)), d.one(NUMBERS))
    return {"x": x, "k": np.array(d.int(-6, 6), np.int64)}, {"upper": d.int(0, 1)}, ("k",)


_SINCE: Final = {"Gelu": 20, "LayerNormalization": 17, "Trilu": 14, "HardSwish": 14, "Mish": 18}


def draw(seed: int, op: str, opset: int) -> Case | None:
    """A node of ``op``; None where the opset does not have it."""
    if opset < _SINCE.get(op, 1):
        return None
    arrays, attrs, fixed, outputs = MAKERS[op](Draw(seed, opset))
    kept = tuple(n for n in fixed if arrays.get(n) is not None)
    return Case(op, opset, arrays, attrs, kept, outputs)
