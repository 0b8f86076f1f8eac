"""The draft model: what a candidate costs by arithmetic, from features and a few numbers of the machine.

The time of a kernel is that of its main block, which is a soft maximum of what may bound it, and of what
comes before and after it:

    compute   instructions of the innermost tile: multiply-adds, calls, the front end, chains of additions
    l1        its loads, gathers and stores, and vectors that find no register
    l2, l3, memory
              bytes that a cache of a size does not keep from one visit to the next
    overhead  the call, the other blocks, waking threads, iterations of the parallel loop
    imbalance what threads wait for the last one

Traffic through a cache comes from the footprints at the four levels of the loop nest: a sub-nest that fits
loads its footprint once for every time that it runs; between the levels, bytes and footprints are
interpolated by their logarithms. The roofline and cache models that this stands on are textbook material
(Williams, Waterman and Patterson, "Roofline", CACM 2009).
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.assembly.program import cold_bytes
from tilewright.cost.coefficients import Coefficients
from tilewright.cost.model import FeatureModel, Prediction
from tilewright.records.record import Device
from tilewright.records.store import Store
from tilewright.schedule.features import FEATURES, LEVELS, LOADS
from tilewright.schedule.sketch import Rows, Sketch
from tilewright.target import Target

__all__ = [
    "LIMITS",
    "Bound",
    "Coefficients",
    "DraftModel",
    "Terms",
    "bound",
    "cold_bytes",
    "draft_model",
    "least_seconds",
]

#: What may bound a kernel, in the order of :attr:`Terms.seconds`.
LIMITS: Final = ("compute", "l1", "l2", "l3", "memory", "overhead", "imbalance")
#: The exponent of the soft maximum: what overlaps well is hidden, what is nearly as large adds up.
SHARPNESS: Final = 3.0
#: The standard deviation of the logarithm of its errors; it knows the order of candidates better than this.
SPREAD: Final = 0.5
#: The share of a cache that a kernel can count on.
USABLE: Final = 0.75
#: Bytes that caches move together.
LINE: Final = 64.0
#: Rows that are evaluated together: their columns stay in the second-level cache.
CHUNK: Final = 4096

Column = NDArray[np.float64]
_PLACE: Final = {name: n for n, name in enumerate(FEATURES)}


@dataclasses.dataclass(frozen=True)
class Terms:
    """Where the time of ``n`` programs goes.

    Attributes:
        seconds: ``[n, len(LIMITS)]`` float64: each bound alone. Those of compute to memory overlap, overhead
            and imbalance are added.
        total: ``[n]`` float64: the predicted time in seconds.
    """

    seconds: NDArray[np.float64]
    total: Column


@dataclasses.dataclass(frozen=True)
class Bound:
    """What limits a kernel.

    Attributes:
        limit: one of :data:`LIMITS`.
        share: the part of the predicted time that it would take alone.
        runner_up: the next one.
        distance: how many times longer the first takes than the next.
        seconds: the predicted time of one call.
    """

    limit: str
    share: float
    runner_up: str
    distance: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"bound by {_WORDS[self.limit]}: {self.share:.0%} of {self.seconds * 1e6:.1f} us, "
            f"{self.distance:.1f} times {_WORDS[self.runner_up]}"
        )


_WORDS: Final = {
    "compute": "arithmetic",
    "l1": "loads and stores",
    "l2": "traffic between L1 and L2",
    "l3": "traffic between L2 and L3",
    "memory": "memory",
    "overhead": "calls, loops and other blocks",
    "imbalance": "threads that wait for others",
}


class DraftModel(FeatureModel):
    """The analytic model of a target.

    Args:
        target: whose vectors, registers and caches.
        coefficients: what its cores can do; by its numbers when left out.
    """

    name = "draft"

    def __init__(self, target: Target, coefficients: Coefficients | None = None) -> None:
        self.target = target
        self.coefficients = coefficients or Coefficients.of(target)

    def predict_features(
        self, features: NDArray[np.float32], threads: int, cold: float | None = None
    ) -> Prediction:
        """The times of programs with these features, ``[n, len(FEATURES)]``.

        Args:
            cold: bytes of constant operands, which come from memory; those that are stored in a layout of
                the schedule's own when left out.
        """
        log_seconds = np.log(self.terms(features, threads, cold).total)
        return Prediction(log_seconds, np.full(len(log_seconds), SPREAD))

    def predict(self, sketch: Sketch, rows: Rows, threads: int) -> Prediction:
        """As :meth:`tilewright.cost.model.CostModel.predict`."""
        return self.predict_features(sketch.features(rows), threads, cold_bytes(sketch.func))

    def terms(self, features: NDArray[np.float32], threads: int, cold: float | None = None) -> Terms:
        """Where the time of these programs goes; arguments as in :meth:`predict_features`."""
        seconds = np.empty((len(features), len(LIMITS)))
        total = np.empty(len(features))
        for start in range(0, len(features), CHUNK):
            part = slice(start, start + CHUNK)
            kernel = _Kernels(features[part], self.target, self.coefficients, threads, cold)
            kernel.fill(seconds[part], total[part])
        return Terms(seconds, total)


def bound(features: NDArray[np.float32], model: DraftModel, threads: int, cold: float | None = None) -> Bound:
    """What limits one program, with features ``[len(FEATURES)]``, by the draft model."""
    terms = model.terms(features.reshape(1, -1), threads, cold)
    seconds = terms.seconds[0]
    first, second = (int(n) for n in np.argsort(-seconds, kind="stable")[:2])
    total = float(terms.total[0])
    distance = float(seconds[first] / max(seconds[second], 1e-30))
    return Bound(LIMITS[first], float(seconds[first]) / total, LIMITS[second], distance, total)


def least_seconds(
    features: NDArray[np.float32], model: DraftModel, threads: int, cold: float, bits: int
) -> float:
    """A time of one call that no schedule is below, as far as the coefficients are right: the multiply-adds
    of the main block at the speed of the cores, or the bytes that cannot be in a cache at that of memory.

    Args:
        features: ``[len(FEATURES)]``, of any schedule of the function.
        cold: bytes of weights, which come from memory.
        bits: of an element of the narrowest operand: instructions for it have the most lanes.
    """
    c, target = model.coefficients, model.target

    def of(name: str) -> float:
        return float(features[_PLACE[name]])

    # Integers are not counted as operations: a reduction of them has one multiply-add a step.
    each = max(of("ops_add"), of("ops_mul"), of("ops_minmax"), 1.0 if of("steps") > 0 else 0.0)
    vectors = each * 2.0 ** (of("points") + of("steps")) / target.lanes(max(bits, 8))
    # Of a table that is looked up only some rows are touched. What was in the cache before, and what stays
    # there after, need not move.
    touched = min(2.0 ** of("param_bytes"), 2.0 ** of("footprint_all") + 2.0 ** of("other_bytes"))
    moved = max(cold, touched - 2 * target.l3_bytes)
    return float(max(vectors * c.multiply_add * c.cycle / threads, moved / c.memory))


def draft_model(target: Target, threads: int, store: Store | None = None) -> DraftModel:
    """The draft model of a target, with what a calibration of this device on so many threads found if the
    store has one, and with what the target's numbers suggest otherwise. Measures nothing.

    Raises:
        StoreError: the store cannot be read, or what it has is not coefficients.
    """
    if store is not None:
        stored = store.latest_model("draft", Device.of(target).fingerprint, threads)
        if stored is not None:
            return DraftModel(target, Coefficients.from_json(stored.data))
    return DraftModel(target, Coefficients.of(target, threads))


class _Kernels:
    """The arithmetic, one column of each quantity for the programs of a chunk."""

    def __init__(
        self,
        features: NDArray[np.float32],
        target: Target,
        coefficients: Coefficients,
        threads: int,
        cold: float | None,
    ) -> None:
        self._columns = np.ascontiguousarray(features.T, np.float64)
        self.target, self.c, self.threads = target, coefficients, threads
        self._cold = self._power("packed_bytes", 0.0) if cold is None else cold

    def _feature(self, name: str) -> Column:
        found: Column = self._columns[_PLACE[name]]
        return found

    def _power(self, name: str, none: float = 1.0) -> Column:
        """What a feature is the logarithm of; ``none`` where the logarithm is 0, which says one or none."""
        x = self._feature(name)
        return np.exp2(x) if none == 1.0 else np.where(x > 0, np.exp2(x), none)

    # -- the innermost tile ----------------------------------------------------------------------------------

    @cached_property
    def width(self) -> Column:
        """Full vectors that one vector of the program takes; parts of one count as parts."""
        bits = self._power("lanes") * self._feature("element_bytes") * 8
        return np.asarray(bits / self.target.vector_bits)

    @cached_property
    def visits(self) -> Column:
        """How often the innermost tile runs."""
        return np.exp2(self._feature("executed") - self._feature("lanes") - self._feature("unrolled"))

    @cached_property
    def vectors(self) -> Column:
        """Registers that one vector of the program takes."""
        return np.maximum(np.ceil(self.width), 1.0)

    @cached_property
    def reduces(self) -> NDArray[np.bool_]:
        return self._feature("steps") > 0

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Whether sums stay in registers while the innermost loop runs."""
        own = (self._feature("register_bytes") > 0) | (self._feature("inner_reduces") > 0)
        return self.reduces & (own | (self._feature("micro_steps") > 0))

    def _cycles(self, full: float) -> Column:
        """Cycles of an instruction on the program's vectors that takes ``full`` on a full one: a short one
        takes its share, but two start in a cycle at most."""
        return np.maximum(self.width * full, min(full, 0.5))

    def _loads(self) -> tuple[Column, Column, Column, Column]:
        """Vectors that are loaded, single elements, elements that lie apart, and shuffles of vectors, in one
        visit of the innermost tile: each distinct one once, the emitter keeps what it has."""
        found = [np.zeros(len(self.visits)) for _ in range(4)]
        size, lanes = self._feature("element_bytes"), self._power("lanes")
        for n in range(LOADS):
            stride = self._feature(f"load{n}_stride")
            there = self._feature(f"load{n}_bytes") > 0
            elements = np.maximum(self._power(f"load{n}_micro") / size, 1.0)
            found[0] += np.where(there & (stride == 0), np.maximum(elements / lanes, 1.0), 0.0)
            found[1] += np.where(there & (stride < 0), elements, 0.0)
            # A square tile in registers is turned by shuffles, as many for a vector as its length has digits.
            turned = (self._feature("register_bytes") >= self._feature(f"load{n}_micro")) & ~self.reduces
            apart = np.where(there & (stride > 0), np.maximum(elements, lanes), 0.0)
            found[2] += np.where(turned, 0.0, apart)
            found[3] += np.where(turned, apart / lanes * self._feature("lanes"), 0.0)
        return found[0], found[1], found[2], found[3]

    def _tile_cycles(self) -> tuple[Column, Column]:
        """Cycles of arithmetic, and of loads and stores, in one visit of the innermost tile."""
        c = self.c
        points = self._power("unrolled")
        fused = np.maximum(self._feature("ops_add"), self._feature("ops_mul"))
        simple = np.maximum(fused + self._feature("ops_minmax"), 1.0)
        # These are chains of instructions that wait for each other, however short the vectors are.
        slow = np.maximum(self.width, 1.0) * (
            self._feature("ops_div") * c.divide + self._feature("ops_call") * c.call
        )
        vectors, single, apart, shuffles = self._loads()
        arithmetic = (points * simple + shuffles) * self._cycles(c.multiply_add) + points * slow
        lanes = self._power("lanes")
        elements = self._power("store_micro") / self._feature("element_bytes")
        written = np.where(self.held, 0.0, np.maximum(elements / lanes, 1.0))
        again = np.where(self.reduces, written, 0.0)
        spread = self._feature("store_stride") > 0
        moved = (vectors + again) * self._cycles(c.load) + single * min(c.load, 0.5) + apart * c.gather
        moved += written * np.where(spread, lanes * c.gather, self._cycles(c.store))
        steps = self._power("micro_steps")
        need = self._power("accumulators") * self.vectors + vectors / steps * self.vectors + 1
        over = np.where(self.held, np.maximum(need - self.target.vector_registers, 0.0), 0.0)
        moved = moved + over * c.spill * steps
        instructions = (points * simple + vectors + shuffles + written + again) * self.vectors
        instructions += single + apart + np.where(spread, written * lanes, 0.0)
        chain = np.where(self.held, c.latency * steps, 0.0)
        front = instructions * c.issue + c.loop
        return _soft(arithmetic, chain, front), moved

    # -- memory ----------------------------------------------------------------------------------------------

    @cached_property
    def _levels(self) -> tuple[list[Column], list[Column]]:
        """Footprints and traffic at the levels of the nest as logarithms of bytes: whole lines count."""
        runs = {"micro": self.visits, "inner": self.visits / self._power("inner_extent")}
        runs |= {"task": self._power("items"), "all": np.ones(len(self.visits))}
        sizes: list[Column] = []
        traffic: list[Column] = []
        for level in LEVELS:
            size = self._feature(f"footprint_{level}")
            if level != "all":
                size = size + self._lines(level)
            moved = size + np.log2(np.maximum(runs[level], 1.0))
            # Larger parts of the nest touch more, and move less.
            sizes.append(np.maximum(size, sizes[-1]) if sizes else size)
            traffic.append(np.minimum(moved, traffic[-1]) if traffic else moved)
        return sizes, traffic

    def _lines(self, level: str) -> Column:
        """The logarithm of how many bytes whole lines have for each byte that is used, at a level."""
        used = np.zeros(len(self.visits))
        moved = np.zeros(len(self.visits))
        for name in ("store", *(f"load{n}" for n in range(LOADS))):
            size = self._power(f"{name}_{level}", 0.0)
            run = np.minimum(self._power(f"{name}_run"), np.maximum(size, 1.0))
            apart = (size > LINE) | (self._feature(f"{name}_stride") > 0)
            alone = np.where(apart, np.maximum(LINE / run, 1.0), 1.0)
            used += size
            moved += size * alone
        return np.log2(np.maximum(moved, 1.0) / np.maximum(used, 1.0))

    def _traffic(self, capacity: float) -> Column:
        """Bytes that come from outside of a cache: interpolated between the levels of the nest."""
        sizes, traffic = self._levels
        place = np.log2(max(capacity * USABLE, 1.0))
        found = traffic[0]
        for n in range(1, len(sizes)):
            gap = np.maximum(sizes[n] - sizes[n - 1], 0.25)
            part = np.clip((place - sizes[n - 1]) / gap, 0.0, 1.0)
            found = found + part * (traffic[n] - traffic[n - 1])
        # What fits with all its operands is still there from the call before.
        fits = np.clip(place - sizes[-1], 0.0, 4.0)
        return np.asarray(np.exp2(found - 4.0 * fits))

    def _other_seconds(self) -> Column:
        """The blocks beside the main one: their iterations, and what passes between the blocks."""
        c, t = self.c, self.target
        steps = self._power("other_iterations", 0.0)
        operations = self._power("other_flops", 0.0) * c.multiply_add / (2 * t.lanes(32))
        size = self._feature("temporary_bytes")
        rate = np.select(
            [size <= np.log2(cache * USABLE + 1) for cache in (t.l1d_bytes, t.l2_bytes, t.l3_bytes)],
            [t.vector_bits / 8 / (c.load * c.cycle), c.l2, c.l3],
            c.memory,
        )
        moved = self._power("other_bytes", 0.0) / rate
        return np.asarray((steps * c.step + operations) * c.cycle + moved)

    # -- all together ----------------------------------------------------------------------------------------

    def fill(self, seconds: NDArray[np.float64], total: Column) -> None:
        """The bounds, and the time."""
        c, t = self.c, self.target
        compute, l1 = (cycles * self.visits * c.cycle for cycles in self._tile_cycles())
        l2 = self._traffic(t.l1d_bytes) / c.l2
        l3 = self._traffic(t.l2_bytes) / c.l3
        memory = (self._traffic(t.l3_bytes) + self._cold) / c.memory
        items = self._power("items")
        workers = np.minimum(items, float(self.threads))
        rounds = np.ceil(items / self.threads) * workers / items
        inside = _soft(compute / workers, l1 / workers, l2 / workers, l3 / workers, memory)
        other = self._other_seconds() / workers + items / workers * c.item
        overhead = c.invoke + other + np.where(workers > 1, c.launch, 0.0)
        imbalance = (inside + other) * (rounds - 1)
        terms = (compute / workers, l1 / workers, l2 / workers, l3 / workers, memory, overhead, imbalance)
        for n, term in enumerate(terms):
            seconds[:, n] = term
        total[:] = inside + overhead + imbalance


def _soft(*terms: Column) -> Column:
    """A soft maximum of columns that are not negative."""
    top: Column = np.maximum.reduce(terms)
    scale = np.maximum(top, 1e-30)
    total = sum(((term / scale) ** SHARPNESS for term in terms), np.zeros(len(top)))
    return np.asarray(top * total ** (1 / SHARPNESS))
