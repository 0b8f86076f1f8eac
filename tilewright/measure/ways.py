"""Which way to compute a node is fastest on this machine: timing them side by side, as inside a model.

Inside a model a node's weights come from memory, since the other nodes' have passed through the caches since
the last run, and its input was just written. So every call here reads another copy of the weights, of enough
copies that none is still cached, and the same input. A warm loop would prefer ways whose transformed weights
are too large for that. The ways take turns, each round in another order, so that a slow phase of the machine
meets all of them; what is compared is the median over rounds of the ratio to the direct way.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from tilewright.backend import get_backend
from tilewright.build import Choose, Options, build_optimised, by_default
from tilewright.cache import DiskCache
from tilewright.errors import InputError, ShapeError
from tilewright.graph.alternatives import DIRECT, ChoicePoint, Pick
from tilewright.graph.graph import Graph, Value
from tilewright.graph.pipeline import variants
from tilewright.ir import dtype as dt
from tilewright.measure.program import flush_bytes
from tilewright.runtime.artifact import WeightStore
from tilewright.runtime.host import check_host
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.memory import address_of, allocate
from tilewright.runtime.pool import ThreadPool
from tilewright.target import Target

#: Copies of the weights fill the last level of cache this many times, as far as models are so large.
CACHE_TIMES = 4
#: Another way must be this much faster than the direct one to be picked.
MARGIN = 0.03
MIN_ROUNDS, MAX_ROUNDS = 5, 200

_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 6)


class GraphRunner:
    """An optimised graph with static shapes as native code, with copies of its weights to rotate over.

    Args:
        graph: as after :func:`tilewright.graph.pipeline.optimise`.
        target: this machine.
        threads: threads of a call.
        copies_bytes: how much memory the copies of the weights fill; at least one copy is made.
        max_copies: no more than this many.
        choose: the schedules of each kernel, as in :class:`tilewright.build.Options`.

    Raises:
        ShapeError: the graph has open dimensions.
        TargetError: this machine cannot run code for ``target``.
        CompileError: the code generator failed.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        threads: int = 1,
        *,
        copies_bytes: int = 0,
        max_copies: int = MAX_ROUNDS,
        choose: Choose = by_default,
        cache: DiskCache | None = None,
    ) -> None:
        check_host(target)
        store = WeightStore()
        options = Options(choose=choose, cache=cache)
        built = build_optimised(graph, target, threads, {}, store, options)
        backend = get_backend(target)
        functions = load_runtime(backend.compile([backend.emit_runtime(target)], target, cache=cache)[0])
        self.graph = graph
        self.kernels = built.variant.kernels
        self._library = load(built.objects.values(), [built.variant.entry], functions)
        self._entry = _ENTRY(self._library.addresses[built.variant.entry])
        self._pool = ThreadPool.shared(functions, threads)
        self._arena = allocate(built.variant.arena_bytes)
        weights = np.frombuffer(store.pack(), np.uint8)
        count = 1 if not weights.size else min(max(-(-copies_bytes // weights.size), 1), max_copies)
        step = -(-weights.nbytes // 4096) * 4096
        self._copies = allocate(count * step)
        memory = np.frombuffer(self._copies, np.uint8)
        for number in range(count):
            memory[number * step : number * step + weights.nbytes] = weights
        first = address_of(self._copies)
        self._weights = [first + number * step for number in range(count)]
        self._turn = 0
        self._arrays = [_array(v) for v in (*graph.inputs, *graph.outputs)]
        slots = [a.ctypes.data for a in self._arrays]
        split = len(graph.inputs)
        self._inputs = (ctypes.c_void_p * max(split, 1))(*slots[:split])
        self._outputs = (ctypes.c_void_p * max(len(slots) - split, 1))(*slots[split:])
        self._fixed = (self._pool.address, self._inputs, self._outputs)
        self._arena_address = address_of(self._arena)

    @property
    def inputs(self) -> list[np.ndarray]:
        """The arrays that a call reads, in the order of the graph's inputs: write data into them."""
        return self._arrays[: len(self.graph.inputs)]

    @property
    def outputs(self) -> list[np.ndarray]:
        """The arrays that a call writes."""
        return self._arrays[len(self.graph.inputs) :]

    def __call__(self) -> None:
        """One run, with the next copy of the weights. Raises InputError when a kernel refuses the data."""
        self._turn = (self._turn + 1) % len(self._weights)
        status = self._entry(*self._fixed, self._weights[self._turn], self._arena_address, None)
        if status:
            raise InputError(f"'{self.graph.name}' stopped with status {status}")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Times of several ways to compute one node.

    Attributes:
        samples: seconds by way, a call in each round.
        inputs: the random data, in the order of the graph's inputs.
        outputs: what each way computed from it.
    """

    samples: Mapping[str, tuple[float, ...]]
    inputs: tuple[np.ndarray, ...]
    outputs: Mapping[str, tuple[np.ndarray, ...]]

    def seconds(self, name: str) -> float:
        """The median call."""
        return statistics.median(self.samples[name])

    def ratio(self, name: str, base: str = DIRECT) -> float:
        """Time relative to ``base``: the median over rounds. Below 1 is faster."""
        pairs = zip(self.samples[name], self.samples[base], strict=True)
        return statistics.median(own / other for own, other in pairs)

    @property
    def fastest(self) -> str:
        """The way with the least time."""
        return min(self.samples, key=self.ratio)

    def choice(self, margin: float = MARGIN) -> str:
        """The fastest way if it is faster than the direct one by ``margin``, else the direct one."""
        best = self.fastest
        return best if self.ratio(best) < 1 - margin else DIRECT


def compare_variants(
    graphs: Mapping[str, Graph],
    target: Target,
    threads: int = 1,
    *,
    cold: bool = True,
    seconds: float = 0.3,
    seed: int = 0,
    choose: Choose = by_default,
    cache: DiskCache | None = None,
) -> Comparison:
    """Time graphs that compute the same (:func:`tilewright.graph.pipeline.variants`) in turns.

    Args:
        graphs: optimised, by name.
        cold: weights come from memory, as inside a model; else from wherever the last call left them.
        seconds: about how long each of them runs in all, in at least :data:`MIN_ROUNDS` calls.
        seed: of the random inputs.
        choose: the schedules of each kernel.

    Raises as :class:`GraphRunner`.
    """
    flushed = flush_bytes(target, CACHE_TIMES) if cold else 0
    runners = {
        name: GraphRunner(
            graph,
            target,
            threads,
            copies_bytes=flushed,
            choose=choose,
            cache=cache,
        )
        for name, graph in graphs.items()
    }
    rng = np.random.default_rng(seed)
    data = [_random(rng, a) for a in next(iter(runners.values())).inputs]
    longest = 0.0
    for runner in runners.values():
        for array, values in zip(runner.inputs, data, strict=True):
            array[...] = values
        runner()  # the first call pays for pages and threads
        longest = max(longest, _once(runner))
    rounds = min(max(round(seconds / max(longest, 1e-6)), MIN_ROUNDS), MAX_ROUNDS)
    if cold:  # few copies of small weights may still be cached from when they were made
        np.ones(flushed // 4, np.float32).sum()
    order = list(runners)
    samples: dict[str, list[float]] = {name: [] for name in order}
    for number in range(rounds):
        turn = number % len(order)
        for name in [*order[turn:], *order[:turn]]:
            for array in runners[name].inputs:
                array.sum()  # as just written by the node before
            samples[name].append(_once(runners[name]))
    return Comparison(
        {name: tuple(times) for name, times in samples.items()},
        tuple(data),
        {name: tuple(a.copy() for a in runner.outputs) for name, runner in runners.items()},
    )


def measured_pick(
    target: str | Target = "native",
    *,
    seconds: float = 0.3,
    margin: float = MARGIN,
    choose: Choose = by_default,
    cache: DiskCache | None = None,
    report: Callable[[ChoicePoint, Comparison], None] | None = None,
) -> Pick:
    """A pick that times every way to compute a node, as :func:`compare_variants` does.

    Nodes that differ in names only are timed once. ``report`` sees every comparison that is made.

    Raises TargetError when this machine cannot run code for ``target``; the pick raises as
    :class:`GraphRunner`.
    """
    machine = Target.parse(target)
    check_host(machine)
    known: dict[object, str] = {}

    def pick(point: ChoicePoint) -> str:
        key = likeness(point)
        if key not in known:
            comparison = compare_variants(
                variants(point),
                machine,
                point.threads,
                seconds=seconds,
                choose=choose,
                cache=cache,
            )
            known[key] = comparison.choice(margin)
            if report is not None:
                report(point, comparison)
        return known[key]

    return pick


def likeness(point: ChoicePoint) -> object:
    """Equal for points between whose timings there is no difference."""
    node = point.node
    operands = tuple(None if v is None else (repr(v.type), v in point.constants) for v in node.inputs)
    places = tuple(node.inputs.index(v) for v in node.inputs)
    return (node.op, operands, places, repr(sorted(node.attrs.items())), point.names, point.threads)


def _array(value: Value) -> np.ndarray:
    """Zeroed memory for a value, from the start of a page."""
    kind, dims = dt.to_numpy(value.dtype), value.static_shape
    if dims is None:
        raise ShapeError(f"'{value.name}' is {value.type}", hint="give its dimensions sizes to time it")
    count = math.prod(dims)
    return np.frombuffer(allocate(count * kind.itemsize), kind, count).reshape(dims)


def _random(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    if like.dtype.kind in "iub":
        return rng.integers(0, 2, like.shape).astype(like.dtype)
    return rng.standard_normal(like.shape).astype(like.dtype)


def _once(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
