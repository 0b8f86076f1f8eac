from __future__ import annotations

import numpy as np
import pytest

from tests.graph.graphs import Maker, apply, kernels
from tilewright.graph import Graph, Value
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise
from tilewright.graph.primfunc import group_primfunc, lower_group
from tilewright.graph.tasks import collect_tasks
from tilewright.ir.printer import canonical_text
from tilewright.ir.verify import verify as verify_func


def prepared(m: Maker, *outputs: Value) -> Graph:
    return apply(m.done(*outputs), optimise)


def names(m: Maker, *outputs: Value) -> list[str]:
    """Kernels of the optimised graph; they compute what the graph does, and their functions verify."""
    graph = prepared(m, *outputs)
    for group in partition(graph):
        if not group.is_view:
            verify_func(group_primfunc(graph, group))
    return kernels(graph)


def test_epilogues():
    m = Maker()
    y = m.op("matmul", m.x(6, 4), m.f(4, 8))
    y = m.op("relu", m.op("add", y, m.f(8)))
    assert names(m, m.op("mul", y, m.x(6, 8, name="gate"))) == ["matmul_add_relu_mul"]


@pytest.mark.parametrize("kind", ["silu", "hard_swish", "gelu"])
def test_diamonds(kind: str):
    """Activations as exporters write them, with the input read several times."""
    m = Maker()
    y = m.op("conv", m.x(1, 4, 5, 5), m.f(6, 4, 3, 3), m.f(6))
    if kind == "silu":
        z = m.op("mul", y, m.op("sigmoid", y))
    elif kind == "hard_swish":
        z = m.op("clip", m.op("add", y, m.n(3.0)), m.n(0.0), m.n(6.0))
        z = m.op("div", m.op("mul", y, z), m.n(6.0))
    else:
        cube = m.op("mul", m.op("mul", y, m.op("mul", y, y)), m.n(0.044715))
        t = m.op("tanh", m.op("mul", m.op("add", y, cube), m.n(0.79788)))
        z = m.op("mul", m.op("mul", y, m.op("add", t, m.n(1.0))), m.n(0.5))
    found = names(m, z)
    assert [n.startswith("transpose_conv_") for n in found] == [True, False]
    assert found[1] == "transpose"


def test_a_residual_sum_joins_the_later_product():
    m = Maker()
    x = m.x(6, 4)
    a = m.op("matmul", x, m.f(4, 8))
    b = m.op("matmul", m.op("relu", m.op("matmul", x, m.f(4, 5))), m.f(5, 8))
    assert names(m, m.op("relu", m.op("add", b, a))) == ["matmul", "matmul_relu", "matmul_add_relu"]


def test_a_result_that_others_read_ends_its_group():
    m = Maker()
    y = m.op("matmul", m.x(6, 4), m.f(4, 4))
    z = m.op("relu", y)
    w = m.op("matmul", y, m.f(4, 3))
    assert names(m, z, w) == ["matmul", "relu", "matmul"]


def test_an_output_in_the_middle_is_kept():
    m = Maker()
    y = m.op("matmul", m.x(6, 4), m.f(4, 4))
    assert names(m, y, m.op("relu", y)) == ["matmul", "relu"]


def test_broadcasting_out_does_not_fuse():
    m = Maker()
    y = m.op("matmul", m.x(1, 4), m.f(4, 8))
    assert names(m, m.op("add", y, m.x(6, 8, name="b"))) == ["matmul", "add"]


def test_softmax_written_out():
    m = Maker()
    x = m.x(3, 5, 16)
    shifted = m.op("sub", x, m.op("reduce", x, op="max", axes=(2,), keepdims=True))
    e = m.op("exp", m.op("mul", shifted, m.n(0.5)))
    y = m.op("div", e, m.op("reduce", e, op="sum", axes=(-1,), keepdims=True))
    assert len(names(m, y)) == 1


def layer_norm(m: Maker, x: Value) -> Value:
    mean = m.op("reduce", x, op="mean", axes=(x.rank - 1,), keepdims=True)
    d = m.op("sub", x, mean)
    var = m.op("reduce", m.op("pow", d, m.n(2.0)), op="mean", axes=(-1,), keepdims=True)
    y = m.op("div", d, m.op("sqrt", m.op("add", var, m.n(1e-5))))
    size = x.dims()[-1]
    return m.op("add", m.op("mul", y, m.f(size)), m.f(size))


