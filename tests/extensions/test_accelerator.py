"""A decoupled accelerator as a library: the compiler schedules, lowers and executes its programs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.extensions import accelerator
from tests.schedule.tensor_programs import inputs_of
from tilewright.errors import ScheduleError, VerifyError
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.stmt import Evaluate, PrimFunc, Seq, Stmt
from tilewright.ir.verify import verify
from tilewright.ir.visit import transform_stmt
from tilewright.schedule import Schedule, Trace

FUNC = accelerator.product(64, 32, 64)


@pytest.fixture(scope="module")
def programs() -> dict[int, PrimFunc]:
    return {n: accelerator.compile_program(accelerator.schedule(FUNC, n)) for n in (1, 2)}


@pytest.mark.parametrize("threads", [1, 2])
def test_programs_compute_the_product(programs: dict[int, PrimFunc], threads: int) -> None:
    arrays = inputs_of(FUNC)
    (expected,) = run(FUNC, arrays)
    verify(programs[threads])
    (got,) = run(programs[threads], arrays, check_undefined=True)
    np.testing.assert_array_equal(got, expected)
    text = to_text(programs[threads])
    assert to_text(parse(text)) == text


def test_schedules_replay_on_other_sizes() -> None:
    sch = accelerator.schedule(FUNC, 2)
    other = accelerator.product(32, 48, 16)
    program = accelerator.compile_program(Trace.from_json(sch.trace.to_json()).apply(other))
    arrays = inputs_of(other)
    np.testing.assert_array_equal(run(program, arrays)[0], run(other, arrays)[0])


def test_virtual_threads_hide_latency(programs: dict[int, PrimFunc]) -> None:
    one, two = (accelerator.simulate(programs[n]) for n in (1, 2))
    tiles, steps = 4 * 2, 4
    # Beside two threads only weights are waited for; one alone also waits for each of its tiles.
    busy, weights = tiles * (steps * 80 + 16), 2 * steps * 40
    assert two <= busy + weights + 200
    assert one >= busy + weights + 30 * tiles * steps


def test_each_thread_has_tiles_of_its_own_and_what_they_share_is_loaded_once(
    programs: dict[int, PrimFunc],
) -> None:
    text = to_text(programs[2])
    assert 'alloc(int8[2, 1, 1, 16, 16], scope="accel.input"' in text
    assert 'alloc(int8[1, 4, 16, 16], scope="accel.weight"' in text
    for threads in (1, 2):
        lines = accelerator.assemble(programs[threads])
        assert sum(line.startswith("ld.wgt") for line in lines) == 2 * 4
        assert sum(line.startswith("ld.inp") for line in lines) == 4 * 2 * 4


def test_assembly_names_units_addresses_and_pitches(programs: dict[int, PrimFunc]) -> None:
    lines = accelerator.assemble(programs[1])
    assert lines[:2] == ["ld.wgt b[0:64], weight[0:16]", "ld.wgt b[16:64], weight[256:16]"]
    assert lines[5:8] == ["ld.inp a[0:64], input[0:16]", "push load->compute", "pop load->compute"]
    assert lines.count("push load->compute") == lines.count("pop load->compute")
    assert "gemm input[0:16], weight[0:16], accumulator[0:16]" in lines
    assert "st.acc accumulator[0:16], c[0:32]" in lines


def test_a_missing_token_is_found(programs: dict[int, PrimFunc]) -> None:
    dropped = []

    def without_first_push(s: Stmt) -> Stmt | None:
        if isinstance(s, Evaluate) and s.value is accelerator.push(0, 1) and not dropped:
            dropped.append(s)
            return Seq(())
        return None

    broken = programs[2].with_(body=transform_stmt(programs[2].body, without_first_push))
    with pytest.raises(VerifyError, match="the compute unit waits for a token that load never"):
        run(broken, inputs_of(FUNC))
    with pytest.raises(VerifyError, match="the units wait for each other"):
        accelerator.simulate(broken)


def test_operands_must_be_in_the_units_memory() -> None:
    sch = Schedule(accelerator.product(16, 16, 16))
    with pytest.raises(ScheduleError, match=r"'A' of 'accel.gemm' lives in scope accel.input, 'a' in global"):
        sch.tensorize(sch.get_loops(sch.get_block("c"))[0], "accel.gemm")
