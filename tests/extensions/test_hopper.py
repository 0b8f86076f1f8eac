"""Asynchronous tensor cores as a library: matched, executed, waited for, spelled."""

from __future__ import annotations

import numpy as np
import pytest

from tests.extensions import hopper
from tests.schedule.tensor_programs import inputs_of
from tilewright.errors import ScheduleError, VerifyError
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.printer import to_text
from tilewright.ir.stmt import Evaluate, PrimFunc, Seq, Stmt
from tilewright.ir.verify import verify
from tilewright.ir.visit import transform_stmt
from tilewright.schedule import IndexMap, Schedule

FUNC = hopper.product(128, 64, 128)


@pytest.fixture(scope="module")
def program() -> PrimFunc:
    return hopper.compile_program(hopper.schedule(FUNC))


def test_programs_compute_the_product(program: PrimFunc) -> None:
    arrays = inputs_of(FUNC)
    (expected,) = run(FUNC, arrays)
    verify(program)
    (got,) = run(program, arrays, check_undefined=True)
    np.testing.assert_array_equal(got, expected)
    assert to_text(parse(to_text(program))) == to_text(program)


def test_ptx_waits_before_it_uses(program: PrimFunc) -> None:
    lines = hopper.ptx(program)
    start = next(n for n, line in enumerate(lines) if line.startswith("mbarrier.arrive"))
    words = [line.split()[0].split(".")[:2] for line in lines[start:]]
    assert words[:9] == [
        ["mbarrier", "arrive"], ["cp", "async"], ["mbarrier", "arrive"], ["cp", "async"],
        ["mbarrier", "try_wait"], ["wgmma", "fence"], ["wgmma", "mma_async"],
        ["wgmma", "commit_group"], ["wgmma", "wait_group"],
    ]  # fmt: skip
    product = next(line for line in lines if "mma_async" in line)
    assert "m64n64k16.f32.f16.f16" in product
    assert product.count("%") == 32  # 64x64 float32 in the registers of 128 threads
    assert f"{hopper.descriptor_bits():#x} | ((a_shared" in product
    # Each of the four products in a row of 128 bytes begins 32 bytes further on.
    assert product.count("* 32)) >> 4 & 0x3fff)") == 2
    assert "(r0_0 % 2)" in next(line for line in lines if "try_wait" in line)


def test_descriptors_are_the_manuals() -> None:
    assert hopper.descriptor_bits() == 0x4000004000010000


@pytest.mark.parametrize(
    ("name", "message"),
    [("hopper.expect", "that no copy was announced to"), ("hopper.wait", "to compute|phase|announced")],
)
def test_a_broken_protocol_is_found(program: PrimFunc, name: str, message: str) -> None:
    def flipped(s: Stmt) -> Stmt | None:
        if not isinstance(s, Evaluate) or s.value.name != name:  # type: ignore[attr-defined]
            return None
        return Seq(()) if name == "hopper.expect" else Evaluate(hopper.wait(1 - s.value.children[0]))

    broken = program.with_(body=transform_stmt(program.body, flipped))
    with pytest.raises(VerifyError, match=message):
        run(broken, inputs_of(FUNC))


def test_nothing_else_reads_swizzled_memory() -> None:
    sch = Schedule(FUNC)
    a = sch.cache_read(sch.get_block("c"), 0, "shared")
    sch.transform_layout(a, "write", 0, IndexMap.parse("i,j -> i//64, j//64, i%64, j%64"))
    i, j = sch.get_loops(a)
    (i0, i1), (j0, j1) = sch.split(i, [None, 64]), sch.split(j, [None, 64])
    sch.reorder(i0, j0, i1, j1)
    with pytest.raises(ScheduleError, match=r"lives in scope shared.swizzle128, 'a_shared' in shared"):
        sch.tensorize(i1, "hopper.tma.64x64.f16")
