"""The interpreter of GPU programs: what threads compute, and every kind of mistake that it must find."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.gpu_programs import row_softmax, tiled_matmul
from tests.schedule.programs import arrays, matmul, softmax
from tilewright.errors import VerifyError
from tilewright.ir.expr import Var
from tilewright.ir.interp import run
from tilewright.ir.intrinsics import effect
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text, to_text
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.verify import verify
from tilewright.lower import THREAD_PASSES, lower


def values(func: PrimFunc) -> list[np.ndarray]:
    shapes = [p.static_shape for p in func.inputs if isinstance(p, Buffer)]
    return [np.arange(np.prod(s), dtype=np.float32).reshape(s) + 1 for s in shapes if s is not None]


def program(body: str, n: int = 8, blocks: int = 2) -> PrimFunc:
    """``y`` from ``x``, both ``[blocks, n]``; ``body`` runs in thread ``t`` of block ``b``, with ``s`` in
    shared memory and ``r`` in registers.
    """
    lines = "\n".join("            " + line for line in body.strip().splitlines())
    func = parse(
        f"""
@primfunc({{"outputs": 1}})
def kernel(x: float32[{blocks}, {n}], y: float32[{blocks}, {n}]):
    for b in thread("blockIdx.x", {blocks}):
        s = alloc(float32[{n}], scope="shared")
        for t in thread("threadIdx.x", {n}):
            r = alloc(float32[2], scope="register")
{lines}
"""
    )
    verify(func)
    return func


BARRIER = 'evaluate(call("barrier", dtype="bool"))'
REVERSED = f"""
s[t] = x[b, t]
{BARRIER}
y[b, t] = s[7 - t]
"""


def test_threads_exchange_data_over_a_barrier() -> None:
    func = program(REVERSED)
    for seed in range(3):
        np.testing.assert_array_equal(run(func, values(func), seed=seed)[0], values(func)[0][:, ::-1])


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 16)])
def test_loops_inside_threads_with_bounds_of_their_own(size: tuple[int, int]) -> None:
    """The number of iterations may differ between threads, as long as they do not meet inside."""
    n, m = size
    func = parse(
        f"""
@primfunc({{"outputs": 1}})
def prefix(x: float32[{n}, {m}], y: float32[{n}, {m}]):
    for b in thread("blockIdx.y", {n}):
        for t in thread("threadIdx.z", {m}):
            y[b, t] = 0.0
            for k in serial(t + 1):
                y[b, t] = y[b, t] + x[b, k]
"""
    )
    x = values(func)
    np.testing.assert_array_equal(run(func, x)[0], np.cumsum(x[0], axis=1, dtype=np.float32))


def test_sizes_known_at_run_time() -> None:
    func = parse(
        """
