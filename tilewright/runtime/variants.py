"""Variants whose code is in memory, bound to the sizes of a run."""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from tilewright.errors import InputError, ShapeError
from tilewright.runtime.control import Loop, Stop
from tilewright.runtime.loader import Library
from tilewright.runtime.memory import OutputMemory, address_of, allocate, data_address
from tilewright.runtime.plan import BROKEN, STATUS_BITS, STOPPED, TOO_LARGE, Range, Signature, Variant
from tilewright.runtime.pool import ThreadPool
from tilewright.runtime.special import flat_specs

_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 7)
_SHAPES = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2)
_KEPT_CONTEXTS = 8

Shapes = tuple[tuple[int, ...], ...]


class _Context:
    """What one run needs for itself: an arena, the argument arrays, the table of dimensions. Reused, never
    shared by two runs at a time.
    """

    def __init__(self, variant: Variant) -> None:
        self._memory = allocate(variant.arena_bytes, reserve=bool(variant.dims))
        self.arena = address_of(self._memory)
        self.inputs = (ctypes.c_void_p * max(len(variant.input_shapes), 1))()
        self.outputs = (ctypes.c_void_p * max(len(variant.output_shapes), 1))()
        self.dims = (ctypes.c_int64 * max(len(variant.dims), 1))()


class LoadedVariant:
    """A variant whose code is in memory. Holds all that a run uses, so it outlives the model's ``close``
    while a run is under way.
    """

    def __init__(self, variant: Variant, library: Library, weights: Any, signature: Signature) -> None:
        self.variant = variant
        outputs = flat_specs(signature.outputs, variant.output_counts)
        self.dtypes = [np.dtype(spec.dtype) for spec in outputs]
        self.values = _values(variant, signature)
        #: The number of the run that used it last, counted where variants are for values of inputs.
        self.used = 0
        self.dims = sorted(variant.dims)
        self.computed = [self.dims.index(name) for name in variant.computed_dims]
        self._library = library
        self._weights = weights
        self.weights_address = address_of(weights) if weights.nbytes else 0
        self.entry = _ENTRY(library.addresses[variant.entry])
        self._shapes = _SHAPES(library.addresses[variant.shapes]) if variant.shapes else None
        self._contexts: deque[_Context] = deque()

    @property
    def is_fixed(self) -> bool:
        """Whether it takes inputs of one shape only."""
        return not self.variant.dims

    def takes(self, counts: tuple[int, ...], arrays: Sequence[np.ndarray]) -> bool:
        """Whether it is for lists of these numbers of tensors and for the values that inputs have."""
        return self.variant.input_counts == counts and all(
            arrays[n].tobytes() == elements for n, elements in self.values.items()
        )

    def bind(self, shapes: Shapes) -> BoundVariant | None:
        """The variant for inputs of these shapes; None when it does not take them.

        Raises ShapeError when the shapes are within all ranges, but operators need sizes that are equal and
        these are not.
        """
        sizes = match_shapes(self.variant, shapes)
        if sizes is None:
            return None
        table = [sizes.get(name, self.variant.dims[name].hi or 0) for name in self.dims]
        dims = (ctypes.c_int64 * max(len(table), 1))(*table)
        return BoundVariant(self, dims, self.output_shapes(dims))

    def output_shapes(self, dims: Any) -> list[tuple[int, ...]]:
        """The output shapes for a table of dimensions. Raises ShapeError when one of the conditions on sizes
        that inputs have does not hold.
        """
        declared = self.variant.output_shapes
        flat = (ctypes.c_int64 * max(sum(map(len, declared)), 1))()
        if self._shapes is None:
            return [tuple(d for d in shape if isinstance(d, int)) for shape in declared]
        failed = self._shapes(dims, flat)
        if failed:
            given = [
                size for n, size in enumerate(zip(self.dims, dims, strict=False)) if n not in self.computed
            ]
            self._broken(
                failed - 1,
                given,
                "give inputs whose sizes fit each other, or export the model again: exporters write the "
                "sizes of their example into some",
            )
        values = iter(flat)
        return [tuple(next(values) for _ in shape) for shape in declared]

    def _broken(self, check: int, sizes: Iterable[tuple[str, int]], hint: str | None = None) -> NoReturn:
        """Raise ShapeError for a condition that the sizes do not satisfy."""
        shown = ", ".join(f"{name}={size}" for name, size in sizes)
        raise ShapeError(
            f"the model cannot run with {shown}: it needs {self.variant.checks[check]}", hint=hint
        )

    def take(self) -> _Context:
        """A context that no other run uses."""
        try:
            return self._contexts.pop()
        except IndexError:
            return _Context(self.variant)

    def give_back(self, context: _Context) -> None:
        """Keep a context for later runs."""
        if len(self._contexts) < _KEPT_CONTEXTS:
            self._contexts.append(context)

    def fail(self, status: int, dims: Any) -> None:
        """Raise InputError for a kernel that has stopped, ShapeError for one that has computed a size with
        which the model cannot run."""
        kernel = self.variant.kernels[(status >> STATUS_BITS) - 1]
        where = ", ".join(kernel.origins) or None
        status &= (1 << STATUS_BITS) - 1
        if kernel.defines and status == TOO_LARGE:
            name = self.dims[kernel.defines[0][0]]
            raise ShapeError(
                f"the model computes a size of {dims[kernel.defines[0][0]]} where memory is planned for "
                f"{self.variant.dims[name]}",
                location=where,
                hint="compile it with a larger limit of computed sizes (--max-computed)",
            )
        control, checks = kernel.control, set(kernel.checks)
        if isinstance(control, Stop) and status == STOPPED:
            raise ShapeError(control.message, location=control.where)
        if isinstance(control, Loop) and status == TOO_LARGE:
            raise ShapeError(
                f"a loop needs more than the {control.most} iterations for whose results memory is planned",
                location=where,
                hint="compile it with a larger limit of computed sizes (--max-computed)",
            )
        if control is not None:
            checks.update(n for region in control.regions for n in self.variant.regions[region].checks)
        if status - BROKEN in checks:
            self._broken(status - BROKEN, zip(self.dims, dims, strict=False))
        raise InputError(f"kernel '{kernel.name}' stopped with status {status}", location=where)


