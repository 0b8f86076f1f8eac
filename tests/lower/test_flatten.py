"""Where the initialisation of a reduction goes: each element starts as often as the blocks say."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.expr import Var
from tilewright.ir.interp import run
from tilewright.ir.parser import parse
from tilewright.ir.stmt import PrimFunc
from tilewright.lower import lower
from tilewright.lower.flatten import decompose_reductions
from tilewright.schedule import Schedule

SUMS = """
@primfunc({{"const_params": (), "outputs": 1}})
def sums(x: int32[2, 4], y: int32[2]):
    for o in serial(2):
        for f in serial({f}):
            for z in serial({z}):
                for r in serial({r}):
                    with block("y"):
                        vo = spatial(2, o)
                        vr = reduce(4, {reduce})
                        vu = reduce(1, {unit})
                        reads(x[vo, vr + vu])
                        writes(y[vo])
                        with init():
                            y[vo] = int32(0)
                        y[vo] = y[vo] + x[vo, vr + vu]
"""


def _sums(f: int, z: int, r: int, reduce: str, unit: str = "0") -> PrimFunc:
    return parse(SUMS.format(f=f, z=z, r=r, reduce=reduce, unit=unit))


@pytest.mark.parametrize(
    ("func", "text"),
    [
        (_sums(1, 1, 4, "r"), "for r in serial(4):\n                    with block"),
        (_sums(1, 3, 4, "r"), None),  # a loop around the reduction repeats it
        (_sums(1, 1, 12, "r % 4"), "where(r % 4 == 0)"),  # the reduce loop itself does
        (_sums(3, 1, 4, "(f * 4 + r) % 4"), None),
        (_sums(2, 3, 2, "f * 2 + r"), None),  # halves of the sum repeated: still nothing starts anew
        (_sums(1, 3, 4, "r", "f"), None),  # outside, a loop that reduces and runs once
    ],
)
def test_repeated_sums(func: PrimFunc, text: str | None) -> None:
    x = np.arange(8, dtype=np.int32).reshape(2, 4) + 1
    expected = run(func, [x])
    decomposed = decompose_reductions(func)
    assert text is None or text in str(decomposed)
    for program in (decomposed, lower(func)):
        np.testing.assert_array_equal(run(program, [x])[0], expected[0])


def test_tiles_over_open_sizes_keep_their_guard() -> None:
    """The size in the guard is also a factor of the reduce iterator; the guard is about rows all the same."""
    func = parse("""
@primfunc({"const_params": (), "outputs": 1})
def sums(n: dim(lo=1), y: float32[n + 2]):
    for i in serial(n + 2):
        for r in serial((n + 1) // 2):
            with block("y"):
                vi = spatial(n + 2, i)
                vr = reduce((n + 1) // 2, r)
                writes(y[vi])
                with init():
                    y[vi] = 0.0
                y[vi] = y[vi] + 1.0
""")
    (size,) = (p for p in func.params if isinstance(p, Var))
    sch = Schedule(func)
    i, r = sch.get_loops(sch.get_block("y"))
    sch.split(i, factors=[None, 3])
    sch.split(r, factors=[None, size])
    for n in (1, 3, 12):
        (found,) = run(lower(sch.func), [], {size: n})
        np.testing.assert_array_equal(found, np.full(n + 2, (n + 1) // 2, np.float32))
