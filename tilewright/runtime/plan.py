"""What a compiled model consists of, as plain data: signature, variants, kernel calls.

The compiler writes these records, the artifact stores them as JSON, the entry function is generated from
them, and the runtime reads them. All are immutable; ``to_json``/``from_json`` convert to and from JSON-able
dictionaries, the latter raising :class:`~tilewright.errors.ArtifactError` for anything that does not have
the right form.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tilewright.errors import ArtifactError

Dim = int | str
"""A dimension of a signature: a number, or the name of a symbolic dimension (or, in outputs, any text that
describes it).
"""

ALIGNMENT = 64
"""Alignment in bytes of weights, arena offsets, workspaces and outputs. Inputs are aligned to their element
only.
"""

_T = TypeVar("_T")


class Space(enum.StrEnum):
    """Where a kernel's operand lives."""

    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    ARENA = "arena"
    SCALAR = "scalar"


@dataclasses.dataclass(frozen=True)
class Operand:
    """One slot of a kernel's argument array.

    Attributes:
        space: where the operand lives.
        value: position of the graph input or output, or byte offset into weights or arena, or the value of
            an int64 scalar.
        offset: bytes to add to the start of an input or output.
    """

    space: Space
    value: int
    offset: int = 0

    @staticmethod
    def input(index: int, offset: int = 0) -> Operand:
        """The graph's input number ``index``."""
        return Operand(Space.INPUT, index, offset)

    @staticmethod
    def output(index: int, offset: int = 0) -> Operand:
        """The graph's output number ``index``."""
        return Operand(Space.OUTPUT, index, offset)

    @staticmethod
    def weight(offset: int) -> Operand:
        """A constant tensor, ``offset`` bytes into the weights (from :meth:`WeightStore.add`)."""
        return Operand(Space.WEIGHT, offset)

    @staticmethod
    def arena(offset: int) -> Operand:
        """An activation, ``offset`` bytes into the arena."""
        return Operand(Space.ARENA, offset)

    @staticmethod
    def scalar(value: int) -> Operand:
        """An int64 passed by value, such as a dimension."""
        return Operand(Space.SCALAR, value)

    def to_json(self) -> list[Any]:
        """``[space, value]`` or ``[space, value, offset]``."""
        return [self.space.value, self.value, *([self.offset] if self.offset else [])]

    @staticmethod
    def from_json(data: Any) -> Operand:
        """Inverse of :meth:`to_json`."""
        with _reading("operand"):
            space, value, *rest = data
            return Operand(Space(space), _int(value), _int(rest[0]) if rest else 0)


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """One step of a variant: a kernel, or a plain copy of bytes.

    Attributes:
        name: what profiles and dumps call it; unique in its variant.
        symbol: the kernel's function; empty for a copy of ``bytes // 2`` bytes from ``operands[0]`` to
            ``operands[1]``.
        operands: the argument array, in the order of the kernel's parameters.
        workspace: byte offset of the kernel's scratch memory in the arena, or None if it needs none.
        parallel: whether it may use the thread pool.
        origins: names of the model's nodes that it computes.
        op_types: their operator types.
        flops: floating-point operations of one call (a multiply-add counts two).
        bytes: bytes of operands read and written by one call, each counted once.
        object: key of the object file that defines ``symbol``.
        workload: key of the task's canonical program.
        trace: the schedule's trace as text.
    """

    name: str
    symbol: str
    operands: tuple[Operand, ...]
    workspace: int | None = None
    parallel: bool = True
    origins: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    flops: int = 0
    bytes: int = 0
    object: str = ""
    workload: str = ""
    trace: str = ""

    @staticmethod
    def copy(
        name: str, source: Operand, target: Operand, nbytes: int, origins: Iterable[str] = ()
    ) -> KernelCall:
        """A copy of ``nbytes`` bytes, for outputs that are inputs, constants or views of them."""
        return KernelCall(
            name,
            "",
            (source, target),
            parallel=False,
            origins=tuple(origins),
            op_types=("copy",),
            bytes=2 * nbytes,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary without the fields that have their default value."""
        return _to_json(self)

    @staticmethod
    def from_json(data: Any) -> KernelCall:
        """Inverse of :meth:`to_json`."""
        with _reading("kernel call"):
            workspace = data.get("workspace")
            return KernelCall(
                name=_str(data["name"]),
                symbol=_str(data["symbol"]),
                operands=tuple(Operand.from_json(o) for o in data["operands"]),
                workspace=None if workspace is None else _int(workspace),
                parallel=bool(data.get("parallel", True)),
                origins=_strs(data.get("origins", ())),
                op_types=_strs(data.get("op_types", ())),
                flops=_int(data.get("flops", 0)),
                bytes=_int(data.get("bytes", 0)),
                object=_str(data.get("object", "")),
                workload=_str(data.get("workload", "")),
                trace=_str(data.get("trace", "")),
            )


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A graph input or output: name, shape (numbers and names of symbolic dimensions), dtype name as in
    NumPy/ml_dtypes.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return _to_json(self)

    @staticmethod
    def from_json(data: Any) -> TensorSpec:
        """Inverse of :meth:`to_json`."""
        with _reading("tensor"):
            shape = tuple(d if isinstance(d, str) else _int(d) for d in data["shape"])
            if any(isinstance(d, int) and d < 0 for d in shape):
                raise ValueError("negative dimension")
            return TensorSpec(_str(data["name"]), shape, _str(data["dtype"]))


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model.

    Attributes:
        inputs, outputs: in the model's order.
        dims: inclusive range of each symbolic dimension; an upper bound of None is open.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, tuple[int, int | None]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return _to_json(self)

    @staticmethod
    def from_json(data: Any) -> Signature:
        """Inverse of :meth:`to_json`."""
        with _reading("signature"):
            return Signature(
                tuple(TensorSpec.from_json(t) for t in data["inputs"]),
                tuple(TensorSpec.from_json(t) for t in data["outputs"]),
                {
                    _str(n): (_int(lo), None if hi is None else _int(hi))
                    for n, (lo, hi) in data.get("dims", {}).items()
                },
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """The model compiled for one binding of its symbolic dimensions.

    Attributes:
        binding: value of each symbolic dimension.
        entry: symbol of the entry function; ``entry_object`` is the key of the object file that defines it.
        kernels: the steps in execution order.
        input_shapes, output_shapes: concrete, in the signature's order.
        arena_bytes: scratch memory of one run, activations and workspaces together.
    """

    binding: Mapping[str, int]
    entry: str
    entry_object: str
    kernels: tuple[KernelCall, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    arena_bytes: int

    def objects(self) -> list[str]:
        """Keys of the object files needed to run this variant, each once."""
        keys = [self.entry_object, *(k.object for k in self.kernels if k.symbol)]
        return list(dict.fromkeys(keys))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return _to_json(self)

    @staticmethod
    def from_json(data: Any) -> Variant:
        """Inverse of :meth:`to_json`."""
        with _reading("variant"):
            return Variant(
                binding={_str(name): _int(value) for name, value in data["binding"].items()},
                entry=_str(data["entry"]),
                entry_object=_str(data["entry_object"]),
                kernels=tuple(KernelCall.from_json(k) for k in data["kernels"]),
                input_shapes=tuple(tuple(_int(d) for d in shape) for shape in data["input_shapes"]),
                output_shapes=tuple(tuple(_int(d) for d in shape) for shape in data["output_shapes"]),
                arena_bytes=_int(data["arena_bytes"]),
            )


def check_variant(variant: Variant, signature: Signature, weight_bytes: int) -> None:
    """Raise ArtifactError unless every reference in ``variant`` stays inside what it refers to."""
    inputs, outputs = len(signature.inputs), len(signature.outputs)
    if len(variant.input_shapes) != inputs or len(variant.output_shapes) != outputs:
        raise ArtifactError(f"variant {dict(variant.binding)} has the wrong number of inputs or outputs")
    if variant.arena_bytes < 0 or any(
        d < 0 for s in (*variant.input_shapes, *variant.output_shapes) for d in s
    ):
        raise ArtifactError(f"variant {dict(variant.binding)} has a negative size")
    limits = {
        Space.INPUT: inputs,
        Space.OUTPUT: outputs,
        Space.WEIGHT: weight_bytes,
        Space.ARENA: max(variant.arena_bytes, 1),
    }
    for call in variant.kernels:
        for operand in call.operands:
            limit = limits.get(operand.space)
            if limit is not None and not 0 <= operand.value < limit:
                raise ArtifactError(
                    f"kernel '{call.name}' refers to {operand.space.value} {operand.value} of only {limit}"
                )
        if call.workspace is not None and not 0 <= call.workspace <= variant.arena_bytes:
            raise ArtifactError(f"kernel '{call.name}' has its workspace outside the arena")
        if not call.symbol and len(call.operands) != 2:
            raise ArtifactError(f"copy '{call.name}' needs a source and a target")


class _reading:  # noqa: N801 - used like a function
    """Turn what wrong JSON makes Python raise into an ArtifactError that names the record."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, IndexError)):
            detail = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise ArtifactError(f"the manifest has a malformed {self.what}: {detail}") from error


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _strs(values: Any) -> tuple[str, ...]:
    return tuple(_str(v) for v in values)


def _to_json(record: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        result[field.name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    to_json: Callable[[], Any] | None = getattr(value, "to_json", None)
    if to_json is not None:
        return to_json()
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
