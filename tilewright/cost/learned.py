"""A cost model that has learned from measurements, and knows where it has not.

An ensemble of boosted trees and small networks corrects the draft: it says how much slower a candidate is
than the draft thinks, beside other candidates of its workload; how wrong the draft is for a whole workload
comes from workloads alike. How much of the correction counts is decided by how many records there are of
workloads like this one: ``n / (n + c)`` for ``n`` of them. Far from all data ``n`` is 0, and the draft
decides.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.dataset import WORKLOAD, Dataset, workload_vector
from tilewright.cost.draft import LIMITS, SPREAD, DraftModel, Terms, cold_bytes
from tilewright.cost.model import FeatureModel, Prediction
from tilewright.cost.network import STEPS, Network, continue_network, train_network
from tilewright.cost.trees import ROUNDS, Trees, available, train_trees
from tilewright.errors import ArtifactError
from tilewright.schedule.features import FEATURES, features_of
from tilewright.schedule.sketch import Rows, Sketch

#: The version of the stored form.
VERSION: Final = 3
#: Doublings over which what is known of a workload loses most of its worth for another.
WIDTH: Final = 2.5
#: Networks of an ensemble; the trees count as much as all of them.
NETWORKS: Final = 3
#: What is added to the spread, before calibration, for each unit of distance to the nearest data.
BY_DISTANCE: Final = 0.1
#: What a bound of the draft's has of its time, as a logarithm, at least: less is nothing.
LEAST: Final = -8.0

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """What predicts logarithms of times over what the draft says, within a task.

    Attributes:
        trees: boosted trees, or None where they could not be trained.
        networks: any number.
    """

    trees: Trees | None
    networks: tuple[Network, ...]

    def predict(self, x: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """``[n]`` means and ``[n]`` standard deviations over the members; the trees count as much as all
        networks."""
        rows = [n.predict(x) for n in self.networks]
        share = [1.0 / max(len(rows), 1)] * len(rows)
        if self.trees is not None:
            rows.append(self.trees.predict(x))
            share.append(1.0)
        values, weights = np.stack(rows), np.array(share)[:, None] / sum(share)
        mean = (weights * values).sum(axis=0)
        return mean, np.sqrt((weights * (values - mean) ** 2).sum(axis=0))


def inputs(features: NDArray[np.float32], threads: int, terms: Terms) -> NDArray[np.float32]:
    """``[n, len(FEATURES) + len(LIMITS) + 1]``: what the members of an ensemble see: features, the shares of
    the draft's bounds in its time as logarithms, and threads."""
    shares = np.log(np.maximum(terms.seconds / terms.total[:, None], math.exp(LEAST)))
    width = np.full((len(features), 1), math.log2(threads))
    return np.concatenate([features, shares, width], axis=1, dtype=np.float32, casting="same_kind")


@dataclasses.dataclass(frozen=True)
class Beside:
    """Records beside what the draft says of them.

    Attributes:
        inputs: ``[n, ...]``: :func:`inputs` of each.
        draft: ``[n]``: the logarithm of the seconds that the draft says.
        rest: ``[n]``: how much longer each record takes than that, less the mean of its task.
    """

    inputs: NDArray[np.float32]
    draft: Floats
    rest: Floats

    @staticmethod
    def of(data: Dataset, draft: DraftModel) -> Beside:
        """For the records of ``data``, of any task."""
        x = np.zeros((len(data), len(FEATURES) + len(LIMITS) + 1), np.float32)
        said = np.zeros(len(data))
        for number, task in enumerate(data.tasks):
            rows = np.flatnonzero(data.task == number)
            terms = draft.terms(data.features[rows], task.threads, task.cold)
            x[rows], said[rows] = inputs(data.features[rows], task.threads, terms), np.log(terms.total)
        longer = data.log_seconds - said
        return Beside(x, said, longer - _means(longer, data)[data.task])


def _means(values: Floats, data: Dataset) -> Floats:
    """``[tasks]``: the mean of ``values[n]`` over the records of each."""
    return np.asarray(np.bincount(data.task, values, len(data.tasks)) / np.maximum(data.counts, 1))


@dataclasses.dataclass(frozen=True)
class Level:
    """How much longer than a corrected draft says a workload takes as a whole, in logarithms: a plane
    over its sizes, corrected by what is known nearby.

    Attributes:
        plane: ``[5]``: offset, and slopes by work, bytes, blocks and threads.
        residuals: ``[tasks]``: what the plane leaves of each known task.
    """

    plane: Floats
    residuals: Floats

    @staticmethod
    def of(data: Dataset, beside: Beside, ensemble: Ensemble) -> Level:
        """What draft and ensemble leave of the tasks of ``data`` on average; flat where there are few."""
        x = _sizes(data.vectors)
        offsets = _means(data.log_seconds - beside.draft - ensemble.predict(beside.inputs)[0], data)
        strength = np.diag([0.3, 30.0, 30.0, 10.0, 10.0])
        plane = np.asarray(np.linalg.solve(x.T @ x + strength, x.T @ offsets), np.float64)
        return Level(plane, offsets - x @ plane)

    def of_workloads(self, vectors: Floats, near: Floats) -> Floats:
        """``[n]`` offsets; ``near[n, tasks]`` is how much each known task is like each."""
        return np.asarray(_sizes(vectors) @ self.plane + near @ self.residuals / (near.sum(axis=1) + 0.3))


