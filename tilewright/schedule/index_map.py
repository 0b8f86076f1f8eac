"""Layouts as maps of indices: ``k,n -> n//48, k, n%48``."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.errors import ScheduleError
from tilewright.ir.bounds import affine
from tilewright.ir.expr import BinOp, Const, Expr, ExprLike, Var, as_expr, ceildiv
from tilewright.ir.itermap import determined_vars
from tilewright.ir.simplify import prove, simplify
from tilewright.ir.visit import const_int, free_vars, substitute_expr, uses, walk_expr
from tilewright.schedule.arith_text import format_arith, parse_exprs


@dataclasses.dataclass(frozen=True, eq=False)
class IndexMap:
    """Where the element at indices ``inputs`` of a buffer lies in another layout: at ``outputs``, expressions
    over ``inputs``.

    Dimensions may first be filled up with zeros: a dimension with an entry in ``multiples`` to a multiple of
    it (``k:16,n -> n, k`` as text). These zeros are elements as others are and may be read.

    The expressions use ``+ * // %`` with constants or decisions. Dimensions that ``//`` and ``%`` split are
    padded up to whole tiles; distinct elements must stay distinct (:meth:`is_injective`). Two maps are equal
    when their texts are.
    """

    inputs: tuple[Var, ...]
    outputs: tuple[Expr, ...]
    multiples: tuple[Expr | None, ...] = ()

    @staticmethod
    def of(fn: Callable[..., Sequence[ExprLike]], rank: int) -> IndexMap:
        """From a function over ``rank`` variables: ``IndexMap.of(lambda k, n: (n // 48, k, n % 48), 2)``."""
        names = fn.__code__.co_varnames[: fn.__code__.co_argcount]
        labels = names if len(names) == rank else [f"i{n}" for n in range(rank)]
        variables = tuple(Var(name, lo=0) for name in labels)
        return IndexMap(variables, tuple(as_expr(e) for e in fn(*variables)))

    @staticmethod
    def tile(rank: int, dim: int, factor: int | Expr, order: Sequence[int] | None = None) -> IndexMap:
        """Split dimension ``dim`` into ``(i // factor, i % factor)``, then permute the ``rank + 1``
        dimensions by ``order``.

        ``order`` counts dimensions after the split: those before ``dim`` first, then the two parts, then the
        rest.
        """
        variables = tuple(Var(f"i{n}", lo=0) for n in range(rank))
        parts: list[Expr] = [
            *variables[:dim],
            variables[dim] // factor,
            variables[dim] % factor,
            *variables[dim + 1 :],
        ]
        return IndexMap(variables, tuple(parts[n] for n in (order if order is not None else range(rank + 1))))

    @staticmethod
    def parse(text: str, scope: Mapping[str, Expr] | None = None) -> IndexMap:
        """From text such as ``k,n -> n//48, k, n%48``; ``scope`` gives other names in it (decisions) a
        meaning. Raises ScheduleError on anything else.
        """
        left, arrow, right = text.partition("->")
        dims = [tuple(part.strip() for part in dim.partition(":")) for dim in left.split(",")]
        names = [name for name, _, _ in dims]
        if not arrow or not all(name.isidentifier() for name in names) or len(set(names)) < len(names):
            raise _bad_text(text)
        inputs = {name: Var(name, lo=0) for name in names}
        try:
            multiples = tuple(parse_exprs(m, scope or {})[0] if colon else None for _, colon, m in dims)
            outputs = parse_exprs(right, {**(scope or {}), **inputs})
        except (ValueError, IndexError):
            raise _bad_text(text) from None
        if not all(m is None or prove(m >= 1) for m in multiples):
            raise _bad_text(text)
        filled = any(m is not None for m in multiples)
        return IndexMap(tuple(inputs.values()), outputs, multiples if filled else ())

    def __str__(self) -> str:
        outputs = ", ".join(map(format_arith, self.outputs))
        return f"{','.join(map(self._input_text, self.inputs))} -> {outputs}"

    def _input_text(self, var: Var) -> str:
        multiple = self._multiple(var)
        return var.name if multiple is None else f"{var.name}:{format_arith(multiple)}"

    def _multiple(self, var: Var) -> Expr | None:
        return self.multiples[self.inputs.index(var)] if self.multiples else None

    def filled(self, dims: Sequence[ExprLike]) -> list[Expr]:
        """The shape ``dims`` after filling dimensions up to their multiples."""
        return [
            as_expr(dim) if m is None else simplify(ceildiv(as_expr(dim), m) * m)
            for dim, m in zip(dims, self.multiples or [None] * len(dims), strict=True)
        ]

    def then(self, other: IndexMap) -> IndexMap:
        """This map, which only fills up (:meth:`is_filling`), and ``other`` after it."""
        return IndexMap(other.inputs, other.outputs, self.multiples)

    def is_filling(self) -> bool:
        """Whether the map only fills dimensions up and leaves every element at its indices."""
        return bool(self.multiples) and self.outputs == self.inputs

    def __repr__(self) -> str:
        return f"IndexMap.parse({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IndexMap) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def indices(self, at: Sequence[Expr]) -> tuple[Expr, ...]:
        """The new indices of the element at the old indices ``at``."""
        mapping: dict[Expr, Expr] = dict(zip(self.inputs, at, strict=True))
        # What only changes place keeps its form: the bounds of its variables may be about to change.
        return tuple(
            mapping[e] if e in mapping else simplify(substitute_expr(e, mapping)) for e in self.outputs
        )

    def shape(self, dims: Sequence[ExprLike]) -> tuple[Expr, ...]:
        """The shape in the new layout of an array of shape ``dims``, padding included. Raises ScheduleError
        on other forms.
        """
        extents = dict(zip(self.inputs, self.filled(dims), strict=True))
        return tuple(simplify(self._extent(e, extents)) for e in self.outputs)

    def _extent(self, e: Expr, extents: Mapping[Var, Expr]) -> Expr:
        if isinstance(e, Var):
            return extents[e]
        if isinstance(e, BinOp) and e.op in ("floordiv", "mod") and self._is_factor(e.b):
            # A remainder may take any value: the layout pads to whole tiles.
            return e.b if e.op == "mod" else ceildiv(self._extent(e.a, extents), e.b)
        form = affine(simplify(e), self.inputs)
        steps = [] if form is None else [*form.terms.values(), form.base + 1]
        if form is None or e in form.terms or not all(prove(step >= 1) for step in steps):
            raise ScheduleError(
                f"layout '{self}': {e!r} is not built from the indices by + * // % with positive constants",
                hint="write for example 'k,n -> n//48, k, n%48'",
            )
        total: Expr = form.base + 1
        for atom, k in form.terms.items():
            total = total + (self._extent(atom, extents) - 1) * k
        return total

    def _is_factor(self, e: Expr) -> bool:
        """Whether ``e`` is a positive number that does not depend on the indices."""
        return not uses(e, set(self.inputs)) and prove(e >= 1)

    def is_injective(self, dims: Sequence[ExprLike]) -> bool:
        """Whether distinct elements of an array of shape ``dims`` certainly stay distinct."""
        bounded: dict[Expr, Expr] = {}
        extents: dict[Var, Expr] = {}
        for var, dim in zip(self.inputs, self.filled(dims), strict=True):
            size = const_int(dim)
            fresh = Var(var.name, lo=0, hi=None if size is None else max(size - 1, 0))
            bounded[var], extents[fresh] = fresh, dim
        wanted = {v for v in extents if v.hi != 0}
        values = [substitute_expr(e, bounded) for e in self.outputs]
        return determined_vars(values, wanted, extents=extents) == wanted

    def apply(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``array`` in the new layout, C-contiguous, padding zero."""
        sizes = [const_int(size) or 0 for size in self.filled(array.shape)]
        if tuple(sizes) != array.shape:
            array = np.pad(array, [(0, size - old) for size, old in zip(sizes, array.shape, strict=True)])
        shape = tuple(int(s.value) for s in self.shape(array.shape) if isinstance(s, Const))
        tiled = self._apply_by_tiles(array, shape)
        if tiled is not None:
            return tiled
        grid = np.indices(array.shape, sparse=True)
        position = tuple(
            np.broadcast_to(_evaluate(e, dict(zip(self.inputs, grid, strict=True))), array.shape)
            for e in self.outputs
        )
        result = np.zeros(shape, array.dtype)
        result[position] = array
        return result

    def _apply_by_tiles(
        self, array: np.ndarray[Any, Any], shape: tuple[int, ...]
    ) -> np.ndarray[Any, Any] | None:
        """:meth:`apply` by pad, reshape and transpose, when every output is an index, its quotient or its
        remainder.
        """
        pads: list[tuple[int, int]] = []
        split_shape: list[int] = []
        place: dict[tuple[Var, str], int] = {}
        for var, size in zip(self.inputs, array.shape, strict=True):
            factors = {d for e in self.outputs if (d := _divisor(e, var)) is not None}
            if len(factors) > 1:
                return None
            if not factors:
                pads.append((0, 0))
                place[var, "whole"] = len(split_shape)
                split_shape.append(size)
                continue
            factor = factors.pop()
            count = -(-size // factor)
            pads.append((0, count * factor - size))
            place[var, "floordiv"], place[var, "mod"] = len(split_shape), len(split_shape) + 1
            split_shape += [count, factor]
        order: list[int] = []
        for e in self.outputs:
            if isinstance(e, Var) and (e, "whole") in place:
                order.append(place[e, "whole"])
            elif isinstance(e, BinOp) and isinstance(e.a, Var) and (e.a, e.op) in place:
                order.append(place[e.a, e.op])
            else:
                return None
        if sorted(order) != list(range(len(split_shape))):
            return None
        padded = np.pad(array, pads) if any(p[1] for p in pads) else array
        return np.ascontiguousarray(padded.reshape(split_shape).transpose(order)).reshape(shape)


def _divisor(e: Expr, var: Var) -> int | None:
    """The constant by which ``e`` divides ``var`` or takes its remainder, else None."""
    if isinstance(e, BinOp) and e.op in ("floordiv", "mod") and e.a is var and isinstance(e.b, Const):
        return int(e.b.value)
    return None


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
}


def _evaluate(e: Expr, values: Mapping[Var, Any]) -> Any:
    results: dict[Expr, Any] = {}
    for node in walk_expr(e):
        if isinstance(node, Var):
            results[node] = values[node]
        elif isinstance(node, Const):
            results[node] = node.value
        elif isinstance(node, BinOp):
            a, b = results[node.a], results[node.b]
            results[node] = _ARITHMETIC[node.op](a, b)
    return results[e]


def _bad_text(text: str) -> ScheduleError:
    return ScheduleError(f"'{text}' is not a layout", hint="write for example 'k,n -> n//48, k, n%48'")


def unknown_names(index_map: IndexMap, allowed: Collection[Expr]) -> list[str]:
    """Variables of the map that are neither indices nor ``allowed``."""
    known = {*index_map.inputs, *allowed}
    exprs = [*index_map.outputs, *(m for m in index_map.multiples if m is not None)]
    return sorted({v.name for e in exprs for v in free_vars(e) if v not in known})
