"""Sliding windows: what convolutions and pools share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tilewright.graph.opdef import OpContext
from tilewright.ir import te
from tilewright.ir.expr import Expr, ceildiv, const
from tilewright.ir.visit import const_int
from tilewright.ops.common import Shape
from tilewright.ops.slicing import pad_constant


class Window(NamedTuple):
    """One spatial dimension of a sliding window."""

    size: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """Elements that the window spans."""
        return (self.size - 1) * self.dilation + 1


def per_dim(ctx: OpContext, name: str, count: int, default: int) -> tuple[int, ...]:
    """An attribute with one number for each spatial dimension."""
    values = ctx.attr(name, None)
    if values is None:
        return (default,) * count
    if len(values) != count:
        ctx.fail(f"'{name}' must hold {count} numbers, not {tuple(values)}")
    return tuple(int(v) for v in values)


def same_pads(size: int, w: Window, upper: bool) -> tuple[int, int]:
    """Pads that make the result ``ceil(size / stride)`` long; an odd one goes to the end (``upper``) or the
    beginning.
    """
    total = max((-(-size // w.stride) - 1) * w.stride + w.reach - size, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def windows(ctx: OpContext, kernel: Sequence[int], dims: Sequence[Expr]) -> list[Window]:
    """The window of each spatial dimension of sizes ``dims``.

    Pads come from ``pads`` (all begins, then all ends), or from ``auto_pad`` (same_upper, same_lower), which
    an importer leaves in place of numbers where they depend on a size that is not known yet.
    """
    rank = len(kernel)
    strides, dilations = per_dim(ctx, "strides", rank, 1), per_dim(ctx, "dilations", rank, 1)
    pads = per_dim(ctx, "pads", 2 * rank, 0)
    if min((*kernel, *strides, *dilations), default=1) < 1 or min(pads, default=0) < 0:
        ctx.fail(
            f"kernel {tuple(kernel)}, strides {strides} and dilations {dilations} must be positive, "
            f"pads {pads} not negative"
        )
    result = [
        Window(k, s, d, b, e)
        for k, s, d, b, e in zip(kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    ]
    auto = ctx.attr("auto_pad", None)
    if auto is None:
        return result
    for n, (dim, w) in enumerate(zip(dims, result, strict=True)):
        size = const_int(dim)
        if size is not None:
            before, after = same_pads(size, w, auto == "same_upper")
            result[n] = w._replace(before=before, after=after)
    return result


def windowed(ctx: OpContext, dim: Expr, w: Window) -> Expr:
    """How many positions a window takes in a dimension. Fails when it fits nowhere."""
    size = const_int(dim)
    if size is None and ctx.attr("auto_pad", None) is not None:
        return ceildiv(dim, w.stride)
    if size is not None and size + w.before + w.after < w.reach:
        ctx.fail(
            f"a window of {w.reach} does not fit into a dimension of {size} with pads ({w.before}, {w.after})"
        )
    return (dim + (w.before + w.after - w.reach)) // w.stride + 1


class Layout(NamedTuple):
    """Where the channel and spatial dimensions of a rank stand."""

    channel: int
    spatial: tuple[int, ...]

    @staticmethod
    def of(ctx: OpContext, rank: int) -> Layout:
        if ctx.attr("channels_last", False):
            return Layout(rank - 1, tuple(range(1, rank - 1)))
        return Layout(1, tuple(range(2, rank)))


def arrange(last: bool, batch: Expr, channel: Expr, spatial: Sequence[Expr]) -> Shape:
    """Dimensions or indices in the order of a layout."""
    return (batch, *spatial, channel) if last else (batch, channel, *spatial)


def pad_spatial(
    x: te.Tensor, layout: Layout, windows: Sequence[Window], fill: float | te.Tensor
) -> te.Tensor:
    """``x`` with the windows' borders, as a stage named "pad"; ``x`` itself when there are none. ``fill`` is
    what the borders hold: a number, or a tensor of one."""
    if not any(w.before or w.after for w in windows):
        return x
    pads: list[tuple[int, int]] = [(0, 0)] * x.ndim
    for d, w in zip(layout.spatial, windows, strict=True):
        pads[d] = (w.before, w.after)
    if isinstance(fill, te.Tensor):
        given = fill
        return pad_constant(x, pads, lambda: given[(0,) * given.ndim])
    return pad_constant(x, pads, const(fill, x.dtype))
