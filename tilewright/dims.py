"""Dimensions whose size a run decides: how users declare them, and what becomes of a declaration."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from tilewright.errors import OptionError, ShapeError
from tilewright.graph.graph import TensorType
from tilewright.ir.expr import Const, Var
from tilewright.ir.sizes import dimension

#: Variants that points may ask for.
MAX_VARIANTS = 16


@dataclasses.dataclass(frozen=True)
class Dim:
    """A range of sizes that one compiled model takes.

    Attributes:
        lo, hi: the smallest and the largest size.
        multiple_of: sizes are multiples of this; knowing that saves work at edges.
        typical: the size for which schedules are chosen; by default the largest, up to 1024.
        points: sizes that get kernels of their own, faster than those for all sizes.

    Raises OptionError for an empty range, and for a typical size or a point outside of it.
    """

    lo: int
    hi: int
    multiple_of: int = 1
    typical: int | None = None
    points: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shown = f"{self.lo} to {self.hi}"
        if not 0 <= self.lo <= self.hi or self.multiple_of < 1:
            raise OptionError(f"a dimension cannot be {shown} in multiples of {self.multiple_of}")
        if self.hi // self.multiple_of < -(-self.lo // self.multiple_of):
            raise OptionError(f"no size from {shown} is a multiple of {self.multiple_of}")
        for size in (*self.points, *([] if self.typical is None else [self.typical])):
            if not self.lo <= size <= self.hi or size % self.multiple_of:
                raise OptionError(f"{size} is not among the sizes {shown} in multiples of {self.multiple_of}")

    @staticmethod
    def of(given: DimLike) -> Dim:
        """A Dim from a pair (lo, hi), or as it is. Raises OptionError for anything else."""
        if isinstance(given, Dim):
            return given
        pair = tuple(given)
        if len(pair) != 2 or not all(isinstance(n, int) for n in pair):
            raise OptionError(
                f"{given!r} is not a range of sizes",
                hint="give (smallest, largest); memory is planned for the largest, so there must be one",
            )
        return Dim(*pair)

    def variable(self, name: str) -> Var:
        """The dimension as the compiler sees it."""
        step = self.multiple_of
        lo, hi = -(-self.lo // step) * step, self.hi // step * step
        return dimension(name, lo, hi, step, self.typical)


DimLike: TypeAlias = Dim | tuple[int, int] | list[int]
#: One size of a shape: a number, a range, a name, or None for what the model leaves open.
Size: TypeAlias = int | str | DimLike | None
#: Sizes by input name.
Shapes: TypeAlias = Mapping[str, Sequence[Size]]
#: Numbers and ranges by name of a dimension.
Dims: TypeAlias = Mapping[str, int | DimLike]


@dataclasses.dataclass(frozen=True)
class Declared:
    """What the user has said of a model's dimensions.

    Attributes:
        fixed: shapes of inputs; None where a size is not fixed here.
        sizes: for the model's own names of dimensions: a number, or a variable with a range.
        dims: the ranges by the user's names.
    """

    fixed: Mapping[str, tuple[int | None, ...]]
    sizes: Mapping[str, int | Var]
    dims: Mapping[str, Dim]

    def bind(self, binding: Mapping[str, int]) -> dict[str, int | Var]:
        """The sizes, with some dimensions that have ranges (by the user's names) and others (by the model's)
        fixed."""
        renamed = {
            name: binding[size.name] if isinstance(size, Var) and size.name in binding else size
            for name, size in self.sizes.items()
        }
        return {**renamed, **{n: s for n, s in binding.items() if n not in self.dims}}

    def points(self) -> list[dict[str, int]]:
        """The bindings of the variants for certain sizes, the most special ones last. Raises OptionError when
        there are too many."""
        choices = [[None, *dict.fromkeys(d.points)] for d in self.dims.values()]
        found = [
            {name: size for name, size in zip(self.dims, sizes, strict=True) if size is not None}
            for sizes in itertools.product(*choices)
        ]
        if len(found) > MAX_VARIANTS:
            raise OptionError(
                f"the points of {', '.join(self.dims)} ask for {len(found)} variants; {MAX_VARIANTS} are "
                "possible",
                hint="give fewer points",
            )
        return sorted(found, key=len)


def declare(
    inputs: Iterable[tuple[str, TensorType]], shapes: Shapes | None, dims: Dims | None
) -> Declared:
    """Understand the user's ``shapes`` and ``dims`` for a model with such inputs.

    Raises:
        ShapeError: a range for a size that the model fixes, contradicting declarations, or a dimension that
            the model does not have.
        OptionError: something that is no range.
    """
    shapes, given = dict(shapes or {}), dict(dims or {})
    names: dict[str, str] = {}
    ranges: dict[str, Dim] = {}
    fixed: dict[str, tuple[int | None, ...]] = {
        name: tuple(d if isinstance(d, int) else None for d in shape) for name, shape in shapes.items()
    }
    known: dict[str, Var] = {}
    for input_name, kind in inputs:
        known |= {d.name: d for d in kind.shape if isinstance(d, Var)}
        for axis, (own, size) in enumerate(zip(kind.shape, shapes.get(input_name, ()), strict=False)):
            if size is None or isinstance(size, int):
                continue
            what = f"dimension {axis} of input '{input_name}'"
            if not isinstance(own, Var):
                if isinstance(own, Const) and isinstance(size, str) and size == str(own.value):
                    continue
                raise ShapeError(f"{what} is {own!r} in the model and cannot be open")
            name = size if isinstance(size, str) else own.name
            if names.setdefault(own.name, name) != name:
                raise ShapeError(f"{what} is called '{name}', and '{names[own.name]}' elsewhere")
            if not isinstance(size, str):
                _add(ranges, name, Dim.of(size), what)
    sizes: dict[str, int | Var] = {}
    for name, size in given.items():
        if name not in known and name not in names.values():
            listed = ", ".join(dict.fromkeys([*names.values(), *known])) or "none"
            raise ShapeError(f"the model has no dimension '{name}'", hint=f"its open dimensions: {listed}")
        if not isinstance(size, int):
            _add(ranges, name, Dim.of(size), f"dimension '{name}'")
    variables: dict[str, Var] = {}
    for own_name in known:
        name = names.get(own_name, own_name)
        number = given.get(name)
        if isinstance(number, int):
            sizes[own_name] = number
        elif name in ranges:
            sizes[own_name] = variables.setdefault(name, ranges[name].variable(name))
    return Declared(fixed, sizes, {name: ranges[name] for name in variables})


def _add(ranges: dict[str, Dim], name: str, dim: Dim, what: str) -> None:
    if ranges.setdefault(name, dim) != dim:
        raise ShapeError(f"{what} is given two ranges: {ranges[name]} and {dim}")
