"""Contractions: matrix product and convolution.

Convolutions take any number of spatial dimensions. With ``channels_last`` data is ``[N, *spatial, C]`` and
weights are ``[*K, CI / groups, CO]``, else data is ``[N, C, *spatial]`` and weights ``[CO, CI / groups,
*K]``. A fourth operand of one element stands for what is in the padding (default 0).

With ``to="int32"`` the operands are bytes, signed or not, or 16-bit integers, and sums are kept and
returned in 32 bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.visit import const_int
from tilewright.ops.common import (
    Operands,
    accumulator_dtype,
    as_dtype,
    broadcast_index,
    broadcast_shapes,
    format_shape,
    is_half,
    product,
    reduced,
)
from tilewright.ops.window import Layout, Window, arrange, pad_spatial, windowed, windows


# ----------------------------------------------------------------------------------------------------- matmul
def matmul_infer(ctx: OpContext) -> list[TensorType]:
    """The product's type; rejects operands that do not fit."""
    a, b = ctx.input(0), ctx.input(1)
    if a.rank < 2 or b.rank < 2:
        ctx.fail("matmul takes matrices (or stacks of them)")
    dtype = _result_dtype(ctx, a, b)
    if dtype is None or a.dtype == "bool":
        ctx.fail(f"matmul takes two tensors of one number type, not {a.dtype} and {b.dtype}")
    k, k2 = const_int(a.shape[-1]), const_int(b.shape[-2])
    if k is not None and k2 is not None and k != k2:
        ctx.fail(
            f"the inner dimensions of the matrices {format_shape(a.shape)} and {format_shape(b.shape)} differ"
        )
    batch = broadcast_shapes(ctx, a.shape[:-2], b.shape[:-2])
    return [TensorType((*batch, a.shape[-2], b.shape[-1]), dtype)]


def _result_dtype(ctx: OpContext, a: TensorType, b: TensorType) -> str | None:
    """The type of a contraction's result; None where the operands' types do not go together."""
    to = ctx.attr("to", None)
    if to is None:
        return a.dtype if a.dtype == b.dtype else None
    fits = {a.dtype, b.dtype} <= {"int8", "uint8"} or a.dtype == b.dtype == "int16"
    return "int32" if to == "int32" and fits else None


def accumulator(ctx: OpContext) -> str:
    """The type in which a contraction keeps its sums."""
    return str(ctx.attr("to", None) or accumulator_dtype(ctx.input(0).dtype))


def result_dtype(ctx: OpContext) -> str:
    """The type of a contraction's result."""
    return str(ctx.attr("to", None) or ctx.input(0).dtype)


def narrowed(total: te.Tensor, dtype: str) -> te.Tensor:
    """``total`` in the operator's dtype, after sums of 16-bit floats were kept in float32."""
    if total.dtype == dtype:
        return total
    return te.compute(total.shape, lambda *i: total[i].astype(dtype), "narrow")


def widened(tensor: te.Tensor) -> te.Tensor:
    """``tensor`` in float32 if it has 16-bit floats, as a stage of its own: a schedule may convert each
    element once instead of at every use."""
    if not is_half(tensor.dtype):
        return tensor
    return te.compute(tensor.shape, lambda *i: tensor[i].astype("float32"), "widen")


def _matmul_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    a, b = widened(inputs[0]), inputs[1]
    shape = matmul_infer(ctx)[0].shape
    wide = accumulator(ctx)

    def body(*i: Expr) -> Expr:
        *batch, m, n = i
        rows = broadcast_index(a.shape[:-2], shape[:-2], batch)
        columns = broadcast_index(b.shape[:-2], shape[:-2], batch)

        def term(k: Expr) -> Expr:
            return a[(*rows, m, k)].astype(wide) * b[(*columns, k, n)].astype(wide)

        return reduced("sum", [a.shape[-1]], term, wide)

    return [narrowed(te.compute(shape, body, "matmul"), result_dtype(ctx))]


