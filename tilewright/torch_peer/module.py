"""An imported graph as a ``torch.nn.Module``: one torch call a node, in the model's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

# Registers the makers.
import tilewright.torch_peer.elementwise
import tilewright.torch_peer.movement
import tilewright.torch_peer.reductions
import tilewright.torch_peer.resample
import tilewright.torch_peer.windows  # noqa: F401
from tilewright.errors import UnsupportedError
from tilewright.frontend.common import UnsupportedReport
from tilewright.graph.fold import absorb_parameters
from tilewright.graph.graph import Graph, Node, Value
from tilewright.graph.opdef import get_op, make_context
from tilewright.graph.specialise import specialise
from tilewright.torch_peer.registry import MAKERS, Call, NoTorchForm, to_torch, torch_dtype


class Step(NamedTuple):
    """One node. Values live in numbered slots; ``last`` are those that nobody reads afterwards."""

    call: Call
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    last: tuple[int, ...]


class GraphModule(torch.nn.Module):
    """A graph with known sizes, interpreted: what is constant is computed here once and kept as buffers.

    Takes the graph's inputs and returns its outputs, both in order. Raises UnsupportedError naming every
    operator that torch has no counterpart for.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        graph = absorb_parameters(specialise(graph, {}))
        calls = _calls(graph)
        self._slots: dict[Value, int] = {}
        constants = {value: to_torch(data) for value, data in graph.constants.items()}
        running = []
        for node, call in zip(graph.nodes, calls, strict=True):
            if all(v is None or v in constants for v in node.inputs):
                results = _listed(call(*(None if v is None else constants[v] for v in node.inputs)))
                constants.update(zip(node.outputs, results, strict=True))
            else:
                running.append((node, call))
        self._inputs = tuple(self._slot(v) for v in graph.inputs)
        self._outputs = tuple(self._slot(v) for v in graph.outputs)
        self._steps = self._plan(running, constants)
        self._buffer_names: tuple[tuple[int, str], ...] = ()
        for value, slot in self._slots.items():
            if value in constants:
                self.register_buffer(f"constant_{slot}", constants[value].contiguous())
                self._buffer_names += ((slot, f"constant_{slot}"),)
        del self._slots

    def _slot(self, value: Value) -> int:
        return self._slots.setdefault(value, len(self._slots))

    def _plan(
        self, running: Sequence[tuple[Node, Call]], constants: dict[Value, torch.Tensor]
    ) -> tuple[Step, ...]:
        final: dict[int, int] = {}
        rows = []
        for place, (node, call) in enumerate(running):
            inputs = tuple(None if v is None else self._slot(v) for v in node.inputs)
            rows.append((call, inputs, tuple(self._slot(v) for v in node.outputs)))
            final.update((slot, place) for slot in (*inputs, *rows[-1][2]) if slot is not None)
        kept = {self._slots[v] for v in constants if v in self._slots} | set(self._outputs)
        ends: dict[int, list[int]] = {}
        for slot, place in final.items():
            if slot not in kept:
                ends.setdefault(place, []).append(slot)
        return tuple(Step(*row, tuple(ends.get(place, ()))) for place, row in enumerate(rows))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The graph's outputs."""
        values: dict[int | None, torch.Tensor | None] = {None: None}
        for slot, name in self._buffer_names:
            values[slot] = getattr(self, name)
        values.update(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            result = step.call(*[values[slot] for slot in step.inputs])
            if len(step.outputs) == 1:
                values[step.outputs[0]] = result[0] if isinstance(result, tuple | list) else result
            else:
                values.update(zip(step.outputs, result, strict=True))
            for slot in step.last:
                del values[slot]
        return tuple(values[slot] for slot in self._outputs)


def _listed(result: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple | list) else [result]


def _calls(graph: Graph) -> list[Call]:
    """What each node calls. Raises UnsupportedError with all that cannot be called."""
    report, calls = UnsupportedReport(), []
    for node in graph.nodes:
        what, name = node.origin.op_type or node.op, node.origin.name or node.name
        inputs = [None if v is None else v.type for v in node.inputs]
        context = make_context(
            get_op(node.op), inputs, node.attrs, [graph.constant(v) for v in node.inputs], node=node
        )
        try:
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    torch_dtype(value.dtype)
            if node.op not in MAKERS:
                report.add(what, name)
                continue
            calls.append(MAKERS[node.op](context))
        except NoTorchForm as reason:
            report.add(f"{what} with {reason}", name)
    if items := report.items():
        raise UnsupportedError("torch has no counterpart for some operators of the model", items)
    return calls