def test_layer_norm_written_out():
    m = Maker()
    assert len(names(m, layer_norm(m, m.x(3, 5, 16)))) == 1


def test_layer_norm_after_a_residual_product():
    m = Maker()
    x = m.x(1, 6, 16)
    y = m.op("add", m.op("add", m.op("matmul", x, m.f(16, 16)), m.f(16)), x)
    assert names(m, layer_norm(m, y)) == ["matmul_add", "reduce_sub_mul_add_sqrt_div"]


def test_reductions_of_other_axes_stay_apart():
    m = Maker()
    x = m.x(4, 5)
    y = m.op("sub", x, m.op("reduce", x, op="max", axes=(1,), keepdims=True))
    z = m.op("sub", y, m.op("reduce", y, op="max", axes=(0,), keepdims=True))
    assert len(names(m, z)) == 2


def test_elementwise_work_before_a_reduction_joins_it():
    m = Maker()
    y = m.op("reduce", m.op("exp", m.op("neg", m.x(4, 5, 6))), op="sum", axes=(2,), keepdims=True)
    assert names(m, m.op("log", y)) == ["neg_exp_reduce_log"]


def attention(m: Maker, x: Value, heads: int) -> Value:
    """Multi-head self-attention as PyTorch exports it."""
    batch, length, width = x.dims()
    qkv = m.op("add", m.op("matmul", x, m.f(width, 3 * width)), m.f(3 * width))
    qkv = m.op("reshape", qkv, shape=(batch, length, 3, heads, width // heads))
    qkv = m.op("transpose", qkv, perm=(2, 0, 3, 1, 4))
    q, k, v = (
        m.op("reshape", m.op("slice", qkv, starts=(i,), ends=(i + 1,), axes=(0,), steps=(1,)),
             shape=(batch, heads, length, width // heads))
        for i in range(3)
    )  # fmt: skip
    scores = m.op("matmul", m.op("mul", q, m.n(0.25)), m.op("transpose", k, perm=(0, 1, 3, 2)))
    y = m.op("matmul", m.op("softmax", scores, axis=-1), v)
    y = m.op("reshape", m.op("transpose", y, perm=(0, 2, 1, 3)), shape=(batch, length, width))
    return m.op("add", m.op("matmul", y, m.f(width, width)), m.f(width))


@pytest.mark.parametrize("batch", [1, 2])
def test_attention_written_out(batch: int):
    m = Maker()
    found = names(m, attention(m, m.x(batch, 6, 16), 2))
    assert len(found) == 6  # projection, transposed keys, scores, softmax, mix, projection
    assert [n for n in found if "matmul" not in n and "softmax" not in n] == ["slice_reshape_transpose"]


def test_transposes_join_a_product_on_both_sides():
    m = Maker()
    x = m.op("transpose", m.x(5, 2, 8), perm=(1, 0, 2))
    y = m.op("relu", m.op("matmul", x, m.x(2, 8, 4, name="b")))
    y = m.op("mul", m.op("transpose", y, perm=(1, 0, 2)), m.n(2.0))
    assert names(m, y) == ["transpose_matmul_relu_mul"]


def test_a_transpose_that_tears_vectors_does_not_join():
    m = Maker()
    y = m.op("matmul", m.x(9, 8), m.op("transpose", m.x(4, 8, name="b"), perm=(1, 0)))
    assert names(m, y) == ["transpose", "matmul"]


def test_rows_that_a_product_uses_rarely_are_read_as_they_lie():
    m = Maker()
    keys = m.op("transpose", m.x(3, 20, 8, name="keys"), perm=(0, 2, 1))
    assert names(m, m.op("matmul", m.x(3, 2, 8), keys)) == ["transpose_matmul"]
    m = Maker()
    y = m.op("matmul", m.x(2, 8), m.op("transpose", m.x(8, 3, 20, name="b"), perm=(1, 0, 2)))
    assert names(m, y) == ["transpose_matmul"]
    m = Maker()
    y = m.op("matmul", m.x(1, 8), m.op("transpose", m.x(20, 3, 8, name="b"), perm=(1, 2, 0)))
    assert names(m, y) == ["transpose_matmul"]


def test_an_image_is_read_as_planes_by_the_first_convolution_only():
    m = Maker()
    y = m.op("relu", m.op("conv", m.x(1, 3, 6, 6), m.f(8, 3, 3, 3), pads=(1, 1, 1, 1)))
    y = m.op("matmul", m.op("reduce", y, op="mean", axes=(2, 3), keepdims=False), m.f(8, 2))
    assert names(m, y)[0] == "transpose_conv_relu"
    m = Maker()
    y = m.op("conv", m.x(1, 16, 6, 6), m.f(8, 16, 3, 3))
    assert names(m, y)[:2] == ["transpose", "conv"]


def test_injective_chains_are_one_kernel():
    m = Maker()
    y = m.op("transpose", m.op("exp", m.x(4, 5, 6)), perm=(2, 0, 1))
    y = m.op("slice", m.op("reshape", y, shape=(24, 5)), starts=(2,), ends=(20,), axes=(0,), steps=(3,))
    y = m.op("pad", m.op("add", y, m.f(5)), pads=(1, 0, 0, 2), mode="constant")
    assert len(names(m, y)) == 1


def test_expensive_work_is_not_repeated():
    m = Maker()
    y = m.op("expand", m.op("exp", m.x(4, 1, 6)), shape=(4, 50, 6))
    assert names(m, y) == ["exp", "expand"]
    m = Maker()
    up = m.op("resize", m.op("tanh", m.x(1, 3, 4, 4)), scales=(1.0, 1.0, 2.0, 2.0), mode="nearest")
    assert not any("tanh" in n and "resize" in n for n in names(m, up))


def test_groups_are_in_order_and_cover_the_graph():
    m = Maker()
    x = m.x(1, 6, 16)
    graph = prepared(m, layer_norm(m, m.op("add", attention(m, x, 4), x)))
    known = set(graph.inputs) | set(graph.constants)
    for group in partition(graph):
        assert all(v in known for v in group.inputs)
        known.update(group.outputs)
    assert all(v in known for v in graph.outputs)


# ------------------------------------------------------------------------------------------------------ loop
# programs
def test_scalar_constants_are_literals():
    m = Maker()
    y = m.op("add", m.op("mul", m.x(4, 5), m.n(3.0)), m.f(5))
    graph = prepared(m, y)
    (group,) = partition(graph)
    kernel = lower_group(graph, group)
    assert [v.dims() for v in kernel.inputs] == [(4, 5), (5,)]
    assert kernel.func.attr("const_params") == ("w1",)
    assert "3.0" in canonical_text(kernel.func)


def test_equal_groups_are_one_task():
    m = Maker()
    x = m.x(8, 8)
    for n in range(3):
        x = m.op("relu", m.op("add", m.op("matmul", x, m.f(8, 8)), m.f(8)), name=f"layer{n}")
    graph = prepared(m, m.op("matmul", x, m.f(8, 3)))
    found = [lower_group(graph, g) for g in partition(graph) if not g.is_view]
    tasks = collect_tasks(found)
    assert [len(t.kernels) for t in tasks] == [3, 1]
    assert len({canonical_text(k.func) for k in tasks[0].kernels}) == 1
    assert np.all([len(t.key) == 64 for t in tasks])


def test_programs_are_deterministic():
    def text() -> list[str]:
        m = Maker()
        graph = prepared(m, layer_norm(m, attention(m, m.x(1, 6, 16), 2)))
        return [canonical_text(lower_group(graph, g).func) for g in partition(graph) if not g.is_view]

    assert text() == text()


def test_origins_follow():
    m = Maker()
    from tilewright.graph import Origin

    x = m.x(4, 4)
    m.origin = Origin("onnx", "mm", "MatMul")
    y = m.op("matmul", x, m.f(4, 4))
    m.origin = Origin("onnx", "act", "Relu")
    graph = prepared(m, m.op("relu", y))
    (group,) = partition(graph)
    assert [o.name for o in lower_group(graph, group).origins] == ["mm", "act"]
