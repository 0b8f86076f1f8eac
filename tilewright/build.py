"""From a graph to a variant of an artifact: passes, kernels, weights, memory, entry function.

Dimensions of the graph may have ranges: the variant then takes every size within them
(docs/dynamic_shapes.md).

``build_variant`` is handed a function that gives the choices of schedules for a task, best first, and does
not know who chose. Kernels come from a cache on disk when the same program was compiled before with the same
schedule by the same compiler for the same target.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tilewright
from tilewright.assembly import CompiledKernel, Program, assemble, cold_bytes, shape_text
from tilewright.backend import Backend, get_backend
from tilewright.cache import DiskCache, cache_key
from tilewright.errors import CompileError, ScheduleError, VerifyError
from tilewright.graph.alternatives import Pick, default_pick
from tilewright.graph.graph import Graph
from tilewright.graph.pipeline import optimise
from tilewright.graph.quantize import multiplied_type
from tilewright.graph.requirements import Requirement, requirements
from tilewright.ir import dtype as dt
from tilewright.ir.printer import to_text, workload_key
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.lower import lower, passes_for
from tilewright.runtime.artifact import WeightStore
from tilewright.runtime.chosen import BY_RULES, Chosen
from tilewright.runtime.plan import Range, Variant
from tilewright.runtime.traits import Traits, rounded
from tilewright.schedule.default import default_schedule
from tilewright.schedule.features import VERSION, features_of
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

#: Makes the schedule of a task.
MakeSchedule = Callable[[PrimFunc, Target], Schedule]
#: Called with a stage's name, steps done, steps in all.
Progress = Callable[[str, int, int], None]

_log = logging.getLogger("tilewright")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A schedule for a task, not made yet.

    Attributes:
        identity: names the schedule for the cache: for one task, choices with one identity schedule alike.
        schedule: makes it; raises ScheduleError or VerifyError where it does not fit the task after all.
        chosen: who chose, for the artifact.
    """

    identity: str
    schedule: MakeSchedule
    chosen: Chosen = BY_RULES


#: The rules' choice: it fits every task.
DEFAULT = Choice("default", default_schedule)
#: The choices for a task (with its workload key), best first; the next one is taken where one does not fit.
Choose = Callable[[PrimFunc, Target, str], Sequence[Choice]]


def by_default(func: PrimFunc, target: Target, workload: str) -> Sequence[Choice]:
    """The rules' choice for any task."""
    return (DEFAULT,)


def always(schedule: MakeSchedule, identity: str = "given") -> Choose:
    """One way to schedule every task, and no other. ``identity`` names it for the cache."""
    choices = (Choice(identity, schedule, Chosen("given")),)
    return lambda func, target, workload: choices


@dataclasses.dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        choose: the schedules of a task.
        cache: where kernels are kept, or None.
        jobs: how many kernels are compiled at the same time.
        progress: told about finished steps.
        dump: folder for the graph after every pass and the program of every kernel at every stage, or None.
        check: verify the graph after every pass.
        fast_conv: whether convolutions may become Winograd's (docs/winograd.md), whatever ``pick`` says.
        pick: how each operator is computed (docs/alternatives.md).
        traits: whether kernels say what bounds them; that takes a good part of the time before LLVM.
    """

    choose: Choose = by_default
    cache: DiskCache | None = None
    jobs: int = 1
    progress: Progress | None = None
    dump: Path | None = None
    check: bool = False
    fast_conv: bool = True
    pick: Pick = default_pick
    traits: bool = True


@dataclasses.dataclass(frozen=True)
class Built:
    """A variant and the object files it needs by key."""

    variant: Variant
    objects: Mapping[str, bytes]


@functools.cache
def compiler_epoch() -> str:
    """A digest of the compiler's own sources: what it generates may change whenever they do."""
    root = Path(tilewright.__file__).parent
    digest = hashlib.sha256(tilewright.__version__.encode())
    for part in (
        "build.py",
        "target.py",
        "ir",
        "graph",
        "ops",
        "schedule",
        "lower",
        "assembly",
        "backend",
        "runtime",
        "frontend",
    ):
        path = root / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def build_variant(
    graph: Graph,
    target: Target,
    threads: int,
    binding: Mapping[str, int],
    weights: WeightStore,
    options: Options,
) -> Built:
    """Compile a graph for ``target``.

    Args:
        graph: as imported; every dimension is a number or has a range.
        threads: the largest number of threads that runs will use; sizes the workspaces.
        binding: the fixed symbolic dimensions this variant is for, recorded in it.
        weights: receives the constants.

    Raises:
        GraphError, UnsupportedError: the graph cannot be compiled.
        ShapeError: operators need sizes that the dimensions' ranges do not allow.
        CompileError: a code generator failed.
        CacheError: the cache cannot be read or written.
    """
    say = options.progress or (lambda stage, done, total: None)
    say("graph", 0, 1)
    disabled = () if options.fast_conv else ("fast_conv",)
    optimised = optimise(
        graph,
        _graph_dumper(options.dump),
        options.check,
        threads=threads,
        pick=options.pick,
        disabled=disabled,
        operands=multiplied_type(target),
    )
    say("graph", 1, 1)
    return build_optimised(optimised, target, threads, binding, weights, options, requirements(graph))


