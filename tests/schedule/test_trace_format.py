"""Stored traces: old versions go on loading, newer and malformed ones are refused with one clear error."""

import json
import random

import pytest

from tests.schedule.programs import assert_same, conv, matmul
from tests.schedule.test_trace import tiled_conv
from tilewright.errors import ScheduleError
from tilewright.ir.printer import structural_equal
from tilewright.schedule import Instruction, Schedule, Trace
from tilewright.schedule.trace import INSTRUCTIONS
from tilewright.schedule.trace_format import MIGRATIONS, VERSION, _signature, check_instructions

#: What the release that wrote version 1 stored for ``tiled_conv()``; never edited.
VERSION_1 = (
    '{"version":1,"instructions":[["get_block",[],{"name":"pad"},["b0"]],["compute_inline",["b0"],{},[]],'
    '["get_block",[],{"name":"conv"},["b1"]],["transform_layout",["b1"],{"role":"read","index":1,"index_map":'
    '"r,s,i,o -> o//8, r, s, i, o%8"},[]],["get_block",[],{"name":"relu"},["b2"]],["get_loops",["b2"],{},'
    '["l0","l1","l2","l3"]],["split",["l2"],{"factors":[null,6]},["l4","l5"]],["split",["l3"],{"factors":'
    '[null,8]},["l6","l7"]],["reorder",["l0","l1","l6","l4","l5","l7"],{},[]],["fuse",["l0","l1","l6","l4"],'
    '{},["l8"]],["parallel",["l8"],{},[]],["annotate",["l8"],{"key":"grain","value":2},[]],["vectorize",["l7"],'
    '{},[]],["compute_at",["b1","l8"],{},[]],["set_scope",["b1"],{"scope":"register"},[]],["get_loops",["b1"],'
    '{},["l9","l10","l11","l12","l13","l14","l15","l16"]],["reorder",["l14","l15","l16","l12","l13"],{},[]],'
    '["unroll",["l12"],{},[]],["vectorize",["l13"],{},[]],["decompose_reduction",["b1","l14"],{},["b3"]]]}'
)


def test_a_trace_of_version_1_still_loads() -> None:
    trace = Trace.from_json(VERSION_1)
    func = conv(size=(7, 13), channels=(5, 20))
    again = trace.apply(func)
    assert structural_equal(again.func, tiled_conv().func)
    assert_same(func, again)
    assert json.loads(trace.to_json())["version"] == VERSION


def test_there_is_a_migration_from_every_version() -> None:
    assert len(MIGRATIONS) == VERSION - 1


def test_migrations_are_pure() -> None:
    rows = json.loads(VERSION_1)["instructions"]
    kept = json.dumps(rows)
    for migrate in MIGRATIONS:
        rows_after = migrate(json.loads(kept))
        assert migrate(json.loads(kept)) == rows_after
    assert json.dumps(rows) == kept


def test_every_instruction_has_a_signature_that_can_be_checked() -> None:
    for name in INSTRUCTIONS:
        signature, hints = _signature(name)
        assert set(signature.parameters) - {"self"} <= set(hints)


def trace(*rows: object, version: object = VERSION) -> str:
    return json.dumps({"version": version, "instructions": list(rows)})


BLOCK = ["get_block", [], {"name": "C"}, ["b0"]]
LOOPS = ["get_loops", ["b0"], {}, ["l0", "l1", "l2"]]
DEEP = "[" * 40 + "]" * 40

