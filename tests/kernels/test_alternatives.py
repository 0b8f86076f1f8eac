"""Alternatives through the whole path: scheduled by the default rules, native, on one and two threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw
import tilewright.ops
from tests.kernels.harness import Prepared, slow_parts
from tilewright.assembly import graph_kernels
from tilewright.graph import GraphBuilder
from tilewright.graph.alternatives import DIRECT, choice_points
from tilewright.graph.graph import Graph
from tilewright.graph.interpret import interpret
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import variants
from tilewright.ir.stmt import Alloc, For
from tilewright.ir.visit import find_blocks, walk_stmt
from tilewright.lower import lower
from tilewright.measure import Comparison, GraphRunner, compare_variants, measured_pick
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

CONV = {"channels_last": True, "pads": (1, 1, 1, 1)}


def one(op: str, shapes: list[tuple[int, ...]], consts: tuple[int, ...] = (), /, **attrs: Any) -> Graph:
    """A graph of one node; data is normally distributed, weights are He's."""
    builder, rng = GraphBuilder("one"), np.random.default_rng(0)
    values = []
    for n, shape in enumerate(shapes):
        if n in consts:
            scale = np.float32(np.sqrt(2 / max(np.prod(shape[:-1]), 1)))
            values.append(builder.constant(rng.standard_normal(shape, np.float32) * scale, f"w{n}"))
        else:
            values.append(builder.input(f"x{n}", shape, "float32"))
    return builder.build(builder.emit(op, values, attrs), ["y"])


CASES = {
    "conv": one("conv", [(1, 14, 13, 40), (3, 3, 40, 48), (48,)], (1, 2), **CONV),
    "conv_strided": one("conv", [(2, 15, 13, 5), (5, 3, 5, 33), (33,)], (1, 2), strides=(2, 2), **CONV),
    "conv_1d": one("conv", [(1, 100, 64), (3, 64, 24)], (1,), channels_last=True, dilations=(2,)),
    "matmul_narrow": one("matmul", [(1, 2050), (2050, 10)], (1,)),
    "matmul": one("matmul", [(9, 1000), (1000, 70)], (1,)),
    "sum_all": one("reduce", [(100, 1000)], op="sum", axes=(0, 1)),
    "sum_rows": one("reduce", [(3, 30011)], op="mean", axes=(1,), keepdims=False),
    "max_columns": one("reduce", [(30000, 24)], op="max", axes=(0,)),
    "softmax": one("softmax", [(1, 40000)], axis=1),
    "softmax_odd": one("softmax", [(9, 10007)], axis=1),
    "log_softmax": one("log_softmax", [(2, 50257)], axis=1),
    "softmax_columns": one("softmax", [(9001, 6)], axis=0),
    "layer_norm": one("layer_norm", [(1, 40000), (40000,), (40000,)], (1, 2), axis=1),
    "layer_norm_odd": one("layer_norm", [(9, 10007)], axis=1),
    "layer_norm_planes": one("layer_norm", [(2, 5, 60, 70)], axis=1),
    "rms_norm": one("rms_norm", [(2, 30000), (30000,)], (1,), axis=1),
}


@pytest.mark.parametrize("name", CASES)
def test_every_way_computes_the_same(name: str):
    graph, target = CASES[name], Target.host()
    (point,) = choice_points(graph)
    rng = np.random.default_rng(1)
    data = {v.name: rng.standard_normal(v.dims(), np.float32) for v in graph.inputs}
    want = interpret(graph, data)["y"]
    scale = float(np.abs(want).max())
    found = variants(point)
    assert len(found) > 1
    for way, variant in found.items():
        for threads in (1, 2):
            runner = GraphRunner(variant, target, threads)
            for value, array in zip(variant.inputs, runner.inputs, strict=True):
                array[...] = data[value.name]
            runner()
            error = np.abs(runner.outputs[0] - want).max() / scale
            assert error < 2e-5, f"{way} on {threads} threads"


