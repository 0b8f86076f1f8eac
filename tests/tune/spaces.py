"""Search spaces of real workloads, and cost models that know or guess a made-up truth about them."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from tests.schedule.spaces import FUNCTIONS
from tilewright.cost.model import FeatureModel, Prediction
from tilewright.ir import te
from tilewright.ir.stmt import PrimFunc
from tilewright.records.record import Workload
from tilewright.schedule.features import FEATURES
from tilewright.schedule.schedule import Schedule
from tilewright.schedule.space import register_sketch, unregister_sketch
from tilewright.target import Target
from tilewright.tune import Point, SearchSpace

TARGET = Target.parse("x86-64-v4")
#: Workloads that tests go over: a product, a convolution, a depthwise one, a softmax, and a small space.
NAMES = ("product", "convolution", "depthwise", "softmax", "transposition")


def product(rows: int = 96, columns: int = 160, depth: int = 64) -> PrimFunc:
    """A matrix product with constant weights."""
    a = te.placeholder((rows, depth), "float32", "a")
    w = te.placeholder((depth, columns), "float32", "w")
    c = te.compute(
        (rows, columns), lambda i, j: te.reduce("sum", (depth,), lambda k: a[i, k] * w[k, j]), "c"
    )
    return te.primfunc("product", [a, w], [c], const_inputs=[w])


def elementwise() -> PrimFunc:
    """Work for threads, one operation an element."""
    x = te.placeholder((1 << 20,), "float32", "x")
    return te.primfunc("elementwise", [x], [te.compute((1 << 20,), lambda i: x[i] * 2.0, "y")])


@cache
def space(name: str) -> SearchSpace:
    """The space of a workload; made once, because spaces do not change."""
    own = {"product": product, "elementwise": elementwise}
    func = own[name]() if name in own else FUNCTIONS[name]()
    return SearchSpace(Workload.of(func), TARGET)


@cache
def shared_alike() -> tuple[SearchSpace, Point, Point]:
    """A space, and two points of it that differ only in how many iterations a thread claims at once."""
    grains = {"one_at_a_time": 1, "many_at_a_time": 1000}

    def rule(grain: int, func: PrimFunc, target: Target) -> Schedule:
        sch = Schedule(func, symbolic=True)
        (loop,) = sch.get_loops(sch.get_blocks()[0])
        outer, inner = sch.split(loop, [None, sch.decide("inner", [8, 16], 16)])
        sch.vectorize(inner)
        sch.parallel(outer)
        sch.annotate(outer, "grain", grain)
        return sch

    for name, grain in grains.items():
        register_sketch(name, partial(rule, grain))
    try:
        here = SearchSpace(Workload.of(elementwise()), TARGET)
    finally:
        for name in grains:
            unregister_sketch(name)
    one, many = (n for n, s in enumerate(here.sketches) if s.name in grains)
    return here, Point(one, (16,)), Point(many, (16,))


class Guess(FeatureModel):
    """Sees how much is executed, and how well registers and vectors are filled."""

    name = "guess"

    def predict_features(self, features: NDArray[np.float32], threads: int) -> Prediction:
        f = {n: features[:, k].astype(np.float64) for k, n in enumerate(FEATURES)}
        doublings = f["executed"] + 2 * np.maximum(f["register_fill"], 0) + 0.3 * f["loads_per_op"]
        doublings -= np.log2(np.clip(f["lane_fill"], 1 / 64, 1.0))
        return Prediction(np.log(2) * doublings - 20, np.full(len(features), 0.3))


class Truth(Guess):
    """What :class:`Guess` says, and something that it does not see, smooth over the features."""

    name = "truth"

    def predict_features(self, features: NDArray[np.float32], threads: int) -> Prediction:
        weights = np.random.default_rng(5).normal(size=features.shape[1]) * 0.02
        unseen = features.astype(np.float64) @ weights
        guessed = super().predict_features(features, threads).log_seconds
        return Prediction(guessed + unseen + 0.3 * np.sin(4 * unseen), np.zeros(len(features)))
