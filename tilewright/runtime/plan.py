"""What a compiled model consists of, as plain data: signature, variants, kernel calls.

The compiler writes these records, the artifact stores them as JSON, the entry function is generated from
them, and the runtime reads them. All are immutable; ``to_json``/``from_json`` convert to and from JSON-able
dictionaries, the latter raising :class:`~tilewright.errors.ArtifactError` for anything that does not have
the right form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tilewright.errors import ArtifactError
from tilewright.runtime.chosen import BY_RULES, Chosen
from tilewright.runtime.control import LOOP_SCRATCH, Control, Loop, Region, control_from_json, fits
from tilewright.runtime.records import Operand, Space, reading, record_json, text, texts, whole
from tilewright.runtime.special import case_from_json, count_tensors, kind_from_json
from tilewright.runtime.traits import Traits

__all__ = [
    "ALIGNMENT",
    "BROKEN",
    "STATUS_BITS",
    "STOPPED",
    "TOO_LARGE",
    "Dim",
    "KernelCall",
    "Operand",
    "Range",
    "Signature",
    "Space",
    "TensorSpec",
    "Variant",
    "check_variant",
]

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

STOPPED = TOO_LARGE - 1
"""The status of a step that ends the run on purpose."""

BROKEN = 1 << STATUS_BITS - 1
"""The status, plus the number of the check, of a kernel after which sizes do not fit each other."""


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """One step of a variant: a kernel, a plain copy of bytes, or one that runs other steps.

    Attributes:
        name: what profiles and dumps call it; unique in its variant.
        symbol: the kernel's function; empty where there is ``control``, and for a copy of ``bytes // 2``
            bytes (or ``size``) from ``operands[0]`` to ``operands[1]``.
        operands: the argument array, in the order of the kernel's parameters.
        workspace: byte offset of the kernel's scratch memory in the arena (of the arena of the regions that
            a step runs), or None if it needs none.
        parallel: whether it may use the thread pool.
        origins: names of the model's nodes that it computes.
        op_types: their operator types.
        flops: floating-point operations of one call (a multiply-add counts two).
        bytes: bytes of operands read and written by one call, each counted once. As ``flops``, for typical
            sizes of dimensions known at run time only.
        object: key of the object file that defines ``symbol``.
        workload: key of the task's canonical program.
        trace: the schedule's trace as text.
        chosen: who chose the schedule, and why.
        traits: what its program is like; None: not known.
        size: of a copy: position among the variant's ``sizes`` of the number of bytes; None: it is fixed.
        defines: (dimension, operand): after the call, the variant's dimension of that number is the int64 at
            the start of that operand.
        checks: which of the variant's checks must hold after the call: those on sizes known by then.
        control: the branch or loop that it is.
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
    chosen: Chosen = BY_RULES
    traits: Traits | None = None
    size: int | None = None
    defines: tuple[tuple[int, int], ...] = ()
    checks: tuple[int, ...] = ()
    control: Control | None = None

    @property
    def addresses(self) -> tuple[Operand, ...]:
        """Everything that the step reads or writes."""
        return self.operands if self.control is None else self.control.addresses

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
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> KernelCall:
        """Inverse of :meth:`to_json`."""
        with reading("kernel call"):
            workspace, size, control = (data.get(key) for key in ("workspace", "size", "control"))
            traits = data.get("traits")
            return KernelCall(
                name=text(data["name"]),
                symbol=text(data["symbol"]),
                operands=tuple(Operand.from_json(o) for o in data["operands"]),
                workspace=None if workspace is None else whole(workspace),
                parallel=bool(data.get("parallel", True)),
                origins=texts(data.get("origins", ())),
                op_types=texts(data.get("op_types", ())),
                flops=whole(data.get("flops", 0)),
                bytes=whole(data.get("bytes", 0)),
                object=text(data.get("object", "")),
                workload=text(data.get("workload", "")),
                trace=text(data.get("trace", "")),
                chosen=Chosen.from_json(data.get("chosen", {})),
                traits=None if traits is None else Traits.from_json(traits),
                size=None if size is None else whole(size),
                defines=tuple((whole(d), whole(o)) for d, o in data.get("defines", ())),
                checks=tuple(map(whole, data.get("checks", ()))),
                control=None if control is None else control_from_json(control),
            )


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A model's input or output: name, shape (numbers and names of symbolic dimensions), dtype name as in
    NumPy/ml_dtypes.

    ``kind`` is one of :data:`~tilewright.runtime.special.KINDS`. A list of tensors or an optional one has no
    shape here: variants are for the number and the shapes of the tensors in it.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    kind: str = "tensor"

    def __str__(self) -> str:
        if self.kind != "tensor":
            return f"{self.name}: {self.kind} of {self.dtype}"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> TensorSpec:
        """Inverse of :meth:`to_json`."""
        with reading("tensor"):
            shape = tuple(d if isinstance(d, str) else whole(d) for d in data["shape"])
            if any(isinstance(d, int) and d < 0 for d in shape):
                raise ValueError("negative dimension")
            return TensorSpec(text(data["name"]), shape, text(data["dtype"]), kind_from_json(data))


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
        return Range(whole(lo), None if hi is None else whole(hi), whole(multiple[0]) if multiple else 1)


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
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> Signature:
        """Inverse of :meth:`to_json`."""
        with reading("signature"):
            return Signature(
                tuple(TensorSpec.from_json(t) for t in data["inputs"]),
                tuple(TensorSpec.from_json(t) for t in data["outputs"]),
                {text(n): Range.from_json(r) for n, r in data.get("dims", {}).items()},
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """The model compiled for some sizes of its symbolic dimensions: fixed ones, or ranges.

    Attributes:
        binding: value of each symbolic dimension that is fixed.
        entry: symbol of the entry function; ``entry_object`` is the key of the object file that defines it.
        kernels: the steps in execution order, those of regions behind those of the model itself.
        regions: what steps that are branches or loops run.
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
        values: the elements, in row-major order, of each input whose value this variant is compiled for.
        input_counts, output_counts: how many tensors each input and output of the signature is, ``ABSENT``
            for one that is None; empty where all are tensors. Shapes and operands count these tensors.
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
    values: Mapping[str, tuple[bool | int | float, ...]] = dataclasses.field(default_factory=dict)
    input_counts: tuple[int, ...] = ()
    output_counts: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()

    @property
    def own_kernels(self) -> tuple[KernelCall, ...]:
        """The steps that stand in no region."""
        return self.kernels[: self.regions[0].first] if self.regions else self.kernels

    @property
    def is_special(self) -> bool:
        """Whether it is for certain values of inputs, or for certain numbers of tensors."""
        return bool(self.values or self.input_counts)

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
        return record_json(self)

    @staticmethod
    def from_json(data: Any) -> Variant:
        """Inverse of :meth:`to_json`."""
        with reading("variant"):
            return Variant(
                **case_from_json(data),
                binding={text(name): whole(value) for name, value in data["binding"].items()},
                entry=text(data["entry"]),
                entry_object=text(data["entry_object"]),
                kernels=tuple(KernelCall.from_json(k) for k in data["kernels"]),
                input_shapes=tuple(tuple(map(_dim, shape)) for shape in data["input_shapes"]),
                output_shapes=tuple(tuple(map(_dim, shape)) for shape in data["output_shapes"]),
                arena_bytes=whole(data["arena_bytes"]),
                dims={text(n): Range.from_json(r) for n, r in data.get("dims", {}).items()},
                sizes=texts(data.get("sizes", ())),
                checks=texts(data.get("checks", ())),
                capacities=tuple(map(whole, data.get("capacities", ()))),
                shapes=text(data.get("shapes", "")),
                regions=tuple(map(Region.from_json, data.get("regions", ()))),
            )


def check_variant(variant: Variant, signature: Signature, weight_bytes: int) -> None:
    """Raise ArtifactError unless every reference in ``variant`` stays inside what it refers to."""
    inputs, outputs = count_tensors(variant, signature)
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
    _check_regions(variant)
    outer = Region(0, len(variant.own_kernels), inputs, outputs, variant.arena_bytes)
    for region in (outer, *variant.regions):
        for call in variant.kernels[region.first : region.first + region.steps]:
            _check_call(call, variant, region, weight_bytes)


def _check_regions(variant: Variant) -> None:
    """Raise ArtifactError unless the regions follow each other and hold all steps but the model's own, and
    run none that stand before them, so that no run is endless.
    """
    binding, place = dict(variant.binding), len(variant.own_kernels)
    for number, region in enumerate(variant.regions):
        if region.first != place or region.steps < 0 or region.arena_bytes < 0:
            raise ArtifactError(f"region {number} of variant {binding} does not stand behind the others")
        place += region.steps
        calls = variant.kernels[region.first : region.first + region.steps]
        if any(n <= number for call in calls if call.control is not None for n in call.control.regions):
            raise ArtifactError(f"region {number} of variant {binding} runs itself")
        if any(not 0 <= n < len(variant.checks) for n in region.checks):
            raise ArtifactError(f"region {number} refers to a check that the variant does not have")
    if place != len(variant.kernels):
        raise ArtifactError(f"the regions of variant {binding} do not hold all of its steps")


def _check_call(call: KernelCall, variant: Variant, around: Region, weight_bytes: int) -> None:
    """Raise ArtifactError unless every reference of a step stays inside what it refers to."""
    limits = {
        Space.INPUT: around.inputs,
        Space.OUTPUT: around.outputs,
        Space.WEIGHT: weight_bytes,
        Space.ARENA: max(around.arena_bytes, 1),
        Space.DIM: len(variant.dims),
    }
    control = call.control
    used = [call.size, *(operand.size for operand in call.addresses)]
    used += control.sizes if isinstance(control, Loop) else ()
    if any(n is not None and not 0 <= n < len(variant.sizes) for n in used):
        raise ArtifactError(f"kernel '{call.name}' refers to a size that the variant does not have")
    for dim, source in call.defines:
        if not (0 <= dim < len(variant.dims) and 0 <= source < len(call.operands)):
            raise ArtifactError(f"kernel '{call.name}' defines a dimension that there is not")
    if any(not 0 <= n < len(variant.checks) for n in call.checks):
        raise ArtifactError(f"kernel '{call.name}' refers to a check that the variant does not have")
    for operand in call.addresses:
        limit = limits.get(operand.space)
        if limit is not None and not 0 <= operand.value < limit:
            raise ArtifactError(
                f"kernel '{call.name}' refers to {operand.space.value} {operand.value} of only {limit}"
            )
    if call.workspace is not None and not 0 <= call.workspace <= around.arena_bytes:
        raise ArtifactError(f"kernel '{call.name}' has its workspace outside the arena")
    if control is not None:
        _check_control(call, control, variant, around)
    elif not call.symbol and len(call.operands) != 2:
        raise ArtifactError(f"copy '{call.name}' needs a source and a target")


def _check_control(call: KernelCall, control: Control, variant: Variant, around: Region) -> None:
    """Raise ArtifactError unless a branch or loop fits its regions and the arena around it."""
    if not fits(control, variant.regions):
        raise ArtifactError(f"step '{call.name}' does not fit the regions that it runs")
    inside = max((variant.regions[n].arena_bytes for n in control.regions), default=0)
    ends = [(call.workspace or 0) + inside]
    if isinstance(control, Loop):
        ends += [control.scratch + LOOP_SCRATCH, *(s.spare + s.nbytes for s in control.states)]
        if control.index is not None and not 0 <= control.index < len(variant.dims):
            raise ArtifactError(f"step '{call.name}' defines a dimension that there is not")
    if min(ends) < 0 or max(ends) > around.arena_bytes:
        raise ArtifactError(f"step '{call.name}' has its workspace outside the arena")


def _dim(value: Any) -> Dim:
    return value if isinstance(value, str) else whole(value)
