"""Graphs as programs: groups of nodes with their kernels, and the programs that control flow runs."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from math import prod

from tilewright.graph.graph import Graph, Node
from tilewright.graph.partition import Group, partition
from tilewright.graph.primfunc import Kernel, lower_group
from tilewright.graph.shapes import as_dim, typical
from tilewright.ir import dtype as dt
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import Expr
from tilewright.ir.intrinsics import flops_of
from tilewright.ir.stmt import Buffer, PrimFunc, Store
from tilewright.ir.visit import find_blocks, loads_of, stores_of
from tilewright.runtime.chosen import BY_RULES, Chosen
from tilewright.runtime.traits import Traits


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
        traits: what the program is like; None: not known.
        chosen: who chose the schedule; no part of the cached form, since it may be chosen for other reasons.
    """

    key: str
    symbol: str
    code: bytes
    ws_shared: int
    ws_thread: int
    parallel: bool
    layouts: Mapping[int, str]
    trace: str
    traits: Traits | None = None
    chosen: Chosen = BY_RULES

    def to_bytes(self) -> bytes:
        """For the cache: a JSON header with its length, then the object."""
        fields = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("code", "key", "chosen", "traits")
        }
        if self.traits is not None:
            fields["traits"] = self.traits.to_json()
        header = json.dumps(fields, sort_keys=True).encode()
        return struct.pack("<I", len(header)) + header + self.code

    @staticmethod
    def from_bytes(key: str, data: bytes) -> CompiledKernel:
        (size,) = struct.unpack_from("<I", data)
        fields = json.loads(data[4 : 4 + size])
        fields["layouts"] = {int(k): v for k, v in fields["layouts"].items()}
        if "traits" in fields:
            fields["traits"] = Traits.from_json(fields["traits"])
        return CompiledKernel(key=key, code=data[4 + size :], **fields)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """An optimised graph, ready to be compiled.

    Attributes:
        groups: in execution order.
        kernels: of the groups that are computed by one.
        regions: what the control flow nodes run, by the attributes of the nodes.
    """

    graph: Graph
    groups: tuple[Group, ...]
    kernels: Mapping[Group, Kernel]
    regions: Mapping[Node, Mapping[str, Program]]

    @staticmethod
    def of(graph: Graph) -> Program:
        """The program of a graph that has been through the passes. Raises GraphError for an operator that
        must be decomposed."""
        groups = tuple(partition(graph))
        kernels = {g: _kernel(graph, g) for g in groups if not g.is_view and g.control is None}
        nodes = [g.control for g in groups if g.control is not None]
        regions = {node: {name: Program.of(r) for name, r in node.regions.items()} for node in nodes}
        return Program(graph, groups, kernels, regions)

    def walk(self) -> Iterator[Program]:
        """This program and all inside it."""
        yield self
        for regions in self.regions.values():
            for region in regions.values():
                yield from region.walk()

    def all_kernels(self) -> list[Kernel]:
        """The kernels of this program and of all inside it."""
        return [kernel for program in self.walk() for kernel in program.kernels.values()]


def graph_kernels(graph: Graph, groups: Sequence[Group]) -> list[Kernel]:
    """The kernels of an optimised graph's groups in execution order, each over canonical dimensions. Views
    and control flow have none."""
    return [_kernel(graph, g) for g in groups if not g.is_view and g.control is None]


def _kernel(graph: Graph, group: Group) -> Kernel:
    kernel = lower_group(graph, group)
    return dataclasses.replace(kernel, func=collapse_dims(kernel.func))


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


def cold_bytes(func: PrimFunc) -> float:
    """Bytes of the constant operands of an unscheduled function with known sizes: a model's weights. A table
    of which only a part is looked up counts for nothing: the rows that are read may be in a cache."""
    constants = set(func.attr("const_params", ()))
    reads: dict[str, int] = {}
    for block in find_blocks(func.body):
        instances = prod(max(_typical(it.extent), 1) for it in block.iters)
        for load in {load for store in stores_of(block.body) for load in loads_of(store.value)}:
            reads[load.buffer.name] = reads.get(load.buffer.name, 0) + instances
    found = 0
    for param in func.params:
        if isinstance(param, Buffer) and param.name in constants and param.static_shape is not None:
            size = prod(param.static_shape)
            found += size * dt.nbytes(param.dtype) if reads.get(param.name, size) >= size else 0
    return float(found)


def _typical(size: Expr) -> int:
    return typical(as_dim(size))
