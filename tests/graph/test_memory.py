from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graph.arena import execute
from tests.graph.graphs import Maker, apply, feeds
from tilewright.graph import Graph, Value
from tilewright.graph.interpret import interpret
from tilewright.graph.memory import ALIGNMENT, _Interval, assign_offsets, peak_live, plan_memory
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise


def planned(m: Maker, *outputs: Value):
    """The plan of the optimised graph, after running its kernels through it."""
    graph = apply(m.done(*outputs), optimise)
    groups = partition(graph)
    plan = plan_memory(graph, groups)
    check(graph)
    return graph, groups, plan


def check(graph: Graph) -> None:
    groups = partition(graph)
    plan = plan_memory(graph, groups)
    data = feeds(graph)
    expected = interpret(graph, data)
    for name, have in zip(graph.output_names, execute(graph, groups, plan, data), strict=True):
        want = expected[name]
        np.testing.assert_allclose(
            have, want, rtol=1e-4, atol=1e-4 * (float(np.abs(want).max(initial=0)) or 1)
        )


intervals = st.lists(
    st.builds(
        lambda start, length, size: _Interval(start, start + length, size * ALIGNMENT),
        st.integers(0, 12), st.integers(0, 6), st.integers(1, 20),
    ),
    max_size=24,
)  # fmt: skip


@given(intervals)
@settings(max_examples=300, deadline=None)
def test_live_buffers_never_overlap(wanted: list[_Interval]):
    total = assign_offsets(wanted)
    for n, a in enumerate(wanted):
        assert a.offset % ALIGNMENT == 0
        assert 0 <= a.offset <= total - a.size
        for b in wanted[n + 1 :]:
            apart_in_time = a.end < b.start or b.end < a.start
            assert apart_in_time or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    assert peak_live(wanted) <= total <= sum(i.size for i in wanted)


def test_a_chain_needs_two_buffers():
    m = Maker()
    y = m.x(8, 64)
    for _ in range(6):
        y = m.op("matmul", y, m.f(64, 64))
    _, groups, plan = planned(m, y)
    assert len(groups) == 6
    assert plan.arena_size == 2 * 8 * 64 * 4
    assert plan.peak_live == plan.arena_size


def test_elementwise_kernels_work_in_place():
    m = Maker()
    y = m.op("matmul", m.x(8, 64), m.f(64, 64))
    z = m.op("matmul", m.op("reduce", y, op="sum", axes=(0,), keepdims=True), m.f(64, 64))
    y = m.op("sub", y, z)
    _, groups, plan = planned(m, m.op("matmul", y, m.f(64, 3)))
    group = next(g for g in groups if "sub" in g.name)
    place = plan.places[group.outputs[0]]
    assert any(plan.places[v].offset == place.offset for v in group.inputs)


def test_views_share_memory():
    m = Maker()
    y = m.op("reshape", m.op("matmul", m.x(8, 64), m.f(64, 64)), shape=(16, 32))
    _, groups, plan = planned(m, m.op("matmul", y, m.f(32, 3)))
    view = next(g for g in groups if g.is_view)
    assert plan.places[view.outputs[0]] == plan.places[view.inputs[0]]


def test_inputs_outputs_and_constants_are_not_in_the_arena():
    m = Maker()
    graph, _, plan = planned(m, m.op("relu", m.op("matmul", m.x(4, 4), m.f(4, 4))))
    assert plan.arena_size == 0
    assert plan.places[graph.inputs[0]].kind == "input"
    assert plan.places[graph.outputs[0]].kind == "output"
    assert {plan.places[v].kind for v in graph.constants} == {"constant"}


def test_outputs_that_no_kernel_writes_are_copied():
    m = Maker()
    x = m.x(4, 6)
    y = m.op("relu", x)
    _, _, plan = planned(m, m.op("reshape", x, shape=(24,)), y, y, m.f(3), m.op("reshape", y, shape=(3, 8)))
    assert [(c.output, c.source.kind, c.nbytes) for c in plan.copies] == [
        (0, "input", 96), (2, "output", 96), (3, "constant", 12), (4, "output", 96)
    ]  # fmt: skip


def concatenated(m: Maker, axis: int) -> Value:
    x = m.x(1, 4, 4, 32)
    a, b = m.op("exp", x), m.op("tanh", x)
    return m.op("concat", a, b, axis=axis)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concatenations_in_place(axis: int):
    m = Maker()
    y = m.op("reduce", concatenated(m, axis), op="max", axes=(1,), keepdims=True)
    _, groups, plan = planned(m, y)
    assert [g.name for g in groups if not g.is_view] == ["exp", "tanh", "reduce"]
    joined = next(g for g in groups if g.is_concat_in_place)
    offsets = [plan.places[v].offset - plan.places[joined.outputs[0]].offset for v in joined.inputs]
    assert offsets == [0, {1: 4 * 4 * 32, 2: 4 * 32, 3: 32}[axis] * 4]


def test_nested_concatenations_in_place():
    m = Maker()
    y = m.op("concat", concatenated(m, 3), m.op("exp", m.x(1, 4, 4, 16, name="z")), axis=3)
    y = m.op("concat", y, m.op("relu", m.x(1, 2, 4, 80, name="w")), axis=1)
    _, groups, _ = planned(m, m.op("reduce", y, op="max", axes=(3,), keepdims=True))
    assert sum(g.is_concat_in_place for g in groups) == 3


def test_parts_may_be_read_alone():
    """DenseNet: a layer reads the last features, the next one all of them."""
    m = Maker()
    x = m.op("transpose", m.x(1, 6, 6, 16), perm=(0, 3, 1, 2))
    a = m.op("relu", m.op("conv", x, m.f(16, 16, 3, 3), pads=(1, 1, 1, 1)))
    b = m.op("relu", m.op("conv", a, m.f(16, 16, 1, 1)))
    y = m.op("conv", m.op("concat", a, b, axis=1), m.f(8, 32, 1, 1))
    _, groups, _ = planned(m, m.op("transpose", y, perm=(0, 2, 3, 1)))
    assert [g.name for g in groups if not g.is_view] == ["conv_relu", "conv_relu", "conv"]


@pytest.mark.parametrize("reason", ["output", "view", "twice", "input", "short"])
def test_concatenations_that_must_copy(reason: str):
    m = Maker()
    x = m.x(1, 4, 4, 2 if reason == "short" else 32)
    a, b = m.op("exp", x), m.op("tanh", x)
    if reason == "view":
        a = m.op("reshape", m.op("exp", m.x(4, 4, 32, name="v")), shape=(1, 4, 4, 32))
    if reason == "twice":
        b = a
    if reason == "input":
        b = x
    y = m.op("concat", a, b, axis=3)
    outputs = [m.op("reduce", y, op="max", axes=(3,), keepdims=True)]
    if reason == "output":
        outputs.append(a)
    _, groups, _ = planned(m, *outputs)
    assert not any(g.is_concat_in_place for g in groups)


def test_empty_graph():
    m = Maker()
    _, groups, plan = planned(m, m.x(3))
    assert not groups
    assert plan.arena_size == 0
    assert len(plan.copies) == 1
