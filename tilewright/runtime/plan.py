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
from typing import Any, NamedTuple, TypeVar

from tilewright.errors import ArtifactError

Dim = int | str
"""A dimension of a signature: a number, or the name of a symbolic dimension (or, in outputs, any text that
describes it).
"""

ALIGNMENT = 64
"""Alignment in bytes of weights, arena offsets, workspaces and outputs. Inputs are aligned to their element
only.
"""

STATUS_BITS = 16
"""A failing run returns ``(kernel number + 1) << STATUS_BITS | kernel's status``."""

TOO_LARGE = (1 << STATUS_BITS) - 1
"""The status of a kernel that computes a size for which memory is not planned."""

BROKEN = 1 << STATUS_BITS - 1
"""The status, plus the number of the check, of a kernel after which sizes do not fit each other."""

_T = TypeVar("_T")


class Space(enum.StrEnum):
    """Where a kernel's operand lives."""

    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    ARENA = "arena"
    SCALAR = "scalar"
    DIM = "dim"


@dataclasses.dataclass(frozen=True)
class Operand:
    """One slot of a kernel's argument array.

    Attributes:
        space: where the operand lives.
        value: position of the graph input or output, or byte offset into weights or arena, or the value of
            an int64 scalar, or position among the variant's dimensions.
        offset: bytes to add to the start of an input or output.
        size: position among the variant's ``sizes`` of a number of bytes to add, too; None: none.
    """

    space: Space
    value: int
    offset: int = 0
    size: int | None = None

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
        """An int64 passed by value."""
        return Operand(Space.SCALAR, value)

    @staticmethod
    def dim(index: int) -> Operand:
        """The size of the variant's dimension number ``index``, an int64 passed by value."""
        return Operand(Space.DIM, index)

    def to_json(self) -> list[Any]:
        """``[space, value]``, ``[space, value, offset]`` or ``[space, value, offset, size]``."""
        shown = [self.space.value, self.value]
        if self.size is not None:
            return [*shown, self.offset, self.size]
        return [*shown, self.offset] if self.offset else shown

    @staticmethod
    def from_json(data: Any) -> Operand:
        """Inverse of :meth:`to_json`."""
        with _reading("operand"):
            space, value, *rest = data
            offset, size = (_int(rest[0]) if rest else 0), (_int(rest[1]) if rest[1:] else None)
            return Operand(Space(space), _int(value), offset, size)


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """One step of a variant: a kernel, or a plain copy of bytes.

    Attributes:
        name: what profiles and dumps call it; unique in its variant.
        symbol: the kernel's function; empty for a copy of ``bytes // 2`` bytes (or ``size``) from
            ``operands[0]`` to ``operands[1]``.
        operands: the argument array, in the order of the kernel's parameters.
        workspace: byte offset of the kernel's scratch memory in the arena, or None if it needs none.
        parallel: whether it may use the thread pool.
        origins: names of the model's nodes that it computes.
        op_types: their operator types.
        flops: floating-point operations of one call (a multiply-add counts two).
        bytes: bytes of operands read and written by one call, each counted once. As ``flops``, for typical
            sizes of dimensions known at run time only.
        object: key of the object file that defines ``symbol``.
        workload: key of the task's canonical program.
        trace: the schedule's trace as text.
        size: of a copy: position among the variant's ``sizes`` of the number of bytes; None: it is fixed.
        defines: (dimension, operand): after the call, the variant's dimension of that number is the int64 at
            the start of that operand.
        checks: which of the variant's checks must hold after the call: those on sizes known by then.
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
    size: int | None = None
    defines: tuple[tuple[int, int], ...] = ()
    checks: tuple[int, ...] = ()

    @staticmethod
    def copy(
        name: str,
        source: Operand,
        target: Operand,
        nbytes: int,
        origins: Iterable[str] = (),
        size: int | None = None,
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
            size=size,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary without the fields that have their default value."""
        return _to_json(self)

    @staticmethod
    def from_json(data: Any) -> KernelCall:
        """Inverse of :meth:`to_json`."""
        with _reading("kernel call"):
            workspace, size = data.get("workspace"), data.get("size")
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
                size=None if size is None else _int(size),
                defines=tuple((_int(d), _int(o)) for d, o in data.get("defines", ())),
                checks=tuple(map(_int, data.get("checks", ()))),
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


