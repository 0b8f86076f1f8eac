"""Contractions and pools in torch.

Torch pads windows alike on both sides; a model may not. A border that differs is a separate pad in front of
the operator, as in a model written for torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tilewright.graph.opdef import OpContext, get_op
from tilewright.ir import dtype as dt
from tilewright.ops.window import Window, per_dim
from tilewright.ops.window import windows as windows_of
from tilewright.torch_peer.registry import MAKERS, Call, dims, makes, numbers, refuse

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

MAKERS["matmul"] = lambda ctx: torch.matmul


def _spatial(ctx: OpContext) -> tuple[int, ...]:
    """Sizes of the spatial dimensions. Raises NoTorchForm for what torch has no operator for."""
    shape = dims(ctx)
    if ctx.attr("channels_last", False):
        refuse("channels last")
    if not 3 <= len(shape) <= 5:
        refuse(f"{len(shape) - 2} spatial dimensions")
    return shape[2:]


def _out(ctx: OpContext, name: str) -> tuple[int, ...]:
    """Spatial sizes of the result."""
    (kind,) = get_op(name).infer(ctx)
    return numbers(kind.shape[2:])


def _border(windows: list[Window]) -> list[int]:
    """The windows' pads in the order of ``torch.nn.functional.pad``: the last dimension first."""
    return [n for w in reversed(windows) for n in (w.before, w.after)]


# ---------------------------------------------------------------------------------------------- convolutions
@makes("conv")
def _conv(ctx: OpContext) -> Call:
    sizes = _spatial(ctx)
    windows = windows_of(ctx, dims(ctx, 1)[2:], ctx.input(0).shape[2:])
    conv, border = _CONV[len(sizes)], _border(windows)
    even = all(w.before == w.after for w in windows)
    options: dict[str, Any] = {
        "stride": tuple(w.stride for w in windows),
        "dilation": tuple(w.dilation for w in windows),
        "groups": int(ctx.attr("groups", 1)),
    }
    if even:
        options["padding"] = tuple(w.before for w in windows)
        return lambda x, weight, bias=None: conv(x, weight, bias, **options)
    return lambda x, weight, bias=None: conv(F.pad(x, border), weight, bias, **options)


@makes("conv_transpose")
def _conv_transpose(ctx: OpContext) -> Call:
    """Torch cuts both ends alike and grows the end by less than a stride (or dilation); beyond that the full
    result is cut (or grown) afterwards.
    """
    rank = len(_spatial(ctx))
    conv, kernel = _CONV_TRANSPOSE[rank], dims(ctx, 1)[2:]
    strides, dilations = per_dim(ctx, "strides", rank, 1), per_dim(ctx, "dilations", rank, 1)
    pads, extra = per_dim(ctx, "pads", 2 * rank, 0), per_dim(ctx, "output_padding", rank, 0)
    options: dict[str, Any] = {"stride": strides, "dilation": dilations, "groups": int(ctx.attr("groups", 1))}
    ends = [b - a + o for b, a, o in zip(pads[:rank], pads[rank:], extra, strict=True)]
    limits = [max(s, d) for s, d in zip(strides, dilations, strict=True)]
    if min(pads) >= 0 and all(0 <= e < limit for e, limit in zip(ends, limits, strict=True)):
        options |= {"padding": pads[:rank], "output_padding": tuple(ends)}
        return lambda x, weight, bias=None: conv(x, weight, bias, **options)
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(_spatial(ctx), strides, kernel, dilations, strict=True)
    ]
    border: list[int] = []
    for size, before, out in reversed(list(zip(full, pads[:rank], _out(ctx, "conv_transpose"), strict=True))):
        border += [-before, out + before - size]

    def cut(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = F.pad(conv(x, weight, None, **options), border)
        return y if bias is None else y + bias.reshape(-1, *[1] * rank)

    return cut


# ----------------------------------------------------------------------------------------------------- pools
def _pool(ctx: OpContext) -> tuple[list[Window], bool]:
    """The windows, and whether torch's own padding does: equal on both sides, at most half the kernel."""
    _spatial(ctx)
    windows = windows_of(ctx, [int(k) for k in ctx.attr("kernel")], ctx.input(0).shape[2:])
    return windows, all(w.before == w.after and 2 * w.before <= w.size for w in windows)


def _fitted(windows: list[Window], sizes: tuple[int, ...], out: tuple[int, ...]) -> list[Window]:
    """The windows with the end's pad (negative: what is cut) that gives exactly ``out`` positions."""
    return [
        w._replace(after=(positions - 1) * w.stride + w.reach - (size + w.before))
        for w, size, positions in zip(windows, sizes, out, strict=True)
    ]


@makes("max_pool")
def _max_pool(ctx: OpContext) -> Call:
    windows, native = _pool(ctx)
    pool = _MAX_POOL[len(windows)]
    options: dict[str, Any] = {
        "kernel_size": tuple(w.size for w in windows),
        "stride": tuple(w.stride for w in windows),
        "dilation": tuple(w.dilation for w in windows),
    }
    if native:
        options["padding"] = tuple(w.before for w in windows)
        options["ceil_mode"] = bool(ctx.attr("ceil_mode", False))
        return lambda x: pool(x, **options)
    border = _border(_fitted(windows, _spatial(ctx), _out(ctx, "max_pool")))
    dtype = ctx.input(0).dtype
    lowest = -float("inf") if dt.is_float(dtype) else dt.int_range(dtype)[0]
    return lambda x: pool(F.pad(x, border, value=lowest), **options)


@makes("avg_pool")
def _avg_pool(ctx: OpContext) -> Call:
    windows, native = _pool(ctx)
    if any(w.dilation > 1 for w in windows):
        refuse("average pooling with dilation")
    pool, count_pads = _AVG_POOL[len(windows)], bool(ctx.attr("count_include_pad", False))
    options: dict[str, Any] = {
        "kernel_size": tuple(w.size for w in windows),
        "stride": tuple(w.stride for w in windows),
    }
    if native:
        options |= {
            "padding": tuple(w.before for w in windows),
            "ceil_mode": bool(ctx.attr("ceil_mode", False)),
            "count_include_pad": count_pads,
        }
        return lambda x: pool(x, **options)
    sizes = _spatial(ctx)
    fitted = _fitted(windows, sizes, _out(ctx, "avg_pool"))
    # The share of each window that counts: the data, and the model's own border where it is counted.
    ones = np.ones(sizes, np.float32)
    if count_pads:
        ones = np.pad(ones, [(w.before, w.after) for w in windows], constant_values=1)
        rest = [
            w._replace(before=0, after=f.after - w.after) for w, f in zip(windows, fitted, strict=True)
        ]
    else:
        rest = fitted
    share = pool(F.pad(torch.from_numpy(ones)[None, None], _border(rest)), **options)
    border = _border(fitted)
    return lambda x: pool(F.pad(x, border), **options) / share
