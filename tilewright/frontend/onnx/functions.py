"""ONNX's own function operators: those whose meaning the standard gives as a graph of other operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import onnx
from onnx import defs

from tilewright.frontend.onnx.raw import RawFunction, RawNode
from tilewright.frontend.onnx.reader import read_function
from tilewright.frontend.onnx.schema import schema_of
from tilewright.frontend.onnx.tensors import DTYPES
from tilewright.graph.graph import TensorType, Value
from tilewright.ir.expr import Const

_ELEM_TYPES: Final = {name: number for number, name in DTYPES.items()}


def has_standard_body(domain: str, op_type: str, opset: int) -> bool:
    """Whether the standard defines the operator by a function."""
    schema = schema_of(domain, op_type, opset)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def standard_body(node: RawNode, opset: int, inputs: Sequence[Value | None]) -> RawFunction | None:
    """The function that defines the operator of ``node``, for operands of the types of ``inputs``.

    None when the standard has none for them.
    """
    schema = schema_of(node.domain, node.op_type, opset)
    if schema is None:
        return None
    if schema.has_function:
        return _fixed_body(node.domain, node.op_type, opset)
    if not schema.has_context_dependent_function:
        return None
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    if not versions:
        return None
    types = [_type_proto(v.type).SerializeToString() if v is not None else b"" for v in inputs]
    try:
        body = schema.get_context_dependent_function_with_opset_version(
            max(versions), _node_proto(node).SerializeToString(), types
        )
    except (RuntimeError, ValueError):  # raised by ONNX for operands that its body is not written for
        return None
    return _parsed(body, schema, opset) if body else None


@cache
def _fixed_body(domain: str, op_type: str, opset: int) -> RawFunction | None:
    schema = schema_of(domain, op_type, opset)
    assert schema is not None
    versions = [v for v in schema.function_opset_versions if v <= opset]
    if not versions:
        return None
    return _parsed(schema.get_function_with_opset_version(max(versions)), schema, opset)


def _parsed(body: bytes, schema: defs.OpSchema, opset: int) -> RawFunction:
    proto = onnx.FunctionProto()
    proto.ParseFromString(body)
    defaults = [a.default_value for a in schema.attributes.values() if a.default_value.name]
    return read_function(proto, {schema.domain: opset}, defaults)


def _type_proto(kind: TensorType) -> onnx.TypeProto:
    dims = [int(d.value) if isinstance(d, Const) else None for d in kind.shape]
    return onnx.helper.make_tensor_type_proto(_ELEM_TYPES[kind.dtype], dims)


def _node_proto(node: RawNode) -> onnx.NodeProto:
    """The node as ONNX's body builders want it: they read attributes of numbers and texts."""
    attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if _plain(v)}
    proto: onnx.NodeProto = onnx.helper.make_node(
        node.op_type, node.inputs, node.outputs, node.name, domain=node.domain, **attrs
    )
    return proto


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(v, int | float | str) for v in value)
    return isinstance(value, int | float | str)
