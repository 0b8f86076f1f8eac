"""Looks at several candidates in one child: who is blamed, who is not, and how long each is looked at."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Iterator

import pytest

from tests.measure.test_runner import HARM, TARGET, M, N, candidate, native, task
from tests.measure.test_timing import Machine
from tilewright.measure import Limits, Look, NoiseWatch, Program, Runner
from tilewright.measure.look import Looker
from tilewright.records import Sample

QUICK = Look(short_seconds=1e-5, long_seconds=2e-5, turns=1)
#: Turns of a candidate as fast as the best one.
ALL = 1 + Look().turns


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner(TARGET, 1, Limits(seconds=0.5)) as made:
        made.set_task(task())
        yield made


@pytest.fixture(scope="module")
def good() -> list[Program]:
    return [candidate(factor, packed) for factor in (1, 2, 4) for packed in (False, True)]


#: Bad candidates and what is said of them, besides those that do harm when they run alone.
BAD: dict[str, tuple[Callable[[], Program], tuple[str, ...], str]] = {
    **{
        name: (lambda body=body: native(body), (status,), error)
        for name, (body, status, error) in HARM.items()
    },
    "takes all memory": (lambda: dataclasses.replace(candidate(), ws_shared=1 << 44), ("out_of_memory",), ""),
    "is no code": (lambda: Program(b"not an object", "f", 0, 0, {}), ("refused", "crash"), ""),
    "has no such layout": (
        lambda: dataclasses.replace(candidate(), layouts={"b": "k,n -> nonsense"}),
        ("refused", "crash"),
        "",
    ),
    "writes past an output": (
        lambda: native(
            f"  call void @llvm.memset.p0.i64(ptr %c, i8 0, i64 {4 * M * N + 8}, i1 false)\n  ret i32 0"
        ),
        ("wrong_result",),
        "",
    ),
    "writes far away": (
        lambda: native(
            "  %far = getelementptr i8, ptr %c, i64 1099511627776\n  store i8 1, ptr %far\n  ret i32 0"
        ),
        ("crash",),
        "SIGSEGV",
    ),
}


@pytest.mark.parametrize("seed", range(3))
def test_each_is_blamed_for_what_it_does(runner: Runner, good: list[Program], seed: int) -> None:
    names: list[str | None] = [*BAD, *(None for _ in range(12))]
    random.Random(seed).shuffle(names)
    programs = [good[n % len(good)] if name is None else BAD[name][0]() for n, name in enumerate(names)]
    found = dict(runner.look(programs, good[0], QUICK))
    assert sorted(found) == list(range(len(programs)))
    for n, name in enumerate(names):
        statuses, error = (("ok",), "") if name is None else BAD[name][1:]
        assert found[n].status in statuses, (name, found[n].error)
        assert error in found[n].error
        assert bool(found[n].samples[0]) == (name is None)


def test_damage_that_shows_later_is_not_held_against_the_next(runner: Runner, good: list[Program]) -> None:
    """A right candidate after which another one crashes in the same child, but not alone: this one fills its
    output from ``b``, whose copies the first has spoilt after it was checked."""
    spoils = native(
        "  %n = load i64, ptr %work\n  %m = add i64 %n, 1\n  store i64 %m, ptr %work\n"
        "  %b.slot = getelementptr ptr, ptr %args, i64 1\n  %b = load ptr, ptr %b.slot\n"
        f"  call void @llvm.memcpy.p0.p0.i64(ptr %c, ptr %b, i64 {4 * M * N}, i1 false)\n"
        "  %late = icmp ugt i64 %m, 2\n  br i1 %late, label %spoil, label %end\n"
        "spoil:\n  store i8 99, ptr %b\n  br label %end\nend:\n  ret i32 0"
    )
    copies = native(
        "  %b.slot = getelementptr ptr, ptr %args, i64 1\n  %b = load ptr, ptr %b.slot\n"
        f"  call void @llvm.memcpy.p0.p0.i64(ptr %c, ptr %b, i64 {4 * M * N}, i1 false)\n  ret i32 0"
    )
    own = task()
    params = (own.params[0], dataclasses.replace(own.params[1], shape=(M, N)), own.params[2])
    runner.set_task(
        dataclasses.replace(own, params=params, inputs=(own.inputs[0], own.expected[0]), cold=frozenset())
    )
    try:
        found = dict(runner.look([dataclasses.replace(spoils, ws_shared=64), copies, copies], copies, QUICK))
    finally:
        runner.set_task(own)
    assert [found[n].status for n in range(3)] == ["ok"] * 3


def test_samples_have_the_reference_beside_them(runner: Runner, good: list[Program]) -> None:
    for _, outcome in runner.look(good, good[0], QUICK):
        assert outcome.seconds is not None
        assert all(s.reference is not None and s.reference > 0 for s in outcome.samples[0])


def test_a_look_that_is_given_up(runner: Runner, good: list[Program]) -> None:
    for _ in runner.look(good, good[0], QUICK):
        break
    assert len(dict(runner.look(good, good[0], QUICK))) == len(good)


def look(
    machine: Machine, times: list[float], reference: float = 1e-3
) -> list[tuple[float, tuple[Sample, ...], bool]]:
    """How long each took after it was checked, its samples, and whether it was disturbed."""
    looker = Looker(machine.program(reference), Look(), clock=machine.clock)
    found = []
    for seconds in times:
        program, calls = machine.program(seconds), []
        for _ in range(1 if seconds > Look().hopeless * looker.beside else 2):
            begin = machine.now
            program()
            calls.append(machine.now - begin)
        begin = machine.now
        seen = looker(program, calls)
        found.append((machine.now - begin, seen.samples, seen.disturbed))
    return found


def test_only_those_that_may_matter_are_looked_at_for_long() -> None:
    times = [0.9e-3, 2.5e-3, 0.5, 0.88e-3, 1.5e-3, 0.89e-3]
    spent, samples, _ = zip(*look(Machine(), times), strict=True)
    assert [len(s) for s in samples] == [ALL, 1, 1, ALL, 1, ALL]
    assert spent[1] == spent[2] == 0, "the calls of the check were enough"
    assert 0 < spent[4] < spent[0] / 2
    assert [s[-1].seconds for s in samples] == pytest.approx(times)


def test_long_calls_are_not_made_again_for_what_is_clear() -> None:
    spent, samples, _ = zip(*look(Machine(), [7e-3, 14e-3, 10e-3, 8e-3], 7e-3), strict=True)
    assert [len(s) for s in samples] == [ALL, 1, 1, 1]
    assert spent[1] == spent[2] == 0
    assert 0 < spent[3] < spent[0] / 2


@pytest.mark.parametrize("when", range(0, 40, 3))
def test_a_stall_does_not_make_a_candidate_slow(when: int) -> None:
    """Something else runs for ten milliseconds, once."""
    machine, stalls = Machine(), [when * 1e-3]

    def call() -> None:
        machine.now += 2e-3
        if stalls and machine.now >= begun + stalls[0]:
            machine.now += 1e-2
            stalls.clear()

    looker = Looker(machine.program(3e-3), Look(), clock=machine.clock)
    begun, calls = machine.now, []
    for _ in range(2):
        begin = machine.now
        call()
        calls.append(machine.now - begin)
    seen = looker(call, calls)
    assert len(seen.samples) >= ALL
    assert seen.ratio == pytest.approx(2 / 3)


@pytest.mark.parametrize("when", range(0, 12, 1))
def test_a_stall_does_not_make_a_short_call_slow(when: int) -> None:
    """The calls of the check have paid for cold caches, so they do not tell; something else runs for three
    milliseconds, once."""
    machine, stalls = Machine(), [when * 5e-4]

    def call() -> None:
        machine.now += 4.95e-5
        if stalls and machine.now >= begun + stalls[0]:
            machine.now += 3e-3
            stalls.clear()

    looker = Looker(machine.program(5e-5), Look(), clock=machine.clock)
    begun = machine.now
    seen = looker(call, [2e-4, 1e-4])
    assert len(seen.samples) >= ALL
    assert seen.ratio == pytest.approx(0.99)


def test_cold_calls_do_not_make_a_short_call_hopeless() -> None:
    """A call takes three microseconds where nothing else has used the caches before."""
    machine = Machine()
    looker = Looker(machine.program(3e-6), Look(), clock=machine.clock)
    begin = machine.now
    seen = looker(machine.program(3e-6), [5e-5, 4e-5])
    assert [s.seconds for s in seen.samples] == pytest.approx([3e-6] * ALL)
    assert machine.now - begin > Look().short_seconds + Look().turns * Look().long_seconds


def test_who_is_nearly_as_fast_is_looked_at_until_that_is_sure() -> None:
    """Of candidates that are as fast as the best one few are let go early, of those that are 5 % slower most;
    the noisier the machine is, the longer it takes."""
    lengths: dict[tuple[float, float], list[int]] = {}
    for noise in (0.002, 0.05):
        machine = Machine(noise=noise)
        for ratio in (1.0, 1.05):
            found = [samples for _, samples, _ in look(machine, [ratio * 1e-3] * 60)]
            lengths[noise, ratio] = [len(samples) for samples in found]
    assert statistics.fmean(n >= ALL for n in lengths[0.002, 1.0]) > 0.9
    assert statistics.fmean(lengths[0.002, 1.05]) < 1.2
    assert statistics.fmean(lengths[0.05, 1.05]) > 2


def test_a_disturbed_look_is_repeated_and_told() -> None:
    machine = Machine(lambda t: 1.0 + 100 * t)  # ever slower
    ((_, samples, disturbed),) = look(machine, [1.05e-3])
    assert disturbed
    assert len(samples) >= Look().tries


def test_a_reference_of_long_ago_is_not_believed() -> None:
    """The machine becomes half as fast while the second candidate is being compiled and checked."""
    machine = Machine()
    looker = Looker(machine.program(4e-3), Look(), clock=machine.clock)
    machine.now += 1.0
    seen = looker(machine.program(8e-3), [12e-3, 12e-3])
    assert seen.samples[0].reference == pytest.approx(4e-3)
    slow = Machine(lambda t: 2.0 if t > 0.5 else 1.0)
    looker = Looker(slow.program(4e-3), Look(), clock=slow.clock)
    slow.now += 1.0
    seen = looker(slow.program(4e-3), [8e-3, 8e-3])
    assert seen.ratio == pytest.approx(1.0, rel=0.2)
    assert len(seen.samples) >= ALL


def test_a_shift_is_seen_and_stalls_are_none() -> None:
    watch, rng = NoiseWatch(), random.Random(0)

    def times(seconds: float, count: int = 40) -> list[float]:
        return [seconds * math.exp(rng.gauss(0, 0.01)) for _ in range(count)]

    assert not watch.saw(times(1e-3))
    assert watch.noise.warnings == () or watch.noise.stolen > 0
    assert watch.noise.spread == pytest.approx(0.01, abs=0.005)
    assert not watch.saw([5e-3, *times(1e-3, 10), 8e-3, *times(1e-3, 10)])
    assert watch.saw(times(1.2e-3))
    assert watch.noise.shifts == 1
    assert watch.noise.shift == pytest.approx(math.log(1.2), abs=0.01)
    assert watch.noise.reference == pytest.approx(1.2e-3, rel=0.02)
    assert "20% slower" in watch.noise.warnings[0]
    assert watch.saw(times(1e-3))
    assert watch.noise.shift == pytest.approx(0.0, abs=0.01)


def test_what_disturbs_is_told() -> None:
    watch = NoiseWatch()
    watch.saw(1e-3 * (1 + n % 3) for n in range(60))
    for _ in range(4):
        watch.looked(True)
    warnings = " ".join(watch.noise.warnings)
    assert "vary by" in warnings
    assert "100% of the measurements were disturbed" in warnings
