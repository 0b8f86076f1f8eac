"""The steps of a variant: kernel calls with their operands' places, copies, branches and loops."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tilewright.assembly.program import CompiledKernel, Program, count_bytes, count_flops
from tilewright.assembly.sizes import Sizes
from tilewright.graph.graph import Node, Value
from tilewright.graph.memory import MemoryPlan, nbytes, plan_memory
from tilewright.graph.primfunc import Kernel
from tilewright.graph.requirements import Requirement
from tilewright.graph.rewrite import computed_dims
from tilewright.graph.shapes import as_dim, count, known, typical
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.printer import workload_key
from tilewright.ir.sizes import dims_of
from tilewright.runtime.artifact import WeightStore
from tilewright.runtime.control import LOOP_SCRATCH, Branch, Loop, Region, Rows, State, Stop
from tilewright.runtime.plan import ALIGNMENT, KernelCall, Operand
from tilewright.schedule.index_map import IndexMap


@dataclasses.dataclass(frozen=True)
class Steps:
    """What :func:`assemble` gives: the parts of a variant.

    Attributes:
        calls: all steps, those of regions behind those of the graph itself.
        regions: which of them control flow runs.
        arena_bytes: scratch memory of one run.
        sizes: what the steps refer to of run-time sizes.
    """

    calls: tuple[KernelCall, ...]
    regions: tuple[Region, ...]
    arena_bytes: int
    sizes: Sizes


def assemble(
    program: Program,
    compiled: Mapping[Kernel, CompiledKernel],
    weights: WeightStore,
    threads: int,
    checks: Sequence[Requirement] = (),
) -> Steps:
    """The steps of a program.

    Args:
        compiled: the machine code of all kernels.
        weights: receives the constants, each in the layout that its reader wants.
        threads: the largest number of threads that runs will use; sizes the workspaces.
        checks: what the graph, as it was before the passes, needs of its dimensions.

    Raises GraphError when a size has no upper bound.
    """
    return _Assembler(program, compiled, weights, threads, checks).run()


@dataclasses.dataclass(frozen=True, eq=False)
class _Memory:
    """Where a program's values live.

    Attributes:
        plan: of its values.
        workspace: byte offset of the kernels' workspaces, behind the values.
        total: bytes of the whole arena.
    """

    plan: MemoryPlan
    workspace: int
    total: int


@dataclasses.dataclass(eq=False)
class _Waiting:
    """A program whose steps are not there yet.

    Attributes:
        known: the dimensions whose sizes are known when it begins.
        checks: which of the variant's checks its nodes need.
    """

    program: Program
    known: frozenset[Var]
    checks: Sequence[int]


class _Assembler:
    def __init__(
        self,
        program: Program,
        compiled: Mapping[Kernel, CompiledKernel],
        weights: WeightStore,
        threads: int,
        checks: Sequence[Requirement],
    ) -> None:
        self._program, self._compiled, self._weights, self._threads = program, compiled, weights, threads
        self._sizes = Sizes(program, checks)
        self._memory: dict[Program, _Memory] = {}
        self._names: Counter[str] = Counter()
        self._offsets: dict[tuple[int, str, tuple[int, ...]], int] = {}
        self._waiting: list[_Waiting] = []

    def run(self) -> Steps:
        self._plan(self._program)
        known = frozenset(self._program.graph.dims.values())
        calls, _ = self._steps(_Waiting(self._program, known, self._sizes.own_checks))
        regions: list[Region] = []
        while len(regions) < len(self._waiting):
            waiting = self._waiting[len(regions)]
            graph = waiting.program.graph
            steps, held = self._steps(waiting)
            total = self._memory[waiting.program].total
            regions.append(
                Region(len(calls), len(steps), len(graph.inputs), len(graph.outputs), total, tuple(held))
            )
            calls += steps
        return Steps(tuple(calls), tuple(regions), self._memory[self._program].total, self._sizes)

    # ------------------------------------------------------------------------------------------------- memory
    def _plan(self, program: Program) -> None:
        """Plan the memory of a program, after that of all inside it."""
        needed: dict[Node, int] = {}
        for node, regions in program.regions.items():
            for region in regions.values():
                self._plan(region)
            needed[node] = self._inside(regions.values())
            if node.op == "loop":
                needed[node] += LOOP_SCRATCH + sum(_aligned(nbytes(v)) for v in _states(node))
        plan = plan_memory(program.graph, program.groups, needed)
        codes = [self._compiled[k] for k in program.kernels.values()]
        scratch = max((c.ws_shared + self._threads * c.ws_thread for c in codes), default=0)
        workspace = _aligned(plan.arena_size)
        self._memory[program] = _Memory(plan, workspace, workspace + _aligned(scratch))

    def _inside(self, regions: Iterable[Program]) -> int:
        """The largest arena of some regions."""
        return max((self._memory[region].total for region in regions), default=0)

    def _constant(self, program: Program, value: Value, shape: tuple[int, ...], layout: str = "") -> Operand:
        """A constant of a program's graph in some layout."""
        data = program.graph.constants[value]
        key = id(data), layout, shape
        if key not in self._offsets:
            self._offsets[key] = self._weights.add(_packed(data, shape, layout))
        return Operand.weight(self._offsets[key])

    def _operand(self, program: Program, value: Value) -> Operand:
        """Where a value lives whose reader takes it as it is."""
        place = self._memory[program].plan.places[value]
        if place.kind == "constant":
            return self._constant(program, place.value, known(place.value.dims()))
        return self._sizes.operand(place)

    # -------------------------------------------------------------------------------------------------- steps
    def _steps(self, waiting: _Waiting) -> tuple[list[KernelCall], list[int]]:
        """The steps of a program, and the checks to make before them."""
        program, sizes = waiting.program, self._sizes
        known_dims, numbers = set(waiting.known), list(waiting.checks)

        def decided() -> tuple[int, ...]:
            """The checks that can be made now and could not before."""
            now = [n for n in numbers if not set(dims_of([sizes.checks[n].cond])) - known_dims]
            numbers[:] = [n for n in numbers if n not in now]
            return tuple(now)

        held = list(decided())
        calls: list[KernelCall] = []
        for group in program.groups:
            if group.control is not None:
                calls.append(self._control(program, group.control, frozenset(known_dims)))
            elif not group.is_view:
                kernel = program.kernels[group]
                dims = [d for n in group.nodes for d in computed_dims(n)]
                known_dims.update(dims)
                calls.append(self._call(program, kernel, dims, decided() if dims else ()))
        return [*calls, *self._copies(program)], held

    def _name(self, name: str) -> str:
        """``name``, with a number when it is taken."""
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}.{self._names[name]}"

    def _call(
        self, program: Program, kernel: Kernel, dims: Sequence[Var], checks: tuple[int, ...]
    ) -> KernelCall:
        code, memory, sizes = self._compiled[kernel], self._memory[program], self._sizes
        operands = [Operand.dim(sizes.number(p)) for p in kernel.func.params if isinstance(p, Var)]
        for index, value in enumerate([*kernel.inputs, *kernel.outputs]):
            place = memory.plan.places[value]
            if place.kind == "constant":
                shape = known(map(as_dim, kernel.buffers[index].shape))
                operands.append(self._constant(program, place.value, shape, code.layouts.get(index, "")))
            else:
                operands.append(sizes.operand(place))
        return KernelCall(
            name=self._name(kernel.func.name),
            symbol=code.symbol,
            operands=tuple(operands),
            workspace=memory.workspace if code.ws_shared + code.ws_thread else None,
            parallel=code.parallel,
            origins=tuple(dict.fromkeys(o.name for o in kernel.origins if o.name)),
            op_types=tuple(dict.fromkeys(o.op_type for o in kernel.origins if o.op_type)),
            flops=count_flops(kernel.func),
            bytes=count_bytes(kernel.func),
            object=code.key,
            workload=workload_key(kernel.func),
            trace=code.trace,
            chosen=code.chosen,
            traits=code.traits,
            defines=tuple((sizes.number(d), len(operands) - 1) for d in dims),
            checks=checks,
        )

    def _copies(self, program: Program) -> list[KernelCall]:
        """Outputs that no kernel writes."""
        calls = []
        for copy in self._memory[program].plan.copies:
            if copy.source.kind == "constant":
                operand = self._constant(program, copy.source.value, known(copy.source.value.dims()))
            else:
                operand = self._sizes.operand(copy.source)
            target, name = Operand.output(copy.output), self._name(f"copy_output_{copy.output}")
            amount, size = typical(copy.nbytes), self._sizes.bytes_of(copy.nbytes)
            calls.append(KernelCall.copy(name, operand, target, amount, size=size))
        return calls

    # ------------------------------------------------------------------------------------------- control flow
    def _control(self, program: Program, node: Node, known_dims: frozenset[Var]) -> KernelCall:
        index = node.attrs.get("index")
        inside = known_dims | {index} if isinstance(index, Var) else known_dims
        numbers = {}
        for name, region in program.regions[node].items():
            numbers[name] = len(self._waiting)
            self._waiting.append(_Waiting(region, frozenset(inside), self._sizes.checks_of(region.graph)))
        base = self._memory[program].plan.scratch[node]
        control: Branch | Loop | Stop
        if node.op == "stop":
            control = Stop(str(node.attrs["message"]), str(node.attrs["where"]))
        elif node.op == "if":
            condition, *operands = self._operands(program, node.inputs)
            control = Branch(
                condition,
                numbers["then"],
                numbers["otherwise"],
                tuple(operands),
                tuple(self._operands(program, node.outputs)),
            )
        else:
            control = self._loop(program, node, numbers["body"], base)
        return KernelCall(
            name=self._name(node.op),
            symbol="",
            operands=(),
            workspace=base,
            parallel=False,
            origins=(node.origin.name,) if node.origin.name else (),
            op_types=(node.origin.op_type,) if node.origin.op_type else (),
            control=control,
        )

    def _loop(self, program: Program, node: Node, body: int, base: int) -> Loop:
        sizes, attrs = self._sizes, node.attrs
        states, scanned, stacked = len(_states(node)), _flags(node, "scanned"), _flags(node, "stacked")
        trip, going = (None if v is None else self._operand(program, v) for v in node.inputs[:2])
        trip_size = None
        limit = attrs.get("trip")
        if isinstance(limit, int | Expr):
            number = as_dim(as_expr(limit))
            trip_size = sizes.bytes_of(number)
            trip = Operand.scalar(number) if isinstance(number, int) else None
        inputs = self._operands(program, node.inputs[2:])
        outputs = self._operands(program, node.outputs)
        scratch = base + self._inside(program.regions[node].values())
        spare, handed = scratch + LOOP_SCRATCH, []
        given = program.regions[node]["body"].graph.outputs[int(bool(attrs["conditional"])) :]
        for n, value in enumerate(_states(node)):
            first = node.inputs[2 + n]
            assert first is not None
            handed_on, begun = (sizes.amount(_bytes(v.dims(), v)) for v in (given[n], first))
            handed.append(State(inputs[n], outputs[n], spare, *handed_on, *begun))
            spare += _aligned(nbytes(value))

        index, counted, most = attrs.get("index"), bool(attrs.get("counted")), attrs.get("most")
        last = states + len(stacked)
        return Loop(
            body,
            scratch,
            trip,
            trip_size,
            going,
            bool(attrs["conditional"]),
            tuple(handed),
            self._rows(node.inputs[2 + states :], inputs[states:], scanned),
            tuple(inputs[states + len(scanned) :]),
            self._rows(node.outputs[states:], outputs[states:], stacked),
            most if isinstance(most, int) else None,
            outputs[last] if counted else None,
            sizes.number(index) if isinstance(index, Var) and index in sizes.dims else None,
        )

    def _rows(
        self, values: Sequence[Value | None], places: Sequence[Operand], backwards: Sequence[bool]
    ) -> tuple[Rows, ...]:
        """What is walked or stacked: the first of ``values``, as many as ``backwards`` has flags."""
        found = []
        for value, place, flag in zip(values, places, backwards, strict=False):
            assert value is not None
            found.append(Rows(place, flag, *self._sizes.amount(_bytes(value.dims()[1:], value))))
        return tuple(found)

    def _operands(self, program: Program, values: Sequence[Value | None]) -> list[Operand]:
        return [self._operand(program, v) for v in values if v is not None]


def _packed(data: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    data = np.ascontiguousarray(data).reshape(shape)
    return IndexMap.parse(layout).apply(data) if layout else data


def _states(node: Node) -> tuple[Value, ...]:
    """The last states of a loop."""
    count = node.attrs["states"]
    assert isinstance(count, int)
    return node.outputs[:count]


def _flags(node: Node, name: str) -> tuple[bool, ...]:
    flags = node.attrs[name]
    assert isinstance(flags, tuple)
    return tuple(map(bool, flags))


def _bytes(dims: Sequence[int | Expr], value: Value) -> int | Expr:
    """The size of an array of these dimensions with elements like those of ``value``."""
    return count((*dims, dt.nbytes(value.dtype)))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
