"""The mechanism: alternatives that a user registers, picks, and the points at which there is a choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tilewright as tw
from tests.graph.graphs import Maker, apply, feeds, kernels, ops, same_results
from tilewright.errors import GraphError, UnsupportedError
from tilewright.graph.alternatives import (
    DIRECT,
    Alternative,
    ChoicePoint,
    Numerics,
    choice_points,
    choose_alternatives,
    default_pick,
    register_alternative,
    unregister_alternative,
)
from tilewright.graph.graph import Graph
from tilewright.graph.interpret import interpret
from tilewright.graph.pipeline import optimise, variants
from tilewright.ir import te
from tilewright.ir.expr import const, maximum

Registrar = Callable[..., Alternative]


@pytest.fixture
def offer() -> Iterator[Registrar]:
    """Registers an alternative for one test."""
    added: list[Alternative] = []

    def register(op: str, name: str, **rest: object) -> Alternative:
        added.append(register_alternative(Alternative(op, name, lambda ctx: True, **rest)))
        return added[-1]

    yield register
    for alternative in added:
        unregister_alternative(alternative)


def leaky_by_maximum(ctx: object, inputs: list[te.Tensor]) -> list[te.Tensor]:
    """max(x, alpha * x): another tensor expression of leaky_relu for slopes below one."""
    (x,) = inputs
    slope = const(float(ctx.attr("alpha")), x.dtype)
    return [te.compute(x.shape, lambda *i: maximum(x[i], x[i] * slope), "leaky_by_maximum")]


def leaky_by_parts(rw: object, node: object) -> list[object]:
    """relu(x) - alpha * relu(-x), in other operators."""
    x = node.inputs[0]
    slope = rw.constant(np.float32(node.attrs["alpha"]), "slope")
    negative = rw.op("mul", slope, rw.op("relu", rw.op("neg", x)))
    return [rw.op("sub", rw.op("relu", x), negative)]


def leaky(shape: tuple[int, ...] = (5, 7)) -> Graph:
    m = Maker()
    return m.done(m.op("leaky_relu", m.x(*shape), alpha=0.25))


def by(name: str) -> Callable[[ChoicePoint], str]:
    return lambda point: name


def test_a_compute_of_ones_own(offer: Registrar):
    offer("leaky_relu", "maximum", compute=leaky_by_maximum, numerics=Numerics.equal)
    graph = leaky()
    assert choose_alternatives(graph) is graph  # nobody prefers it
    chosen = choose_alternatives(graph, by("maximum"))
    assert chosen.nodes[0].attrs["compute"] == "maximum"
    same_results(graph, chosen)
    assert kernels(chosen) == ["leaky_relu"]
    model = tw.compile(graph, pick=by("maximum"), threads=1)
    data = feeds(graph)
    np.testing.assert_array_equal(model.run(data)["out0"], interpret(graph, data)["out0"])


def test_a_rewrite_of_ones_own(offer: Registrar):
    offer("leaky_relu", "parts", rewrite=leaky_by_parts)
    graph = leaky()
    chosen = apply(graph, lambda g: choose_alternatives(g, by("parts")))
    assert ops(chosen) == {"relu": 2, "neg": 1, "mul": 1, "sub": 1}
    assert ops(optimise(graph, check=True, pick=by("parts"))) == ops(chosen)


def test_what_prefers_itself_is_chosen_without_a_measurement(offer: Registrar):
    offer(
        "leaky_relu",
        "maximum",
        compute=leaky_by_maximum,
        preferred=lambda ctx, threads: threads > 1,
    )
    assert "compute" not in optimise(leaky(), threads=1).nodes[0].attrs
    assert optimise(leaky(), threads=2).nodes[0].attrs["compute"] == "maximum"


def test_an_option_can_forbid_it(offer: Registrar):
    offer(
        "leaky_relu",
        "maximum",
        compute=leaky_by_maximum,
        preferred=lambda ctx, threads: True,
        option="fast_conv",
    )
    assert "compute" in optimise(leaky()).nodes[0].attrs
    assert "compute" not in optimise(leaky(), disabled=["fast_conv"]).nodes[0].attrs
    assert choice_points(leaky(), disabled=["fast_conv"]) == ()


def test_growth_is_limited_over_the_whole_model(offer: Registrar, monkeypatch: pytest.MonkeyPatch):
    offer(
        "leaky_relu",
        "maximum",
        compute=leaky_by_maximum,
        growth=lambda ctx: 100,
        preferred=lambda ctx, threads: True,
    )
    m = Maker()
    y = m.x(4)
    for _ in range(3):
        y = m.op("leaky_relu", y, alpha=0.25)
    monkeypatch.setattr("tilewright.graph.alternatives.MAX_GROWTH_BYTES", 250)
    assert sum("compute" in n.attrs for n in choose_alternatives(m.done(y)).nodes) == 2


def test_points_and_their_variants(offer: Registrar):
    offer("leaky_relu", "maximum", compute=leaky_by_maximum)
    offer("leaky_relu", "parts", rewrite=leaky_by_parts)
    m = Maker()
    graph = m.done(m.op("leaky_relu", m.op("sigmoid", m.x(3, 4)), alpha=0.1))
    (point,) = choice_points(graph, threads=2)
    assert point.names == (DIRECT, "maximum", "parts")
    assert default_pick(point) == DIRECT
    found = variants(point)
    assert tuple(found) == point.names
    for variant in found.values():
        same_results(found[DIRECT], variant)
    assert len(found["parts"].nodes) == 5


def test_constants_stay_constants():
    m = Maker()
    y = m.op("conv", m.x(1, 20, 20, 32), m.f(3, 3, 32, 32), m.f(32), channels_last=True, pads=(1, 1, 1, 1))
    (point,) = choice_points(m.done(m.op("relu", y)))
    assert [v.name for v in point.graph().inputs] == ["x"]
    assert {"winograd4", "winograd2"} < set(point.names)


def test_each_operator_by_itself(offer: Registrar):
    offer("leaky_relu", "maximum", compute=leaky_by_maximum)
    m = Maker()
    y = m.op("leaky_relu", m.op("leaky_relu", m.x(4), alpha=0.5), alpha=0.25)
    chosen = choose_alternatives(
        m.done(y), lambda point: "maximum" if point.node.attrs["alpha"] == 0.5 else DIRECT
    )
    assert [n.attrs.get("compute") for n in chosen.nodes] == ["maximum", None]
    # What is chosen is not asked about again.
    assert choose_alternatives(chosen, by(DIRECT)) is chosen


def test_an_answer_that_is_no_name(offer: Registrar):
    offer("leaky_relu", "maximum", compute=leaky_by_maximum)
    with pytest.raises(GraphError, match=r"cannot be computed by 'minimum'(.|\n)*known: direct, maximum"):
        choose_alternatives(leaky(), by("minimum"))


def test_a_compute_that_nobody_registered():
    m = Maker()
    graph = m.done(m.op("leaky_relu", m.x(4), alpha=0.5, compute="gone"))
    with pytest.raises(GraphError, match="has no compute 'gone'"):
        kernels(graph)


def test_registration_refuses_what_makes_no_sense(offer: Registrar):
    offer("leaky_relu", "maximum", compute=leaky_by_maximum)
    with pytest.raises(ValueError, match="'maximum' already"):
        offer("leaky_relu", "maximum", compute=leaky_by_maximum)
    with pytest.raises(ValueError, match="'direct' already"):
        offer("leaky_relu", DIRECT, compute=leaky_by_maximum)
    with pytest.raises(ValueError, match="either a compute or a rewrite"):
        offer("leaky_relu", "neither")
    with pytest.raises(UnsupportedError, match="no operator 'leaky'"):
        offer("leaky", "maximum", compute=leaky_by_maximum)
    with pytest.raises(KeyError):
        unregister_alternative(Alternative("leaky_relu", "maximum", lambda ctx: True, leaky_by_maximum))
