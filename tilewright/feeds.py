"""What to feed a model: its inputs, their concrete shapes, and sample data.

Used wherever a model has to run without its user's data (``check``, ``bench``, ``profile``). Samples are
seeded and depend on the dtype alone, except that integers which select rows of a table stay inside it:

- floating point: standard normal;
- bool: fair coin;
- integers: uniform over ``0 .. bound - 1``. ``bound`` is the smallest size of what the values index in the
  graph (``Gather``, ``GatherElements``, ``OneHot``), followed through operators that only move or cast data,
  and 256 where nothing is indexed (127 is the last value for int8).

Inputs that steer (docs/steering.md) are not sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.errors import InputError, ModelFileError, ShapeError, UnsupportedError
from tilewright.frontend.onnx.raw import RawModel
from tilewright.ir import dtype as dtypes

#: Integers are drawn below this number where the graph does not bound them.
DEFAULT_INTEGER_BOUND = 256

# Operators whose output holds values of their first input, unchanged but for place and type.
_MOVES_DATA = frozenset(
    ("Cast", "Clip", "Expand", "Flatten", "Identity", "Max", "Min", "Pad", "Reshape", "Slice", "Split")
    + ("Squeeze", "Tile", "Transpose", "Unsqueeze")
)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: its name in the model.
        shape: an int for a fixed dimension, its symbol for an open one, ``"?"`` for one without a name.
        dtype: NumPy dtype (ml_dtypes for bfloat16 and float8).
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def describe(self) -> str:
        """``name: float32[1, 3, H, W]``."""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def model_inputs(model: RawModel) -> list[InputSpec]:
    """The inputs of an ONNX model that a caller has to give: those without an initializer.

    Raises:
        ModelFileError: an input has no declared rank.
        UnsupportedError: an input is a sequence or optional.
    """
    specs: list[InputSpec] = []
    for value in model.inputs:
        if value.kind != "tensor":
            raise UnsupportedError(
                f"input '{value.name}' is declared as {value.kind}; only tensors can be read from files or "
                "sampled",
                location=model.location,
                hint="run the model in Python: tilewright.compile",
            )
        if value.shape is None:
            raise ModelFileError(f"input '{value.name}' declares no rank", location=model.location)
        shape = tuple("?" if dim is None else dim for dim in value.shape)
        specs.append(InputSpec(value.name, shape, dtypes.to_numpy(value.dtype)))
    return specs


def require_steering(steering: Iterable[str], given: Container[str]) -> None:
    """Raise InputError unless the values of all inputs that steer (:attr:`tilewright.Model.steering`) are
    among those that the user has ``given``: random axes and shapes mean nothing.
    """
    for name in steering:
        if name not in given:
            raise InputError(
                f"the value of input '{name}' decides what is compiled, so that it cannot be sampled",
                hint=f"--input {name}=FILE.npy",
            )


def resolve_shapes(
    specs: Iterable[InputSpec], given: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """A concrete shape for every input.

    A shape in ``given`` is used as it is and binds the symbols of its input for the others. Of what is then
    still open, a first dimension (the batch) becomes 1.

    Raises:
        ShapeError: a name in ``given`` is no input, a given shape contradicts the model, or other dimensions
            are open (all of them are listed).
    """
    specs, given = list(specs), dict(given or {})
    known = {spec.name for spec in specs}
    if unknown := sorted(set(given) - known):
        raise ShapeError(
            f"no input is called {', '.join(map(repr, unknown))}",
            hint="inputs: " + "; ".join(spec.describe() for spec in specs),
        )
    symbols: dict[str, int] = {}
    for spec in specs:
        if spec.name in given:
            _bind(spec, tuple(int(size) for size in given[spec.name]), symbols)
    shapes: dict[str, tuple[int, ...]] = {}
    open_dims: list[str] = []
    for spec in specs:
        shape = tuple(given[spec.name]) if spec.name in given else spec.shape
        fixed = [symbols.get(dim, dim) if isinstance(dim, str) else int(dim) for dim in shape]
        if fixed and isinstance(fixed[0], str):
            fixed[0] = 1
        if left := [f"{dim} (dimension {axis})" for axis, dim in enumerate(fixed) if isinstance(dim, str)]:
            open_dims.append(f"{spec.describe()}: open: {', '.join(left)}")
        shapes[spec.name] = tuple(dim for dim in fixed if isinstance(dim, int))
    if open_dims:
        example = next(spec for spec in specs if any(line.startswith(f"{spec.name}:") for line in open_dims))
        dims = [
            1 if axis == 0 else "N" if isinstance(dim, str) else dim for axis, dim in enumerate(example.shape)
        ]
        sizes = ",".join(map(str, dims))
        raise ShapeError(
            "some dimensions are open:" + "".join(f"\n  - {line}" for line in open_dims),
            hint=f"give the shape, as in --shape {example.name}={sizes} (each N a number)",
        )
    return shapes


def _bind(spec: InputSpec, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    wrong = len(shape) != len(spec.shape) or any(size < 0 for size in shape)
    for dim, size in zip(spec.shape, shape, strict=False):
        if isinstance(dim, int):
            wrong |= dim != size
        elif dim != "?":
            wrong |= symbols.setdefault(dim, size) != size
    if wrong:
        raise ShapeError(f"shape {list(shape)} does not fit input {spec.describe()}")


def integer_bounds(model: RawModel) -> dict[str, int]:
    """For each integer input whose values index something, the smallest size of what they index."""
    constants = dict(model.initializers)
    sources = {value.name: value.name for value in model.inputs}
    bounds: dict[str, int] = {}

    def limit(value: str, bound: int) -> None:
        if value in sources and bound > 0:
            bounds[sources[value]] = min(bound, bounds.get(sources[value], bound))

    for node in model.nodes:  # not held against their definitions yet
        first, second = (*node.inputs, "", "")[:2]
        if node.op_type == "Constant" and isinstance(node.attrs.get("value"), np.ndarray):
            constants.update(dict.fromkeys(node.outputs, node.attrs["value"]))
        elif node.op_type in ("Gather", "GatherElements") and first in constants:
            axis, shape = node.attrs.get("axis", 0), constants[first].shape
            if isinstance(axis, int) and -len(shape) <= axis < len(shape):
                limit(second, shape[axis])
        elif node.op_type == "OneHot" and second in constants:
            depth = constants[second].reshape(-1)
            if depth.size and np.isfinite(depth[0]):
                limit(first, int(depth[0]))
        elif node.op_type in _MOVES_DATA and node.inputs and node.inputs[0] in sources:
            sources.update(dict.fromkeys(node.outputs, sources[node.inputs[0]]))
    return bounds


def sample_inputs(
    specs: Iterable[InputSpec],
    shapes: Mapping[str, Sequence[int]],
    seed: int = 0,
    bounds: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Seeded sample data: the same arrays for the same arguments, on every machine. See the module's text."""
    generator = np.random.default_rng(seed)
    return {
        spec.name: _sample(generator, spec.dtype, tuple(shapes[spec.name]), (bounds or {}).get(spec.name))
        for spec in specs
    }


