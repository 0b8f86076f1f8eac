"""Mutations of models: of their bytes, and of their protobuf messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import onnx
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from onnx import TensorProto, defs, helper

from tilewright.frontend.onnx import supported_ops

INTEGERS: Final = (
    0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 255, 1000, 65536, -1, -2, -3, -8,
    2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
TEXTS: Final = (
    "", " ", "x", "y", "?", "-1", "NOTSET", "SAME_UPPER", "VALID", "constant", "linear", "ai.onnx", "own",
    "com.microsoft", "a/b", "../x", "a\nb", "\x1b[31mred", "\0", "名前", "%s{}", "x" * 5000, "N*2+1",
)  # fmt: skip
#: Element types, some of which no one supports or has.
TYPES: Final = (*range(27), 99, -1)


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight changes of bytes."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.randrange(len(result)) if result else 0
        kind = rng.randrange(8)
        if kind == 0 and result:
            result[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and result:
            result[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del result[place : place + rng.choice((1, 2, 4, 16, 64))]
        elif kind == 3:
            result[place:place] = rng.randbytes(rng.choice((1, 2, 4, 9)))
        elif kind == 4:
            del result[place:]
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            result[place : place + rng.randrange(64)] = other[start : start + rng.randrange(64)]
        elif kind == 6:
            result[place:place] = result[place : place + rng.randrange(256)]
        else:
            result[place : place + 9] = b"\xff" * 9 + b"\x01"
    return bytes(result)


def mutate_structure(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes of messages and fields."""
    proto = onnx.ModelProto()
    proto.ParseFromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        rng.choice(_MUTATIONS)(rng, proto, others)
    return proto.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    """The message and all inside."""
    yield message
    for field, value in message.ListFields():
        if field.type == Field.TYPE_MESSAGE:
            for item in value if _repeated(field) else [value]:
                yield from _messages(item)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == Field.LABEL_REPEATED


def _of(message: Message, kind: type) -> list[Any]:
    return [m for m in _messages(message) if isinstance(m, kind)]


