"""Nodes held against ONNX's definitions of their operators, before a handler sees them.

Handlers may then rely on attributes of the right type, on required inputs, and on element types that the
definition allows. Operators without a definition in the ``onnx`` package (``com.microsoft``) are checked as
far as the defaults of their attributes tell: see ``NodeContext.attr``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import onnx
from onnx import defs

from tilewright.errors import GraphError
from tilewright.frontend.onnx.lists import Absent, TensorList, shown
from tilewright.frontend.onnx.ranks import RANKS, problem_of_attribute
from tilewright.frontend.onnx.raw import RawBody, RawNode
from tilewright.frontend.onnx.tensors import DTYPES
from tilewright.graph.graph import Value

_Kind = defs.OpSchema.AttrType
_Option = defs.OpSchema.FormalParameterOption
#: Our dtype -> what definitions call tensors of it.
_TENSORS: Final = {
    name: f"tensor({onnx.TensorProto.DataType.Name(number).lower()})" for number, name in DTYPES.items()
}


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(check, value))


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _is_body(value: Any) -> bool:
    return isinstance(value, RawBody)


def _is_type(value: Any) -> bool:
    return isinstance(value, onnx.TypeProto)


_CHECKS: Final[dict[Any, tuple[str, Callable[[Any], bool]]]] = {
    _Kind.INT: ("an integer", _is_int),
    _Kind.FLOAT: ("a floating-point number", _is_float),
    _Kind.STRING: ("a text", _is_text),
    _Kind.TENSOR: ("a tensor", _is_array),
    _Kind.SPARSE_TENSOR: ("a tensor", _is_array),
    _Kind.GRAPH: ("a graph", _is_body),
    _Kind.TYPE_PROTO: ("a type", _is_type),
    _Kind.INTS: ("a list of integers", _all(_is_int)),
    _Kind.FLOATS: ("a list of floating-point numbers", _all(_is_float)),
    _Kind.STRINGS: ("a list of texts", _all(_is_text)),
    _Kind.TENSORS: ("a list of tensors", _all(_is_array)),
    _Kind.GRAPHS: ("a list of graphs", _all(_is_body)),
}


@cache
def schema_of(domain: str, op_type: str, opset: int) -> defs.OpSchema | None:
    """ONNX's definition in force in ``opset``; None when there is none, or one that is deprecated."""
    if not 1 <= opset < 1 << 31 or not defs.has(op_type, opset, domain):
        return None
    schema = defs.get_schema(op_type, opset, domain)
    return None if schema.deprecated else schema


def check_node(node: RawNode, opset: int, inputs: Sequence[Value | None], where: str) -> None:
    """Raise GraphError where ``node`` with operands ``inputs`` contradicts its definition."""
    schema = schema_of(node.domain, node.op_type, opset)
    if schema is None:
        return
    _check_attributes(node, schema, where)
    _check_inputs(node, schema, inputs, where)
    outputs = len(node.outputs)
    while outputs and not node.outputs[outputs - 1]:
        outputs -= 1
    if outputs > schema.max_output or len(node.outputs) < schema.min_output:
        raise GraphError(
            f"{node.op_type} has {_range(schema.min_output, schema.max_output)} outputs, not {outputs}",
            location=where,
        )


def _check_attributes(node: RawNode, schema: defs.OpSchema, where: str) -> None:
    for name, value in node.attrs.items():
        formal = schema.attributes.get(name)
        if formal is None:
            known = ", ".join(sorted(schema.attributes)) or "none"
            raise GraphError(
                f"{node.op_type} has no attribute '{name}' in opset {schema.since_version}",
                location=where,
                hint=f"its attributes: {known}",
            )
        words, check = _CHECKS[formal.type]
        if not check(value):
            raise GraphError(f"attribute '{name}' of {node.op_type} must be {words}", location=where)
        problem = problem_of_attribute(name, value)
        if problem is not None:
            raise GraphError(f"attribute '{name}' of {node.op_type} {problem}", location=where)
    for name, formal in schema.attributes.items():
        if formal.required and name not in node.attrs:
            raise GraphError(f"{node.op_type} needs the attribute '{name}'", location=where)


def _check_inputs(
    node: RawNode, schema: defs.OpSchema, inputs: Sequence[Value | None], where: str
) -> None:
    count = len(inputs)
    while count and inputs[count - 1] is None:
        count -= 1
    if not schema.min_input <= max(count, 0) <= schema.max_input:
        raise GraphError(
            f"{node.op_type} takes {_range(schema.min_input, schema.max_input)} inputs, not {count}",
            location=where,
        )
    ranks = RANKS.get(node.op_type, ()) if not node.domain else ()
    bound: dict[str, str] = {}
    for index in range(count):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        value = inputs[index]
        if value is None:
            if formal.option == _Option.Single:
                raise GraphError(f"{node.op_type} needs its input '{formal.name}'", location=where)
            continue
        if isinstance(value, Absent):
            continue  # handlers say what they do without it
        kind = _TENSORS[value.dtype]
        if isinstance(value, TensorList):
            kind = f"seq({kind})"
        if kind not in formal.types and f"optional({kind})" not in formal.types:
            raise GraphError(
                f"input '{formal.name}' of {node.op_type} cannot be {shown(value)}", location=where
            )
        rank = ranks[index] if index < len(ranks) else None
        if rank not in (None, value.rank):
            raise GraphError(
                f"input '{formal.name}' of {node.op_type} has {rank} dimensions, not {value.type}",
                location=where,
            )
        if not formal.is_homogeneous or "(" in formal.type_str:
            continue
        first = bound.setdefault(formal.type_str, kind)
        if first != kind:
            raise GraphError(
                f"inputs of {node.op_type} must have one element type, not {first[7:-1]} and {value.dtype}",
                location=where,
            )


def _range(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"at least {low}" if high > 1 << 20 else f"{low} to {high}"
