"""Small networks that rank the candidates of a task, in NumPy.

A network is two hidden layers with ReLU over standardized features. Its loss compares pairs of candidates of
one task, never of two: which of two candidates is faster, weighted by how much faster. What it says has no
unit while it is trained; at the end it is scaled so that differences within a task are differences of
logarithms of times.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HIDDEN: Final = 128
STEPS: Final = 800
#: Tasks in a step, and candidates of each.
TASKS, CANDIDATES = 8, 24
RATE: Final = 1e-3
#: Standard deviations beyond which a feature says no more.
CLIP: Final = 4.0
#: The loss on held-out tasks is looked at every so many steps; training ends when it has not become less for
#: PATIENCE looks.
LOOK, PATIENCE = 40, 6
#: Differences of logarithms beyond this count as this: which of two very slow candidates is worse is nothing
#: to learn.
FAR: Final = 2.0
_CHUNK: Final = 2048

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Network:
    """``scale * mlp((x - mean) / deviation) + shift``.

    Attributes:
        mean, deviation: ``[features]`` float32, of the training data.
        weights, biases: of the three layers, float32.
        scale, shift: from the last layer's output to the negated label.
    """

    mean: Array
    deviation: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    scale: float
    shift: float

    def predict(self, x: Array) -> NDArray[np.float64]:
        """``[n]`` of ``[n, features]``: negated labels; only what differs within a task means anything."""
        result = np.empty(len(x))
        for start in range(0, len(x), _CHUNK):
            part = _standardized(x[start : start + _CHUNK], self.mean, self.deviation)
            result[start : start + _CHUNK] = _forward(part, self.weights, self.biases)[-1][:, 0]
        return result * self.scale + self.shift

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays by name, for :meth:`of_arrays`."""
        layers = {f"weight{n}": w for n, w in enumerate(self.weights)}
        layers |= {f"bias{n}": b for n, b in enumerate(self.biases)}
        scale = np.array([self.scale, self.shift])
        return {"mean": self.mean, "deviation": self.deviation, "scale": scale, **layers}

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[Any]], features: int) -> Network:
        """From :meth:`arrays`. Raises ValueError for what is no network over so many features, KeyError where
        an array is missing."""
        sizes = (features, HIDDEN, HIDDEN, 1)
        shapes: dict[str, tuple[int, ...]] = {"mean": (features,), "deviation": (features,)}
        shapes |= {f"weight{n}": (a, b) for n, (a, b) in enumerate(itertools.pairwise(sizes))}
        shapes |= {f"bias{n}": (b,) for n, b in enumerate(sizes[1:])}
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"'{name}' of a network is {array.dtype}{list(array.shape)}")
        scale, shift = map(float, arrays["scale"])
        if not np.isfinite([scale, shift]).all():
            raise ValueError("a network whose scale is no number")
        weights = tuple(arrays[f"weight{n}"] for n in range(3))
        biases = tuple(arrays[f"bias{n}"] for n in range(3))
        return Network(arrays["mean"], arrays["deviation"], weights, biases, scale, shift)