def build_optimised(
    optimised: Graph,
    target: Target,
    threads: int,
    binding: Mapping[str, int],
    weights: WeightStore,
    options: Options,
    checks: Sequence[Requirement] = (),
) -> Built:
    """:func:`build_variant` for a graph that has been through the passes; ``checks`` are what the graph
    before them needs of its dimensions. Raises as it does."""
    backend = get_backend(target)
    program = Program.of(optimised)
    kernels = program.all_kernels()
    compiled = compile_kernels([k.func for k in kernels], target, options)
    steps = assemble(program, dict(zip(kernels, compiled, strict=True)), weights, threads, checks)
    sizes = steps.sizes
    # Who chose a schedule is no part of the code: equal steps have one entry.
    calls = [dataclasses.replace(c, chosen=BY_RULES, traits=None) for c in steps.calls]
    records = [*(c.to_json() for c in calls), *(r.to_json() for r in steps.regions)]
    facts = [json.dumps(record, sort_keys=True) for record in records]
    name = cache_key(*facts, *sizes.texts())[:16]
    symbol = f"tw_main_{name}"
    needed = sizes.needed(f"tw_shapes_{name}")
    text = backend.emit_entry(symbol, steps.calls, target, needed, steps.regions)
    entry = backend.compile([text], target, cache=options.cache)[0]
    entry_key = cache_key("entry", text, target.to_json())[:32]
    variant = Variant(
        binding=dict(binding),
        entry=symbol,
        entry_object=entry_key,
        kernels=steps.calls,
        input_shapes=tuple(map(shape_text, optimised.inputs)),
        output_shapes=tuple(map(shape_text, optimised.outputs)),
        arena_bytes=steps.arena_bytes,
        dims={d.name: Range(d.lo or 0, d.hi, d.multiple_of) for d in sizes.dims},
        sizes=tuple(map(repr, sizes.bytes)),
        checks=tuple(map(str, sizes.checks)),
        capacities=sizes.capacities,
        shapes="" if needed is None else needed.symbol,
        regions=steps.regions,
    )
    return Built(variant, {entry_key: entry, **{c.key: c.code for c in compiled}})


def compile_kernels(funcs: Sequence[PrimFunc], target: Target, options: Options) -> list[CompiledKernel]:
    """Machine code for every function, in order; equal programs are compiled once. Raises as
    :func:`build_variant`."""
    backend = get_backend(target)
    say = options.progress or (lambda stage, done, total: None)
    keys = [workload_key(f) for f in funcs]
    tasks = dict(zip(keys, funcs, strict=True))
    done: dict[str, CompiledKernel] = {}
    missing: list[tuple[str, str, _Emitted]] = []
    for number, (workload, func) in enumerate(tasks.items()):
        key, made = _settle(backend, func, workload, target, options)
        if isinstance(made, CompiledKernel):
            done[workload] = made
        else:
            missing.append((workload, key, made))
        say("schedule", number + 1, len(tasks))

    def compiled(count: int, total: int) -> None:
        say("compile", count, total)

    codes = backend.compile([e.text for _, _, e in missing], target, options.jobs, compiled)
    for (workload, key, emitted), code in zip(missing, codes, strict=True):
        done[workload] = kernel = emitted.with_code(key, code)
        if options.cache is not None:
            options.cache.put(key, kernel.to_bytes())
    return [done[k] for k in keys]


