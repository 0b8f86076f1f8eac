"""Shuffles, run on lists of labels instead of vectors."""

from __future__ import annotations

import re

import pytest

from tests.backend.kernels import call
from tests.backend.test_emit import buf, data, func, loop, var, vec
from tilewright.backend.llvm.lanes import windows
from tilewright.backend.llvm.shuffles import can_transpose, collect, transpose
from tilewright.ir.expr import as_expr, load
from tilewright.ir.stmt import Alloc, Store, seq


class Machine:
    """Executes shufflevector instructions on lists."""

    def __init__(self, vectors: dict[str, list[object]]) -> None:
        self.values = vectors
        self.count = 0

    def emit(self, text: str) -> str:
        a, b, mask = re.fullmatch(r"shufflevector <.*?> (\S+), <.*?> (\S+), <.*?> <(.*)>", text).groups()  # type: ignore[union-attr]
        left = self.values[a]
        both = left + self.values.get(b, [None] * len(left))
        lanes = [lane.split()[1] for lane in mask.split(", ")]
        name = f"%t{len(self.values)}"
        self.values[name] = [None if lane == "poison" else both[int(lane)] for lane in lanes]
        self.count += 1
        return name


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("width", [2, 4, 8, 16, 32])
def test_columns_of_blocks_of_every_shape(width: int, bits: int) -> None:
    for rows in range(2, width + 1):
        machine = Machine({f"%r{r}": [(r, c) for c in range(width)] for r in range(rows)})
        machine.values["poison"] = [None] * width
        columns = transpose([f"%r{r}" for r in range(rows)], width, f"i{bits}", bits, machine.emit)
        got = [machine.values[c] for c in columns]
        assert got == [[(r, c) for r in range(rows)] for c in range(width)]


@pytest.mark.parametrize(("size", "bits", "stages"), [(8, 32, 3), (16, 32, 4), (4, 64, 2), (16, 8, 4)])
def test_a_square_takes_one_shuffle_a_vector_and_stage(size: int, bits: int, stages: int) -> None:
    machine = Machine({f"%r{r}": [(r, c) for c in range(size)] for r in range(size)})
    transpose(list(machine.values), size, f"i{bits}", bits, machine.emit)
    assert machine.count == size * stages


def test_shapes_that_are_not_transposed() -> None:
    assert can_transpose(3, 8)
    assert not can_transpose(1, 8)
    assert not can_transpose(9, 8)
    assert not can_transpose(2, 6)


@pytest.mark.parametrize(
    "offsets",
    [
        tuple(range(0, 32, 2)),
        tuple(range(5, 53, 3)),
        tuple(range(15, -1, -1)),
        tuple(i // 2 for i in range(16)),
        (0, 2, 4),
        (7, 1, 7, 9),
        (0, 3),
    ],
)
def test_windows_hold_all_lanes_and_no_more(offsets: tuple[int, ...]) -> None:
    found = windows(offsets)
    assert found is not None
    size, starts, lanes = found
    assert min(starts) == min(offsets)
    assert max(starts) + size - 1 == max(offsets)
    pieces = {f"%w{n}": list(range(s, s + size)) for n, s in enumerate(starts)}
    machine = Machine({**pieces, "poison": [None] * size})
    result = collect(list(pieces), size, "float", lanes, machine.emit)
    assert machine.values[result] == list(offsets)


def test_lanes_far_apart_have_no_windows() -> None:
    assert windows(tuple(range(0, 16 * 5, 5))) is None
    assert windows((0, 10**9)) is None


@pytest.mark.parametrize("dtype", ["float32", "int16", "float16", "bool"])
def test_a_column_is_read_again_after_its_rows_change(dtype: str) -> None:
    n = 8
    x, y, z = buf("x", n, n, dtype=dtype), buf("y", n, n, dtype=dtype), buf("z", n, n, dtype=dtype)
    tile = buf("tile", n, n, dtype=dtype, scope="register")
    v = var("v", n)

    def rows(source_row: int) -> list[object]:
        return [vec(v, n, Store(tile, (as_expr(r), v), load(x, [(r + source_row) % n, v]))) for r in range(n)]

    first = [vec(v, n, Store(y, (as_expr(c), v), load(tile, [v, c]))) for c in range(n)]
    second = [vec(v, n, Store(z, (as_expr(c), v), load(tile, [v, c]))) for c in range(n)]
    body = Alloc(tile, seq([*rows(0), *first, *rows(1), *second]))  # type: ignore[list-item]
    f = func([x, y, z], body, outputs=2)
    values = data((n, n), dtype)
    one, two = call(f, [values], "native")
    assert (one == values.T).all()
    assert (two == values[[*range(1, n), 0]].T).all()


def test_columns_in_a_loop_follow_its_rows() -> None:
    """The block changes with every iteration: its columns are loop-carried like its rows."""
    n = 4
    x, y = buf("x", 3, n, n), buf("y", n, n)
    tile = buf("tile", n, n, scope="register")
    v, k = var("v", n), var("k", 3)
    zero = [vec(v, n, Store(tile, (as_expr(r), v), load(x, [0, r, v]) * 0.0)) for r in range(n)]
    add = [vec(v, n, Store(tile, (as_expr(r), v), load(tile, [r, v]) + load(x, [k, r, v]))) for r in range(n)]
    out = [vec(v, n, Store(y, (as_expr(c), v), load(tile, [v, c]))) for c in range(n)]
    values = data((3, n, n))
    (got,) = call(func([x, y], Alloc(tile, seq([*zero, loop(k, 3, *add), *out]))), [values], "native")
    assert abs(got - values.sum(0).T).max() < 1e-6
