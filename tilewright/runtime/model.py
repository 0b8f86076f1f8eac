"""Running compiled models: :class:`Executable`."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401 - gives NumPy the names bfloat16, float8_e4m3fn, int4 ...
import numpy as np

from tilewright.errors import ArtifactError, InputError, OptionError, ShapeError, TargetError
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.dlpack import from_dlpack
from tilewright.runtime.host import check_host
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.plan import Range, Signature, TensorSpec, Variant
from tilewright.runtime.pool import ThreadPool
from tilewright.runtime.profiler import Profile, summarize
from tilewright.runtime.variants import BoundVariant, LoadedVariant, Shapes

#: Input shapes that are remembered with what was computed for them.
_KEPT_BINDINGS = 1024


class MissingVariantError(ShapeError):
    """The inputs fit the signature, but no variant was compiled for their shapes.

    Attributes:
        binding: the value of each symbolic dimension that the inputs ask for.
    """

    def __init__(self, message: str, binding: Mapping[str, int], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.binding = dict(binding)


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
        self._bound: dict[Shapes, BoundVariant] = {}
        self._loaded: list[LoadedVariant] = []
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
        """Take over a version of the artifact that has more variants (:meth:`Artifact.with_variant`)."""
        if artifact.signature != self._artifact.signature or artifact.runtime != self._artifact.runtime:
            raise ArtifactError("a model can only be extended by variants of itself")
        known = {id(loaded.variant) for loaded in self._loaded}
        for variant in artifact.variants:
            if id(variant) not in known and self._elsewhere is None:
                self._load(variant, artifact)
        self._artifact = artifact

    def _load(self, variant: Variant, artifact: Artifact | None = None) -> None:
        artifact = artifact or self._artifact
        symbols = [variant.entry, *([variant.shapes] if variant.shapes else [])]
        library = load((artifact.objects[key] for key in variant.objects()), symbols, self._functions)
        loaded = LoadedVariant(variant, library, artifact.weights, artifact.signature)
        # Those that take fewer shapes come first: they are made for them.
        self._loaded = sorted([*self._loaded, loaded], key=lambda v: len(v.variant.dims))
        self._bound = {}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the model.

        Args:
            inputs: an array for each input name: NumPy arrays, or anything with ``__dlpack__`` on the CPU.
                They are not copied, unless they are not contiguous or not aligned to their elements.

        Returns:
            A new array for each output, aligned to 64 bytes.

        Raises:
            InputError: wrong names, dtypes or shapes.
            ShapeError: a size is out of its dimension's range, or sizes do not fit each other.
        MissingVariantError: the shapes fit the signature but were not compiled for.
        """
        arrays = self._arrays(inputs)
        results = self._find(arrays).run(arrays, self._open())
        return dict(zip(self._output_names, results, strict=True))

    def __call__(self, *inputs: Any) -> list[np.ndarray]:
        """Run with the inputs in the signature's order; returns the outputs in the signature's order.
        Raises as :meth:`run`.
        """
        if len(inputs) != len(self._names):
            raise InputError(
                f"the model has {len(self._names)} inputs, {len(inputs)} were given",
                hint=f"the model's inputs are {', '.join(self._names) or 'none'}",
            )
        arrays = self._arrays(dict(zip(self._names, inputs, strict=True)))
        return self._find(arrays).run(arrays, self._open())

    def profile(self, inputs: Mapping[str, Any], runs: int = 20, warmup: int = 3) -> Profile:
        """Run ``runs`` times with a time stamp after each kernel. Raises as :meth:`run`."""
        arrays = self._arrays(inputs)
        loaded, pool = self._find(arrays), self._open()
        kernels = loaded.variant.kernels
        stamps = (ctypes.c_int64 * (len(kernels) + 1))()
        rows = []
        for number in range(warmup + max(runs, 1)):
            loaded.run(arrays, pool, stamps)
            if number >= warmup:
                rows.append(list(stamps))
        return summarize(kernels, rows, self.threads)

    def variant_for(self, inputs: Mapping[str, Any]) -> Variant:
        """The variant that :meth:`run` would use. Raises as :meth:`run`."""
        return self._find(self._arrays(inputs)).variant

    def close(self) -> None:
        """Release code, memory and threads, as soon as no run is under way. Later runs raise InputError."""
        self._pool = None  # first: a run that finds no variant must also find that the model is closed
        self._bound, self._loaded = {}, []

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

    def _arrays(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """The inputs in order, each a contiguous array of the right dtype."""
        arrays = []
        if len(inputs) != len(self._names):
            self._wrong_names(inputs)
        for name, dtype in zip(self._names, self._dtypes, strict=True):
            if name not in inputs:
                self._wrong_names(inputs)
            value = inputs[name]
            if type(value) is not np.ndarray:
                value = _as_array(name, value)
            if value.dtype != dtype:
                raise InputError(f"input '{name}' has dtype {value.dtype}, expected {dtype}")
            flags = value.flags
            if not (flags.c_contiguous and flags.aligned):
                value = np.array(value, order="C", copy=True)
            arrays.append(value)
        return arrays

    def _wrong_names(self, inputs: Mapping[str, Any]) -> None:
        missing = [name for name in self._names if name not in inputs]
        unknown = [name for name in inputs if name not in self._names]
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"unknown: {', '.join(map(str, unknown))}"] if unknown else []
        raise InputError(
            f"wrong inputs ({'; '.join(parts)})",
            hint=f"the model's inputs are {', '.join(self._names) or 'none'}",
        )

    def _find(self, arrays: Sequence[np.ndarray]) -> BoundVariant:
        shapes = tuple([array.shape for array in arrays])
        bound = self._bound.get(shapes)
        if bound is not None:
            return bound
        self._open()
        for loaded in self._loaded:
            bound = loaded.bind(shapes)
            if bound is not None:
                if len(self._bound) >= _KEPT_BINDINGS:
                    self._bound = {}
                self._bound[shapes] = bound
                return bound
        binding = bind_shapes(self.signature, shapes)
        compiled = "; ".join(_shapes(self._names, v.variant.input_shapes) for v in self._loaded) or "none"
        raise MissingVariantError(
            f"the model was not compiled for {_shapes(self._names, shapes)}",
            binding,
            hint=f"compiled for: {compiled}",
        )


def bind_shapes(signature: Signature, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The value of each symbolic dimension for inputs of these shapes.

    Raises:
        InputError: a shape does not fit its input, or two inputs disagree on a dimension.
        ShapeError: a size is out of its dimension's range.
    """
    binding: dict[str, int] = {}
    bound_by: dict[str, str] = {}
    for spec, shape in zip(signature.inputs, shapes, strict=True):
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


def _as_array(name: str, value: Any) -> np.ndarray:
    """A NumPy view of what is not a plain ndarray."""
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


def _shapes(names: Sequence[str], shapes: Sequence[Sequence[int | str]]) -> str:
    return ", ".join(f"{name}={_shape(shape)}" for name, shape in zip(names, shapes, strict=True))