BAD: list[tuple[str, str]] = [
    ("no json", "not a trace: Expecting value"),
    ("", "not a trace"),
    (trace(BLOCK)[:-20], "not a trace"),
    ("[" * 100000, "not a trace: it is nested too deeply"),
    ('{"version": 2, "instructions": [NaN]}', "not a trace: NaN is no JSON number"),
    ('{"version": 2, "instructions": [' + "9" * 5000 + "]}", "not a trace"),
    ("[]", "not a trace: it is no mapping"),
    ("{}", "not a trace: it is no mapping"),
    ('{"version": 2, "instructions": [], "more": 1}', "not a trace: it is no mapping"),
    (trace(version=True), "not a trace: True is no version"),
    (trace(version="1"), "not a trace: '1' is no version"),
    (trace(version=0), "not a trace: 0 is no version"),
    (trace(version=VERSION + 1), f"of version {VERSION + 1}; this release reads versions 1 to {VERSION}"),
    ('{"version": 2, "instructions": {}}', "'instructions' is no list"),
    (trace(7), "line 1 is not"),
    (trace(BLOCK, BLOCK[:3]), "line 2 is not"),
    (trace([["get_block"], [], {}, []]), "line 1 is not"),
    (trace(["get_block", [], [["name", "C"]], ["b0"]]), "line 1 is not"),
    (trace(["get_block", "b0", {}, []]), "line 1 has inputs or outputs"),
    (trace(["get_block", [], {}, [0]]), "line 1 has inputs or outputs"),
    (trace(["explode", [], {}, []]), "trace with unknown instructions: 'explode'"),
    (trace(["__init__", [], {}, []]), "unknown instructions: '__init__'"),
    (trace(["parallel", ["l7"], {}, []]), "line 1: 'l7' is not defined before 'parallel'"),
    (trace(["get_block", [], {"name": "C"}, ["b0); import os; ("]]), "line 1: 'b0.*' is no name of a handle"),
    (trace(BLOCK, ["parallel", ["b0"], {}, []]), "line 2: parallel does not take 'b0' for 'loop'"),
    (trace(BLOCK, ["get_loops", ["b0", "b0"], {}, []]), "line 2: get_loops is called with wrong arguments"),
    (trace(BLOCK, ["get_loops", [], {}, []]), "line 2: get_loops is called with wrong arguments"),
    (trace(["get_block", [], {"name": "C", "more": 1}, ["b0"]]), "line 1: get_block is called with wrong"),
    (trace(["get_block", [], {"name": 3}, ["b0"]]), "line 1: get_block does not take 3 for 'name'"),
    (trace(["decide", [], {}, []]), "line 1: decide is called with wrong arguments"),
    (
        trace(["decide", [], {"name": "a", "domain": [1, True], "value": 1}, []]),
        r"line 1: decide does not take \[1, True\] for 'domain'",
    ),
    (
        trace(BLOCK, LOOPS, ["split", ["l0"], {"factors": [True, None]}, ["l3", "l4"]]),
        r"line 3: split does not take \[True, None\] for 'factors'",
    ),
    (
        trace(BLOCK, LOOPS, ["split", ["l0"], {"factors": [10**30, None]}, ["l3", "l4"]]),
        "line 3: split does not take",
    ),
    (
        trace(BLOCK, LOOPS, ["split", ["l0"], {"factors": [2.0, None]}, ["l3", "l4"]]),
        "line 3: split does not take",
    ),
    (
        trace(BLOCK, ["transform_layout", ["b0"], {"role": "both", "index": 1, "index_map": "a -> a"}, []]),
        "line 2: transform_layout does not take 'both' for 'role'",
    ),
    (
        trace(BLOCK, ["annotate", ["b0"], {"key": "k", "value": json.loads(DEEP)}, []]),
        "line 2: annotate does not take .* for 'value'",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_text_that_is_no_trace(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Trace.from_json(text)


def test_a_trace_built_by_hand_is_checked_when_it_is_applied() -> None:
    with pytest.raises(ScheduleError, match="trace line 1: 'l7' is not defined"):
        Trace((Instruction("parallel", ("l7",), {}, ()),)).apply(matmul())
    sch = Schedule(matmul())
    with pytest.raises(ScheduleError, match="cannot be recorded"):
        sch.annotate(sch.get_block("C"), "key", float("nan"))


def test_text_of_factors_may_be_anything() -> None:
    for text in ["(" * 300 + "1" + ")" * 300, "-" * 401 + "1", "1" * 600, "1//0", "9**9", "i0", "\0", ""]:
        rows = [BLOCK, LOOPS, ["split", ["l0"], {"factors": [text, None]}, ["l3", "l4"]]]
        with pytest.raises(ScheduleError):
            Trace.from_json(trace(*rows)).apply(matmul())


@pytest.mark.parametrize("seed", range(20))
def test_damaged_text_loads_or_raises_one_error(seed: int) -> None:
    """Characters dropped, doubled or swapped, values replaced: never anything but a ScheduleError."""
    rng = random.Random(seed)
    text = tiled_conv().trace.to_json()
    func = conv(size=(7, 13), channels=(5, 20))
    for _ in range(20):
        damaged = _damage(rng, text)
        try:
            Trace.from_json(damaged).apply(func)
        except ScheduleError:
            continue


def _damage(rng: random.Random, text: str) -> str:
    if rng.random() < 0.4:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice(["", "0", '"', "[", "}", "l1", "null"]) + text[at + rng.randint(0, 2) :]
    data = json.loads(text)
    row = rng.choice(data["instructions"])
    part = rng.randrange(4)
    odd = rng.choice([None, True, -1, 0, 1 << 40, 1 << 70, 0.5, "", "b0", "l0", [], {}, [[]], "x" * 1000])
    if part in (1, 3) and row[part] and rng.random() < 0.7:
        row[part][rng.randrange(len(row[part]))] = rng.choice(["b0", "b9", "l0", "l3", odd])
    elif part == 2 and row[2]:
        row[2][rng.choice(list(row[2]))] = odd
    else:
        row[part] = odd
    return json.dumps(data)


def test_checking_names_the_first_bad_line() -> None:
    good = Trace.from_json(trace(BLOCK, LOOPS)).instructions
    check_instructions(good, INSTRUCTIONS)
    with pytest.raises(ScheduleError, match="trace line 3"):
        check_instructions((*good, Instruction("fuse", ("l0", "l9"), {}, ("l3",))), INSTRUCTIONS)
