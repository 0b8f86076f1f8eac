"""Stored traces of random schedules, damaged: applied, they give a verified program or one ScheduleError."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any, Final

import pytest

from tests.fuzz.campaign import KINDS
from tests.fuzz.driver import Driver
from tilewright.errors import ScheduleError
from tilewright.ir.verify import verify
from tilewright.schedule import Trace

#: Arguments that some primitive may take, and such that none may.
ODD: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 1, 2, 3, 7, 64, 1000, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 70, 0.5, "", "b0",
    "l0", "n", "i0", "i0//0", "i0,i1 -> i1", "i0 -> i0//4, i0%4", "i0:4 -> i0", "1 -> 1", "9**9", "x" * 1000,
    "threadIdx.x", "blockIdx.x", "register", "shared", "x86.vpdpbusd.4", [], {}, [[]], [None, None],
    [None, 0], [1 << 40, 1 << 40], [2, None, "n*n"],
)  # fmt: skip


def damaged(rng: Random, text: str) -> str:
    """Lines dropped, doubled or exchanged, arguments and handles replaced."""
    data = json.loads(text)
    rows = data["instructions"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(rows)), rng.random()
        row = rows[at]
        if kind < 0.1 and len(rows) > 1:
            del rows[at]
        elif kind < 0.2:
            rows.insert(rng.randrange(len(rows) + 1), copy.deepcopy(row))
        elif kind < 0.3:
            other = rng.randrange(len(rows))
            rows[at], rows[other] = rows[other], rows[at]
        elif kind < 0.75 and row[2]:
            key, odd = rng.choice(list(row[2])), copy.deepcopy(rng.choice(ODD))
            held = row[2][key]
            if isinstance(held, list) and held and rng.random() < 0.6:
                held[rng.randrange(len(held))] = odd
            else:
                row[2][key] = odd
        elif row[1]:
            place = rng.randrange(len(row[1]))
            row[1][place] = rng.choice((f"{row[1][place][0]}{rng.randrange(12)}", "b0", "l1"))
    return json.dumps(data)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_traces_end_in_a_program_or_one_error(seed: int) -> None:
    rng = Random(seed)
    kind = rng.choice([k for k in KINDS if k.schedules])
    case = kind.make(rng)
    if case is None:
        return
    driver = Driver(case.func, rng)
    kind.schedule(driver)
    text = driver.sch.trace.to_json()
    if not len(driver.sch.trace):
        return
    for _ in range(12):
        try:
            verify(Trace.from_json(damaged(rng, text)).apply(case.func).func)
        except ScheduleError as error:
            if not error.message or "\n" in error.message:
                pytest.fail(f"not one clear message: {error.message!r}")
