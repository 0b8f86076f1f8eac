"""The default schedule is no lonely point: it is in a sketch with decisions, and much is close to it."""

from __future__ import annotations

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from benchmarks.kernels import Kernel
from tests.tune.spaces import TARGET, product, space
from tilewright.ir.printer import canonical_text
from tilewright.ir.stmt import PrimFunc
from tilewright.lower import lower
from tilewright.records.record import Workload
from tilewright.schedule.default import default_schedule
from tilewright.target import Target
from tilewright.tune import SearchSpace

#: Combinations that there are at least in the sketch of the default schedule, and valid points close to it.
COMBINATIONS = 1000
CLOSE = 10

KERNELS = [
    ("conv", (3, 64, 224, 7, 2)),
    ("conv", (64, 64, 56, 3, 1)),
    ("conv", (64, 256, 56, 1, 1)),
    ("conv", (1024, 256, 14, 1, 1)),
    ("conv", (512, 512, 7, 3, 1)),
    ("conv", (5, 20, 9, 3, 2)),
    ("dense", (128, 768, 768)),
    ("dense", (128, 3072, 768)),
    ("dense", (128, 768, 3072)),
    ("dense", (7, 1001, 333)),
    ("depthwise", (144, 56, 1)),
    ("depthwise", (576, 14, 2)),
    ("softmax", (1536, 128)),
]


def check(func: PrimFunc, target: Target, combinations: int, close: int) -> None:
    """That the space of ``func`` has the default schedule's program in a sketch with so many combinations."""
    here = SearchSpace(Workload.of(func), target)
    sketch = here.sketches[here.default.sketch]
    assert sketch.size > combinations
    assert len(here.near(here.default)) >= close
    ours, wanted = here.bind(here.default).func, default_schedule(here.func, target).func
    assert canonical_text(lower(ours)) == canonical_text(lower(wanted))


@pytest.mark.parametrize(("kind", "sizes"), KERNELS)
@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3"])
def test_the_default_schedule_of_kernels_is_amid_a_sketch(
    kind: str, sizes: tuple[int, ...], target: str
) -> None:
    check(Kernel("", kind, sizes).func(), Target.parse(target), COMBINATIONS, CLOSE)


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rows=st.integers(2, 300), columns=st.integers(32, 4000), depth=st.integers(8, 4000))
@example(2, 32, 8)  # one tile is as wide as the product: nothing to lay out
@example(300, 40, 700)
def test_the_default_schedule_of_any_product_is_amid_a_sketch(rows: int, columns: int, depth: int) -> None:
    check(product(rows, columns, depth), TARGET, 100, 5)


def test_points_close_to_one_differ_by_a_step_or_two() -> None:
    here = space("product")
    sketch = here.sketches[here.default.sketch]
    places = [d.tolist() for d in sketch.domains]
    found = here.near(here.default)
    assert here.valid(found).all()
    assert len(found) == len(found.distinct())
    for point in found:
        pairs = zip(places, point.row, here.default.row, strict=True)
        moved = sorted(abs(d.index(a) - d.index(b)) for d, a, b in pairs if a != b)
        assert moved in ([1], [2], [1, 1])


def test_nothing_is_close_to_a_point_without_decisions() -> None:
    here = space("reflection")
    alone = [n for n, width in enumerate(here.widths) if not width]
    for n in alone:
        assert here.sketches[n].near([]).shape == (0, 0)
