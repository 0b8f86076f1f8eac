"""Resampling of dimensions whose size is known at run time only."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from tilewright.graph.opdef import OpContext
from tilewright.ir.expr import Expr, as_expr, maximum, select
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.visit import const_int


class OpenAxis(NamedTuple):
    """One resampled dimension as :class:`tilewright.ops.resize.Axis` describes it, over expressions."""

    dim: int
    size: Expr
    out: Expr
    slope: Expr
    offset: Expr
    unit: Expr

    @property
    def step(self) -> tuple[int, int, int] | None:
        """Slope, offset and unit as numbers, when they are."""
        slope, offset, unit = (const_int(e) for e in (self.slope, self.offset, self.unit))
        return None if slope is None or offset is None or unit is None else (slope, offset, unit)


def open_axis(
    ctx: OpContext, dim: int, size: Expr, out: Expr, scale: Fraction | None, kind: str
) -> OpenAxis | None:
    """How dimension ``dim`` is resampled by ``scale`` (None: by ``out / size``); None when it does not
    change. Fails for coordinates that hang on the sizes in another way."""
    size, out = simplify(size), simplify(out)
    if size is out and scale in (None, 1) and kind != "tf_crop_and_resize":
        return None
    if kind == "tf_crop_and_resize" or (kind == "half_pixel_symmetric" and scale is not None):
        ctx.fail(f"resize with coordinates '{kind}' needs known sizes when the model is compiled")
    if kind == "align_corners":
        return OpenAxis(dim, size, out, simplify(size - 1), as_expr(0), simplify(maximum(out - 1, 1)))
    read, written = _ratio(size, out, scale)
    if kind == "asymmetric":
        return OpenAxis(dim, size, out, read, as_expr(0), written)
    slope, offset = read * 2, read - written
    if kind == "pytorch_half_pixel" and not prove(out > 1):
        slope, offset = (select(out.eq(1), as_expr(0), e) for e in (slope, offset))
    return OpenAxis(dim, size, out, simplify(slope), simplify(offset), simplify(written * 2))


def _ratio(size: Expr, out: Expr, scale: Fraction | None) -> tuple[Expr, Expr]:
    """``1 / scale`` as a pair of integers, numbers where they can be."""
    if scale is not None:
        return as_expr(scale.denominator), as_expr(scale.numerator)
    for a, b in ((size, out), (out, size)):
        times = const_int(simplify(b // a))
        if times is not None and simplify(a * times) is b:
            return (as_expr(1), as_expr(times)) if a is size else (as_expr(times), as_expr(1))
    return size, out
