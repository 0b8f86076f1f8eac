"""From the records of a store to the model that is used: training, calibration, and what may replace what."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.dataset import Dataset, FeatureReader, read_dataset
from tilewright.cost.draft import DraftModel
from tilewright.cost.evaluation import folds, groups, qualities, summary
from tilewright.cost.learned import (
    BY_DISTANCE,
    Beside,
    Floats,
    LearnedModel,
    Level,
    Training,
    nearness,
    train_ensemble,
)
from tilewright.errors import ArtifactError, StoreError
from tilewright.records.store import Store

KIND: Final = "learned"
#: Models that a store keeps: the one in use and those before it.
KEPT: Final = 5
#: Tasks with fewer records, and data with fewer tasks, teach nothing.
MIN_RECORDS, MIN_TASKS = 6, 4
#: Numbers of records nearby at which half of the ensemble's correction may count. None is 0: then the
#: faintest likeness would count in full.
TRUSTS: Final = (12.5, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
#: The share of held-out records whose times lie within one standard deviation.
COVERAGE: Final = 0.6827
#: One task in so many is never trained on, so that models can be compared.
GUARDED: Final = 5

#: How models are trained unless something else is asked for.
_HOW: Final = Training()

_log = logging.getLogger("tilewright")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What ensembles say of the records of tasks that they have not seen.

    Attributes:
        data: the records.
        rest: ``[n]`` how much longer than the draft says a record takes, beside others of its task.
        spread: ``[n]`` of it over the members.
        level: ``[n]`` how much longer the task takes.
        nearby: ``[n]`` records of workloads alike that were trained on.
        distance: ``[n]`` to the nearest workload that was trained on, in doublings.
        draft: ``[n]`` what the draft says.
    """

    data: Dataset
    rest: Floats
    spread: Floats
    level: Floats
    nearby: Floats
    distance: Floats
    draft: Floats

    def scores(self, trust: float) -> Floats:
        """``[n]``: logarithms of seconds, blended as :class:`LearnedModel` does."""
        share = self.nearby / np.maximum(self.nearby + trust, 1e-12)
        return self.draft + share * (self.level + self.rest)


def hold_out(
    data: Dataset,
    draft: DraftModel,
    by: str,
    how: Training = _HOW,
    progress: Callable[[int], None] | None = None,
) -> HeldOut:
    """Train without each group of tasks in turn (:func:`tilewright.cost.evaluation.folds`) and predict it.

    Raises StoreError where nothing can be held out, MissingDependencyError where trees are asked
    for without LightGBM.
    """
    columns = np.zeros((6, len(data)))
    whole = Beside.of(data, draft)
    order: list[int] = []
    for number, (used, held) in enumerate(folds(data, by, how.folds)):
        known = data.only(used)
        if len(used) < 2 or (known.counts < 2).all():
            continue
        beside = Beside.of(known, draft)
        ensemble = train_ensemble(known, beside, how)
        level = Level.of(known, beside, ensemble)
        near = nearness(data.vectors, known.vectors)
        distance = np.linalg.norm(data.vectors[:, None] - known.vectors[None], axis=-1).min(axis=1)
        rows = np.flatnonzero(np.isin(data.task, held))
        which = data.task[rows]
        columns[:, rows] = (
            *ensemble.predict(whole.inputs[rows]),
            level.of_workloads(data.vectors, near)[which],
            (near @ known.counts)[which],
            distance[which],
            whole.draft[rows],
        )
        order += held
        if progress is not None:
            progress(number + 1)
    if not order:
        raise StoreError(
            "no kernels can be held out: all measured kernels are alike", hint="measure other models as well"
        )
    rows = np.flatnonzero(np.isin(data.task, order))
    return HeldOut(data.only(sorted(order)), *columns[:, rows])


def choose_trust(held: HeldOut) -> float:
    """Which of :data:`TRUSTS` chooses best on held-out tasks: by the mean of top-1, top-5 and pairs."""

    def worth(trust: float) -> float:
        mean = summary(qualities(held.scores(trust), held.data)).mean
        return (mean.top1 + mean.top5 + mean.pairs) / 3

    return max(TRUSTS, key=worth)


def calibrate_spread(held: HeldOut) -> float:
    """What spreads are multiplied with: the conformal quantile (Papadopoulos et al., 2002) of errors over
    spreads on held-out records."""
    error = np.abs(held.draft + held.level + held.rest - held.data.log_seconds)
    ratio = np.sort(error / (held.spread + BY_DISTANCE * held.distance + 0.02))
    place = min(math.ceil((len(ratio) + 1) * COVERAGE), len(ratio)) - 1
    return max(float(ratio[place]), 1e-3)


