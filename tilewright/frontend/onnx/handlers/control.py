"""Control flow that is decided when the model is compiled."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value


@onnx_op("If", 1, 11, 13, 16, 19, 21, 23, 24, 25, limits="a condition known when the model is compiled")
def if_(ctx: NodeContext) -> Sequence[Value]:
    """The branch that a known condition takes: exporters ask for sizes that are numbers once inputs have
    shapes.
    """
    taken = bool(ctx.scalar(0, "the condition of an If"))
    return ctx.inline(ctx.attr("then_branch" if taken else "else_branch"))
