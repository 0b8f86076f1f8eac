"""Running compiled models: :class:`Executable`."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import ml_dtypes  # noqa: F401 - gives NumPy the names bfloat16, float8_e4m3fn, int4 ...
import numpy as np

from tilewright.errors import (
    ArtifactError,
    InputError,
    OptionError,
    OutOfMemoryError,
    ShapeError,
    TargetError,
)
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.dlpack import from_dlpack
from tilewright.runtime.host import check_host
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.plan import Range, Signature, TensorSpec, Variant
from tilewright.runtime.pool import ThreadPool
from tilewright.runtime.profiler import Profile, summarize
from tilewright.runtime.special import Given, counts_of, flat_specs, flattened, gathered
from tilewright.runtime.variants import BoundVariant, LoadedVariant, Shapes

#: Input shapes that are remembered with what was computed for them.
_KEPT_BINDINGS = 1024

#: Shapes, and where variants are for lists or values, those too.
_Key: TypeAlias = "Shapes | tuple[tuple[int, ...], Shapes, tuple[int, ...], tuple[bytes, ...]]"


class MissingVariantError(ShapeError):
    """The inputs fit the signature, but no variant was compiled for their shapes or values.

    Attributes:
        binding: the value of each symbolic dimension that the inputs ask for.
        inputs: the inputs by name.
    """

    def __init__(
        self,
        message: str,
        binding: Mapping[str, int],
        inputs: Mapping[str, Given],
        *,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.binding = dict(binding)
        self.inputs = dict(inputs)


class Executable:
    """A compiled model that runs. All methods may be called from several threads at a time.

    Args:
        artifact: the compiled model.
        threads: threads of a run, at most the number that the artifact was compiled for (the default).
        foreign: also accept an artifact for another machine. It can be saved and inspected; runs raise
            TargetError.

    Raises:
        TargetError: this machine cannot run the artifact's code.
        OptionError: ``threads`` is out of range.
        ArtifactError: the code cannot be loaded.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None, *, foreign: bool = False) -> None:
        self._elsewhere: TargetError | None = None
        try:
            check_host(artifact.target)
        except TargetError as error:
            if not foreign:
                raise
            self._elsewhere = error
        if threads is not None and not 1 <= threads <= artifact.threads:
            raise OptionError(
                f"threads={threads} is not possible: the model was compiled for up to {artifact.threads}",
                hint=None if threads < 1 else f"compile it again with threads={threads}",
            )
        self.threads = threads or artifact.threads
        self._artifact = artifact
        self._dtypes = [_dtype(spec) for spec in artifact.signature.inputs]
        self._names = [spec.name for spec in artifact.signature.inputs]
        self._output_names = [spec.name for spec in artifact.signature.outputs]
        for spec in artifact.signature.outputs:
            _dtype(spec)
        self._has_lists = any(spec.kind != "tensor" for spec in artifact.signature.inputs)
        self._bound: dict[_Key, BoundVariant] = {}
        self._loaded: list[LoadedVariant] = []
        #: Positions of the inputs whose values some variant is for.
        self._steering: tuple[int, ...] = ()
        self._runs = 0
        self._functions: dict[str, int] = {}
        self._pool: ThreadPool | None = None
        if self._elsewhere is not None:
            return
        self._functions = load_runtime(artifact.runtime)
        self._pool = ThreadPool.shared(self._functions, self.threads)
        for variant in artifact.variants:
            self._load(variant)

    @property
    def artifact(self) -> Artifact:
        """What it was made from; :meth:`Artifact.save` writes it to a file."""
        return self._artifact

    @property
    def signature(self) -> Signature:
        """Inputs, outputs and symbolic dimensions."""
        return self._artifact.signature

    def extend(self, artifact: Artifact) -> None:
        """Take over a version of the artifact that has other variants (:meth:`Artifact.with_variant`,
        :meth:`Artifact.without_case`).
        """
        if artifact.signature != self._artifact.signature or artifact.runtime != self._artifact.runtime:
            raise ArtifactError("a model can only be extended by variants of itself")
        known = {id(loaded.variant) for loaded in self._loaded}
        for variant in artifact.variants:
            if id(variant) not in known and self._elsewhere is None:
                self._load(variant, artifact)
        kept = {id(variant) for variant in artifact.variants}
        self._set_loaded([loaded for loaded in self._loaded if id(loaded.variant) in kept])
        self._artifact = artifact

    def oldest_values(self) -> Variant | None:
        """Of the variants for values of inputs, the one that was used longest ago; None without any."""
        found = [loaded for loaded in self._loaded if loaded.variant.is_special]
        return min(found, key=lambda loaded: loaded.used).variant if found else None

    def _load(self, variant: Variant, artifact: Artifact | None = None) -> None:
        artifact = artifact or self._artifact
        symbols = [variant.entry, *([variant.shapes] if variant.shapes else [])]
        library = load((artifact.objects[key] for key in variant.objects()), symbols, self._functions)
        loaded = LoadedVariant(variant, library, artifact.weights, artifact.signature)
        self._runs += 1
        loaded.used = self._runs
        # Those that take fewer shapes come first: they are made for them.
        self._set_loaded(sorted([*self._loaded, loaded], key=lambda v: len(v.variant.dims)))

    def _set_loaded(self, loaded: list[LoadedVariant]) -> None:
        self._steering = tuple(sorted({n for v in loaded for n in v.values}))
        self._loaded = loaded
        self._bound = {}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model.

        Args:
            inputs: an array for each input name: NumPy arrays, or anything with ``__dlpack__`` on the CPU.
                They are not copied, unless they are not contiguous or not aligned to their elements.
                A list of arrays for an input that is a sequence; None for an optional one.

        Returns:
            A new array for each output, aligned to 64 bytes; a list of them, or None, where the signature
            says so.

        Raises:
            InputError: wrong names, dtypes or shapes.
            ShapeError: a size is out of its dimension's range, or sizes do not fit each other.
            MissingVariantError: the inputs fit the signature but were not compiled for.
        """
        arrays, counts = self._arrays(inputs)
        bound = self._find(arrays, counts)
        results = bound.run(arrays, self._open())
        counts = bound.variant.output_counts
        return dict(zip(self._output_names, gathered(self.signature.outputs, counts, results), strict=True))

    def __call__(self, *inputs: Any) -> list[Any]:
        """Run with the inputs in the signature's order; returns the outputs in the signature's order.
        Raises as :meth:`run`.
        """
        if len(inputs) != len(self._names):
            raise InputError(
                f"the model has {len(self._names)} inputs, {len(inputs)} were given",
                hint=f"the model's inputs are {', '.join(self._names) or 'none'}",
            )
        arrays, counts = self._arrays(dict(zip(self._names, inputs, strict=True)))
        bound = self._find(arrays, counts)
        results = bound.run(arrays, self._open())
        return gathered(self.signature.outputs, bound.variant.output_counts, results)

    def profile(self, inputs: Mapping[str, Any], runs: int = 20, warmup: int = 3) -> Profile:
        """Run ``runs`` times with a time stamp after each kernel. Raises as :meth:`run`."""
        arrays, counts = self._arrays(inputs)
        loaded, pool = self._find(arrays, counts), self._open()
        kernels = loaded.variant.kernels
        stamps = (ctypes.c_int64 * (2 * len(kernels) + 1))()
        rows = []
        for number in range(warmup + max(runs, 1)):
            loaded.run(arrays, pool, stamps)
            if number >= warmup:
                rows.append(list(stamps))
        return summarize(kernels, rows, self.threads)

    def variant_for(self, inputs: Mapping[str, Any]) -> Variant:
        """The variant that :meth:`run` would use. Raises as :meth:`run`."""
        return self._find(*self._arrays(inputs)).variant

    def close(self) -> None:
        """Release code, memory and threads, as soon as no run is under way. Later runs raise InputError."""
        self._pool = None  # first: a run that finds no variant must also find that the model is closed
        self._set_loaded([])

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> ThreadPool:
        if self._elsewhere is not None:
            raise self._elsewhere
        if self._pool is None:
            raise InputError("the model was closed")
        return self._pool

    def _arrays(self, inputs: Mapping[str, Any]) -> tuple[list[np.ndarray], tuple[int, ...]]:
        """The tensors of the inputs in order, each a contiguous array of the right dtype; how many each input
        is, or nothing where each is one.
        """
        if len(inputs) != len(self._names) or not all(name in inputs for name in self._names):
            self._wrong_names(inputs)
        names, dtypes = self._names, self._dtypes
        counts: tuple[int, ...] = ()
        given = [inputs[name] for name in names]
        if self._has_lists:
            counts = counts_of(self.signature.inputs, inputs)
            specs = flat_specs(self.signature.inputs, counts)
            names, dtypes = [spec.name for spec in specs], [_dtype(spec) for spec in specs]
            given = flattened(self.signature.inputs, inputs)
        arrays = []
        for name, dtype, value in zip(names, dtypes, given, strict=True):
            if type(value) is not np.ndarray:
                value = _as_array(name, value)
            if value.dtype != dtype:
                raise InputError(f"input '{name}' has dtype {value.dtype}, expected {dtype}")
            flags = value.flags
            if not (flags.c_contiguous and flags.aligned):
                value = _contiguous(name, value)
            arrays.append(value)
        return arrays, counts

    def _wrong_names(self, inputs: Mapping[str, Any]) -> None:
        missing = [name for name in self._names if name not in inputs]
        unknown = [name for name in inputs if name not in self._names]
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"unknown: {', '.join(map(str, unknown))}"] if unknown else []
        raise InputError(
            f"wrong inputs ({'; '.join(parts)})",
            hint=f"the model's inputs are {', '.join(self._names) or 'none'}",
        )

    def _find(self, arrays: Sequence[np.ndarray], counts: tuple[int, ...]) -> BoundVariant:
        shapes = tuple([array.shape for array in arrays])
        key: _Key = shapes
        steering = self._steering  # part of the key: other threads may add variants at any time
        special = bool(counts or steering)
        if special:
            elements = tuple(arrays[n].tobytes() for n in steering if n < len(arrays))
            key = (counts, shapes, steering, elements)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bind(arrays, counts, shapes)
            if len(self._bound) >= _KEPT_BINDINGS:
                self._bound = {}
            self._bound[key] = bound
        if special:
            self._runs += 1
            bound.loaded.used = self._runs
        return bound

    def _bind(self, arrays: Sequence[np.ndarray], counts: tuple[int, ...], shapes: Shapes) -> BoundVariant:
        """The most special variant that takes these inputs. Raises MissingVariantError without any."""
        self._open()
        for loaded in self._loaded:
            bound = loaded.bind(shapes) if loaded.takes(counts, arrays) else None
            if bound is not None:
                return bound
        binding = bind_shapes(self.signature, shapes, counts)
        specs = flat_specs(self.signature.inputs, counts)
        steering = {specs[n].name: arrays[n].reshape(-1).tolist() for n in self._steering if n < len(specs)}
        compiled = dict.fromkeys(
            _case(flat_specs(self.signature.inputs, v.input_counts), v.input_shapes, v.values)
            for v in (loaded.variant for loaded in self._loaded)
        )
        how = " (values={…} compiles for other values of inputs that steer)" if steering else ""
        raise MissingVariantError(
            f"the model was not compiled for {_case(specs, shapes, steering)}",
            binding,
            dict(zip(self._names, gathered(self.signature.inputs, counts, arrays), strict=True)),
            hint=f"compiled for: {'; '.join(compiled) or 'none'}{how}",
        )


def bind_shapes(
    signature: Signature, shapes: Sequence[Sequence[int]], counts: Sequence[int] = ()
) -> dict[str, int]:
    """The value of each symbolic dimension for inputs of these shapes, and of these numbers of tensors.

    Raises:
        InputError: a shape does not fit its input, or two inputs disagree on a dimension.
        ShapeError: a size is out of its dimension's range.
    """
    binding: dict[str, int] = {}
    bound_by: dict[str, str] = {}
    for spec, shape in zip(flat_specs(signature.inputs, counts), shapes, strict=True):
        if spec.kind != "tensor":
            continue
        fits = len(shape) == len(spec.shape) and all(
            isinstance(d, str) or d == extent for d, extent in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise InputError(f"input '{spec.name}' has shape {_shape(shape)}, expected {_shape(spec.shape)}")
        for dim, extent in zip(spec.shape, shape, strict=True):
            if isinstance(dim, int):
                continue
            if binding.setdefault(dim, extent) != extent:
                raise InputError(
                    f"dimension '{dim}' is {extent} in input '{spec.name}' of shape {_shape(shape)}, "
                    f"but {binding[dim]} in input '{bound_by[dim]}'"
                )
            bound_by.setdefault(dim, spec.name)
            limits = Range(*signature.dims.get(dim, ()))
            if extent not in limits:
                raise ShapeError(f"dimension '{dim}' of input '{spec.name}' is {extent}, expected {limits}")
    return binding


def _contiguous(name: str, value: np.ndarray) -> np.ndarray:
    """A copy in C order."""
    try:
        return np.array(value, order="C", copy=True)
    except MemoryError:
        raise OutOfMemoryError(
            f"there is no memory for a contiguous copy of input '{name}' of {value.nbytes / 2**30:.1f} GiB",
            hint="give an array that is contiguous and aligned: it is used in place",
        ) from None


def _as_array(name: str, value: Any) -> np.ndarray:
    """A NumPy view of what is not a plain ndarray."""
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            f"input '{name}' is a masked array, and models know no masks",
            hint="give numbers for what is masked (value.filled), and the mask as an input of its own",
        )
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        try:
            return from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"input '{name}' cannot be read through DLPack: {error}") from error
    raise InputError(
        f"input '{name}' is a {type(value).__name__}, expected an array", hint="convert it with numpy.asarray"
    )


def _dtype(spec: TensorSpec) -> np.dtype:
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        raise ArtifactError(f"tensor '{spec.name}' has the unknown dtype '{spec.dtype}'") from None


def _shape(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _case(
    specs: Sequence[TensorSpec], shapes: Sequence[Sequence[int | str]], values: Mapping[str, Sequence[Any]]
) -> str:
    """Shapes of inputs, and the values of some, as text."""
    parts = [
        f"{spec.name}={_shape(shape)}"
        + (f" of value {list(values[spec.name])}" if spec.name in values else "")
        for spec, shape in zip(specs, shapes, strict=True)
    ]
    return ", ".join(parts) or "no input"
