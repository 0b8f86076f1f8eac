"""How an index varies over the lanes of a vectorized loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tilewright.ir.expr import BinOp, Const, Expr, Var
from tilewright.ir.linear import Terms, add_terms, from_terms, known_divisor, linear_terms, scale_terms


class LaneForm(NamedTuple):
    """``terms + base + offsets[lane]``, where ``terms`` and ``base`` are the same in all lanes."""

    terms: Terms
    base: int
    offsets: tuple[int, ...]

    @property
    def is_uniform(self) -> bool:
        """The same in all lanes."""
        return len(set(self.offsets)) == 1

    @property
    def is_contiguous(self) -> bool:
        """Consecutive in consecutive lanes."""
        first = self.offsets[0]
        return all(o == first + i for i, o in enumerate(self.offsets))


class LaneForms:
    """Lane forms of int64 expressions; ``lanes`` maps each vector variable to its length."""

    def __init__(self, lanes: Mapping[Var, int]) -> None:
        self.lanes = lanes
        self._depends: dict[Expr, bool] = {}
        self._linear: dict[Expr, tuple[Terms, int]] = {}

    def depends(self, e: Expr) -> bool:
        """Whether ``e`` has a vector variable in it."""
        known = self._depends.get(e)
        if known is None:
            known = e in self.lanes if type(e) is Var else any(map(self.depends, e.children))
            self._depends[e] = known
        return known

    def linear(self, e: Expr) -> tuple[Terms, int]:
        """``linear_terms(e)``, remembered."""
        known = self._linear.get(e)
        if known is None:
            known = self._linear[e] = linear_terms(e)
        return known

    def form_of_terms(self, terms: Terms, base: int, length: int) -> LaneForm | None:
        """The lane form of a linear form, or None when lanes differ by more than constants."""
        scalar: Terms = {}
        offsets = [0] * length
        for atom, k in terms.items():
            if not self.depends(atom):
                scalar = add_terms(scalar, {atom: 1}, k)
                continue
            form = self._atom(atom, length)
            if form is None:
                return None
            scalar = add_terms(scalar, form.terms, k)
            base += form.base * k
            for i, offset in enumerate(form.offsets):
                offsets[i] += offset * k
        return LaneForm(scalar, base, tuple(offsets))

    def form(self, e: Expr, length: int) -> LaneForm | None:
        """The lane form of an int64 expression in a loop of ``length`` lanes."""
        terms, base = self.linear(e)
        return self.form_of_terms(terms, base, length)

    def _atom(self, atom: Expr, length: int) -> LaneForm | None:
        if type(atom) is Var:
            return LaneForm({}, 0, tuple(range(length)))
        if (
            type(atom) is BinOp
            and atom.op in ("floordiv", "mod")
            and type(atom.b) is Const
            and atom.b.value > 0
        ):
            inner = self.form(atom.a, length)
            if inner is None:
                return None
            return _divide(atom.op, inner, int(atom.b.value))
        return None


#: Most contiguous loads that stand for one load of scattered lanes.
MAX_WINDOWS = 4


def windows(offsets: Sequence[int]) -> tuple[int, list[int], list[tuple[int, int]]] | None:
    """Contiguous pieces that contain all ``offsets`` and nothing before the first or behind the last.

    Returns (elements of each piece, where they begin, (piece, element) of each lane), or None when more than
    MAX_WINDOWS are needed.
    """
    low = min(offsets)
    span = max(offsets) - low + 1
    size = 1 << (min(span, len(offsets)).bit_length() - 1)
    if size < 2 or span > size * MAX_WINDOWS:
        return None
    starts = [low + s for s in range(0, span - size, size)] + [low + span - size]
    lanes = []
    for offset in offsets:
        piece = min((offset - low) // size, len(starts) - 1)
        lanes.append((piece, offset - starts[piece]))
    return size, starts, lanes


def _divide(op: str, inner: LaneForm, divisor: int) -> LaneForm | None:
    """``inner // divisor`` or ``inner % divisor``, when the part that all lanes share is a multiple of the
    divisor plus a constant."""
    if any(k * known_divisor(atom) % divisor for atom, k in inner.terms.items()):
        return None
    rest = inner.base % divisor
    if op == "mod":
        return LaneForm({}, 0, tuple((rest + o) % divisor for o in inner.offsets))
    offsets = tuple((rest + o) // divisor for o in inner.offsets)
    if all(k % divisor == 0 for k in inner.terms.values()):
        terms = {atom: k // divisor for atom, k in inner.terms.items()}
        return LaneForm(terms, inner.base // divisor, offsets)
    shared = from_terms(inner.terms, inner.base - rest) // divisor
    return LaneForm({shared: 1}, 0, offsets)


def offset_terms(
    forms: LaneForms, indices: Sequence[Expr], strides: Sequence[int | Expr]
) -> tuple[Terms, int]:
    """The linear form of an element's offset: the sum of index times stride."""
    terms: Terms = {}
    base = 0
    for index, stride in zip(indices, strides, strict=True):
        if type(index) is Const:
            if isinstance(stride, int):
                base += int(index.value) * stride
            else:
                terms = add_terms(terms, {stride: 1}, int(index.value))
            continue
        inner, offset = forms.linear(index)
        if isinstance(stride, int):
            base += offset * stride
            terms = add_terms(terms, inner, stride) if terms else scale_terms(inner, stride)
        else:
            terms = add_terms(terms, {atom * stride: k for atom, k in inner.items()}, 1)
            terms = add_terms(terms, {stride: 1}, offset) if offset else terms
    return terms, base
