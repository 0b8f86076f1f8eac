"""Tasks: the different kernels of a model, each with what it counts for in the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from tilewright.assembly import Program
from tilewright.assembly.program import count_bytes, count_flops, graph_kernels
from tilewright.errors import OptionError
from tilewright.graph.alternatives import DIRECT, ChoicePoint, Pick, default_pick
from tilewright.graph.graph import Graph
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise, variants
from tilewright.graph.primfunc import Kernel
from tilewright.graph.quantize import multiplied_type
from tilewright.ir.expr import Var
from tilewright.records.record import Workload
from tilewright.target import Target

#: Other ways to compute a node are looked at where it does at least this share of the model's operations.
HEAVY: Final = 0.02


@dataclasses.dataclass(frozen=True)
class Task:
    """A kernel to find a schedule for.

    Attributes:
        name: for people: that of the function.
        workload: what is computed.
        occurrences: how many kernels of the model are this one; 0 for those of other ways to compute a node
            (:class:`Ways`).
        origins: names of the model's nodes that these kernels compute.
        flops: floating-point operations of one call; a multiply-add counts two.
        nbytes: bytes of all operands of one call, each counted once.
        way: the other way to compute a node that it belongs to; empty for kernels of the model.
    """

    name: str
    workload: Workload
    occurrences: int
    origins: tuple[str, ...]
    flops: int
    nbytes: int
    way: str = ""

    @property
    def key(self) -> str:
        """The workload's key."""
        return self.workload.key

    @property
    def label(self) -> str:
        """Its name and the first of its nodes, for people: kernels of one name are many."""
        way = f"{self.way} of " if self.way else ""
        more = ", …" if len(self.origins) > 1 else ""
        return f"{self.name} ({way}{self.origins[0]}{more})" if self.origins else self.name


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A kernel that is not tuned, and why."""

    name: str
    origins: tuple[str, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class Ways:
    """Nodes that can be computed in several ways: alike but for their names.

    Attributes:
        origins: names of the nodes.
        occurrences: how many they are.
        kernels: the keys of the workloads of each way, a key as often as the way runs it.
    """

    origins: tuple[str, ...]
    occurrences: int
    kernels: Mapping[str, tuple[str, ...]]

    def seconds(self, known: Mapping[str, float]) -> dict[str, float]:
        """The time of each way all of whose kernels' times are ``known``, by workload key."""
        return {
            way: sum(known[key] for key in keys)
            for way, keys in self.kernels.items()
            if all(key in known for key in keys)
        }


@dataclasses.dataclass(frozen=True)
class Extracted:
    """What there is to tune in a model.

    Attributes:
        tasks: different from each other, in the order of the model; those of other ways come last.
        skipped: kernels that keep the default schedule.
        ways: nodes between whose ways records decide.
    """

    tasks: tuple[Task, ...]
    skipped: tuple[Skipped, ...] = ()
    ways: tuple[Ways, ...] = ()

    def only(self, names: Sequence[str]) -> Extracted:
        """The tasks that compute the nodes of these names, or whose names or keys' beginnings these are.

        Raises OptionError where a name stands for none.
        """
        chosen: dict[str, Task] = {}
        for name in names:
            found = [t for t in self.tasks if name in (*t.origins, t.name)]
            found = found or [t for t in self.tasks if len(name) >= 6 and t.key.startswith(name)]
            if not found:
                skipped = next((s for s in self.skipped if name in (*s.origins, s.name)), None)
                raise OptionError(
                    f"no kernel to tune computes '{name}'" + (f": {skipped.reason}" if skipped else ""),
                    hint="`tilewright tune MODEL --list` shows the tasks and the nodes that they compute",
                )
            chosen.update((t.key, t) for t in found)
        return Extracted(tuple(chosen.values()))


def extract(
    graphs: Sequence[Graph],
    target: Target,
    threads: int,
    *,
    source: str = "",
    disabled: Sequence[str] = (),
    pick: Pick = default_pick,
    ways: bool = False,
) -> Extracted:
    """The tasks of a model.

    Args:
        graphs: the model as imported, for each combination of sizes that code is made for.
        target, threads: as for compiling.
        source: name of the model, kept with its workloads.
        disabled: options that are off (``fast_conv``).
        pick: how each operator is computed.
        ways: whether to add the tasks of the other ways to compute heavy nodes.

    Raises:
        GraphError: a graph cannot be compiled.
    """
    points: list[ChoicePoint] = []

    def note(point: ChoicePoint) -> str:
        points.append(point)
        return pick(point)

    kernels: list[Kernel] = []
    for graph in graphs:
        operands = multiplied_type(target)
        optimised = optimise(graph, threads=threads, pick=note, disabled=disabled, operands=operands)
        kernels += Program.of(optimised).all_kernels()
    tasks: dict[str, Task] = {}
    skipped: list[Skipped] = []
    for kernel in kernels:
        if (reason := _untunable(kernel)) is None:
            _count(tasks, kernel, 1, source)
        else:
            skipped.append(Skipped(kernel.func.name, _origins(kernel), reason))
    found: tuple[Ways, ...] = ()
    if ways:
        total = sum(t.occurrences * t.flops for t in tasks.values())
        found = _ways(points, HEAVY * total, tasks, source)
    return Extracted(tuple(tasks.values()), tuple(skipped), found)


def _ways(
    points: Sequence[ChoicePoint], heavy: float, tasks: dict[str, Task], source: str
) -> tuple[Ways, ...]:
    found: dict[tuple[tuple[str, tuple[str, ...]], ...], Ways] = {}
    for point in points:
        made = {n: graph_kernels(g, partition(g)) for n, g in variants(point).items()}
        if sum(count_flops(k.func) for k in made[DIRECT]) < heavy:
            continue
        if any(_untunable(k) for kernels in made.values() for k in kernels):
            continue
        keys = tuple((n, tuple(_count(tasks, k, 0, source, n) for k in ks)) for n, ks in made.items())
        origins = (point.node.origin.name,) if point.node.origin.name else ()
        known = found.get(keys, Ways((), 0, dict(keys)))
        names = tuple(dict.fromkeys((*known.origins, *origins)))
        found[keys] = dataclasses.replace(known, origins=names, occurrences=known.occurrences + 1)
    return tuple(found.values())


def _count(tasks: dict[str, Task], kernel: Kernel, occurrences: int, source: str, way: str = "") -> str:
    """Add a kernel of the model, or of another way, to the tasks; its workload's key."""
    func = kernel.func
    workload = Workload.of(func, _family(kernel), source)
    new = Task(func.name, workload, 0, (), count_flops(func), count_bytes(func), way)
    known = tasks.get(workload.key, new)
    origins = tuple(dict.fromkeys((*known.origins, *_origins(kernel))))
    total = known.occurrences + occurrences
    tasks[workload.key] = dataclasses.replace(known, occurrences=total, origins=origins)
    return workload.key


def _untunable(kernel: Kernel) -> str | None:
    if any(isinstance(p, Var) for p in kernel.func.params):
        return "sizes have ranges"
    return None


def _family(kernel: Kernel) -> str:
    """The operator that decides the schedule."""
    anchor = kernel.group.anchor
    return kernel.group.nodes[0].op if anchor is None else anchor.op


def _origins(kernel: Kernel) -> tuple[str, ...]:
    return tuple(dict.fromkeys(o.name for o in kernel.origins if o.name))
