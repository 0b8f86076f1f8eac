"""Our search of one kernel, as ``tw.tune`` does it, for :mod:`benchmarks.metaschedule`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.kernels import Kernel
from tilewright.cost.model import CostModel
from tilewright.measure.batch import Measurer
from tilewright.records import Device, Epoch, Workload, open_store
from tilewright.target import Target
from tilewright.tune.events import Event, Visited
from tilewright.tune.models import calibrate_once, default_model
from tilewright.tune.plugins import make_model
from tilewright.tune.session import Session, Settings
from tilewright.tune.strategy import make_strategy
from tilewright.tune.tasks import Extracted, Task
from tilewright.tuning import compiler_name

#: Candidates between two races, after each of which the best schedule may be another one.
BATCH: Final = 8


@dataclasses.dataclass(frozen=True)
class Guide:
    """What guides the search: the cost model that a fresh installation has.

    Attributes:
        name: of the cost model.
        model: the model.
        seconds: how long it took to make, measurements of this machine included; once for all kernels.
    """

    name: str
    model: CostModel
    seconds: float


def make_guide(threads: int, folder: Path) -> Guide:
    """The guide; what it has measured of this machine is kept in the folder."""
    target = Target.host()
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with open_store(folder / "machine.sqlite") as store:
        calibrate_once(store, target, threads, print)
        name = default_model(store, target, threads)
        return Guide(name, make_model(name, target, threads, store), time.perf_counter() - begin)


def search(
    kernel: Kernel, guide: Guide, threads: int, trials: int, seed: int, folder: Path,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:  # fmt: skip
    """Tune a kernel with an empty store.

    Args:
        tell: is told what would be compiled, at the beginning and after each batch: ``trial`` (candidates
            measured so far), ``wall`` (seconds since the beginning), ``seconds`` of a call as far as the
            search knows, and the ``trace``.

    Returns:
        ``wall``, ``measured``, and ``failures`` by status.
    """
    target = Target.host()
    workload = Workload.of(kernel.func(), kernel.kind)
    task = Task(kernel.name, workload, 1, (), kernel.flops, sum(a.nbytes for a in kernel.arrays(seed)))
    for old in folder.glob("store.sqlite*"):
        old.unlink()
    begin = time.perf_counter()
    with open_store(folder / "store.sqlite") as store:

        def listen(event: Event) -> None:
            # The default schedule is measured, and not counted, before the first visit.
            if isinstance(event, Visited) or (state.ready and not told):
                said()

        session = Session(
            Extracted((task,)),
            store,
            target,
            threads,
            make_strategy("evolutionary"),
            guide.model,
            lambda: Measurer(target, threads),
            Epoch.begin(Device.of(target), compiler_name()),
            Settings(trials=trials, batch=BATCH, seed=seed),
            [listen],
        )
        [state] = session.states
        told: list[dict[str, Any]] = []

        def said() -> None:
            assert state.space is not None
            assert state.best is not None
            trace, seconds = state.space.trace(state.best), state.seconds
            if told and trace != told[-1]["trace"]:
                # A race has said so; estimates from before it may say otherwise.
                seconds = min(seconds, told[-1]["seconds"] * (1 - 1e-9))
            elif told:
                seconds = told[-1]["seconds"]
            wall = time.perf_counter() - begin
            told.append({"trial": state.trials, "wall": wall, "seconds": seconds, "trace": trace})
            tell(told[-1])

        outcome = session.run((kernel.name, "evolutionary"))
    if state.error:
        raise RuntimeError(state.error)
    return {
        "wall": time.perf_counter() - begin,
        "measured": outcome.trials,
        "failures": dict(outcome.failures),
        "guide": guide.name,
        "guide_seconds": guide.seconds,
    }