@pytest.mark.parametrize(
    "name", ["softmax", "softmax_odd", "layer_norm", "log_softmax", "rms_norm", "sum_all"]
)
def test_long_rows_run_in_parts_on_threads_in_vectors(name: str):
    (point,) = choice_points(CASES[name])
    for kernel in graph_kernels(variants(point)["chunked"], partition(variants(point)["chunked"])):
        scheduled = default_schedule(kernel.func, Target.parse("x86-64-v4")).func
        prepared = Prepared(kernel.func, scheduled, scheduled)
        assert not list(slow_parts(prepared, scalar=200, serial=20_000))


def test_what_concerns_one_part_is_in_one_loop():
    """The maximum, the powers and their sum of a part: while it is in the first-level cache."""
    (point,) = choice_points(CASES["softmax"])
    variant = variants(point)["chunked"]
    (kernel,) = graph_kernels(variant, partition(variant))
    func = default_schedule(kernel.func, Target.parse("x86-64-v4")).func
    first = next(s for s in walk_stmt(func.body) if isinstance(s, For))
    assert first.kind == "parallel"
    inside = {block.name for block in find_blocks(first)}
    assert {"chunk_max", "exp", "chunk_sum"} <= inside
    assert "softmax" not in inside


def test_patches_are_made_for_one_tile_at_a_time():
    (point,) = choice_points(CASES["conv"])
    variant = variants(point)["im2col"]
    (kernel,) = graph_kernels(variant, partition(variant))
    lowered = lower(default_schedule(kernel.func, Target.parse("x86-64-v4")).func)
    patches = next(s for s in walk_stmt(lowered.body) if isinstance(s, Alloc) and s.buffer.name == "patches")
    assert np.prod(patches.buffer.static_shape) <= 14 * 3 * 3 * 40


# ------------------------------------------------------------------------------------------------- measuring
def test_comparison_takes_ratios_round_by_round():
    slow, fast = (1.0, 3.0, 1.0), (0.5, 1.5, 0.5)
    comparison = Comparison({DIRECT: slow, "other": fast, "even": slow}, (), {})
    assert comparison.ratio("other") == 0.5
    assert comparison.seconds(DIRECT) == 1.0
    assert comparison.fastest == comparison.choice() == "other"
    assert comparison.choice(margin=0.6) == DIRECT


def test_weights_rotate():
    graph = CASES["matmul"]
    runner = GraphRunner(graph, Target.host(), copies_bytes=10 * 1000 * 70 * 4)
    assert 8 <= len(set(runner._weights)) <= 10  # packing pads the weights to the host's vectors
    results = []
    for _ in range(11):
        runner()
        results.append(runner.outputs[0].copy())
    assert all(np.array_equal(results[0], r) for r in results)
    assert len(GraphRunner(graph, Target.host(), copies_bytes=1 << 30, max_copies=3)._weights) == 3


def test_variants_are_compared_on_the_same_data():
    (point,) = choice_points(CASES["matmul"])
    comparison = compare_variants(variants(point), Target.host(), seconds=0.001)
    assert set(comparison.samples) == set(point.names)
    assert len({len(times) for times in comparison.samples.values()}) == 1
    for outputs in comparison.outputs.values():
        np.testing.assert_allclose(outputs[0], comparison.outputs[DIRECT][0], rtol=1e-4, atol=1e-4)


def test_a_model_compiled_with_measured_picks():
    builder = GraphBuilder("two")
    x = builder.input("x", (1, 9000), "float32")
    y = builder.op("softmax", builder.op("softmax", x, axis=1), axis=1)
    graph = builder.build([y], ["y"])
    seen = []
    pick = measured_pick(seconds=0.001, report=lambda point, comparison: seen.append(point.names))
    model = tw.compile(graph, threads=1, pick=pick)
    assert seen == [(DIRECT, "chunked")]  # both nodes are alike
    data = np.random.default_rng(0).standard_normal((1, 9000), np.float32)
    want = interpret(graph, {"x": data})["y"]
    np.testing.assert_allclose(model.run({"x": data})["y"], want, rtol=1e-5)
