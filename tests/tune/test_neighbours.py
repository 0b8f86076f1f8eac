"""Points carried over from other shapes: rescaled, valid, nearest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tune.spaces import TARGET, product, space
from tests.tune.test_history import record
from tilewright.records import Workload, open_store
from tilewright.tune import History, SearchSpace
from tilewright.tune.neighbours import distance, nearest, repaired, rescaled, structure_of, transfer

OTHER = SearchSpace(Workload.of(product(48, 320, 64)), TARGET)
FAR = SearchSpace(Workload.of(product(1000, 30, 7)), TARGET)


def test_shapes_of_one_function_have_one_structure() -> None:
    texts = [s.workload.text for s in (space("product"), OTHER, FAR)]
    structures, extents = zip(*map(structure_of, texts), strict=True)
    assert structures[0] == structures[1] == structures[2]
    assert structure_of(space("softmax").workload.text)[0] != structures[0]
    assert distance(extents[0], extents[0]) == 0
    assert 0 < distance(extents[0], extents[1]) < distance(extents[0], extents[2])


def test_a_point_of_the_same_workload_is_itself() -> None:
    here = space("product")
    for point in here.sample(20, np.random.default_rng(0)):
        if here.widths[point.sketch]:
            assert transfer(here, here.sketches[point.sketch].name, here.trace(point)) == point


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), forth=st.booleans())
def test_transferred_points_are_valid_and_near(seed: int, forth: bool) -> None:
    a, b = (space("product"), FAR) if forth else (FAR, space("product"))
    (point,) = a.sample(1, np.random.default_rng(seed))
    moved = transfer(b, a.sketches[point.sketch].name, a.trace(point))
    if moved is None:
        columns = set(a.sketches[point.sketch].columns)
        assert not columns or all(set(s.columns) != columns for s in b.sketches)
        return
    assert b.valid([moved]).all()
    assert set(b.sketches[moved.sketch].columns) == set(a.sketches[point.sketch].columns)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_values_are_rescaled_into_the_domains(data: st.DataObject) -> None:
    domain = st.lists(st.integers(1, 4096), min_size=1, max_size=12, unique=True).map(sorted)
    theirs, ours = data.draw(domain), data.draw(domain)
    value = data.draw(st.sampled_from(theirs))
    (got,) = rescaled(("x",), (np.array(ours, np.int64),), {"x": value}, {"x": max(theirs)})
    assert got in ours
    if value == max(theirs):
        assert got == max(ours)
    else:
        assert abs(np.log2(got / value)) <= min(abs(np.log2(x / value)) for x in ours) + 1e-9


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_are_repaired_to_valid_ones(data: st.DataObject) -> None:
    sketch = data.draw(st.sampled_from([s for s in space("convolution").sketches if s.columns]))
    row = np.array([data.draw(st.sampled_from(d.tolist())) for d in sketch.domains], np.int64)
    fixed = repaired(sketch, row)
    assert sketch.valid(fixed[None]).all()
    assert (fixed == repaired(sketch, row)).all()
    if sketch.valid(row[None])[0]:
        assert (fixed == row).all()


def test_the_fastest_of_the_nearest_shapes_come_first(tmp_path: Path) -> None:
    here = space("product")
    near, far = (
        [p for p in s.sample(60, np.random.default_rng(0)) if s.sketches[p.sketch].name == "default"]
        for s in (OTHER, FAR)
    )
    foreign = space("softmax")
    with open_store(tmp_path / "records.sqlite") as store:
        assert nearest(here, store, 1) == ()
        store.add(
            record(OTHER, near[0], 2e-3),
            record(OTHER, near[1], 1e-3),
            record(FAR, far[0], 1e-6),
            record(foreign, foreign.default, 1e-6),
            record(OTHER, near[2], None, status="crash"),
        )
        found = nearest(here, store, 1)
        history = History.of(here, store, 1)

    def moved(there: SearchSpace, point: object) -> object:
        return transfer(here, "default", there.trace(point))  # type: ignore[arg-type]

    expected = [moved(OTHER, near[1]), moved(FAR, far[0]), moved(OTHER, near[0])]
    assert list(found) == list(dict.fromkeys(expected))
    assert history.transferred == found
    assert len(history) == 0


def test_nothing_is_carried_over_from_other_functions() -> None:
    foreign = space("softmax")
    drawn = foreign.sample(50, np.random.default_rng(0))
    point = next(p for p in drawn if foreign.sketches[p.sketch].name == "lanes_each")
    assert transfer(space("product"), "lanes_each", foreign.trace(point)) is None