class Range(NamedTuple):
    """Sizes of a dimension: from ``lo`` to ``hi``, both included (None: no limit), in multiples of
    ``multiple_of``.
    """

    lo: int = 0
    hi: int | None = None
    multiple_of: int = 1

    def __contains__(self, size: object) -> bool:
        return (
            isinstance(size, int)
            and size >= self.lo
            and (self.hi is None or size <= self.hi)
            and size % self.multiple_of == 0
        )

    def __str__(self) -> str:
        limits = f"at least {self.lo}" if self.hi is None else f"{self.lo} to {self.hi}"
        return limits if self.multiple_of == 1 else f"{limits} in multiples of {self.multiple_of}"

    def to_json(self) -> list[int | None]:
        """``[lo, hi]`` or ``[lo, hi, multiple_of]``."""
        return [self.lo, self.hi, *([] if self.multiple_of == 1 else [self.multiple_of])]

    @staticmethod
    def from_json(data: Any) -> Range:
        """Inverse of :meth:`to_json`."""
        lo, hi, *multiple = data
        return Range(_int(lo), None if hi is None else _int(hi), _int(multiple[0]) if multiple else 1)


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model.

    Attributes:
        inputs, outputs: in the model's order.
        dims: the sizes that each symbolic dimension may have.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, Range] = dataclasses.field(default_factory=dict)

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
                {_str(n): Range.from_json(r) for n, r in data.get("dims", {}).items()},
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """The model compiled for some sizes of its symbolic dimensions: fixed ones, or ranges.

    Attributes:
        binding: value of each symbolic dimension that is fixed.
        entry: symbol of the entry function; ``entry_object`` is the key of the object file that defines it.
        kernels: the steps in execution order.
        input_shapes, output_shapes: in the signature's order. Where a size is known at run time only, inputs
            have the name of a dimension, outputs any text that describes it.
        arena_bytes: scratch memory of one run, activations and workspaces together.
        dims: the sizes that this variant takes of each dimension that is not fixed. Kernels get them from a
            table in the order of their names. Those that no input has are computed by kernels, within these
            limits.
        sizes: byte counts over ``dims`` that operands and copies refer to, as text.
        checks: what ``dims`` must satisfy besides, as text. Those that kernels do not refer to are tested
            before the run.
        capacities: for outputs whose sizes kernels compute, the largest number of elements; -1 for others.
        shapes: symbol of the function that computes the output shapes from ``dims``; empty without any.
    """

    binding: Mapping[str, int]
    entry: str
    entry_object: str
    kernels: tuple[KernelCall, ...]
    input_shapes: tuple[tuple[Dim, ...], ...]
    output_shapes: tuple[tuple[Dim, ...], ...]
    arena_bytes: int
    dims: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    sizes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    capacities: tuple[int, ...] = ()
    shapes: str = ""

    @property
    def computed_dims(self) -> tuple[str, ...]:
        """The dimensions whose sizes kernels compute."""
        given = {d for shape in self.input_shapes for d in shape}
        return tuple(name for name in self.dims if name not in given)

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
                input_shapes=tuple(tuple(map(_dim, shape)) for shape in data["input_shapes"]),
                output_shapes=tuple(tuple(map(_dim, shape)) for shape in data["output_shapes"]),
                arena_bytes=_int(data["arena_bytes"]),
                dims={_str(n): Range.from_json(r) for n, r in data.get("dims", {}).items()},
                sizes=_strs(data.get("sizes", ())),
                checks=_strs(data.get("checks", ())),
                capacities=tuple(map(_int, data.get("capacities", ()))),
                shapes=_str(data.get("shapes", "")),
            )


def check_variant(variant: Variant, signature: Signature, weight_bytes: int) -> None:
    """Raise ArtifactError unless every reference in ``variant`` stays inside what it refers to."""
    inputs, outputs = len(signature.inputs), len(signature.outputs)
    if len(variant.input_shapes) != inputs or len(variant.output_shapes) != outputs:
        raise ArtifactError(f"variant {dict(variant.binding)} has the wrong number of inputs or outputs")
    shapes = (*variant.input_shapes, *variant.output_shapes)
    if variant.arena_bytes < 0 or any(isinstance(d, int) and d < 0 for s in shapes for d in s):
        raise ArtifactError(f"variant {dict(variant.binding)} has a negative size")
    if any(isinstance(d, str) and d not in variant.dims for s in variant.input_shapes for d in s):
        raise ArtifactError(f"variant {dict(variant.binding)} does not say which sizes its inputs may have")
    if any(isinstance(d, str) for s in shapes for d in s) and not variant.shapes:
        raise ArtifactError(f"variant {dict(variant.binding)} cannot compute its shapes")
    if variant.computed_dims and len(variant.capacities) != outputs:
        raise ArtifactError(f"variant {dict(variant.binding)} does not say how large its outputs may be")
    limits = {
        Space.INPUT: inputs,
        Space.OUTPUT: outputs,
        Space.WEIGHT: weight_bytes,
        Space.ARENA: max(variant.arena_bytes, 1),
        Space.DIM: len(variant.dims),
    }
    for call in variant.kernels:
        used = [call.size, *(operand.size for operand in call.operands)]
        if any(n is not None and not 0 <= n < len(variant.sizes) for n in used):
            raise ArtifactError(f"kernel '{call.name}' refers to a size that the variant does not have")
        for dim, source in call.defines:
            if not (0 <= dim < len(variant.dims) and 0 <= source < len(call.operands)):
                raise ArtifactError(f"kernel '{call.name}' defines a dimension that there is not")
        if any(not 0 <= n < len(variant.checks) for n in call.checks):
            raise ArtifactError(f"kernel '{call.name}' refers to a check that the variant does not have")
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


def _dim(value: Any) -> Dim:
    return value if isinstance(value, str) else _int(value)


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