@primfunc({"outputs": 1})
def twice(n: dim(lo=1), x: float32[n], y: float32[n]):
    for b in thread("blockIdx.x", (n + 3) // 4):
        for t in thread("threadIdx.x", 4):
            if b * 4 + t < n:
                y[b * 4 + t] = x[b * 4 + t] * 2.0
"""
    )
    x = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(run(func, [x])[0], x * 2)
    (n,) = (p for p in func.params if isinstance(p, Var))
    np.testing.assert_array_equal(run(func, [x], {n: 10})[0], x * 2)


def test_launches_come_one_after_the_other() -> None:
    func = parse(
        """
@primfunc({"outputs": 1})
def two(x: float32[8], y: float32[8]):
    g = alloc(float32[8])
    for b in thread("blockIdx.x", 8):
        g[b] = x[b]
    for b in thread("blockIdx.x", 8):
        y[b] = g[7 - b]
"""
    )
    np.testing.assert_array_equal(run(func, values(func))[0], values(func)[0][::-1])


def test_integers_selects_casts_and_divisions() -> None:
    func = parse(
        """
@primfunc({"outputs": 2})
def mixed(x: int32[8], d: int32[8], y: int32[8], z: float16[8]):
    for t in thread("threadIdx.x", 8):
        y[t] = select(d[t] != int32(0), x[t] // d[t], int32(-1)) + min(x[t], int32(3)) % int32(2)
        if d[t] != int32(0):
            z[t] = float16(exp(float32(x[t] % d[t])))
        else:
            z[t] = float16(0.5)
"""
    )
    x, d = np.array([7, -7, 5, 0, 9, 1, 2, 3], np.int32), np.array([2, 2, 0, 3, -4, 1, 0, 2], np.int32)
    y, z = run(func, [x, d])
    safe = np.where(d == 0, 1, d)
    np.testing.assert_array_equal(y, np.where(d != 0, x // safe, -1) + np.minimum(x, 3) % 2)
    np.testing.assert_allclose(z, np.where(d != 0, np.exp((x % safe).astype(np.float32)), 0.5), rtol=1e-3)
    with pytest.raises(VerifyError, match="divides an integer by zero"):
        run(
            parse(to_text(func).replace("select(d[t] != int32(0), x[t] // d[t], int32(-1))", "x[t] // d[t]")),
            [x, d],
        )


def test_asynchronous_copies() -> None:
    for groups, waits in ((1, (0,)), (2, (1, 0))):
        copies = "\n".join(
            f'with annotate("async_copy", True):\n    s[(t + {g * 4}) % 8] = x[b, (t + {g * 4}) % 8]\n'
            'evaluate(call("async_commit", dtype="bool"))'
            for g in range(groups)
        )
        if groups == 2:
            copies = copies.replace("s[", "if t < 4:\n        s[")
        done = "\n".join(f'evaluate(call("async_wait", {n}, dtype="bool"))' for n in waits)
        func = program(f"{copies}\n{done}\n{BARRIER}\ny[b, t] = s[7 - t]")
        np.testing.assert_array_equal(run(func, values(func))[0], values(func)[0][:, ::-1])


def test_waiting_for_an_older_group_leaves_newer_ones_pending() -> None:
    first = (
        'with annotate("async_copy", True):\n    s[t] = x[b, t]\nevaluate(call("async_commit", dtype="bool"))'
    )
    second = first.replace("s[t]", "z[t]")
    text = f'{first}\n{second}\nevaluate(call("async_wait", 1, dtype="bool"))\n{BARRIER}\ny[b, t] = s[7 - t]'
    body = 'z = alloc(float32[8], scope="shared")\n' + text
    func = program(body)
    np.testing.assert_array_equal(run(func, values(func))[0], values(func)[0][:, ::-1])
    with pytest.raises(
        VerifyError, match="of shared 'z', which an asynchronous copy writes that was not waited for"
    ):
        run(program(body.replace("= s[7 - t]", "= z[7 - t]")), values(func))


# Each program is wrong in one way; the message names the threads, the element and the statement.
BUGS: list[tuple[str, str, str]] = [
    (
        "a missing barrier",
        "s[t] = x[b, t]\ny[b, t] = s[7 - t]",
        (
            r"data race: thread \(7, 0, 0\) of block \(\d, 0, 0\) writes element \[7\] of shared 's' and "
            r"thread "
            r"\(0, 0, 0\) of block \(\d, 0, 0\) reads it, with no barrier between them\n(?s:.*)y\[b, t\] = "
            r"s\[7 - t\]"
        ),
    ),
    (
        "a barrier missing before the next iteration",
        (
            f"y[b, t] = 0.0\nfor k in serial(2):\n    s[t] = x[b, t]\n    {BARRIER}\n    y[b, t] = y[b, t] + "
            "s[7 - t]"
        ),
        r"data race: thread .* reads element \[0\] of shared 's' and thread .* writes it, with no barrier",
    ),
    (
        "two threads write one element",
        f"s[t // 2] = x[b, t]\n{BARRIER}\ny[b, t] = s[t // 2]",
        r"data race: thread .* writes element \[\d\] of shared 's' and thread .* writes it, with no barrier",
    ),
    (
        "an element overwritten while another thread reads it",
        f"s[t] = x[b, t]\n{BARRIER}\ny[b, t] = s[7 - t]\ns[t] = 0.0",
        r"data race: thread .* reads element \[0\] of shared 's' and thread .* writes it",
    ),
    (
        "an element that all threads read and one overwrites",
        f"s[t] = x[b, t]\n{BARRIER}\ny[b, t] = s[0]\nif t == 0:\n    s[0] = 1.0",
        r"data race: several threads read element \[0\] of shared 's' and thread \(0, 0, 0\)",
    ),
    (
        "a wrong index",
        f"s[t] = x[b, t]\n{BARRIER}\ny[b, t] = s[8 - t]",
        (
            r"access to 's' out of bounds: index 8 in dimension 0, whose extent is 8, by thread \(0, 0, 0\) "
            r"of block"
        ),
    ),
    (
        "a negative index",
        "y[b, t - 1] = x[b, t]",
        r"access to 'y' out of bounds: index -1 in dimension 1, whose extent is 8, by thread \(0, 0, 0\)",
    ),
    (
        "a tile that is too short",
        f"if t < 7:\n    s[t] = x[b, t]\n{BARRIER}\ny[b, t] = s[7 - t]",
        (
            r"thread \(0, 0, 0\) of block .* reads element \[7\] of shared 's', which was never "
            r"written\n(?s:.*)"
            "and it is stored to the output 'y'"
        ),
    ),
    (
        "an accumulator that was not initialised",
        "for k in serial(4):\n    r[0] = r[0] + x[b, k]\ny[b, t] = r[0]",
        r"reads element \[0\] of register 'r', which was never written",
    ),
    (
        "a register that only another thread has written",
        "if t == 0:\n    r[0] = x[b, 0]\ny[b, t] = r[0]",
        (
            r"thread \(1, 0, 0\) .* reads element \[0\] of register 'r', which was never written by it, only "
            r"by other"
        ),
    ),
    (
        "a barrier that some threads do not reach",
        f"if t < 4:\n    {BARRIER}\ny[b, t] = x[b, t]",
        r"divergent barrier: thread \(0, 0, 0\) of block .* waits for thread \(4, 0, 0\)",
    ),
    (
        "a barrier in a loop of different lengths",
        f"for k in serial(t + 1):\n    {BARRIER}\ny[b, t] = x[b, t]",
        r"divergent barrier: thread \(1, 0, 0\) of block .* waits for thread \(0, 0, 0\)",
    ),
    (
        "different barriers in the arms of a condition",
        f"if t % 2 == 0:\n    {BARRIER}\nelse:\n    {BARRIER}\ny[b, t] = x[b, t]",
        r"divergent barrier: thread \(0, 0, 0\) of block .* waits for thread \(1, 0, 0\)",
    ),
    (
        "thread blocks that write one element",
        "y[0, t] = x[b, t]\ny[1, t] = 0.0",
        (
            r"data race: thread \(0, 0, 0\) of block .* writes element \[0, 0\] of global 'y' and thread "
            r"\(0, "
            r"0, 0\) of "
            "block .* writes it, and nothing orders thread blocks"
        ),
    ),
    (
        "a thread block that reads what another one writes",
        f"y[b, t] = x[b, t]\n{BARRIER}\ny[b, t] = y[1 - b, t]",
        r"data race: thread .* of global 'y' and thread .*, and nothing orders thread blocks",
    ),
    (
        "an asynchronous copy that was not waited for",
        (
            'with annotate("async_copy", True):\n    s[t] = x[b, t]\nevaluate(call("async_commit", '
            'dtype="bool"))\n'
            f"{BARRIER}\ny[b, t] = s[7 - t]"
        ),
        (
            r"thread .* reads element \[7\] of shared 's', which an asynchronous copy writes that was not "
            r"waited for"
        ),
    ),
    (
        "an asynchronous copy that is not committed when it is waited for",
        (
            'with annotate("async_copy", True):\n    s[t] = x[b, t]\nevaluate(call("async_wait", 0, '
            'dtype="bool"))\n'
            f"{BARRIER}\ny[b, t] = s[7 - t]"
        ),
        r"reads element \[7\] of shared 's', which an asynchronous copy writes that was not waited for",
    ),
    (
        "an asynchronous copy that others read without a barrier after the wait",
        (
            'with annotate("async_copy", True):\n    s[t] = x[b, t]\nevaluate(call("async_commit", '
            'dtype="bool"))\n'
            f'{BARRIER}\nevaluate(call("async_wait", 0, dtype="bool"))\ny[b, t] = s[7 - t]'
        ),
        r"data race: thread .* writes element \[7\] of shared 's' and thread .* reads it, with no barrier",
    ),
    (
        "a buffer overwritten while an asynchronous copy is on its way into it",
        (
            'with annotate("async_copy", True):\n    s[t] = x[b, t]\nevaluate(call("async_commit", '
            'dtype="bool"))\n'
            f"{BARRIER}\ns[7 - t] = 0.0\ny[b, t] = 0.0"
        ),
        r"writes element \[7\] of shared 's', which an asynchronous copy writes that was not waited for",
    ),
    (
        "a condition on undefined memory",
        "if s[t] < 1.0:\n    y[b, t] = 0.0\nelse:\n    y[b, t] = 0.0",
        r"reads element \[0\] of shared 's', which was never written\n(?s:.*)decides what runs",
    ),
    (
        "an address from undefined memory",
        "y[b, int64(r[0]) + t] = x[b, t]",
        r"register 'r', which was never written\n(?s:.*)and it is an index of 'y'",
    ),
]


@pytest.mark.parametrize(("bug", "body", "message"), BUGS, ids=[b[0] for b in BUGS])
def test_mistakes_are_found(bug: str, body: str, message: str) -> None:
    func = program(body)
    for seed in range(2):
        with pytest.raises(VerifyError, match=message) as caught:
            run(func, values(func), seed=seed)
        assert "^^^" in str(caught.value)
        assert "kernel, line" in str(caught.value)


def test_undefined_elements_that_nobody_uses_are_harmless() -> None:
    func = program(
        f"if t < 7:\n    s[t] = x[b, t]\n{BARRIER}\nr[0] = s[7 - t]\nr[1] = r[0]\n"
        "y[b, t] = select(t == 0, 0.0, r[1])"
    )
    np.testing.assert_array_equal(run(func, values(func))[0][:, 1:], values(func)[0][:, -2::-1])


def test_outputs_left_unwritten() -> None:
    func = program("if t < 7:\n    y[b, t] = x[b, t]")
    run(func, values(func))
    with pytest.raises(VerifyError, match="elements of output 'y' were never written"):
        run(func, values(func), check_undefined=True)


def test_bugs_in_scheduled_programs_are_found() -> None:
    """Between blocks threads meet; inside of one loop over threads they do not."""
    good = to_text(row_softmax(2, 12).func)
    inputs = arrays(softmax(2, 12))
    run(parse(good), inputs)
    for old, new, message in (
        ("e[vi0, vi1] / total[vi0]", "e[vi0, (vi1 + 1) % 12] / total[vi0]", None),
        ("vr0_1 = spatial(8, r0_1)", "vr0_1 = spatial(8, r0_1 // 2)", "data race"),
        ("vi0 = spatial(2, i0)", "vi0 = spatial(2, 0)", "data race"),
        ("vi1 = spatial(12, i1_0 * 8 + i1_1)", "vi1 = spatial(12, i1_0 * 8 + i1_1 + 1)", "leaves its domain"),
    ):
        assert old in good
        changed = parse(good.replace(old, new))
        if message is None:
            run(changed, inputs)
            continue
        with pytest.raises(VerifyError, match=message):
            run(changed, inputs)


def test_every_barrier_of_a_lowered_program_is_needed() -> None:
    for func, sch in (
        (matmul(16, 16, 16), tiled_matmul(16, 16, 16, tile=8)),
        (softmax(2, 12), row_softmax(2, 12)),
    ):
        text = to_text(lower(sch.func, passes=THREAD_PASSES))
        lines = text.splitlines()
        places = [n for n, line in enumerate(lines) if "barrier" in line]
        assert places
        run(parse(text), arrays(func))
        for place in places:
            with pytest.raises(VerifyError, match="data race"):
                run(parse("\n".join(lines[:place] + lines[place + 1 :])), arrays(func))


def test_a_larger_matrix_product() -> None:
    func = matmul(128, 128, 64)
    text = lower(tiled_matmul(128, 128, 64, tile=64, own=4).func, passes=THREAD_PASSES)
    inputs = arrays(func)
    np.testing.assert_allclose(run(text, inputs)[0], inputs[0] @ inputs[1], rtol=1e-4, atol=1e-4)


def test_effects_and_alignments_keep_their_text() -> None:
    text = to_text(program(REVERSED)).replace(
        "float32[8], scope", "float32[8], stride_align=((0, 32, 4),), scope"
    )
    func = parse(text)
    verify(func)
    assert to_text(parse(to_text(func))) == to_text(func)
    assert "stride_align=((0, 32, 4),)" in canonical_text(func)
    assert "barrier" in canonical_text(func)
    with pytest.raises(TypeError, match="async_wait takes 1 operands, not 0"):
        effect("async_wait")
    with pytest.raises(VerifyError, match="barrier takes 0 operands, not 1"):
        verify(parse(to_text(program(REVERSED)).replace('call("barrier", dtype', 'call("barrier", 1, dtype')))