def _matmul_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    a, b = inputs
    if ctx.attr("to", None) is not None:
        return [np.matmul(a.astype(np.int32), b.astype(np.int32))]
    if is_half(a.dtype.name):
        return [as_dtype(np.matmul(a.astype(np.float32), b.astype(np.float32)), a.dtype.name)]
    return [np.matmul(a, b)]


register(
    OpDef(
        "matmul",
        FusionKind.contraction,
        infer=matmul_infer,
        compute=_matmul_compute,
        reference=_matmul_numpy,
    )
)


# ------------------------------------------------------------------------------------------------------- conv
class Conv(NamedTuple):
    """A convolution's sizes: ``ci`` and ``co`` channels in all, ``groups`` of them, windows and layouts."""

    layout: Layout
    last: bool
    groups: int
    ci: int
    co: int
    windows: list[Window]


def _check_operands(ctx: OpContext, name: str) -> tuple[TensorType, TensorType]:
    x, w = ctx.input(0), ctx.input(1)
    if x.rank < 3 or x.rank != w.rank:
        ctx.fail(f"{name} takes data and weights of one rank of 3 or more")
    dtype = _result_dtype(ctx, x, w)
    if dtype is None or (not dt.is_float(x.dtype) and dtype != "int32"):
        ctx.fail(f"{name} takes data and weights of one float type, not {x.dtype} and {w.dtype}")
    if any(const_int(d) is None for d in w.shape):
        ctx.fail(f"the shape of the weights must be known, not {format_shape(w.shape)}")
    return x, w


def conv_sizes(ctx: OpContext) -> Conv:
    """What a convolution's operands and attributes say; rejects those that do not fit."""
    x, w = _check_operands(ctx, "conv")
    last, groups = bool(ctx.attr("channels_last", False)), int(ctx.attr("groups", 1))
    layout = Layout.of(ctx, x.rank)
    dims = [const_int(d) or 0 for d in w.shape]
    co, per_group, kernel = (dims[-1], dims[-2], dims[:-2]) if last else (dims[0], dims[1], dims[2:])
    ci = x.shape[layout.channel]
    known = const_int(ci)
    if groups < 1 or co % groups or (known is not None and known != per_group * groups):
        ctx.fail(
            f"{known} input channels in {groups} groups do not fit weights {format_shape(w.shape)} "
            f"({per_group} input channels a group, {co} output channels)"
        )
    _check_bias(ctx, co)
    return Conv(
        layout,
        last,
        groups,
        per_group * groups,
        co,
        windows(ctx, kernel, [x.shape[d] for d in layout.spatial]),
    )


def _check_bias(ctx: OpContext, channels: int) -> None:
    if ctx.has_input(2):
        bias = ctx.input(2)
        if (
            bias.rank != 1
            or const_int(bias.shape[0]) not in (None, channels)
            or bias.dtype != result_dtype(ctx)
        ):
            ctx.fail(f"the bias must hold {channels} numbers of the result's type, not {bias}")
    if ctx.has_input(3):
        fill = ctx.input(3)
        if fill.dtype != ctx.input(0).dtype or const_int(product(fill.shape)) != 1:
            ctx.fail(f"the padding must be one number of the data's type, not {fill}")


def add_bias(total: te.Tensor, bias: te.Tensor | None, channel: int, dtype: str) -> te.Tensor:
    """``total`` plus the bias (if there is one) along dimension ``channel``, in the operator's dtype."""
    if bias is None:
        return narrowed(total, dtype)
    wide = total.dtype
    return te.compute(
        total.shape, lambda *i: (total[i] + bias[i[channel]].astype(wide)).astype(dtype), "bias"
    )


def conv_infer(ctx: OpContext) -> list[TensorType]:
    """The convolution's type; rejects operands that do not fit."""
    x, conv = ctx.input(0), conv_sizes(ctx)
    spatial = [windowed(ctx, x.shape[d], w) for d, w in zip(conv.layout.spatial, conv.windows, strict=True)]
    return [TensorType(arrange(conv.last, x.shape[0], as_expr(conv.co), spatial), result_dtype(ctx))]


