"""A cost model that has learned from measurements, and knows where it has not.

An ensemble of boosted trees and small networks says how much slower than the best of its workload a
candidate is; what the best of a workload takes comes from its sizes. How much that counts beside the draft is
decided by how many records there are of workloads like this one: ``n / (n + c)`` for ``n`` of them. Far from
all data ``n`` is 0, and the draft decides.
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
from tilewright.cost.draft import DraftModel, cold_bytes
from tilewright.cost.model import FeatureModel, Prediction
from tilewright.cost.network import STEPS, Network, continue_network, train_network
from tilewright.cost.trees import ROUNDS, Trees, available, train_trees
from tilewright.errors import ArtifactError
from tilewright.schedule.features import FEATURES, features_of
from tilewright.schedule.sketch import Rows, Sketch

#: The version of the stored form.
VERSION: Final = 1
#: Doublings over which what is known of a workload loses most of its worth for another.
WIDTH: Final = 2.5
#: Networks of an ensemble; the trees count as much as all of them.
NETWORKS: Final = 3
#: What is added to the spread, before calibration, for each unit of distance to the nearest data.
BY_DISTANCE: Final = 0.1

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Level:
    """What the best candidate of a workload takes: a plane over its sizes, corrected by what is known nearby.

    Attributes:
        plane: ``[5]``: offset, and slopes by work, bytes, blocks and threads.
        residuals: ``[tasks]``: what the plane leaves of each known task.
    """

    plane: Floats
    residuals: Floats

    @staticmethod
    def of(vectors: Floats, best: Floats) -> Level:
        """From tasks with vectors ``[tasks, ...]`` and the logarithms of their best times."""
        x = _sizes(vectors)
        # Where there are few tasks: time in proportion to work, an eighth of a nanosecond for each operation.
        prior = np.array([math.log(1.25e-10), math.log(2), 0.0, 0.0, 0.0])
        strength = np.diag([0.3, 30.0, 30.0, 10.0, 10.0])
        plane = prior + np.linalg.solve(x.T @ x + strength, x.T @ (best - x @ prior))
        return Level(plane, best - x @ plane)

    def of_workloads(self, vectors: Floats, near: Floats) -> Floats:
        """``[n]`` logarithms of seconds; ``near[n, tasks]`` is how much each known task is like each."""
        return np.asarray(_sizes(vectors) @ self.plane + near @ self.residuals / (near.sum(axis=1) + 0.3))


def _sizes(vectors: Floats) -> Floats:
    names = ("program_flops", "param_bytes", "blocks")
    columns = [vectors[:, WORKLOAD.index(name)] for name in names]
    return np.stack([np.ones(len(vectors)), *columns, vectors[:, -1]], axis=1)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """What predicts logarithms of times over the best of the task.

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


def inputs(features: NDArray[np.float32], threads: NDArray[np.int64] | int) -> NDArray[np.float32]:
    """``[n, len(FEATURES) + 1]``: what the members of an ensemble see: features and threads."""
    width = np.broadcast_to(np.log2(threads), len(features)).astype(np.float32)
    return np.concatenate([features, width[:, None]], axis=1)


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


def train_ensemble(data: Dataset, how: Training) -> Ensemble:
    """Members of every kind from all records of ``data``.

    Raises MissingDependencyError where trees are asked for without LightGBM, ValueError where no task has
    two candidates.
    """
    x, y = inputs(data.features, data.threads), data.labels
    wanted = available() if how.trees is None else how.trees
    trees = train_trees(x, -y, data.weight, how.seed, how.rounds) if wanted else None
    seeds = range(how.seed, how.seed + how.networks)
    return Ensemble(trees, tuple(train_network(x, y, data.task, seed, how.steps) for seed in seeds))


@dataclasses.dataclass(frozen=True)
class LearnedModel(FeatureModel):
    """An ensemble beside the draft.

    Attributes:
        draft: decides where nothing is known; for the threads that are asked for.
        ensemble: says how much slower than the best a candidate is.
        level: says what the best takes.
        vectors: ``[tasks, len(WORKLOAD) + 1]``: the workloads that were learned from.
        counts: ``[tasks]``: records of each.
        trust: ``c``: so many records nearby make the ensemble count as much as the draft.
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
        return self._predict(sketch.features(rows), threads, vector[None], cold_bytes(sketch.func))

    def predict_features(self, features: NDArray[np.float32], threads: int) -> Prediction:
        """As :meth:`tilewright.cost.model.FeatureModel.predict_features`."""
        return self._predict(features, threads, workload_vector(features, threads), None)

    def predict_tasks(self, data: Dataset) -> Prediction:
        """For the records of a data set, with their tasks' workloads and threads."""
        log_seconds, spread = np.zeros(len(data)), np.zeros(len(data))
        for number, task in enumerate(data.tasks):
            rows = np.flatnonzero(data.task == number)
            found = self._predict(data.features[rows], task.threads, task.vector[None], task.cold)
            log_seconds[rows], spread[rows] = found.log_seconds, found.spread
        return Prediction(log_seconds, spread)

    def nearness(self, vectors: Floats) -> Floats:
        """``[n, tasks]``: how much each known task counts for workloads like ``vectors[n]``, from 0 to 1."""
        return nearness(vectors, self.vectors)

    def share(self, vectors: Floats) -> Floats:
        """``[n]``: how much the ensemble counts beside the draft, from 0 to 1."""
        near = self.nearness(vectors) @ self.counts
        return np.asarray(near / np.maximum(near + self.trust, 1e-12))

    def _predict(
        self, features: NDArray[np.float32], threads: int, vectors: Floats, cold: float | None
    ) -> Prediction:
        """``vectors`` of each candidate, or one for all of them."""
        base = self.draft.predict_features(features, threads, cold)
        kinds, which = (vectors, np.zeros(1, np.intp)) if len(vectors) == 1 else _distinct(vectors)
        near = self.nearness(kinds)
        share = self.share(kinds)[which]
        level = self.level.of_workloads(kinds, near)[which]
        distance = _distances(kinds, self.vectors).min(axis=1)[which]
        slower, spread = self.ensemble.predict(inputs(features, threads))
        log_seconds = share * (level + slower) + (1 - share) * base.log_seconds
        # Where both say something, how far they are apart is a doubt of its own.
        own = self.scale * (spread + BY_DISTANCE * distance + 0.02)
        apart = (level + slower - base.log_seconds) ** 2 * share * (1 - share)
        return Prediction(log_seconds, np.sqrt(share * own**2 + (1 - share) * base.spread**2 + apart))

    def updated(self, data: Dataset, fresh: NDArray[np.bool_], seed: int = 0) -> LearnedModel:
        """The model after a few steps on new records: networks go on learning, trees stay.

        Args:
            data: old and new records; of tasks that the model knows, all the records that it is to remember.
            fresh: ``[n]``, which of them are new.
        """
        x, y = inputs(data.features, data.threads), data.labels
        networks = tuple(
            continue_network(network, x, y, data.task, fresh, seed + n)
            for n, network in enumerate(self.ensemble.networks)
        )
        return dataclasses.replace(
            self,
            ensemble=dataclasses.replace(self.ensemble, networks=networks),
            level=Level.of(data.vectors, data.best),
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
            "plane": self.level.plane, "residuals": self.level.residuals,
            "vectors": self.vectors, "counts": self.counts,
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

    width = len(FEATURES) + 1
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