class BoundVariant:
    """A variant for inputs of certain shapes.

    Args:
        loaded: the variant.
        dims: the sizes of its dimensions in the order of their names; for those that kernels compute, the
            largest.
        shapes: those of the outputs; not used of those whose sizes kernels compute.
    """

    def __init__(self, loaded: LoadedVariant, dims: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        self.loaded = loaded
        self.variant = loaded.variant
        self._dims = dims
        capacities = loaded.variant.capacities or [-1] * len(shapes)
        self._outputs = [
            OutputMemory(shape, dtype) if most < 0 else OutputMemory((most,), dtype, reserve=True)
            for shape, dtype, most in zip(shapes, loaded.dtypes, capacities, strict=True)
        ]

    def run(self, arrays: Sequence[np.ndarray], pool: ThreadPool, stamps: Any = None) -> list[np.ndarray]:
        """Run on checked inputs; ``stamps`` is an int64 ctypes array for the times, or None."""
        loaded = self.loaded
        context = loaded.take()
        for i, array in enumerate(arrays):
            context.inputs[i] = data_address(array)
        results = []
        for i, output in enumerate(self._outputs):
            result, context.outputs[i] = output.new()
            results.append(result)
        dims = self._dims
        if loaded.computed:
            dims = context.dims
            ctypes.memmove(dims, self._dims, ctypes.sizeof(dims))
        status = loaded.entry(
            pool.address,
            context.inputs,
            context.outputs,
            loaded.weights_address,
            context.arena,
            stamps,
            dims,
        )
        sizes = tuple(dims) if loaded.computed else ()
        loaded.give_back(context)
        if status:
            loaded.fail(status, sizes)
        return self._cut(results, sizes) if loaded.computed else results

    def _cut(self, results: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
        """The outputs with the shapes that they have for these sizes of dimensions, without a copy."""
        shapes = self.loaded.output_shapes((ctypes.c_int64 * len(sizes))(*sizes))
        return [
            result if most < 0 else result[: math.prod(shape)].reshape(shape)
            for result, shape, most in zip(results, shapes, self.variant.capacities, strict=True)
        ]


def _values(variant: Variant, signature: Signature) -> dict[int, bytes]:
    """The elements of the inputs that a variant is for, by the positions of their tensors."""
    specs = flat_specs(signature.inputs, variant.input_counts)
    return {
        n: np.array(variant.values[spec.name], np.dtype(spec.dtype)).tobytes()
        for n, spec in enumerate(specs)
        if spec.name in variant.values
    }


def match_shapes(variant: Variant, shapes: Shapes) -> dict[str, int] | None:
    """The size of each dimension that inputs of these shapes have; None when the variant does not take
    them.
    """
    sizes: dict[str, int] = {}
    for declared, shape in zip(variant.input_shapes, shapes, strict=True):
        if len(declared) != len(shape):
            return None
        for dim, size in zip(declared, shape, strict=True):
            if isinstance(dim, int):
                if dim != size:
                    return None
            elif sizes.setdefault(dim, size) != size or size not in variant.dims.get(dim, Range()):
                return None
    return sizes
