"""From a graph to a variant of an artifact: passes, kernels, weights, memory, entry function.

Dimensions of the graph may have ranges: the variant then takes every size within them
(docs/dynamic_shapes.md).

``build_variant`` is handed a ``choose(func, target) -> Schedule`` and does not know who chose. Kernels come
from a cache on disk when the same program was compiled before by the same compiler for the same target.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

import tilewright
from tilewright.backend import Backend, RunTimeSizes, get_backend
from tilewright.cache import DiskCache, cache_key
from tilewright.errors import CompileError
from tilewright.graph.alternatives import Pick, default_pick
from tilewright.graph.graph import Graph, Value
from tilewright.graph.memory import MemoryPlan, Place, plan_memory
from tilewright.graph.partition import Group, partition
from tilewright.graph.pipeline import optimise
from tilewright.graph.primfunc import Kernel, lower_group
from tilewright.graph.requirements import Requirement, requirements
from tilewright.graph.rewrite import computed_dims
from tilewright.graph.shapes import Dim, as_dim, count, known, typical
from tilewright.ir import dtype as dt
from tilewright.ir.bounds import linear
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import Expr, Var
from tilewright.ir.intrinsics import flops_of
from tilewright.ir.printer import to_text, workload_key
from tilewright.ir.sizes import dims_of, largest_size
from tilewright.ir.stmt import Buffer, PrimFunc, Store
from tilewright.ir.visit import find_blocks
from tilewright.lower import lower, passes_for
from tilewright.runtime.artifact import WeightStore
from tilewright.runtime.plan import ALIGNMENT, KernelCall, Operand, Range, Space, Variant
from tilewright.schedule.index_map import IndexMap
from tilewright.schedule.schedule import Schedule
from tilewright.target import Target

Choose = Callable[[PrimFunc, Target], Schedule]
#: Called with a stage's name, steps done, steps in all.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class CompiledKernel:
    """Machine code of one task.

    Attributes:
        key: content address of everything the code depends on; also names the object.
        symbol: the kernel's function.
        code: the object file.
        ws_shared, ws_thread: workspace bytes, for all threads together and for each.
        parallel: whether it runs parallel regions.
        layouts: parameter index -> layout (IndexMap text) that its constant must be stored in.
        trace: the schedule as JSON.
    """

    key: str
    symbol: str
    code: bytes
    ws_shared: int
    ws_thread: int
    parallel: bool
    layouts: Mapping[int, str]
    trace: str

    def to_bytes(self) -> bytes:
        """For the cache: a JSON header with its length, then the object."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("code", "key")
        }
        header = json.dumps(fields, sort_keys=True).encode()
        return struct.pack("<I", len(header)) + header + self.code

    @staticmethod
    def from_bytes(key: str, data: bytes) -> CompiledKernel:
        (size,) = struct.unpack_from("<I", data)
        fields = json.loads(data[4 : 4 + size])
        fields["layouts"] = {int(k): v for k, v in fields["layouts"].items()}
        return CompiledKernel(key=key, code=data[4 + size :], **fields)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        choose: the schedule of a task. ``choose_id`` names it for the cache: two choosers with one id must
            choose alike.
        cache: where kernels are kept, or None.
        jobs: how many kernels are compiled at the same time.
        progress: told about finished steps.
        dump: folder for the graph after every pass and the program of every kernel at every stage, or None.
        check: verify the graph after every pass.
        fast_conv: whether convolutions may become Winograd's (docs/winograd.md), whatever ``pick`` says.
        pick: how each operator is computed (docs/alternatives.md).
    """

    choose: Choose
    choose_id: str = "default"
    cache: DiskCache | None = None
    jobs: int = 1
    progress: Progress | None = None
    dump: Path | None = None
    check: bool = False
    fast_conv: bool = True
    pick: Pick = default_pick


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
        "backend",
        "runtime",
        "frontend",
    ):
        path = root / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def graph_kernels(graph: Graph, groups: Sequence[Group]) -> list[Kernel]:
    """The kernels of an optimised graph's groups in execution order, views left out, each over canonical
    dimensions."""
    kernels = []
    for group in groups:
        if not group.is_view:
            kernel = lower_group(graph, group)
            kernels.append(dataclasses.replace(kernel, func=collapse_dims(kernel.func)))
    return kernels


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
    groups = partition(optimised)
    kernels = graph_kernels(optimised, groups)
    compiled = compile_kernels([k.func for k in kernels], target, options)
    plan = plan_memory(optimised, groups)
    offsets = _pack_weights(optimised, kernels, compiled, plan, weights)
    sizes = _Sizes(optimised, kernels, checks)
    calls, arena = _calls(kernels, compiled, plan, offsets, threads, sizes)
    facts = [*(json.dumps(c.to_json(), sort_keys=True) for c in calls), *sizes.texts()]
    name = cache_key(*facts)[:16]
    symbol = f"tw_main_{name}"
    needed = sizes.needed(f"tw_shapes_{name}")
    text = backend.emit_entry(symbol, calls, target, needed)
    entry = backend.compile([text], target, cache=options.cache)[0]
    entry_key = cache_key("entry", text, target.to_json())[:32]
    variant = Variant(
        binding=dict(binding),
        entry=symbol,
        entry_object=entry_key,
        kernels=tuple(calls),
        input_shapes=tuple(map(shape_text, optimised.inputs)),
        output_shapes=tuple(map(shape_text, optimised.outputs)),
        arena_bytes=arena,
        dims={d.name: Range(d.lo or 0, d.hi, d.multiple_of) for d in sizes.dims},
        sizes=tuple(map(repr, sizes.bytes)),
        checks=tuple(map(str, sizes.checks)),
        capacities=sizes.capacities,
        shapes="" if needed is None else needed.symbol,
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
        key = cache_key("kernel", compiler_epoch(), options.choose_id, workload, target.to_json())[:32]
        data = options.cache.get(key) if options.cache is not None and options.dump is None else None
        if data is not None:
            done[workload] = CompiledKernel.from_bytes(key, data)
        else:
            missing.append((workload, key, _emit(backend, func, target, key, options)))
        say("schedule", number + 1, len(tasks))

    def compiled(count: int, total: int) -> None:
        say("compile", count, total)

    codes = backend.compile([e.text for _, _, e in missing], target, options.jobs, compiled)
    for (workload, key, emitted), code in zip(missing, codes, strict=True):
        done[workload] = kernel = emitted.with_code(key, code)
        if options.cache is not None:
            options.cache.put(key, kernel.to_bytes())
    return [done[k] for k in keys]


@dataclasses.dataclass(frozen=True)
class _Emitted:
    text: str
    symbol: str
    ws_shared: int
    ws_thread: int
    parallel: bool
    layouts: Mapping[int, str]
    trace: str

    def with_code(self, key: str, code: bytes) -> CompiledKernel:
        return CompiledKernel(
            key, self.symbol, code, self.ws_shared, self.ws_thread, self.parallel, self.layouts, self.trace
        )


def _emit(backend: Backend, func: PrimFunc, target: Target, key: str, options: Options) -> _Emitted:
    """Schedule, lower and emit one task."""
    dump = _func_dumper(options.dump, f"{func.name}_{key[:8]}")
    dump("task", func)
    schedule = options.choose(func, target)
    dump("scheduled", schedule.func)
    lowered = lower(schedule.func, dump, passes_for(target))
    try:
        module = backend.emit(lowered, target, f"tw_k_{key[:16]}")
    except CompileError as error:
        raise CompileError(error.message, location=error.location or func.name, hint=error.hint) from error
    if options.dump is not None:
        (options.dump / f"{func.name}_{key[:8]}.emitted.txt").write_text(module.text)
    names = [p.name for p in func.params if isinstance(p, Buffer)]
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
    )


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


def _pack_weights(
    graph: Graph,
    kernels: Sequence[Kernel],
    compiled: Sequence[CompiledKernel],
    plan: MemoryPlan,
    weights: WeightStore,
) -> dict[tuple[Value, str, tuple[int, ...]], int]:
    """Store every constant a kernel reads in the layout the kernel wants; returns offsets by (value, layout,
    shape)."""
    offsets: dict[tuple[Value, str, tuple[int, ...]], int] = {}
    for kernel, code in zip(kernels, compiled, strict=True):
        for index, value in enumerate(kernel.inputs):
            place = plan.places[value]
            if place.kind != "constant":
                continue
            key = (place.value, code.layouts.get(index, ""), known(map(as_dim, kernel.buffers[index].shape)))
            if key not in offsets:
                offsets[key] = weights.add(_packed(graph.constants[place.value], key[2], key[1]))
    for copy in plan.copies:
        if copy.source.kind == "constant":
            key = (copy.source.value, "", known(copy.source.value.dims()))
            offsets[key] = weights.add(graph.constants[copy.source.value])
    return offsets


def _packed(data: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    data = np.ascontiguousarray(data).reshape(shape)
    return IndexMap.parse(layout).apply(data) if layout else data


class _Sizes:
    """What is computed at run time for dimensions that are known then only.

    Attributes:
        dims: those dimensions, by name.
        bytes: the byte counts that operands and copies refer to by number.
        checks: conditions on the dimensions; the first ``given_checks`` of them on those that inputs have
            only.
        capacities: as :attr:`Variant.capacities`.
    """

    def __init__(self, graph: Graph, kernels: Sequence[Kernel], checks: Sequence[Requirement]) -> None:
        values = [*graph.inputs, *(v for node in graph.nodes for v in node.outputs)]
        found = dict.fromkeys(dims_of(d for value in values for d in value.shape))
        found.update(dict.fromkeys(p for k in kernels for p in k.func.params if isinstance(p, Var)))
        self.dims = tuple(sorted(found, key=lambda d: d.name))
        self.bytes: list[Expr] = []
        given = set(graph.dims.values())
        distinct = list({c.cond: c for c in (*checks, *requirements(graph))}.values())
        early = [c for c in distinct if not set(dims_of([c.cond])) - given]
        # What no kernel computes any more matters to none.
        late = [c for c in distinct if c not in early and not set(dims_of([c.cond])) - set(self.dims) - given]
        self.checks = [*early, *late]
        self.given_checks = len(early)
        self.capacities = tuple(_capacity(v, given) for v in graph.outputs) if set(self.dims) - given else ()
        self._known = set(given)
        self._outputs = tuple(d for value in graph.outputs for d in value.shape)

    def number(self, dim: Var) -> int:
        """The place of ``dim`` in the table of dimensions."""
        return self.dims.index(dim)

    def operand(self, place: Place) -> Operand:
        """A kernel's operand that lives at ``place``, which is no constant's."""
        at = 0 if place.kind == "arena" else place.index
        space = Space(place.kind)
        if isinstance(place.offset, int):
            return Operand(space, place.offset) if space is Space.ARENA else Operand(space, at, place.offset)
        fixed = linear(place.offset)
        base = fixed.const if fixed is not None and space is Space.ARENA and fixed.const > 0 else 0
        size = self.bytes_of(as_dim(place.offset - base))
        return Operand(space, base if space is Space.ARENA else at, 0, size)

    def bytes_of(self, size: Dim) -> int | None:
        """The number under which ``size`` is computed; None when it is a constant."""
        if isinstance(size, int):
            return None
        if size not in self.bytes:
            self.bytes.append(size)
        return self.bytes.index(size)

    def defined_by(self, kernel: Kernel, result: int) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
        """The dimensions that ``kernel`` computes, each with the operand (``result``) that holds its size,
        and the checks on them and on earlier ones. To be asked in the order of the kernels."""
        dims = [d for n in kernel.group.nodes for d in computed_dims(n)]
        open_before = [n for n, c in self._late() if set(dims_of([c.cond])) - self._known]
        self._known.update(dims)
        checks = (n for n, c in self._late() if not set(dims_of([c.cond])) - self._known)
        return tuple((self.number(d), result) for d in dims), tuple(n for n in checks if n in open_before)

    def _late(self) -> Iterator[tuple[int, Requirement]]:
        yield from enumerate(self.checks[self.given_checks :], self.given_checks)

    def texts(self) -> list[str]:
        """All that is computed, for the name of the entry function."""
        return [repr(e) for e in (*self.dims, *self.bytes, *(c.cond for c in self.checks), *self._outputs)]

    def needed(self, symbol: str) -> RunTimeSizes | None:
        """What the entry function must compute; None when every size is fixed."""
        if not self.dims:
            return None
        checks = tuple(c.cond for c in self.checks)
        return RunTimeSizes(symbol, self.dims, tuple(self.bytes), self._outputs, checks, self.given_checks)


def _capacity(value: Value, given: set[Var]) -> int:
    """The most elements of an output with a size that kernels compute; -1 for any other."""
    if not set(dims_of(value.shape)) - given:
        return -1
    most = largest_size(count(value.dims()))
    assert most is not None  # or there would be no plan for its memory
    return max(most, 0)


def shape_text(value: Value) -> tuple[int | str, ...]:
    """The shape of a value: numbers, and text where sizes are known at run time only."""
    return tuple(d if isinstance(d, int) else repr(d) for d in value.dims())


def _calls(
    kernels: Sequence[Kernel],
    compiled: Sequence[CompiledKernel],
    plan: MemoryPlan,
    offsets: Mapping[tuple[Value, str, tuple[int, ...]], int],
    threads: int,
    sizes: _Sizes,
) -> tuple[list[KernelCall], int]:
    """The steps of the variant and the bytes of its arena."""
    workspace = -(-plan.arena_size // ALIGNMENT) * ALIGNMENT
    scratch = max((k.ws_shared + threads * k.ws_thread for k in compiled), default=0)
    names: Counter[str] = Counter()
    calls: list[KernelCall] = []
    for kernel, code in zip(kernels, compiled, strict=True):
        operands = [Operand.dim(sizes.number(p)) for p in kernel.func.params if isinstance(p, Var)]
        for index, value in enumerate([*kernel.inputs, *kernel.outputs]):
            place = plan.places[value]
            if place.kind == "constant":
                shape = known(map(as_dim, kernel.buffers[index].shape))
                operands.append(Operand.weight(offsets[place.value, code.layouts.get(index, ""), shape]))
            else:
                operands.append(sizes.operand(place))
        name = kernel.func.name
        names[name] += 1
        defines, held = sizes.defined_by(kernel, len(operands) - 1)
        calls.append(
            KernelCall(
                name=name if names[name] == 1 else f"{name}.{names[name]}",
                symbol=code.symbol,
                operands=tuple(operands),
                workspace=workspace if code.ws_shared + code.ws_thread else None,
                parallel=code.parallel,
                origins=tuple(dict.fromkeys(o.name for o in kernel.origins if o.name)),
                op_types=tuple(dict.fromkeys(o.op_type for o in kernel.origins if o.op_type)),
                flops=count_flops(kernel.func),
                bytes=count_bytes(kernel.func),
                object=code.key,
                workload=workload_key(kernel.func),
                trace=code.trace,
                defines=defines,
                checks=held,
            )
        )
    for copy in plan.copies:
        source = copy.source
        if source.kind == "constant":
            operand = Operand.weight(offsets[source.value, "", known(source.value.dims())])
        else:
            operand = sizes.operand(source)
        target, name = Operand.output(copy.output), f"copy_output_{copy.output}"
        nbytes, size = typical(copy.nbytes), sizes.bytes_of(copy.nbytes)
        calls.append(KernelCall.copy(name, operand, target, nbytes, size=size))
    return calls, workspace + scratch


def count_flops(func: PrimFunc) -> int:
    """Floating-point operations of an unscheduled function for typical sizes; a multiply-add counts two."""
    total = 0
    for block in find_blocks(func.body):
        if isinstance(block.body, Store):
            total += flops_of(block.body.value) * prod(max(_typical(it.extent), 1) for it in block.iters)
    return total


def count_bytes(func: PrimFunc) -> int:
    """Bytes of all parameters for typical sizes, each once."""
    total = 0
    for param in func.params:
        if isinstance(param, Buffer):
            total += prod(map(_typical, param.shape)) * dt.nbytes(param.dtype)
    return total


def _typical(size: Expr) -> int:
    return typical(as_dim(size))
