"""Runs kernels as native code would: through byte offsets into one arena, with strides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.graph import Graph, Value
from tilewright.graph.memory import MemoryPlan
from tilewright.graph.partition import Group
from tilewright.graph.primfunc import lower_group
from tilewright.ir import dtype as dt
from tilewright.ir.interp import run
from tilewright.ir.stmt import Buffer


class Arena:
    """Memory laid out by a plan. Unwritten bytes are 0xA5, so that reading them shows."""

    def __init__(self, graph: Graph, plan: MemoryPlan, data: dict[str, np.ndarray]) -> None:
        self.graph, self.plan = graph, plan
        self.arena = np.full(plan.arena_size, 0xA5, np.uint8)
        self.inputs = [np.ascontiguousarray(data[v.name]) for v in graph.inputs]
        self.outputs = [np.full(self._nbytes(v), 0xA5, np.uint8) for v in graph.outputs]

    def _nbytes(self, value: Value) -> int:
        return int(np.prod(value.dims(), dtype=np.int64)) * dt.nbytes(value.dtype)

    def view(self, value: Value, param: Buffer | None = None) -> np.ndarray:
        """The array at ``value``'s place, with the strides that a kernel's parameter declares."""
        place = self.plan.places[value]
        dtype = dt.to_numpy(value.dtype)
        if place.kind == "constant":
            return self.graph.constants[place.value].reshape(value.dims())
        if place.kind == "input":
            memory = self.inputs[place.index].reshape(-1).view(np.uint8)
        else:
            memory = self.arena if place.kind == "arena" else self.outputs[place.index]
        shape = value.dims()
        steps = [s.value for s in (param.row_major_strides() if param is not None else ())]
        if param is None:
            steps = [int(np.prod(shape[d + 1 :], dtype=np.int64)) for d in range(len(shape))]
        extent = sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) + 1
        flat = memory[place.offset : place.offset + extent * dtype.itemsize].view(dtype)
        assert flat.size == extent
        return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in steps])


def execute(
    graph: Graph, groups: Sequence[Group], plan: MemoryPlan, data: dict[str, np.ndarray]
) -> list[np.ndarray]:
    arena = Arena(graph, plan, data)
    for group in groups:
        if group.is_view:
            continue
        kernel = lower_group(graph, group)
        params = dict(zip((*kernel.inputs, *kernel.outputs), kernel.func.params, strict=True))
        operands = [np.array(arena.view(v, params[v])) for v in kernel.inputs]
        for value, result in zip(kernel.outputs, run(kernel.func, operands), strict=True):
            arena.view(value, params[value])[...] = result
    for copy in plan.copies:
        source = arena.view(copy.source.value)
        arena.outputs[copy.output][:] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)[: copy.nbytes]
    return [
        o.view(dt.to_numpy(v.dtype)).reshape(v.dims())
        for o, v in zip(arena.outputs, graph.outputs, strict=True)
    ]