def padded_data(conv: Conv, inputs: Operands) -> te.Tensor:
    """A convolution's data with the windows' borders."""
    x, fill = inputs[0], inputs[3] if len(inputs) > 3 else None
    return pad_spatial(x, conv.layout, conv.windows, 0.0 if fill is None else fill)


def _conv_compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
    weight = inputs[1]
    conv, dtype = conv_sizes(ctx), result_dtype(ctx)
    wide, last, groups = accumulator(ctx), conv.last, conv.groups
    rank = len(conv.windows)
    padded = widened(padded_data(conv, inputs))
    shape = conv_infer(ctx)[0].shape
    per_group = conv.ci // groups
    out_per_group = conv.co // groups

    def body(*i: Expr) -> Expr:
        n, co, spatial = (i[0], i[-1], i[1:-1]) if last else (i[0], i[1], i[2:])
        # Depthwise convolution reads its own channel: no division, and the channel stays a plain loop
        # variable.
        first = (co if out_per_group == 1 else co // out_per_group) * per_group

        def term(*r: Expr) -> Expr:
            taps, ci = (r[:rank], r[rank]) if per_group > 1 else (r, as_expr(0))
            where = [
                p * w.stride + t * w.dilation for p, t, w in zip(spatial, taps, conv.windows, strict=True)
            ]
            channel = ci if groups == 1 else first + ci
            value = padded[arrange(last, n, channel, where)]
            tap = weight[(*taps, ci, co) if last else (co, ci, *taps)]
            return value.astype(wide) * tap.astype(wide)

        extents = [w.size for w in conv.windows] + ([per_group] if per_group > 1 else [])
        return te.reduce("sum", extents, term)

    name = "conv" if groups == 1 else "depthwise_conv" if per_group == 1 else "grouped_conv"
    bias = inputs[2] if len(inputs) > 2 else None
    return [add_bias(te.compute(shape, body, name), bias, len(shape) - 1 if last else 1, dtype)]


def _conv_numpy(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    """One matrix product for each kernel tap, on views of the padded data: no copy of it is larger than
    itself.
    """
    x, weight = inputs[0], inputs[1]
    conv = conv_sizes(ctx)
    dtype, wide = result_dtype(ctx), dt.to_numpy(accumulator(ctx))
    fill = 0 if len(inputs) < 4 or inputs[3] is None else inputs[3].reshape(())
    x, weight = x.astype(wide, copy=False), weight.astype(wide, copy=False)
    if not conv.last:
        x, weight = np.moveaxis(x, 1, -1), np.moveaxis(weight, (0, 1), (-1, -2))
    borders = [(0, 0), *((w.before, w.after) for w in conv.windows), (0, 0)]
    x = np.pad(x, borders, constant_values=fill)
    out = [(size - w.reach) // w.stride + 1 for size, w in zip(x.shape[1:-1], conv.windows, strict=True)]
    g, co = conv.groups, conv.co
    total = np.zeros((x.shape[0], *out, g, co // g), wide)
    for tap in np.ndindex(*weight.shape[:-2]):
        view = tuple(
            slice(t * w.dilation, t * w.dilation + (n - 1) * w.stride + 1, w.stride)
            for t, w, n in zip(tap, conv.windows, out, strict=True)
        )
        part = x[(slice(None), *view)]
        per_tap = weight[tap].reshape(weight.shape[-2], g, co // g)
        if g == 1:
            total[..., 0, :] += part @ per_tap[:, 0]
        else:
            grouped = part.reshape(*part.shape[:-1], g, part.shape[-1] // g)
            total += np.einsum("...gi,igo->...go", grouped, per_tap)
    result = total.reshape(*total.shape[:-2], co)
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + inputs[2].astype(wide)
    if not conv.last:
        result = np.moveaxis(result, -1, 1)
    return [np.asarray(as_dtype(result, dtype), order="C")]


register(
    OpDef("conv", FusionKind.contraction, infer=conv_infer, compute=_conv_compute, reference=_conv_numpy)
)