def typed(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """``array``, with its type again if it comes from a file: NumPy writes arrays of ml_dtypes as bytes
    without a name (``|V1``).
    """
    nameless = array.dtype.kind == "V" and array.dtype.names is None
    return array.view(dtype) if nameless and array.dtype.itemsize == dtype.itemsize else array


def _sample(
    generator: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], bound: int | None
) -> np.ndarray:
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if np.issubdtype(dtype, np.integer):
        high = min(bound or DEFAULT_INTEGER_BOUND, int(np.iinfo(dtype).max) + 1)
        return generator.integers(0, high, shape, dtype=np.int64).astype(dtype)
    return generator.standard_normal(shape, dtype=np.float32).astype(dtype)


def complete_inputs(
    specs: Sequence[InputSpec],
    given: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    bounds: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """The ``given`` arrays, and samples for the inputs that are not given.

    Raises:
        InputError: a given name is no input, or its dtype is not the input's.
        ShapeError: as :func:`resolve_shapes`, with the shapes of the given arrays taken as given.
    """
    by_name = {spec.name: spec for spec in specs}
    given = {n: typed(a, by_name[n].dtype) if n in by_name else a for n, a in (given or {}).items()}
    for name, array in given.items():
        if name not in by_name:
            raise InputError(
                f"no input is called '{name}'", hint="inputs: " + "; ".join(spec.describe() for spec in specs)
            )
        if array.dtype != by_name[name].dtype:
            raise InputError(f"input '{name}' is {array.dtype}, the model wants {by_name[name].dtype}")
    resolved = resolve_shapes(
        specs, {**(shapes or {}), **{name: array.shape for name, array in given.items()}}
    )
    sampled = sample_inputs(specs, resolved, seed, bounds)
    return {spec.name: given.get(spec.name, sampled[spec.name]) for spec in specs}
