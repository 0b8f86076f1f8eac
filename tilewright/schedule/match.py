"""Whether a loop nest is what a tensor intrinsic computes, by structure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from tilewright.errors import IntrinsicError
from tilewright.ir.expr import BinOp, Expr, Load, Var, as_expr
from tilewright.ir.linear import linear
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Buffer, For, Range, Region, Store, TensorIntrinsic
from tilewright.ir.tensor_intrinsics import check_operands, parameters, semantic_nest
from tilewright.ir.visit import const_int, free_vars

#: Operators whose operands may be exchanged without changing a result.
_COMMUTATIVE = frozenset(["add", "mul", "min", "max", "and", "or", "xor"])


class Mismatch(Exception):
    """What differs, for people. ``progress`` counts what did not, to choose the most telling of several."""

    def __init__(self, reason: str, progress: int, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.progress = progress
        self.hint = hint


@dataclasses.dataclass(frozen=True)
class Pair:
    """An access of the intrinsic and what stands in its place in the program."""

    param: Buffer
    wanted: tuple[Expr, ...]
    buffer: Buffer
    indices: tuple[Expr, ...]


def match(intrinsic: TensorIntrinsic, loops: Sequence[For], store: Store) -> tuple[Region, ...]:
    """The operands with which ``intrinsic`` does what ``store`` does under ``loops``.

    Equal means: the same expression over the same types, every loop of one standing for one of the other of
    the same extent, every access moving alike. Operands of commutative operators may be exchanged; sums of
    floats may be taken in another order. Raises Mismatch.
    """
    wanted_loops, wanted = semantic_nest(intrinsic)
    own = Pair(wanted.buffer, wanted.indices, store.buffer, store.indices)
    best: Mismatch | None = None
    for pairing in pairings(wanted.value, store.value):
        try:
            if isinstance(pairing, Mismatch):
                raise pairing
            return _operands(intrinsic, wanted_loops, loops, [own, *pairing])
        except Mismatch as mismatch:
            if best is None or mismatch.progress > best.progress:
                best = mismatch
    assert best is not None
    raise best


def pairings(wanted: Expr, found: Expr, depth: int = 0) -> Iterator[list[Pair] | Mismatch]:
    """The ways in which the loads of one expression may stand for those of the other."""
    if isinstance(wanted, Load):
        if isinstance(found, Load):
            yield [Pair(wanted.buffer, wanted.indices, found.buffer, found.indices)]
        else:
            reason = f"operand '{wanted.buffer.name}' is read from memory; the program computes {found!r}"
            yield Mismatch(reason, depth, "compute it in a block of its own (do not inline it)")
        return
    if wanted is found:
        yield []
        return
    if type(wanted) is not type(found) or _label(wanted) != _label(found):
        yield Mismatch(f"the program computes {found!r} where the intrinsic computes {wanted!r}", depth)
        return
    orders = [found.children]
    if isinstance(wanted, BinOp) and wanted.op in _COMMUTATIVE:
        orders.append((found.children[1], found.children[0]))
    if not wanted.children:
        yield Mismatch(f"the program has {found!r} where the intrinsic has {wanted!r}", depth)
    for order in orders:
        parts = [pairings(a, b, depth + 1) for a, b in zip(wanted.children, order, strict=True)]
        for combination in itertools.product(*parts):
            failures = [c for c in combination if isinstance(c, Mismatch)]
            if failures:
                yield max(failures, key=lambda m: m.progress)
            else:
                yield [pair for c in combination if not isinstance(c, Mismatch) for pair in c]


def _label(e: Expr) -> tuple[str, str, str]:
    return e.dtype, getattr(e, "op", ""), getattr(e, "name", "")


def _operands(
    intrinsic: TensorIntrinsic, wanted_loops: Sequence[For], loops: Sequence[For], pairs: Sequence[Pair]
) -> tuple[Region, ...]:
    inner = {s.var: s for s in loops if const_int(s.extent) != 1}
    outer = {s.var: s for s in wanted_loops if const_int(s.extent) != 1}
    of: dict[Var, Var] = {}
    regions: dict[Buffer, Region] = {}
    progress = 100
    for pair in pairs:
        progress += 10
        region = _operand(intrinsic, pair, outer, inner, of, progress)
        if regions.setdefault(pair.param, region) != region:
            raise Mismatch(
                f"operand '{pair.param.name}' would be both {_shown(regions[pair.param])} and "
                f"{_shown(region)}",
                progress,
            )
    for var, loop in inner.items():
        if var not in of.values():
            raise Mismatch(
                f"no loop of the intrinsic corresponds to loop '{var.name}' of extent {loop.extent!r}",
                progress,
                "leave it outside",
            )
    operands = tuple(regions[p] for p in parameters(intrinsic))
    if len({r.buffer for r in operands}) < len(operands):
        raise Mismatch("two operands are the same buffer", progress)
    try:
        check_operands(intrinsic, operands)
    except IntrinsicError as error:
        raise Mismatch(error.message, progress + 50, error.hint) from error
    return operands


def _operand(
    intrinsic: TensorIntrinsic,
    pair: Pair,
    outer: Mapping[Var, For],
    inner: Mapping[Var, For],
    of: dict[Var, Var],
    progress: int,
) -> Region:
    """The part of a buffer that one access runs through; notes in ``of`` which loops correspond."""
    what = f"operand '{pair.param.name}'"
    if pair.buffer.dtype != pair.param.dtype:
        raise Mismatch(f"{what} is {pair.param.dtype}, '{pair.buffer.name}' is {pair.buffer.dtype}", progress)
    ranges: list[Range] = []
    moved: list[Var] = []
    for dim, index in enumerate(pair.indices):
        lo, var = _run(pair, dim, simplify(index), inner, what, progress)
        if var is not None:
            moved.append(var)
        ranges.append(Range(lo, as_expr(1) if var is None else inner[var].extent))
    wanted = [i for i in pair.wanted if i in outer]
    for expected, found in itertools.zip_longest(wanted, moved):
        if expected is None:
            raise Mismatch(
                f"{what} does not move with a loop like '{found.name}' of extent {inner[found].extent!r}; "
                f"'{pair.buffer.name}' does",
                progress,
            )
        assert isinstance(expected, Var)
        size = outer[expected].extent
        if found is None:
            raise Mismatch(
                f"{what} is read along a loop of extent {size!r}; no loop inside moves "
                f"'{pair.buffer.name}' that way",
                progress,
            )
        if of.setdefault(expected, found) is not found:
            raise Mismatch(
                f"{what} moves with loop '{of[expected].name}', '{pair.buffer.name}' with '{found.name}' "
                "there",
                progress + 1,
                "lay the buffer out in the order of the intrinsic's dimensions (transform_layout)",
            )
        if const_int(inner[found].extent) != const_int(size):
            raise Mismatch(
                f"loop '{found.name}' has extent {inner[found].extent!r} where {size!r} is wanted",
                progress + 2,
                f"split it by {size!r}",
            )
        if list(of.values()).count(found) > 1:
            raise Mismatch(f"loop '{found.name}' would stand for two loops of the intrinsic", progress)
    return Region(pair.buffer, tuple(ranges))


def _run(
    pair: Pair, dim: int, index: Expr, inner: Mapping[Var, For], what: str, progress: int
) -> tuple[Expr, Var | None]:
    """An index as a base plus at most one loop variable of the nest."""
    if not free_vars(index) & inner.keys():
        return index, None
    form = linear(index)
    moving = {} if form is None else {a: k for a, k in form.terms.items() if free_vars(a) & inner.keys()}
    if form is None or len(moving) != 1:
        raise _not_a_run(pair, dim, index, what, progress)
    ((atom, k),) = moving.items()
    if not isinstance(atom, Var) or k != 1:
        raise _not_a_run(pair, dim, index, what, progress)
    return simplify(index - atom), atom


def _not_a_run(pair: Pair, dim: int, index: Expr, what: str, progress: int) -> Mismatch:
    return Mismatch(
        f"{what} is not contiguous along dimension {dim} of '{pair.buffer.name}': its index is {index!r}",
        progress,
        "transform_layout can give each loop of the intrinsic a dimension of its own",
    )


def _shown(region: Region) -> str:
    parts = (
        repr(r.lo) if const_int(r.extent) == 1 else f"span({r.lo!r}, {r.extent!r})" for r in region.ranges
    )
    return f"{region.buffer.name}[{', '.join(parts)}]"