def _value(rng: random.Random, field: Any, proto: onnx.ModelProto) -> Any:
    """Something for a field that is no message."""
    if field.type == Field.TYPE_STRING:
        names = [n for node in _of(proto, onnx.NodeProto) for n in (*node.input, *node.output)]
        return rng.choice([*TEXTS, *(n for n in names if isinstance(n, str))])
    if field.type == Field.TYPE_BYTES:
        return rng.choice((b"", b"\xff", rng.randbytes(rng.randrange(40)), rng.choice(TEXTS).encode()))
    if field.type in (Field.TYPE_FLOAT, Field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == Field.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.type == Field.TYPE_INT32:
        return rng.choice([i for i in INTEGERS if -(2**31) <= i < 2**31] + list(TYPES))
    if field.type == Field.TYPE_UINT64:
        return abs(rng.choice(INTEGERS))
    return rng.choice(INTEGERS)


def _set_field(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """A field of any message gets another value, or none."""
    message = rng.choice(list(_messages(proto)))
    fields = [f for f, _ in message.ListFields()] if rng.random() < 0.8 else list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = rng.choice(fields)
    if rng.random() < 0.25 or field.type == Field.TYPE_MESSAGE:
        message.ClearField(field.name)
    elif _repeated(field):
        items = getattr(message, field.name)
        if items and rng.random() < 0.7:
            items[rng.randrange(len(items))] = _value(rng, field, proto)
        else:
            items.extend(_value(rng, field, proto) for _ in range(rng.choice((1, 1, 2, 40))))
    else:
        setattr(message, field.name, _value(rng, field, proto))


def _edit_list(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """An item of a list is deleted, doubled or moved, or comes from another model."""
    lists = [(m, field) for m in _messages(proto) for field, _ in m.ListFields() if _repeated(field)]
    if not lists:
        return
    message, field = rng.choice(lists)
    items = list(getattr(message, field.name))
    kind = rng.randrange(4)
    place = rng.randrange(len(items))
    if kind == 0:
        del items[place]
    elif kind == 1:
        items.insert(rng.randrange(len(items) + 1), items[place])
    elif kind == 2:
        rng.shuffle(items)
    elif field.type == Field.TYPE_MESSAGE:
        other = onnx.ModelProto()
        other.ParseFromString(rng.choice(others))
        found = _of(other, type(items[0]))
        if found:
            items[place] = rng.choice(found)
    copies = []
    for item in items:
        if field.type == Field.TYPE_MESSAGE:
            copy = type(item)()
            copy.CopyFrom(item)
            item = copy
        copies.append(item)
    message.ClearField(field.name)
    getattr(message, field.name).extend(copies)


def _swap_operator(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """A node becomes one of another operator."""
    nodes = _of(proto, onnx.NodeProto)
    if nodes:
        node = rng.choice(nodes)
        node.domain, _, node.op_type = rng.choice(_OPERATORS).rpartition(".")
        if rng.random() < 0.5:
            del node.attribute[:]


def _add_attribute(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """A node gets an attribute that its operator has, with any value of the right type."""
    nodes = [n for n in _of(proto, onnx.NodeProto) if isinstance(n.op_type, str)]
    if not nodes:
        return
    node = rng.choice(nodes)
    if not defs.has(node.op_type, ""):
        return
    formal = rng.choice([*defs.get_schema(node.op_type, "").attributes.values(), None])
    if formal is None:
        return
    kind = defs.OpSchema.AttrType
    values: dict[Any, Callable[[], Any]] = {
        kind.INT: lambda: rng.choice(INTEGERS),
        kind.FLOAT: lambda: rng.choice(FLOATS),
        kind.STRING: lambda: rng.choice(TEXTS),
        kind.INTS: lambda: [rng.choice(INTEGERS) for _ in range(rng.randrange(1, 6))],
        kind.FLOATS: lambda: [rng.choice(FLOATS) for _ in range(rng.randrange(1, 6))],
        kind.STRINGS: lambda: [rng.choice(TEXTS) for _ in range(rng.randrange(1, 4))],
    }
    if formal.type not in values:
        return
    kept = [a for a in node.attribute if a.name != formal.name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(formal.name, values[formal.type]())])


def _change_operand(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """A node reads another tensor, or one fewer or more."""
    nodes = _of(proto, onnx.NodeProto)
    names = [n for node in nodes for n in (*node.input, *node.output)] + [i.name for i in proto.graph.input]
    names += [t.name for t in proto.graph.initializer]
    names = [n for n in names if isinstance(n, str)]
    if not nodes or not names:
        return
    node = rng.choice(nodes)
    if node.input and rng.random() < 0.7:
        node.input[rng.randrange(len(node.input))] = rng.choice([*names, ""])
    else:
        node.input.append(rng.choice([*names, ""]))


def _freeze_input(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """An input becomes a weight of interesting numbers."""
    if not proto.graph.input:
        return
    info = rng.choice(list(proto.graph.input))
    tensor = info.type.tensor_type
    dims = [d.dim_value for d in tensor.shape.dim]
    if any(not 0 <= d <= 64 for d in dims) or not isinstance(info.name, str):
        return
    count = 1
    for d in dims:
        count *= d
    if count > 4096:
        return
    weight = TensorProto(name=info.name, data_type=tensor.elem_type, dims=dims)
    if tensor.elem_type in (TensorProto.FLOAT,):
        weight.float_data.extend(rng.choice(FLOATS) for _ in range(count))
    elif tensor.elem_type == TensorProto.INT64:
        weight.int64_data.extend(rng.choice(INTEGERS) for _ in range(count))
    else:
        known = tensor.elem_type in range(1, 20)
        width = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize if known else 1
        weight.raw_data = rng.randbytes(width * count)
    proto.graph.initializer.append(weight)
    if rng.random() < 0.5:
        kept = [i for i in proto.graph.input if i.name != info.name]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)


def _reshape_input(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """An input or weight gets another shape or element type."""
    infos = list(proto.graph.input)
    if infos and rng.random() < 0.6:
        tensor = rng.choice(infos).type.tensor_type
        if rng.random() < 0.3:
            tensor.elem_type = rng.choice(TYPES)
            return
        dims = [rng.choice(INTEGERS[:14] + INTEGERS) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 8, 40)))]
        if tensor.shape.dim and rng.random() < 0.5:
            place = rng.randrange(len(tensor.shape.dim))
            tensor.shape.dim[place].dim_value = rng.choice(INTEGERS)
            return
        del tensor.shape.dim[:]
        for size in dims:
            dim = tensor.shape.dim.add()
            if rng.random() < 0.3:
                dim.dim_param = rng.choice(TEXTS)
            else:
                dim.dim_value = size
        return
    weights = _of(proto, TensorProto)
    if weights:
        weight = rng.choice(weights)
        if rng.random() < 0.4:
            weight.data_type = rng.choice(TYPES)
        elif weight.dims and rng.random() < 0.5:
            weight.dims[rng.randrange(len(weight.dims))] = rng.choice(INTEGERS)
        else:
            del weight.dims[:]
            weight.dims.extend(rng.choice(INTEGERS) for _ in range(rng.choice((0, 1, 2, 3, 8, 70))))


def _change_opset(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    if proto.opset_import:
        rng.choice(list(proto.opset_import)).version = rng.choice((*range(1, 29), 0, -1, 10**9, 2**63 - 1))


def _change_weights(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """The data of a weight, its shape kept."""
    weights = [w for w in _of(proto, TensorProto) if w.raw_data]
    if not weights:
        return
    weight = rng.choice(weights)
    data = bytearray(weight.raw_data)
    if weight.data_type == TensorProto.INT64:
        place = 8 * rng.randrange(max(len(data) // 8, 1))
        data[place : place + 8] = rng.choice(INTEGERS).to_bytes(8, "little", signed=True)
    else:
        for _ in range(rng.choice((1, 4, len(data)))):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    weight.raw_data = bytes(data)


def _nest(rng: random.Random, proto: onnx.ModelProto, others: Sequence[bytes]) -> None:
    """The whole graph moves into a branch, or its nodes into a function."""
    if rng.random() < 0.5:
        body = onnx.GraphProto()
        body.CopyFrom(proto.graph)
        del body.input[:]
        names = [f"{o.name}_outer" for o in body.output if isinstance(o.name, str)]
        node = helper.make_node("If", ["flag_"], names, then_branch=body, else_branch=body)
        del proto.graph.node[:], proto.graph.initializer[:], proto.graph.output[:]
        proto.graph.node.append(node)
        proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
        proto.graph.initializer.append(
            TensorProto(name="flag_", data_type=TensorProto.BOOL, raw_data=rng.choice((b"\0", b"\1")))
        )
        return
    inputs, outputs = [i.name for i in proto.graph.input], [o.name for o in proto.graph.output]
    if not all(isinstance(n, str) for n in (*inputs, *outputs)) or proto.graph.initializer:
        return
    name = rng.choice(("F", "Relu", proto.graph.node[0].op_type if proto.graph.node else "F"))
    domain = rng.choice(("own", ""))
    function = onnx.FunctionProto(name=name, domain=domain, input=inputs, output=outputs)
    function.node.extend(proto.graph.node)
    function.opset_import.extend(proto.opset_import)
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    del proto.graph.node[:]
    if isinstance(name, str):
        proto.graph.node.append(helper.make_node(name, inputs, outputs, domain=domain))


_MUTATIONS: Final = (
    _set_field, _set_field, _set_field, _edit_list, _edit_list, _swap_operator, _add_attribute,
    _add_attribute, _change_operand, _freeze_input, _freeze_input, _reshape_input, _reshape_input,
    _change_opset, _change_weights, _nest,
)  # fmt: skip
_OPERATORS: Final = sorted({s.name for s in defs.get_all_schemas() if s.domain == ""} | set(supported_ops()))
