"""Operators defined by others: model-local functions, and ONNX's function operators without a handler."""

from __future__ import annotations

import onnx
from onnx import defs, inliner, shape_inference

from tilewright.errors import ModelFileError
from tilewright.frontend.onnx.registry import lookup

#: Function bodies may use functions again; ONNX's nest two deep.
_MAX_ROUNDS = 8


def opsets_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Imported opsets by domain; '' is ai.onnx."""
    return {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in proto.opset_import}


def expand_functions(proto: onnx.ModelProto, location: str) -> onnx.ModelProto:
    """``proto`` with calls replaced by the bodies of the functions, as far as bodies are known.

    Raises ModelFileError when a model-local function does not fit its call.
    """
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto)
        except (RuntimeError, ValueError) as error:
            message = f"the model's local functions cannot be expanded: {error}"
            raise ModelFileError(message, location=location) from error
    for _ in range(_MAX_ROUNDS):
        expanded = proto
        for function in sorted(_expandable(proto)):
            expanded = _expand(expanded, function)
        if expanded is proto:
            break
        proto = expanded
    return proto


def _expand(proto: onnx.ModelProto, function: tuple[str, str]) -> onnx.ModelProto:
    """All calls of one operator replaced. Those for which ONNX has no body stay, to be reported."""
    try:
        explicit = shape_inference.infer_shapes(proto)
        _write_defaults(explicit, function)
        _write_types(explicit)
        expanded = inliner.inline_selected_functions(
            explicit, [function], exclude=False, inline_schema_functions=True
        )
    except (RuntimeError, ValueError):
        return proto
    return proto if _calls(expanded, function) == _calls(proto, function) else expanded


def _calls(proto: onnx.ModelProto, function: tuple[str, str]) -> int:
    return sum((_domain(node), node.op_type) == function for node in proto.graph.node)


def _write_defaults(proto: onnx.ModelProto, function: tuple[str, str]) -> None:
    """Write out attributes' defaults: bodies refer to attributes, and a reference to none is lost."""
    for node in proto.graph.node:
        if (_domain(node), node.op_type) != function:
            continue
        schema = defs.get_schema(node.op_type, opsets_of(proto)[function[0]], function[0])
        given = {a.name for a in node.attribute}
        for name, attribute in schema.attributes.items():
            if name not in given and attribute.default_value.name:
                node.attribute.append(attribute.default_value)


def _write_types(proto: onnx.ModelProto) -> None:
    """Declare what the inliner looks up among declared types only: weights, and the input left out."""
    declared = {v.name for v in (*proto.graph.input, *proto.graph.value_info)}
    for tensor in proto.graph.initializer:
        if tensor.name not in declared:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            proto.graph.value_info.append(info)
    proto.graph.value_info.append(onnx.ValueInfoProto(name=""))


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _expandable(proto: onnx.ModelProto) -> set[tuple[str, str]]:
    """Operators of the model without a handler that ONNX defines by a function."""
    opsets = opsets_of(proto)
    found: set[tuple[str, str]] = set()
    for domain, op_type in {(_domain(n), n.op_type) for n in proto.graph.node}:
        opset = opsets.get(domain, 0)
        if lookup(domain, op_type, opset) is not None or not defs.has(op_type, opset, domain):
            continue
        schema = defs.get_schema(op_type, opset, domain)
        if schema.has_function or schema.has_context_dependent_function:
            found.add((domain, op_type))
    return found