def _settle(
    backend: Backend, func: PrimFunc, workload: str, target: Target, options: Options
) -> tuple[str, CompiledKernel | _Emitted]:
    """A task by the first of its choices that fits it: its kernel's key, and what the cache has of it or what
    is to be compiled. Raises as the last choice does."""
    *earlier, last = options.choose(func, target, workload)
    note = ""
    for choice in (*earlier, last):
        chosen = dataclasses.replace(choice.chosen, note=note) if note else choice.chosen
        key = cache_key("kernel", compiler_epoch(), choice.identity, workload, target.to_json())[:32]
        data = options.cache.get(key) if options.cache is not None and options.dump is None else None
        if data is not None:
            return key, dataclasses.replace(CompiledKernel.from_bytes(key, data), chosen=chosen)
        try:
            return key, _emit(backend, func, target, key, options, choice, chosen)
        except (ScheduleError, VerifyError, CompileError) as error:
            if choice is last:
                raise
            note = f"the schedule of the {choice.chosen.by} does not fit: {error.message}"
            _log.warning("%s: %s; the next best is taken", func.name, note)
    raise AssertionError("the last choice was refused silently")


@dataclasses.dataclass(frozen=True)
class _Emitted:
    text: str
    symbol: str
    ws_shared: int
    ws_thread: int
    parallel: bool
    layouts: Mapping[int, str]
    trace: str
    traits: Traits | None
    chosen: Chosen

    def with_code(self, key: str, code: bytes) -> CompiledKernel:
        return CompiledKernel(
            key,
            self.symbol,
            code,
            self.ws_shared,
            self.ws_thread,
            self.parallel,
            self.layouts,
            self.trace,
            self.traits,
            self.chosen,
        )


def _emit(
    backend: Backend,
    func: PrimFunc,
    target: Target,
    key: str,
    options: Options,
    choice: Choice,
    chosen: Chosen,
) -> _Emitted:
    """Schedule, lower and emit one task."""
    dump = _func_dumper(options.dump, f"{func.name}_{key[:8]}")
    dump("task", func)
    schedule = choice.schedule(func, target)
    dump("scheduled", schedule.func)
    lowered = lower(schedule.func, dump, passes_for(target))
    try:
        module = backend.emit(lowered, target, f"tw_k_{key[:16]}")
    except CompileError as error:
        raise CompileError(error.message, location=error.location or func.name, hint=error.hint) from error
    if options.dump is not None:
        (options.dump / f"{func.name}_{key[:8]}.emitted.txt").write_text(module.text)
    # A schedule of the workload's canonical text has other names in the same places.
    names = [p.name for p in schedule.func.params if isinstance(p, Buffer)]
    layouts = {
        names.index(name): text for name, text in dict(schedule.func.attr("param_layouts", {})).items()
    }
    return _Emitted(
        module.text,
        module.symbol,
        module.ws_shared,
        module.ws_thread,
        module.parallel,
        layouts,
        schedule.trace.to_json(),
        _traits(func, schedule.func, target) if options.traits else None,
        chosen,
    )


def _traits(func: PrimFunc, scheduled: PrimFunc, target: Target) -> Traits | None:
    """What a function is like with its schedule; None where a run decides its sizes, and for GPUs, whose
    limits are others."""
    buffers = [p for p in func.params if isinstance(p, Buffer)]
    if len(buffers) < len(func.params) or not buffers or target.gpu is not None:
        return None
    try:
        features = features_of(scheduled, target)
    except ScheduleError:  # sizes that data decide
        return None
    bits = min(dt.bits(p.dtype) for p in buffers)
    return Traits(VERSION, rounded(features), int(cold_bytes(func)), bits)


def _graph_dumper(folder: Path | None) -> Callable[[str, Graph], None] | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    counter = iter(range(1000))

    def dump(name: str, graph: Graph) -> None:
        (folder / f"graph_{next(counter):02d}_{name}.txt").write_text(str(graph))

    return dump


def _func_dumper(folder: Path | None, name: str) -> Callable[[str, PrimFunc], None]:
    counter = iter(range(1000))

    def dump(stage: str, func: PrimFunc) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.{next(counter):02d}_{stage}.txt").write_text(to_text(func))

    return dump
