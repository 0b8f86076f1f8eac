"""Choices between places to read from leave loops that they do not depend on."""

from __future__ import annotations

import numpy as np

from tilewright.ir.expr import Select
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.stmt import For, If, Store
from tilewright.ir.visit import stores_of, walk_expr, walk_stmt
from tilewright.lower.choices import MAX_COPIES, hoist_choices


def joined(operands: int, condition: str = "i < {n}") -> str:
    """Lines of so many operands behind each other, as text."""
    value = f"x{operands - 1}[i - {operands - 1}, j]"
    for n in range(operands - 1, 0, -1):
        value = f"select({condition.format(n=n)}, x{n - 1}[i - {n - 1}, j], {value})"
    params = "".join(f"x{n}: float32[1, 40], " for n in range(operands))
    return f"""
@primfunc({{"outputs": 1}})
def f({params}y: float32[{operands}, 40]):
    for i in parallel({operands}):
        for j in serial(40):
            y[i, j] = {value}
"""


def test_every_operand_has_a_loop_of_its_own() -> None:
    func = parse(joined(4))
    lowered = hoist_choices(func)
    assert not [e for s in stores_of(lowered.body) for e in walk_expr(s.value) if isinstance(e, Select)]
    loops = [s for s in walk_stmt(lowered.body) if isinstance(s, For)]
    assert len(loops) == 1 + 4  # each operand's lines are copied in one place
    assert isinstance(loops[0].body, If)
    arrays = [np.full((1, 40), n, np.float32) for n in range(4)]
    for found, wanted in zip(run(lowered, arrays), run(func, arrays), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_out_of_several_loops() -> None:
    text = """
@primfunc({"outputs": 1})
def f(x: float32[3, 4, 16], z: float32[3, 4, 16], y: float32[6, 4, 16]):
    for i in parallel(6):
        for j in serial(4):
            for k in vectorized(16):
                y[i, j, k] = select(i < 3, x[i, j, k], z[i - 3, j, k])
"""
    lowered = hoist_choices(parse(text))
    assert isinstance(lowered.body, For)
    choice = lowered.body.body
    assert isinstance(choice, If)
    assert isinstance(choice.then, For)
    assert choice.then.kind == "serial"
    assert isinstance(choice.orelse, For)


def test_what_depends_on_the_loop_stays() -> None:
    func = parse(joined(3, "j < {n}"))
    assert hoist_choices(func).body is func.body


def test_what_reads_nothing_stays() -> None:
    text = """
@primfunc({"outputs": 1})
def f(x: float32[6, 40], y: float32[6, 40]):
    for i in serial(6):
        for j in serial(40):
            y[i, j] = x[i, j] * select(i < 3, 1.0, 2.0)
"""
    func = parse(text)
    assert hoist_choices(func).body is func.body


def test_too_many_copies_are_not_made() -> None:
    assert isinstance(hoist_choices(parse(joined(MAX_COPIES))).body.body, If)  # type: ignore[attr-defined]
    func = parse(joined(MAX_COPIES + 1))
    assert hoist_choices(func).body is func.body
    assert len([s for s in walk_stmt(func.body) if isinstance(s, Store)]) == 1
