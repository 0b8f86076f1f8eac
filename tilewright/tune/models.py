"""The cost models by name, which of them a session takes, and what bounds a kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilewright.build import compiler_epoch
from tilewright.cache import DiskCache
from tilewright.config import options
from tilewright.cost.dataset import FeatureReader
from tilewright.cost.draft import bound, cold_bytes, draft_model, least_seconds
from tilewright.cost.model import CostModel, Prediction
from tilewright.cost.training import load_model, retrain
from tilewright.errors import OptionError, TilewrightError
from tilewright.ir import dtype as dt
from tilewright.ir.stmt import Buffer
from tilewright.measure.calibrate import calibrated
from tilewright.records.record import Device
from tilewright.records.store import Store
from tilewright.schedule.sketch import Rows, Sketch
from tilewright.target import Target
from tilewright.tune.plugins import register_model
from tilewright.tune.population import Point
from tilewright.tune.session import Bounds
from tilewright.tune.space import SearchSpace
from tilewright.tune.tasks import Task


class Ignorance:
    """Knows nothing: all candidates look alike. What any other model has to beat."""

    name = "none"

    def predict(self, sketch: Sketch, rows: Rows, threads: int) -> Prediction:
        """As :meth:`CostModel.predict`."""
        return Prediction(np.zeros(len(rows)), np.ones(len(rows)))


@register_model("none")
def _none(target: Target, threads: int, store: Store) -> CostModel:
    return Ignorance()


@register_model("draft")
def _draft(target: Target, threads: int, store: Store) -> CostModel:
    return draft_model(target, threads, store)


@register_model("learned")
def _learned(target: Target, threads: int, store: Store) -> CostModel:
    found = load_model(store, Device.of(target).fingerprint, draft_model(target, threads, store))
    if found is None:
        raise OptionError(
            "the store has no learned model for this machine",
            location=store.location,
            hint="`tilewright tune --effort full` trains one from what was measured; or take --model draft",
        )
    return found


def default_model(store: Store, target: Target, threads: int) -> str:
    """The name of the best model that there is for a machine."""
    device = Device.of(target).fingerprint
    return "draft" if load_model(store, device, draft_model(target, threads, store)) is None else "learned"


def calibrate_once(store: Store, target: Target, threads: int, note: Callable[[str], None]) -> None:
    """Measure what the draft model needs to know of this machine, if the store does not know it. ``note`` is
    told before that begins. Raises as :func:`tilewright.measure.calibrate.calibrate`, and StoreError."""
    if store.latest_model("draft", Device.of(target).fingerprint, threads) is None:
        note("first use on this machine: its speed is measured, for 20 seconds at most")
        calibrated(target, threads, store)


def train_again(store: Store, target: Target, threads: int) -> str:
    """Train the learned model on all records of this machine, and use it from now on if it is no worse; what
    came of it, in words. It stands at the end of a session, which has its results whatever happens here."""
    try:
        draft = draft_model(target, threads, store)
        found = retrain(store, Device.of(target).fingerprint, draft, kept_features())
    except TilewrightError as error:
        return f"no learned model was trained: {error.message}"
    return f"learned model: {found.reason}" + ("" if found.promoted else "; the old one stays")


def kept_features() -> FeatureReader:
    """What derives the features of records, once for a schedule and compiler: in the compile cache, if it is
    on, they are there for the next process."""
    settings = options()
    cache = DiskCache(settings.cache_dir) if settings.cache else None
    return FeatureReader(cache, compiler_epoch())


def bounds_of(store: Store, target: Target, threads: int) -> Bounds:
    """What bounds kernels of a machine, by the draft model."""
    model = draft_model(target, threads, store)
    calibrated = store.latest_model("draft", Device.of(target).fingerprint, threads) is not None

    def bounds(task: Task, space: SearchSpace, point: Point) -> tuple[float, str]:
        sketch, rows = space.sketches[point.sketch], np.array([point.row], np.int64)
        features, cold = sketch.features(rows)[0], cold_bytes(space.func)
        bits = min(dt.bits(p.dtype) for p in space.func.params if isinstance(p, Buffer))
        floor = least_seconds(features, model, threads, cold, bits)
        # What a target's numbers suggest is no bound.
        return (floor if calibrated else 0.0), bound(features, model, threads, cold).limit

    return bounds
