"""Transposed convolution, decomposed into ordinary convolutions with one group of output channels for each
phase.

Element ``s*q + r`` of the full result reads only the kernel taps ``s*t + r``: ``full[q, r] = sum_t x[q - t] *
w[s*t + r]``. So a stride-1 convolution over ``x`` with ``ceil(K / s)`` taps and ``s`` times the channels
computes all phases ``r`` at once, without multiplying zeros that were inserted for the stride; interleaving
the phases is a transpose. Where kernel and stride are equal there is one tap, and a matrix product writes the
result in its final order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import TensorType, Value
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.visit import const_int
from tilewright.ops.common import Operands, as_dtype, dims_attr, format_shape, is_half, product
from tilewright.ops.window import Layout, arrange, per_dim

#: Elements in the widest vectors of today's CPUs (512 bits of float32).
_SHORT_ROW: Final = 16
#: Phases of different lengths are computed apart where that leaves less than this part of the products.
_SPLIT_BELOW: Final = 0.75


class _Deconv(NamedTuple):
    last: bool
    groups: int
    co: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    spatial: tuple[Expr, ...]


def _sizes(ctx: OpContext) -> _Deconv:
    x, w = ctx.input(0), ctx.input(1)
    rank = x.rank - 2
    if rank < 1 or x.rank != w.rank or x.dtype != w.dtype or not dt.is_float(x.dtype):
        ctx.fail("conv_transpose takes data and weights of one rank of 3 or more and one float type")
    dims = [const_int(d) for d in w.shape]
    if any(d is None for d in dims):
        ctx.fail(f"the shape of the weights must be known, not {format_shape(w.shape)}")
    shape = [d for d in dims if d is not None]
    last, groups = bool(ctx.attr("channels_last", False)), int(ctx.attr("groups", 1))
    layout = Layout.of(ctx, x.rank)
    ci = const_int(x.shape[layout.channel])
    per_group, co, kernel = (
        (shape[-2], shape[-1], shape[:-2]) if last else (shape[0] // groups, shape[1] * groups, shape[2:])
    )
    if ci is not None and (ci != per_group * groups or co % groups or (not last and shape[0] % groups)):
        ctx.fail(f"{ci} input channels in {groups} groups do not fit weights {format_shape(w.shape)}")
    strides, dilations = per_dim(ctx, "strides", rank, 1), per_dim(ctx, "dilations", rank, 1)
    pads, extra = per_dim(ctx, "pads", 2 * rank, 0), per_dim(ctx, "output_padding", rank, 0)
    if min((*strides, *dilations)) < 1 or min(pads[:rank]) < 0:
        ctx.fail(f"strides {strides} and dilations {dilations} must be positive, pads {pads} not negative")
    if min((*kernel, groups, per_group)) < 1:
        ctx.fail(f"weights {format_shape(w.shape)} are empty")
    if ctx.has_input(2):
        bias = ctx.input(2)
        if bias.rank != 1 or const_int(bias.shape[0]) not in (None, co):
            ctx.fail(f"the bias must hold a number for each of {co} channels, not {bias}")
    spatial = tuple(
        (x.shape[d] - 1) * s + ((k - 1) * e + 1 - b - a + o)
        for d, s, k, e, b, a, o in zip(
            layout.spatial, strides, kernel, dilations, pads[:rank], pads[rank:], extra, strict=True
        )
    )
    return _Deconv(last, groups, co, tuple(kernel), strides, dilations, pads[:rank], spatial)


def _infer(ctx: OpContext) -> list[TensorType]:
    x, c = ctx.input(0), _sizes(ctx)
    return [TensorType(arrange(c.last, x.shape[0], as_expr(c.co), c.spatial), x.dtype)]


def _decompose(builder: GraphBuilder, ctx: OpContext, inputs: Sequence[Value | None]) -> list[Value]:
    x, w, bias = (inputs[n] if n < len(inputs) else None for n in range(3))
    assert x is not None
    assert w is not None
    c = _sizes(ctx)
    rank = len(c.kernel)
    if not c.last:
        # Phases are interleaved beside the channels; the layout pass moves or cancels these transposes.
        x = builder.op("transpose", x, perm=(0, *range(2, rank + 2), 1))
        w = _last_weights(builder, w, c)
    y = _disjoint(builder, x, w, bias, c) if _is_disjoint(x, c) else _by_phases(builder, x, w, bias, c)
    return [y if c.last else builder.op("transpose", y, perm=(0, rank + 1, *range(1, rank + 1)))]


def _is_disjoint(x: Value, c: _Deconv) -> bool:
    """Whether each input position writes a block of its own, and the blocks are the whole result.

    The rows of such blocks are the columns of a matrix product; short ones would leave vector lanes idle.
    """
    whole = [d * s for d, s in zip(x.shape[1:-1], c.strides, strict=True)]
    fits = c.kernel == c.strides and max(c.dilations) == 1 and not any(c.begins) and tuple(whole) == c.spatial
    return fits and c.groups == 1 and c.kernel[-1] * c.co >= _SHORT_ROW


def _disjoint(builder: GraphBuilder, x: Value, w: Value, bias: Value | None, c: _Deconv) -> Value:
    """One broadcast matrix product ``[N * d0, 1, d1, 1, ..., d, CI] @ [k0, 1, k1, ..., CI, k * CO]``.

    Its result ``[N * d0, k0, d1, k1, ..., d, k * CO]`` is the convolution's in memory order: nothing moves.
    """
    rank, (ci, co) = len(c.kernel), w.dims()[-2:]
    n, *dims, _ = x.shape
    rows: list[Expr | int] = [product([n, *dims[: rank - 1]][:2])] if rank > 1 else [n]
    for dim in dims[1 : rank - 1]:
        rows += [1, dim]
    if rank > 1:
        rows.append(1)
    x = builder.op("reshape", x, shape=dims_attr([*rows, dims[-1], ci]))
    w = builder.op("transpose", w, perm=(*range(rank - 1), rank, rank - 1, rank + 1))
    blocks = [k for kernel in c.kernel[:-1] for k in (kernel, 1)][:-1]
    w = builder.op("reshape", w, shape=(*blocks, ci, c.kernel[-1] * co))
    y = builder.op("matmul", x, w)
    if bias is not None:
        y = builder.op("add", y, _tiled_bias(builder, bias, 1, c.kernel[-1:]))
    return builder.op("reshape", y, shape=dims_attr((n, *c.spatial, co)))


def _by_phases(builder: GraphBuilder, x: Value, w: Value, bias: Value | None, c: _Deconv) -> Value:
    """The general case: convolutions with the phases as channels, interleaved and cut to size.

    All phases in one convolution have as many taps as the longest. Where that multiplies many zeros, phases
    with equally many taps get a convolution of their own.
    """
    rank = len(c.kernel)
    w, kernel = _dilate(builder, w, c)
    split = [_phases(k, s) for k, s in zip(kernel, c.strides, strict=True)]
    used = np.prod([sum(p.width * p.taps for p in parts) for parts in split])
    whole = np.prod([parts[0].taps * s for parts, s in zip(split, c.strides, strict=True)])
    # Short runs of channels, as groups have, are slow to interleave from several parts.
    pays = c.groups == 1 and used < _SPLIT_BELOW * whole
    if not pays or any(p.taps == 0 for parts in split for p in parts):
        split = [[_Phases(0, s, parts[0].taps)] for parts, s in zip(split, c.strides, strict=True)]
    # Dilated taps of a dimension without stride are far apart; all others are neighbours.
    apart = tuple(d if s == 1 else 1 for d, s in zip(c.dilations, c.strides, strict=True))
    border = [(parts[0].taps - 1) * d for parts, d in zip(split, apart, strict=True)]
    # Where output_padding reaches past the full result, the bias must reach there too.
    ends = _missing_ends(x, c, border)
    inside = all((e := const_int(end)) is not None and e <= 0 for end in ends)

    def convolved(chosen: tuple[_Phases, ...]) -> Value:
        """[N, *q, groups, *phases, CO/g] of the chosen phases."""
        if len(chosen) < rank:
            axis = 2 + rank + len(chosen)
            return _joined(builder, [convolved((*chosen, p)) for p in split[len(chosen)]], axis)
        counts = [p.width for p in chosen]
        early = None if bias is None or not inside else _tiled_bias(builder, bias, c.groups, counts)
        before = [(p.taps - 1) * d for p, d in zip(chosen, apart, strict=True)]
        phases = _phase_weights(builder, w, c, kernel, chosen)
        y = builder.op(
            "conv",
            x,
            phases,
            early,
            strides=(1,) * rank,
            dilations=apart,
            pads=(*before, *border),
            groups=c.groups,
            channels_last=True,
        )
        shape: list[Expr | int] = [*y.shape[: rank + 1], c.groups, *counts, c.co // c.groups]
        return builder.op("reshape", y, shape=dims_attr(shape))

    y = _interleave(builder, convolved(()), c)
    if any(c.begins) or any(const_int(e) != 0 for e in ends):
        y = builder.op("pad", y, pads=(0, *(-b for b in c.begins), 0, 0, *dims_attr(ends), 0))
    return y if bias is None or inside else builder.op("add", y, bias)


class _Phases(NamedTuple):
    """Neighbouring phases of one dimension that read equally many taps."""

    first: int
    width: int
    taps: int


def _phases(kernel: int, stride: int) -> list[_Phases]:
    """Phase ``r`` reads the taps ``r, r + stride, ...``; those with more taps come first."""
    longer = kernel % stride
    parts = [_Phases(0, longer, kernel // stride + 1), _Phases(longer, stride - longer, kernel // stride)]
    return [p for p in parts if p.width]


def _joined(builder: GraphBuilder, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else builder.op("concat", *parts, axis=axis)


def _missing_ends(x: Value, c: _Deconv, border: Sequence[int]) -> list[Expr]:
    """How much longer the wanted part is than the interleaved phases, counted from its beginning."""
    full = [(d + b) * s for d, b, s in zip(x.shape[1:-1], border, c.strides, strict=True)]
    return [size + b - whole for size, b, whole in zip(c.spatial, c.begins, full, strict=True)]


def _tiled_bias(builder: GraphBuilder, bias: Value, groups: int, phases: Sequence[int]) -> Value:
    """The bias for channels that are ordered by group, phase, channel of the group."""
    (co,) = bias.dims()
    ones, per_group = (1,) * len(phases), co // groups
    tiled = builder.op("reshape", bias, shape=(groups, *ones, per_group))
    tiled = builder.op("expand", tiled, shape=(groups, *phases, per_group))
    return builder.op("reshape", tiled, shape=(co * int(np.prod(phases)),))


def _last_weights(builder: GraphBuilder, w: Value, c: _Deconv) -> Value:
    """[CI, CO/g, *K] as [*K, CI/g, CO]."""
    rank = len(c.kernel)
    ci, per_group = w.dims()[0], c.co // c.groups
    w = builder.op("reshape", w, shape=(c.groups, ci // c.groups, per_group, *c.kernel))
    w = builder.op("transpose", w, perm=(*range(3, rank + 3), 1, 0, 2))
    return builder.op("reshape", w, shape=(*c.kernel, ci // c.groups, c.co))


def _dilate(builder: GraphBuilder, w: Value, c: _Deconv) -> tuple[Value, tuple[int, ...]]:
    """Weights with the zeros between taps that dilation means in dimensions with a stride, and the kernel's
    size with them.
    """
    spread = tuple(d if s > 1 else 1 for d, s in zip(c.dilations, c.strides, strict=True))
    if max(spread) == 1:
        return w, c.kernel
    rank, channels = len(c.kernel), w.dims()[-2:]
    split = [n for k in c.kernel for n in (k, 1)]
    w = builder.op("reshape", w, shape=(*split, *channels))
    ends = [0] * (2 * rank + 2)
    ends[1 : 2 * rank : 2] = [d - 1 for d in spread]
    w = builder.op("pad", w, pads=(*[0] * (2 * rank + 2), *ends))
    w = builder.op("reshape", w, shape=(*(k * d for k, d in zip(c.kernel, spread, strict=True)), *channels))
    kernel = tuple((k - 1) * d + 1 for k, d in zip(c.kernel, spread, strict=True))
    return builder.op("slice", w, starts=(0,) * rank, ends=kernel, axes=tuple(range(rank))), kernel


def _phase_weights(
    builder: GraphBuilder, w: Value, c: _Deconv, kernel: Sequence[int], chosen: Sequence[_Phases]
) -> Value:
    """[*K, CI/g, CO] as [*taps, CI/g, g * phases * CO/g] for the chosen phases: taps reversed, missing ones
    zero.
    """
    rank, (ci, _), per_group = len(kernel), w.dims()[-2:], c.co // c.groups
    taps = [-(-k // s) for k, s in zip(kernel, c.strides, strict=True)]
    missing = [t * s - k for t, s, k in zip(taps, c.strides, kernel, strict=True)]
    if any(missing):
        w = builder.op("pad", w, pads=(*[0] * (rank + 2), *missing, 0, 0))
    split = [n for t, s in zip(taps, c.strides, strict=True) for n in (t, s)]
    w = builder.op("reshape", w, shape=(*split, ci, c.groups, per_group))
    tap_axes, phase_axes = tuple(range(0, 2 * rank, 2)), tuple(range(1, 2 * rank, 2))
    starts = [n for p in chosen for n in (0, p.first)]
    ends = [n for p in chosen for n in (p.taps, p.first + p.width)]
    w = builder.op("slice", w, starts=tuple(starts), ends=tuple(ends), axes=tuple(range(2 * rank)))
    if max(p.taps for p in chosen) > 1:
        minimum = -(2**31)
        w = builder.op(
            "slice", w, starts=(-1,) * rank, ends=(minimum,) * rank, axes=tap_axes, steps=(-1,) * rank
        )
    w = builder.op("transpose", w, perm=(*tap_axes, 2 * rank, 2 * rank + 1, *phase_axes, 2 * rank + 2))
    count = int(np.prod([p.width for p in chosen]))
    return builder.op("reshape", w, shape=(*(p.taps for p in chosen), ci, c.co * count))


def _interleave(builder: GraphBuilder, y: Value, c: _Deconv) -> Value:
    """[N, *q, groups, *phases, CO/g] as [N, *(q * stride), CO]."""
    rank = len(c.strides)
    n, *positions = y.shape[: rank + 1]
    if max(c.strides) > 1:
        pairs = [a for d in range(rank) for a in (1 + d, 2 + rank + d)]
        y = builder.op("transpose", y, perm=(0, *pairs, rank + 1, 2 * rank + 2))
    merged = [q * s for q, s in zip(positions, c.strides, strict=True)]
    return builder.op("reshape", y, shape=dims_attr((n, *merged, c.co)))


def _reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
    """Every input element adds its weighted kernel to the result."""
    x, w = inputs[0], inputs[1]
    c, dtype = _sizes(ctx), x.dtype
    wide = np.float32 if is_half(dtype.name) else dtype
    x, w = x.astype(wide, copy=False), w.astype(wide, copy=False)
    g, per_group = c.groups, c.co // c.groups
    if not c.last:
        x = np.moveaxis(x, 1, -1)
        w = np.moveaxis(w.reshape(g, -1, per_group, *c.kernel), (0, 1, 2), (-2, -3, -1))
    else:
        w = w.reshape(*c.kernel, -1, g, per_group)
    size = [const_int(d) or 0 for d in c.spatial]
    full = [
        max((n - 1) * s + (k - 1) * d + 1, b + o)
        for n, s, k, d, b, o in zip(
            x.shape[1:-1], c.strides, c.kernel, c.dilations, c.begins, size, strict=True
        )
    ]
    total = np.zeros((x.shape[0], *full, g, per_group), wide)
    grouped = x.reshape(*x.shape[:-1], g, x.shape[-1] // g)
    for tap in np.ndindex(*c.kernel):
        where = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, c.dilations, x.shape[1:-1], c.strides, strict=True)
        )
        total[(slice(None), *where)] += np.einsum("...gi,igo->...go", grouped, w[tap])
    cut = tuple(slice(b, b + o) for b, o in zip(c.begins, size, strict=True))
    result = total[(slice(None), *cut)].reshape(x.shape[0], *size, c.co)
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + inputs[2].astype(wide)
    if not c.last:
        result = np.moveaxis(result, -1, 1)
    return [np.ascontiguousarray(as_dtype(result, dtype.name))]


register(
    OpDef("conv_transpose", FusionKind.contraction, infer=_infer, decompose=_decompose, reference=_reference)
)