def train_network(
    x: Array, y: NDArray[np.float64], task: NDArray[np.int64], seed: int = 0, steps: int = STEPS
) -> Network:
    """A network from records of tasks.

    Args:
        x: ``[n, features]``.
        y: ``[n]`` labels, larger for faster candidates: differences of logarithms of times.
        task: ``[n]`` which task.
        seed: of weights, batches and held-out tasks.
        steps: at most. Where there are five tasks or more, a fifth is held out to end training early.

    Raises ValueError where no task has two candidates.
    """
    rng = np.random.default_rng(seed)
    groups = _groups(task)
    order = rng.permutation(len(groups))
    aside = len(groups) // 5
    held = [groups[n] for n in order[:aside]]
    used = [groups[n] for n in order[aside:]]
    rows = np.concatenate(used)
    mean = x[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = x[rows].std(axis=0, dtype=np.float64).astype(np.float32)
    # What is constant in the data says nothing of how much it matters elsewhere.
    deviation = np.where(deviation < 1e-6, np.float32(np.inf), deviation).astype(np.float32)
    sizes = (x.shape[1], HIDDEN, HIDDEN, 1)
    parts = [
        rng.standard_normal((a, b)).astype(np.float32) * np.float32((2 / a) ** 0.5)
        for a, b in itertools.pairwise(sizes)
    ]
    parts += [np.zeros(b, np.float32) for b in sizes[1:]]
    parts = _fit(_standardized(x, mean, deviation), y, [used], held, parts, rng, steps, RATE)
    return _scaled(
        Network(mean, _finite(deviation), tuple(parts[:3]), tuple(parts[3:]), 1.0, 0.0), x, y, task
    )


def continue_network(
    network: Network,
    x: Array,
    y: NDArray[np.float64],
    task: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    seed: int = 0,
    steps: int = 60,
) -> Network:
    """The network after a few steps on fresh records, as many old ones beside them in every batch so that
    nothing is forgotten. Arguments as for :func:`train_network`; ``fresh[n]`` says which records are new."""
    rng = np.random.default_rng(seed)
    news, olds = _groups(np.where(fresh, task, -1), False), _groups(np.where(fresh, -1, task), False)
    if not news:
        return network
    pools = [news, olds] if olds else [news]
    parts = [p.copy() for p in (*network.weights, *network.biases)]
    scaled = _standardized(x, network.mean, network.deviation)
    parts = _fit(scaled, y, pools, [], parts, rng, steps, RATE / 2)
    return _scaled(
        dataclasses.replace(network, weights=tuple(parts[:3]), biases=tuple(parts[3:])), x, y, task
    )


def _groups(task: NDArray[np.int64], needed: bool = True) -> list[NDArray[np.int64]]:
    """The rows of each task with two or more of them; rows of task -1 are left out."""
    found = [np.flatnonzero(task == t) for t in np.unique(task[task >= 0])]
    found = [rows for rows in found if len(rows) > 1]
    if needed and not found:
        raise ValueError("no task has two candidates to compare")
    return found


def _finite(deviation: Array) -> Array:
    # An infinite deviation makes every value 0, as does one so large that all values come out as 0.
    return np.where(np.isinf(deviation), np.float32(1e30), deviation).astype(np.float32)


def _standardized(x: Array, mean: Array, deviation: Array) -> Array:
    scaled: Array = np.clip((x.astype(np.float32) - mean) / deviation, -CLIP, CLIP)
    return scaled


def _forward(x: Array, weights: Sequence[Array], biases: Sequence[Array]) -> list[Array]:
    """What every layer gives."""
    layers = [x]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        y = layers[-1] @ weight
        y += bias
        layers.append(np.maximum(y, 0, out=y) if number + 1 < len(weights) else y)
    return layers


def _fit(
    x: Array,
    y: NDArray[np.float64],
    pools: Sequence[Sequence[NDArray[np.int64]]],
    held: Sequence[NDArray[np.int64]],
    parts: list[Array],
    rng: np.random.Generator,
    steps: int,
    rate: float,
) -> list[Array]:
    """Adam (Kingma and Ba, 2015) on batches of tasks, in equal shares from each of ``pools``; the parameters
    that were best on ``held``, or the last ones."""
    first = [np.zeros_like(p) for p in parts]
    second = [np.zeros_like(p) for p in parts]
    best, kept, since = np.inf, parts, 0
    watched = np.stack([rng.choice(g, 2 * CANDIDATES) for g in held]) if held else None
    for step in range(1, steps + 1):
        rows = np.stack(
            [
                rng.choice(pool[int(rng.integers(len(pool)))], CANDIDATES)
                for n in range(TASKS)
                for pool in (pools[n % len(pools)],)
            ]
        )
        slopes = _slopes(x[rows.ravel()], y[rows], parts)
        now = rate * min(1.0, step / 20) * (1 - 0.9 * step / steps)
        for n, slope in enumerate(slopes):
            first[n] = 0.9 * first[n] + 0.1 * slope
            second[n] = 0.999 * second[n] + 0.001 * slope * slope
            move = (first[n] / (1 - 0.9**step)) / (np.sqrt(second[n] / (1 - 0.999**step)) + 1e-8)
            decay = 1e-4 * parts[n] if parts[n].ndim == 2 else 0.0
            parts[n] = (parts[n] - np.float32(now) * (move + decay)).astype(np.float32)
        if watched is not None and step % LOOK == 0:
            scores = _forward(x[watched.ravel()], parts[:3], parts[3:])[-1].reshape(watched.shape)
            loss = float(_pairs(scores, y[watched])[0])
            if loss < best:
                best, kept, since = loss, list(parts), 0
            else:
                since += 1
                if since >= PATIENCE:
                    break
    return kept if watched is not None and np.isfinite(best) else parts


def _pairs(scores: Array, y: NDArray[np.float64]) -> tuple[np.float64, Array]:
    """The loss of ``scores[tasks, n]``, which are to be large for slow candidates, and its slope by them."""
    gap = scores[:, :, None] - scores[:, None, :]
    # Positive where the second of the pair is the faster one.
    slower = np.clip(y[:, None, :] - y[:, :, None], 0, FAR).astype(np.float32)
    total = max(float(slower.sum()), 1e-9)
    wrong = 1 / (1 + np.exp(np.clip(gap, -30, 30)))
    loss = (slower * np.logaddexp(0, -gap)).sum(dtype=np.float64) / total
    pull = slower * wrong / total
    return loss, (pull.sum(axis=1) - pull.sum(axis=2)).astype(np.float32)


def _slopes(x: Array, y: NDArray[np.float64], parts: Sequence[Array]) -> list[Array]:
    """Slopes of the loss by all parameters for the ``x[tasks * n]`` with labels ``y[tasks, n]``."""
    weights, biases = parts[:3], parts[3:]
    layers = _forward(x, weights, biases)
    _, slope = _pairs(layers[-1].reshape(y.shape), y)
    back = slope.reshape(-1, 1)
    by_weight: list[Array] = []
    by_bias: list[Array] = []
    for number in (2, 1, 0):
        by_weight.insert(0, layers[number].T @ back)
        by_bias.insert(0, back.sum(axis=0))
        if number:
            back = (back @ weights[number].T) * (layers[number] > 0)
    return [*by_weight, *by_bias]


def _scaled(network: Network, x: Array, y: NDArray[np.float64], task: NDArray[np.int64]) -> Network:
    """The network with its output in logarithms of times: a least-squares line within tasks."""
    plain = dataclasses.replace(network, scale=1.0, shift=0.0)
    score = plain.predict(x)
    count = np.maximum(np.bincount(task), 1)
    own = score - (np.bincount(task, score) / count)[task]
    wanted = -y - (np.bincount(task, -y) / count)[task]
    # Pairs beyond FAR are not told apart, so the line is of the candidates that are.
    near = -y <= FAR
    slope = float((own[near] * wanted[near]).sum() / max(float((own[near] ** 2).sum()), 1e-9))
    slope = max(slope, 1e-3)
    shift = float(np.mean(-y[near] - slope * score[near]))
    return dataclasses.replace(plain, scale=slope, shift=shift)
