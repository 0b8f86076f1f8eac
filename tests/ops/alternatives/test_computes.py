"""Every alternative against the operator's NumPy reference: random shapes, and values that are hard on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.harness import floats, ints, reference
from tilewright.graph.alternatives import DIRECT, choice_points
from tilewright.graph.builder import GraphBuilder
from tilewright.graph.graph import Graph, TensorType
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import variants
from tilewright.graph.primfunc import lower_group
from tilewright.ir.interp import run
from tilewright.ops.alternatives import chunks, split_k

QUICK = settings(max_examples=15, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """Chunks and parts of a few elements, so that small tensors have many."""
    patch = pytest.MonkeyPatch()
    patch.setattr(chunks, "CHUNK", 8)
    patch.setattr(chunks, "ALIGN", 4)
    patch.setattr(split_k, "MIN_STEPS", 2)
    patch.setattr(split_k, "MIN_CHANNELS", 1)
    yield
    patch.undo()


def graph_of(
    op: str, arrays: list[np.ndarray | None], consts: tuple[int, ...], attrs: dict[str, Any]
) -> Graph:
    builder = GraphBuilder("one")
    values = []
    for n, array in enumerate(arrays):
        if array is None:
            values.append(None)
        elif n in consts:
            values.append(builder.constant(array, f"w{n}"))
        else:
            kind = TensorType.of(array)
            values.append(builder.input(f"x{n}", kind.shape, kind.dtype))
    return builder.build(builder.emit(op, values, attrs))


def results(
    op: str, arrays: list[np.ndarray | None], consts: tuple[int, ...] = (), /, **attrs: Any
) -> dict[str, np.ndarray]:
    """The result of each way, of loop programs in the interpreter, where there is more than one."""
    graph = graph_of(op, arrays, consts, attrs)
    found = {}
    for point in choice_points(graph):
        for name, variant in variants(point).items():
            values = {v: arrays[int(v.name[1:])] for v in variant.inputs} | dict(variant.constants)
            for group in partition(variant):
                kernel = lower_group(variant, group)
                outs = run(kernel.func, [values[v] for v in kernel.inputs], check_undefined=True)
                values.update(zip(kernel.outputs, outs, strict=True))
            found[name] = values[variant.outputs[0]]
    return found


def agree(
    op: str,
    arrays: list[np.ndarray | None],
    names: set[str],
    consts: tuple[int, ...] = (),
    /,
    tolerance: float = 2e-6,
    **attrs: Any,
) -> None:
    """The named ways are offered, and all that are compute what the reference does in float64."""
    found = results(op, arrays, consts, **attrs)
    assert names <= set(found), f"{set(found)} lack {names - set(found)}"
    wide = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in arrays]
    (want,) = reference(op, wide, **attrs)
    scale = float(np.abs(want[np.isfinite(want)]).max(initial=0)) or 1.0
    for name, got in found.items():
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=name)


# ---------------------------------------------------------------------------------------------- contractions
@QUICK
@given(
    rank=st.integers(1, 3),
    data=st.data(),
    ci=st.sampled_from([1, 3, 4, 17]),
    co=st.sampled_from([1, 5, 16]),
    bias=st.booleans(),
)
def test_convolutions(rank: int, data: st.DataObject, ci: int, co: int, bias: bool):
    small = st.integers(1, 3)
    kernel, strides, dilations = (tuple(data.draw(small) for _ in range(rank)) for _ in range(3))
    pads = tuple(data.draw(st.integers(0, 2)) for _ in range(2 * rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    space = tuple(r + data.draw(st.integers(0, 4)) for r in reach)
    arrays = [floats(2, *space, ci), floats(*kernel, ci, co), floats(co) if bias else None]
    names = {DIRECT} if ci == 1 and max(kernel) == 1 else set()
    names |= {"im2col"} if max(kernel) > 1 else set()
    names |= {"split_k4"} if ci >= 4 else set()
    names |= {"split_k16"} if ci >= 16 else set()
    plain = rank == 2 and kernel == (3, 3) and strides == (1, 1) == dilations
    names |= {"winograd2", "winograd4"} if plain else set()
    if names > {DIRECT} or (names and DIRECT not in names):
        agree(
            "conv",
            arrays,
            names,
            (1, 2),
            strides=strides,
            dilations=dilations,
            pads=pads,
            channels_last=True,
            tolerance=1e-5,
        )


def test_convolutions_that_have_one_way_only():
    assert results("conv", [floats(1, 4, 6, 6), floats(4, 2, 3, 3)], (1,), groups=2) == {}
    assert results("conv", [floats(1, 6, 6, 4), floats(3, 3, 2, 4)], (1,), groups=2, channels_last=True) == {}


def test_convolutions_with_channels_first_split_their_channels():
    agree("conv", [floats(1, 9, 6, 5), floats(4, 9, 3, 2)], {"split_k4"}, (1,), pads=(1, 0, 1, 2))


@QUICK
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 20),
    depth=st.integers(8, 70),
    stacked=st.sampled_from([(), (2,), (2, 1)]),
)
def test_products(rows: int, columns: int, depth: int, stacked: tuple[int, ...]):
    names = {"split_k4"} | ({"split_k16"} if depth >= 32 else set())
    agree("matmul", [floats(*stacked, rows, depth), floats(depth, columns)], names, (1,))


def test_products_of_half_precision_keep_wide_sums():
    arrays = [floats(3, 64, dtype="float16"), floats(64, 5, dtype="float16")]
    found = results("matmul", arrays)
    (want,) = reference("matmul", arrays)
    assert found["split_k4"].dtype == np.float16
    np.testing.assert_allclose(found["split_k4"], want, rtol=2e-3, atol=2e-3)


# ---------------------------------------------------------------------------------------------- reductions
@QUICK
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).filter(lambda s: np.prod(s) >= 16),
    op=st.sampled_from(["sum", "mean", "max", "min", "prod"]),
    keepdims=st.booleans(),
    data=st.data(),
)
def test_reductions(shape: list[int], op: str, keepdims: bool, data: st.DataObject):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    if np.prod([shape[a] for a in axes]) >= 16:
        agree(
            "reduce",
            [floats(*shape)],
            {"chunked"},
            tolerance=5e-5,
            op=op,
            axes=tuple(axes),
            keepdims=keepdims,
        )


@pytest.mark.parametrize("op", ["sum", "mean", "max"])
def test_reductions_of_integers_are_exact(op: str):
    x = ints(3, 41)
    found = results("reduce", [x], op=op, axes=(1,))
    np.testing.assert_array_equal(found["chunked"], found[DIRECT])


# ------------------------------------------------------------------------------------------------- softmax
@QUICK
@given(
    shape=st.lists(st.integers(1, 5), max_size=2),
    length=st.integers(16, 70),
    axis=st.integers(0, 2),
    op=st.sampled_from(["softmax", "log_softmax"]),
    spread=st.sampled_from([1.0, 30.0]),
)
def test_softmax(shape: list[int], length: int, axis: int, op: str, spread: float):
    axis = min(axis, len(shape))
    x = floats(*shape[:axis], length, *shape[axis:]) * np.float32(spread)
    agree(op, [x], {"chunked"}, axis=axis)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_of_masked_rows(op: str):
    """Chunks of -inf alone say nothing; a row of -inf alone, +inf and NaN spoil their row, as in the direct
    way."""
    x = floats(6, 40)
    x[0, 3:] = -np.inf
    x[1, :39] = -np.inf
    x[2] = -np.inf
    x[3, 20] = np.inf
    x[4, 5] = np.nan
    x[5] = -3.4e38
    found = results(op, [x], axis=1)
    np.testing.assert_allclose(found["chunked"], found[DIRECT], rtol=1e-6, atol=1e-6, equal_nan=True)
    assert np.isfinite(found["chunked"][0, :3]).all()
    assert np.isnan(found["chunked"][2:5]).all()


# ------------------------------------------------------------------------------------------- normalisations
@QUICK
@given(
    shape=st.lists(st.integers(1, 5), max_size=2),
    last=st.tuples(st.integers(4, 20), st.integers(4, 9)),
    trailing=st.integers(1, 2),
    op=st.sampled_from(["layer_norm", "rms_norm"]),
    affine=st.booleans(),
)
def test_normalisations(shape: list[int], last: tuple[int, int], trailing: int, op: str, affine: bool):
    last = last if trailing == 2 else (last[0] * last[1],)
    arrays: list[np.ndarray | None] = [floats(*shape, *last)]
    if affine:
        arrays += [floats(*last), floats(last[-1])]
    agree(op, arrays, {"chunked"}, axis=len(shape), tolerance=5e-6)


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("length", [4096, 5003])
def test_variance_with_a_large_mean(mean: float, length: int):
    """The chunked way is as sound as two passes: what is left is the rounding of the data's own mean."""
    x = np.random.default_rng(1).standard_normal((3, length)).astype(np.float32) + np.float32(mean)
    found = results("layer_norm", [x], axis=1)
    (want,) = reference("layer_norm", [x.astype(np.float64)], axis=1)
    error = {name: float(np.abs(got - want).max()) for name, got in found.items()}
    bound = 2.0**-24 * max(mean, 1.0) * 4 + 2e-6
    assert error["chunked"] <= bound
    assert error["chunked"] <= 2 * error[DIRECT] + 2e-6
    # What is not offered: sums of squares lose the variance to cancellation.
    shifted = np.float32(np.mean(x * x, axis=1) - np.mean(x, axis=1, dtype=np.float32) ** 2)
    if mean >= 1e4:
        assert np.abs(shifted - x.astype(np.float64).var(axis=1)).max() > 100 * bound


def test_outliers_do_not_spoil_a_row():
    x = floats(2, 64)
    x[0, 0], x[1, 63] = 1e6, -1e6
    agree("layer_norm", [x], {"chunked"}, axis=1, tolerance=1e-5)
