"""Matrix products, convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Attr, TensorType, Value
from tilewright.graph.limits import check_type
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int


# -------------------------------------------------------------------------------------------- matrix products
@onnx_op("MatMul", 1, 9, 13)
def matmul(ctx: NodeContext) -> Value:
    """NumPy's matmul: a vector is a matrix of one row or column, whose dimension the result loses again."""
    return vector_matmul(ctx, ctx.value(0), ctx.value(1))


def vector_matmul(ctx: NodeContext, a: Value, b: Value) -> Value:
    """``a @ b`` where either may be a vector."""
    row, column = a.rank == 1, b.rank == 1
    one = as_expr(1)
    left = ctx.reshape(a, [one, *a.shape]) if row else a
    right = ctx.reshape(b, [*b.shape, one]) if column else b
    result = ctx.op("matmul", left, right)
    if not row and not column:
        return result
    dims = list(result.shape)
    if column:
        dims.pop()
    if row:
        dims.pop(-1 if column else -2)
    return ctx.reshape(result, dims)


@onnx_op("Gemm", 1, 6, 7, 9, 11, 13)
def gemm(ctx: NodeContext) -> Value:
    """``alpha * op(A) @ op(B) + beta * C``."""
    a, b = ctx.value(0), ctx.value(1)
    if a.rank != 2 or b.rank != 2:
        ctx.fail(f"Gemm takes matrices, not {a.type} and {b.type}")
    if ctx.attr("transA", 0):
        a = ctx.op("transpose", a, perm=(1, 0))
    if ctx.attr("transB", 0):
        b = ctx.op("transpose", b, perm=(1, 0))
    alpha, beta = float(ctx.attr("alpha", 1.0)), float(ctx.attr("beta", 1.0))
    if alpha != 1.0 and ctx.builder.const(b) is not None:
        b = ctx.op("mul", b, ctx.like(alpha, b))
        alpha = 1.0
    y = ctx.op("matmul", a, b)
    if alpha != 1.0:
        y = ctx.op("mul", y, ctx.like(alpha, y))
    if not ctx.has(2):
        return y
    c = ctx.value(2)
    return ctx.op("add", y, c if beta == 1.0 else ctx.op("mul", c, ctx.like(beta, c)))


@onnx_op("Det", 11, 22, limits="matrices up to 32 x 32")
def det(ctx: NodeContext) -> Value:
    """The determinant of each matrix."""
    return ctx.op("det", ctx.x)


# -------------------------------------------------------------------------------------------- sliding windows
def numbers(ctx: NodeContext, name: str, count: int, default: int) -> tuple[int, ...]:
    """An attribute of ``count`` whole numbers, all ``default`` when it is absent."""
    values = ctx.attr(name, None)
    if values is None:
        return (default,) * count
    if len(values) != count:
        ctx.fail(f"'{name}' must hold {count} numbers, not {tuple(values)}")
    return tuple(int(v) for v in values)