def _sizes(vectors: Floats) -> Floats:
    names = ("program_flops", "param_bytes", "blocks")
    columns = [vectors[:, WORKLOAD.index(name)] for name in names]
    return np.stack([np.ones(len(vectors)), *columns, vectors[:, -1]], axis=1)


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        trees: whether to train trees; if LightGBM is there when None.
        networks: how many.
        rounds: trees at most.
        steps: of each network at most.
        folds: groups of tasks that are held out in turn.
        seed: of everything random.
    """

    trees: bool | None = None
    networks: int = NETWORKS
    rounds: int = ROUNDS
    steps: int = STEPS
    folds: int = 4
    seed: int = 0


def train_ensemble(data: Dataset, beside: Beside, how: Training) -> Ensemble:
    """Members of every kind from all records of ``data``.

    Raises MissingDependencyError where trees are asked for without LightGBM, ValueError where no task has
    two candidates.
    """
    x, rest = beside.inputs, beside.rest
    wanted = available() if how.trees is None else how.trees
    trees = train_trees(x, rest, data.weight, how.seed, how.rounds) if wanted else None
    seeds = range(how.seed, how.seed + how.networks)
    return Ensemble(trees, tuple(train_network(x, -rest, data.task, seed, how.steps) for seed in seeds))


@dataclasses.dataclass(frozen=True)
class LearnedModel(FeatureModel):
    """An ensemble beside the draft.

    Attributes:
        draft: decides where nothing is known; for the threads that are asked for.
        ensemble: says how much slower a candidate is than the draft thinks, beside others of its workload.
        level: says how much longer a workload takes than both think.
        vectors: ``[tasks, len(WORKLOAD) + 1]``: the workloads that were learned from.
        counts: ``[tasks]``: records of each.
        trust: ``c``: with so many records nearby half of the correction counts.
        scale: from the spread of the ensemble to standard deviations, where data are near.
        metrics: how good it was on tasks that were held out.
        name: in reports.
    """

    draft: DraftModel
    ensemble: Ensemble
    level: Level
    vectors: Floats
    counts: Floats
    trust: float
    scale: float
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    name: str = "learned"
    _plain: weakref.WeakKeyDictionary[Sketch, NDArray[np.float32]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, repr=False, compare=False
    )

    def predict(self, sketch: Sketch, rows: Rows, threads: int) -> Prediction:
        """As :meth:`tilewright.cost.model.CostModel.predict`. What the workload is like is taken from the
        unscheduled function, so that candidates of all its sketches are judged alike."""
        if sketch not in self._plain:
            self._plain[sketch] = features_of(sketch.func, sketch.target)
        vector = workload_vector(self._plain[sketch], threads)
        return self.predict_workloads(sketch.features(rows), threads, vector[None], cold_bytes(sketch.func))

    def predict_features(self, features: NDArray[np.float32], threads: int) -> Prediction:
        """As :meth:`tilewright.cost.model.FeatureModel.predict_features`."""
        return self.predict_workloads(features, threads, workload_vector(features, threads), None)

    def predict_tasks(self, data: Dataset) -> Prediction:
        """For the records of a data set, with their tasks' workloads and threads."""
        log_seconds, spread = np.zeros(len(data)), np.zeros(len(data))
        for number, task in enumerate(data.tasks):
            rows = np.flatnonzero(data.task == number)
            found = self.predict_workloads(data.features[rows], task.threads, task.vector[None], task.cold)
            log_seconds[rows], spread[rows] = found.log_seconds, found.spread
        return Prediction(log_seconds, spread)

    def nearness(self, vectors: Floats) -> Floats:
        """``[n, tasks]``: how much each known task counts for workloads like ``vectors[n]``, from 0 to 1."""
        return nearness(vectors, self.vectors)

    def share(self, vectors: Floats) -> Floats:
        """``[n]``: how much of the correction counts, from 0 to 1."""
        near = self.nearness(vectors) @ self.counts
        return np.asarray(near / np.maximum(near + self.trust, 1e-12))

    def predict_workloads(
        self, features: NDArray[np.float32], threads: int, vectors: Floats, cold: float | None
    ) -> Prediction:
        """For candidates with features ``[n, len(FEATURES)]`` and ``cold`` bytes of constant operands;
        ``vectors`` are of the workload of each, ``[n, ...]``, or one for all of them, ``[1, ...]``."""
        terms = self.draft.terms(features, threads, cold)
        kinds, which = (vectors, np.zeros(1, np.intp)) if len(vectors) == 1 else _distinct(vectors)
        share = self.share(kinds)[which]
        level = self.level.of_workloads(kinds, self.nearness(kinds))[which]
        distance = _distances(kinds, self.vectors).min(axis=1)[which]
        rest, spread = self.ensemble.predict(inputs(features, threads, terms))
        longer = level + rest
        # Where both say something, how far they are apart is a doubt of its own.
        own = self.scale * (spread + BY_DISTANCE * distance + 0.02)
        doubt = share * own**2 + (1 - share) * SPREAD**2 + longer**2 * share * (1 - share)
        return Prediction(np.log(terms.total) + share * longer, np.sqrt(doubt))

    def updated(self, data: Dataset, fresh: NDArray[np.bool_], seed: int = 0) -> LearnedModel:
        """The model after a few steps on new records: networks go on learning, trees stay.

        Args:
            data: old and new records; of tasks that the model knows, all the records that it is to remember.
            fresh: ``[n]``, which of them are new.
        """
        beside = Beside.of(data, self.draft)
        networks = tuple(
            continue_network(network, beside.inputs, -beside.rest, data.task, fresh, seed + n)
            for n, network in enumerate(self.ensemble.networks)
        )
        ensemble = dataclasses.replace(self.ensemble, networks=networks)
        return dataclasses.replace(
            self,
            ensemble=ensemble,
            level=Level.of(data, beside, ensemble),
            vectors=data.vectors,
            counts=data.counts.astype(np.float64),
        )

    # -- the stored form -------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """All but the draft, as an ``.npz`` file without pickled objects."""
        head = {
            "version": VERSION, "features": list(FEATURES), "trust": self.trust, "scale": self.scale,
            "metrics": dict(self.metrics), "networks": len(self.ensemble.networks),
            "trees": self.ensemble.trees is not None,
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "head": np.frombuffer(json.dumps(head, sort_keys=True).encode(), np.uint8),
            "plane": self.level.plane, "residuals": self.level.residuals, "vectors": self.vectors,
            "counts": self.counts,
        }  # fmt: skip
        if self.ensemble.trees is not None:
            arrays |= {f"trees/{k}": v for k, v in self.ensemble.trees.arrays().items()}
        for n, network in enumerate(self.ensemble.networks):
            arrays |= {f"network{n}/{k}": v for k, v in network.arrays().items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes, draft: DraftModel) -> LearnedModel:
        """The model that :meth:`to_bytes` wrote.

        Raises ArtifactError for bytes that are damaged, of another version, or over other features than this
        release's.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(arrays["head"].tobytes())
            if head["version"] != VERSION or head["features"] != list(FEATURES):
                raise ArtifactError(
                    f"the learned model is of version {head['version']!r} with {len(head['features'])} "
                    f"features; this release reads version {VERSION} with its own {len(FEATURES)}",
                    hint="train it again from the records of the store",
                )
            return _of_arrays(head, arrays, draft)
        except (
            KeyError, TypeError, ValueError, IndexError, OSError, EOFError, zipfile.BadZipFile,
            NotImplementedError, MemoryError, UnicodeDecodeError, zlib.error,
        ) as error:  # fmt: skip
            raise ArtifactError(
                f"the learned model is damaged: {error}", hint="train it again from the records of the store"
            ) from error


def _of_arrays(
    head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], draft: DraftModel
) -> LearnedModel:
    def part(name: str) -> dict[str, NDArray[Any]]:
        return {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{name}/")}

    width = len(FEATURES) + len(LIMITS) + 1
    trees = Trees.of_arrays(part("trees"), width) if head["trees"] else None
    networks = tuple(Network.of_arrays(part(f"network{n}"), width) for n in range(int(head["networks"])))
    if trees is None and not networks:
        raise ValueError("it has no members")
    tasks = len(arrays["counts"])
    shapes = {
        "plane": (5,), "residuals": (tasks,), "counts": (tasks,), "vectors": (tasks, len(WORKLOAD) + 1),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all() or not tasks:
            raise ValueError(f"'{name}' is {array.dtype}{list(array.shape)}")
    trust, scale = float(head["trust"]), float(head["scale"])
    if not (math.isfinite(trust) and math.isfinite(scale) and trust >= 0 and scale > 0):
        raise ValueError(f"it is trusted {trust} with a scale of {scale}")
    metrics = {str(k): float(v) for k, v in head["metrics"].items()}
    level = Level(arrays["plane"], arrays["residuals"])
    ensemble = Ensemble(trees, networks)
    return LearnedModel(draft, ensemble, level, arrays["vectors"], arrays["counts"], trust, scale, metrics)


def nearness(vectors: Floats, known: Floats) -> Floats:
    """``[n, tasks]``: a Gaussian kernel over the distance of workloads."""
    return np.exp(-0.5 * (_distances(vectors, known) / WIDTH) ** 2)


def _distances(vectors: Floats, known: Floats) -> Floats:
    """``[n, tasks]``: in doublings."""
    return np.asarray(np.linalg.norm(vectors[:, None, :] - known[None, :, :], axis=-1))


def _distinct(vectors: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The different rows, and which of them each row is: features of bound programs of one workload are
    mostly one vector."""
    kinds, which = np.unique(vectors, axis=0, return_inverse=True)
    return kinds, which.reshape(-1)
