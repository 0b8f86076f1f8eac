"""The part of a buffer that a block touches while some loops run and the loops outside them stand still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from tilewright.ir.bounds import Interval, affine, interval
from tilewright.ir.expr import TRUE, BinOp, Expr, Load, Var, as_expr
from tilewright.ir.itermap import step_size
from tilewright.ir.regions import local_loops
from tilewright.ir.simplify import Simplifier, prove, simplify
from tilewright.ir.stmt import Block, For, Range
from tilewright.ir.visit import const_int, free_vars, loads_of, substitute_expr, uses

ZERO = as_expr(0)


def whole(dim: Expr) -> Range:
    """All of a dimension."""
    return Range(ZERO, dim)


def touched(block: Block, indices: Sequence[Expr], inner: Sequence[For]) -> list[Range | None]:
    """Per index, the range it covers as the loops ``inner`` and those inside the block run; ``lo`` and
    ``extent`` are over the other variables.

    None where the index is not understood (then the whole dimension may be touched).
    """
    bindings: dict[Expr, Expr] = {it.var: it.binding for it in block.iters}
    extents = {loop.var: loop.extent for loop in inner} | local_loops(block.init) | local_loops(block.body)
    guarded = None if block.predicate is TRUE else Simplifier().assuming(block.predicate)
    result = []
    for index in indices:
        e = simplify(substitute_expr(index, bindings))
        found = relax(e, extents)
        result.append(found if found is None or guarded is None else _tighten(e, found, guarded))
    return result


def _tighten(e: Expr, r: Range, guarded: Simplifier) -> Range:
    """``r``, shorter where what holds when the block runs keeps ``e`` below its end."""
    extent = const_int(r.extent)
    top = guarded.interval(simplify(e - r.lo)).hi
    if extent is None or top is None or top + 1 >= extent or top < 0:
        return r
    return Range(r.lo, as_expr(top + 1))


def relax(e: Expr, inner: Mapping[Var, Expr]) -> Range | None:
    """The hull of a simplified index while each variable of ``inner`` runs over ``0 .. extent-1``."""
    if next(loads_of(e), None) is not None:
        return None
    form = affine(e, inner)
    if form is None:
        return None
    env = Simplifier()
    base: Expr = form.base
    span: Expr = ZERO  # hi - lo
    for atom, coefficient in form.terms.items():
        part = _relax_atom(atom, free_vars(atom), inner)
        step = step_size(coefficient, env)
        if part is None or step is None:
            return None
        width = part.extent - 1
        ascending = step is env.simplify(coefficient)
        base = base + (part.lo if ascending else part.lo + width) * coefficient
        span = span + width * step
    return Range(simplify(base), simplify(span + 1))


def _relax_atom(atom: Expr, variables: Set[Var], inner: Mapping[Var, Expr]) -> Range | None:
    if isinstance(atom, Var):
        return Range(ZERO, inner[atom])
    moving = variables & inner.keys()
    if isinstance(atom, BinOp) and atom.op in ("floordiv", "mod") and not uses(atom.b, moving):
        part = relax(atom.a, inner)
        divisor = atom.b
        if part is not None and prove(divisor >= 1):
            width = part.extent
            aligned = prove((part.lo % divisor).eq(0))
            if atom.op == "floordiv":
                count = (width - 1) // divisor if aligned else (width + divisor - 2) // divisor
                return Range(simplify(part.lo // divisor), simplify(count + 1))
            if aligned and prove(width <= divisor):
                return Range(ZERO, width)
            return Range(ZERO, divisor)
    return _constant_hull(atom, variables, inner)


def _constant_hull(atom: Expr, variables: Set[Var], inner: Mapping[Var, Expr]) -> Range | None:
    """The hull over all variables, inner and outer, when it is finite."""
    bounds: dict[Var, Interval] = {}
    for var in variables & inner.keys():
        extent = const_int(inner[var])
        bounds[var] = Interval(0, None if extent is None else extent - 1)
    lo, hi = interval(atom, bounds)
    return None if lo is None or hi is None else Range(as_expr(lo), as_expr(hi - lo + 1))


def union(a: Range | None, b: Range | None) -> Range | None:
    """The hull of two ranges; None when it is not known."""
    if a is None or b is None:
        return None
    if a == b:
        return a
    least, most = interval(simplify(b.lo - a.lo))
    if least is None or most is None:
        return None
    before = min(0, least)
    ends = simplify(a.extent - before), simplify(b.extent + (most - before))
    if prove(ends[1] <= ends[0]):
        extent = ends[0]
    elif prove(ends[0] <= ends[1]):
        extent = ends[1]
    else:
        return None
    return Range(simplify(a.lo + before), extent)


def clip(r: Range | None, dim: Expr) -> Range:
    """``r`` within ``0 .. dim-1``, as all of the dimension where that is no larger."""
    if r is None:
        return whole(dim)
    if prove(dim <= r.extent):
        return whole(dim)
    return r


def loads_region(block: Block, loads: Sequence[Load], inner: Sequence[For]) -> list[Range]:
    """Per dimension of the loaded buffer, the hull of ``loads`` of ``block`` as the loops ``inner`` run."""
    hull: list[Range | None] = touched(block, loads[0].indices, inner)
    for node in loads[1:]:
        if all(r is None for r in hull):
            break
        hull = [union(a, b) for a, b in zip(hull, touched(block, node.indices, inner), strict=True)]
    return [clip(r, dim) for r, dim in zip(hull, loads[0].buffer.shape, strict=True)]