def train(
    data: Dataset,
    draft: DraftModel,
    how: Training = _HOW,
    progress: Callable[[int], None] | None = None,
) -> LearnedModel:
    """A model from records.

    How far it is trusted beside ``draft``, and its spread, come from models that are trained without some of
    the tasks: whole models are held out where the records are of three or more, else single kernels.

    Args:
        data: all records that it may see.
        draft: decides far from them.
        how: to train.
        progress: told how many groups of tasks were held out.

    Raises:
        StoreError: there are too few records, or all are of one kernel.
        MissingDependencyError: trees are asked for, and LightGBM is missing.
    """
    data = data.with_at_least(MIN_RECORDS)
    if len(data.tasks) < MIN_TASKS:
        raise StoreError(
            f"too little was measured to learn from: {len(data.tasks)} kernels with {MIN_RECORDS} records or "
            f"more, {MIN_TASKS} are needed",
            hint="tune a model first, or import records",
        )
    by = "source" if len(groups(data, "source")) >= 3 else "task"
    held = hold_out(data, draft, by, how, progress)
    trust, scale = choose_trust(held), calibrate_spread(held)
    mean = summary(qualities(held.scores(trust), held.data)).mean
    beside = Beside.of(data, draft)
    ensemble = train_ensemble(data, beside, how)
    metrics = {
        "tasks": float(len(data.tasks)), "records": float(len(data)), "held_top1": float(mean.top1),
        "held_top5": float(mean.top5), "held_pairs": float(mean.pairs),
    }  # fmt: skip
    return LearnedModel(
        draft,
        ensemble,
        Level.of(data, beside, ensemble),
        data.vectors,
        data.counts.astype(np.float64),
        trust,
        scale,
        metrics,
    )


# -- what is in use ------------------------------------------------------------------------------------------


def is_guarded(key: str) -> bool:
    """Whether models that are stored never train on the workload with this key."""
    return int(key[:8], 16) % GUARDED == 0


def load_model(store: Store, device: str, draft: DraftModel) -> LearnedModel | None:
    """The learned model in use for a device (its fingerprint); None where there is none, or none that this
    release can read."""
    stored = store.latest_model(KIND, device)
    if stored is None:
        return None
    try:
        return LearnedModel.from_bytes(stored.data, draft)
    except ArtifactError as error:
        _log.warning("%s; %s", error.message, error.hint)
        return None


@dataclasses.dataclass(frozen=True)
class Promotion:
    """What became of a newly trained model.

    Attributes:
        promoted: whether it is in use now.
        model: the one in use.
        reason: why, for people.
        champion, challenger: top-1 on the tasks that neither has seen; None where there are none, or no
            champion.
    """

    promoted: bool
    model: LearnedModel
    reason: str
    champion: float | None = None
    challenger: float | None = None


def retrain(
    store: Store,
    device: str,
    draft: DraftModel,
    reader: FeatureReader | None = None,
    how: Training = _HOW,
) -> Promotion:
    """Train on the records of a device and put the model in use, unless the one in use is better.

    Both are judged on the guarded tasks (:func:`is_guarded`), which no stored model has seen. The store keeps
    the last :data:`KEPT` models.

    Raises as :func:`train`, and StoreError when the store cannot be read or written.
    """
    data = read_dataset(store, reader, device=device)
    guarded = [n for n, t in enumerate(data.tasks) if is_guarded(t.workload.key)]
    rest = [n for n in range(len(data.tasks)) if n not in set(guarded)]
    challenger = train(data.only(rest), draft, how)
    guard = data.only(guarded).with_at_least(MIN_RECORDS)
    found = promotion(load_model(store, device, draft), challenger, guard)
    if found.promoted:
        metrics = dict(challenger.metrics)
        if found.challenger is not None:
            metrics["guard_top1"] = found.challenger
        store.put_model(KIND, device, challenger.to_bytes(), metrics=metrics, keep=KEPT)
    _log.info("learned model: %s", found.reason)
    return found


def promotion(champion: LearnedModel | None, challenger: LearnedModel, guard: Dataset) -> Promotion:
    """Whether ``challenger`` takes the place of ``champion``: if it chooses as well on ``guard``."""
    if champion is None:
        return Promotion(True, challenger, "the first model")
    if not guard.tasks:
        return Promotion(True, challenger, "no tasks to compare by")
    old, new = (_top1(model, guard) for model in (champion, challenger))
    if new >= old:
        return Promotion(True, challenger, f"top-1 {new:.3f}, before {old:.3f}", old, new)
    return Promotion(False, champion, f"top-1 would fall from {old:.3f} to {new:.3f}", old, new)


def _top1(model: LearnedModel, data: Dataset) -> float:
    scores: NDArray[np.float64] = model.predict_tasks(data).log_seconds
    return summary(qualities(scores, data)).mean.top1
