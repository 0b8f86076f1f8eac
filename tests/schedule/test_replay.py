from __future__ import annotations

import json
from typing import Any

import pytest

from tests.schedule.programs import matmul
from tilewright.errors import ScheduleError
from tilewright.ir.printer import to_text
from tilewright.schedule import Schedule, Trace, dependence
from tilewright.schedule.replay import PATIENCE, Replay, structure_of
from tilewright.schedule.space import sketches
from tilewright.target import Target

HOST = Target.parse("x86-64-v4")


def test_what_is_proved_once_for_all_values_gives_the_same_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    func = matmul(64, 96, 48)
    sketch = sketches(func, HOST)[0]
    traces = [sketch.bind(row).trace for row in sketch.sample(PATIENCE + 4, seed=0)]
    assert len({structure_of(t) for t in traces}) == 1
    replay = Replay(func)
    asked: list[bool] = []
    covers = dependence.covers

    def counted(*arguments: Any) -> bool:
        asked.append(True)
        return covers(*arguments)

    monkeypatch.setattr(dependence, "covers", counted)
    proved = []
    for trace in traces:
        asked.clear()
        schedule = replay.apply(trace)
        proved.append(bool(asked))
        assert to_text(schedule.func) == to_text(trace.apply(func).func)
        assert schedule.trace == trace
    # One by one at first, then all at once, then no more.
    assert proved == [number <= PATIENCE for number in range(len(traces))]


def test_a_structure_that_is_not_legal_is_refused_each_time() -> None:
    func = matmul(16, 32, 24)
    sch = Schedule(func, symbolic=True)
    block = sch.get_block("C")
    _, j, _ = sch.get_loops(block)
    size = sch.decide("size", [2, 4, 8])
    sch.split(j, [None, size])
    rows = json.loads(sch.trace.to_json())
    names = {i.name: i for i in sch.trace.instructions}
    reduced = names["get_loops"].outputs[2]
    rows["instructions"].append(["parallel", [reduced], {}, []])
    trace = Trace.from_json(json.dumps(rows))
    replay = Replay(func)
    for value in (2, 4, 8) * (PATIENCE + 2):
        with pytest.raises(ScheduleError, match="drives the reduction"):
            replay.apply(trace.bind({"size": value}))


def test_a_value_outside_of_its_domain_is_refused_after_the_proof() -> None:
    func = matmul(16, 32, 24)
    sketch = sketches(func, HOST)[0]
    trace = sketch.bind(sketch.default[0]).trace
    replay = Replay(func)
    for _ in range(PATIENCE + 2):
        replay.apply(trace)
    with pytest.raises(ScheduleError, match="is not in the domain"):
        replay.apply(trace.bind({sketch.columns[0]: 12345}))