def window_attrs(ctx: NodeContext, x: Value, kernel: Sequence[int]) -> dict[str, Attr]:
    """strides, dilations, pads. SAME padding that depends on an open size stays symbolic (``auto_pad``)."""
    rank = len(kernel)
    strides, dilations = numbers(ctx, "strides", rank, 1), numbers(ctx, "dilations", rank, 1)
    attrs: dict[str, Attr] = {"strides": strides, "dilations": dilations}
    auto = ctx.attr("auto_pad", "NOTSET")
    if auto == "NOTSET":
        attrs["pads"] = numbers(ctx, "pads", 2 * rank, 0)
    elif auto == "VALID":
        attrs["pads"] = (0,) * (2 * rank)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for dim, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
            reach, size = (k - 1) * d + 1, const_int(dim)
            if size is None and s > 1:
                return {**attrs, "auto_pad": auto.lower()}
            missing = reach - 1 if size is None else max((-(-size // s) - 1) * s + reach - size, 0)
            small, large = missing // 2, missing - missing // 2
            begins.append(small if auto == "SAME_UPPER" else large)
            ends.append(large if auto == "SAME_UPPER" else small)
        attrs["pads"] = (*begins, *ends)
    else:
        ctx.fail(f"auto_pad '{auto}' is not defined")
    return attrs


def kernel_of(ctx: NodeContext, weights: Value) -> tuple[int, ...]:
    """The spatial size of a convolution's weights."""
    kernel = ctx.static_dims(weights, "the weights")[2:]
    declared = ctx.attr("kernel_shape", None)
    if declared is not None and tuple(declared) != kernel:
        ctx.fail(f"kernel_shape {tuple(declared)} does not fit weights {weights.type}")
    return kernel


@onnx_op("Conv", 1, 11, 22)
def conv(ctx: NodeContext) -> Value:
    """Convolution of any number of spatial dimensions."""
    x, w = ctx.value(0), ctx.value(1)
    if x.rank < 3 or w.rank != x.rank:
        ctx.fail(f"Conv takes data and weights of one rank of 3 or more, not {x.type} and {w.type}")
    attrs = window_attrs(ctx, x, kernel_of(ctx, w))
    return ctx.op("conv", x, w, ctx.optional(2), groups=int(ctx.attr("group", 1)), **attrs)


@onnx_op("ConvTranspose", 1, 11, 22)
def conv_transpose(ctx: NodeContext) -> Value:
    """Transposed convolution; ``output_shape`` or SAME padding decide the pads where they are given."""
    x, w = ctx.value(0), ctx.value(1)
    if x.rank < 3 or w.rank != x.rank:
        ctx.fail(f"ConvTranspose takes data and weights of one rank of 3 or more, not {x.type} and {w.type}")
    kernel = kernel_of(ctx, w)
    rank = len(kernel)
    strides, dilations = numbers(ctx, "strides", rank, 1), numbers(ctx, "dilations", rank, 1)
    extra = numbers(ctx, "output_padding", rank, 0)
    auto = ctx.attr("auto_pad", "NOTSET")
    wanted = ctx.attr("output_shape", None)
    pads: Sequence[int]
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        spatial = ctx.static_dims(x, "the input of a ConvTranspose with a given output shape")[2:]
        target = (
            [n * s for n, s in zip(spatial, strides, strict=True)] if wanted is None else list(wanted)[-rank:]
        )
        if len(target) != rank:
            ctx.fail(f"'output_shape' must hold {rank} numbers, not {tuple(target)}")
        begins, ends = [], []
        for n, s, k, d, o, t in zip(spatial, strides, kernel, dilations, extra, target, strict=True):
            total = s * (n - 1) + o + (k - 1) * d + 1 - int(t)
            # A negative total leaves the pads at 0 and extends the result at its end.
            first = max(total, 0) // 2 if auto == "SAME_UPPER" else max(total, 0) - max(total, 0) // 2
            begins.append(first)
            ends.append(total - first)
        pads = (*begins, *ends)
    else:
        pads = numbers(ctx, "pads", 2 * rank, 0) if auto == "NOTSET" else (0,) * (2 * rank)
    return ctx.op(
        "conv_transpose",
        x,
        w,
        ctx.optional(2),
        strides=strides,
        dilations=dilations,
        pads=tuple(pads),
        output_padding=extra,
        groups=int(ctx.attr("group", 1)),
    )


@onnx_op("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(ctx: NodeContext) -> Sequence[Value]:
    """Maxima and, where the model reads them, their flat positions in the data."""
    y = pool(ctx, "max_pool")
    if not ctx.wants_output(1):
        return [y]
    return [y, pool(ctx, "max_positions", column_major=bool(ctx.attr("storage_order", 0)))]


@onnx_op("MaxUnpool", 9, 11, 22)
def max_unpool(ctx: NodeContext) -> Value:
    """Maxima back at their positions in the data before pooling, zeros elsewhere."""
    x = ctx.x
    kernel = tuple(int(k) for k in ctx.attr("kernel_shape"))
    strides, pads = numbers(ctx, "strides", len(kernel), 1), numbers(ctx, "pads", 2 * len(kernel), 0)
    if x.rank != len(kernel) + 2:
        ctx.fail(f"a kernel of {len(kernel)} dimensions does not fit {x.type}")
    dims = list(ctx.static_dims(x, "the input of a MaxUnpool"))
    for n, (size, stride) in enumerate(zip(kernel, strides, strict=True)):
        dims[n + 2] = (dims[n + 2] - 1) * stride - pads[n] - pads[n + len(kernel)] + size
    shape = ctx.ints(2, "the output shape of a MaxUnpool") or tuple(dims)
    return ctx.op("max_unpool", x, ctx.value(1), shape=shape, source=tuple(dims))


@onnx_op("LpPool", 1, 2, 11, 18, 22)
def lp_pool(ctx: NodeContext) -> Value:
    """The p-norm of each window."""
    return pool(ctx, "lp_pool", p=_norm_order(ctx))


def _norm_order(ctx: NodeContext) -> float:
    """The p of a p-norm."""
    p = float(ctx.attr("p", 2))
    if not 0 < p < math.inf:
        ctx.fail(f"there is no {p:g}-norm: p must be positive")
    return p


@onnx_op("GlobalLpPool", 1, 2, 22)
def global_lp_pool(ctx: NodeContext) -> Value:
    """The p-norm of each channel."""
    x, p, axes = ctx.x, _norm_order(ctx), tuple(range(2, ctx.x.rank))
    size = ctx.op("mul", x, x) if p == 2 else ctx.op("abs", x)
    if p not in (1, 2):
        size = ctx.op("pow", size, ctx.like(p, x))
    total = ctx.op("reduce", size, op="sum", axes=axes, keepdims=True)
    if p == 1:
        return total
    return ctx.op("sqrt", total) if p == 2 else ctx.op("pow", total, ctx.like(1 / p, x))


@onnx_op("Col2Im", 18)
def col2im(ctx: NodeContext) -> Value:
    """Blocks of an image back in their places, summed where they overlap."""
    image = ctx.ints(1, "the image's size of a Col2Im") or ()
    kernel = ctx.ints(2, "the blocks' size of a Col2Im") or ()
    rank = len(kernel)
    return ctx.op(
        "col2im",
        ctx.x,
        image=image,
        kernel=kernel,
        strides=numbers(ctx, "strides", rank, 1),
        dilations=numbers(ctx, "dilations", rank, 1),
        pads=numbers(ctx, "pads", 2 * rank, 0),
    )


@onnx_op("AveragePool", 1, 7, 10, 11, 19, 22)
def average_pool(ctx: NodeContext) -> Value:
    """Padding counts only with ``count_include_pad``."""
    return pool(ctx, "avg_pool", count_include_pad=bool(ctx.attr("count_include_pad", 0)))


def pool(ctx: NodeContext, op: str, x: Value | None = None, **more: Attr) -> Value:
    """The pooling operator ``op`` with the node's window, of ``x`` (by default the first input)."""
    data = ctx.x if x is None else x
    kernel = tuple(int(k) for k in ctx.attr("kernel_shape"))
    if data.rank != len(kernel) + 2:
        ctx.fail(f"a kernel of {len(kernel)} dimensions does not fit {data.type}")
    # Work grows with the window, of which no tensor tells.
    check_type(TensorType(tuple(map(as_expr, kernel)), data.dtype), "the window", ctx.where)
    attrs = window_attrs(ctx, data, kernel)
    return ctx.op(op, data, kernel=kernel, ceil_mode=bool(ctx.attr("ceil_mode", 0)), **attrs, **more)


def _global_pool(op: str) -> Callable[[NodeContext], Value]:
    def handler(ctx: NodeContext) -> Value:
        return ctx.op("reduce", ctx.x, op=op, axes=tuple(range(2, ctx.x.rank)), keepdims=True)

    return handler


onnx_op("GlobalAveragePool", 1, 22)(_global_pool("mean"))
onnx_op("GlobalMaxPool", 1, 22)(_global_pool("max"))
