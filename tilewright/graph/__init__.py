"""The tensor graph, its operators' definitions, graph passes, partition into kernels, and the memory plan."""

from tilewright.graph.builder import GraphBuilder, check_types
from tilewright.graph.graph import Attr, Graph, Node, Origin, TensorType, Value, verify
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, all_ops, get_op, make_context, register

__all__ = [
    "Attr",
    "FusionKind",
    "Graph",
    "GraphBuilder",
    "Node",
    "OpContext",
    "OpDef",
    "Origin",
    "TensorType",
    "Value",
    "all_ops",
    "check_types",
    "get_op",
    "make_context",
    "register",
    "verify",
]
