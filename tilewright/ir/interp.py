"""The interpreter: executes any PrimFunc with NumPy, before or after scheduling and lowering. It is the
oracle of the tests.

The function is translated into Python source. Inner loops that provably touch each element once, or
accumulate into it, become operations on whole arrays; a sum is still taken one term after the other, so
results do not depend on what was vectorised.

Loops of every kind run in order. Memory that was not written is NaN (integers: a pattern), so that a result
computed from it shows. Every access that is not provably within its buffer is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.errors import InputError, VerifyError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Var, as_expr
from tilewright.ir.interp_codegen import Translator
from tilewright.ir.interp_ops import poisoned
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Buffer, PrimFunc
from tilewright.ir.visit import const_int, substitute_expr


def run(
    func: PrimFunc,
    inputs: Sequence[np.ndarray],
    dims: Mapping[Var, int] | None = None,
    *,
    check_undefined: bool = False,
) -> list[np.ndarray]:
    """Execute ``func``.

    Args:
        func: any PrimFunc, with blocks or without.
        inputs: one array for each input Buffer, of its shape and dtype.
        dims: values of the Var parameters; those left out are read off the shapes of ``inputs``.
        check_undefined: also run with other contents of unwritten memory, and raise if that changes an
            output.

    Returns:
        The outputs, in order.

    Raises:
        InputError: ``inputs`` do not fit the parameters.
        VerifyError: an access is out of bounds, an integer is divided by zero, or (with ``check_undefined``)
            an output depends on memory that was never written.
    """
    arrays = [np.asarray(a) for a in inputs]
    values = _bind(func, arrays, dims or {})
    translator = Translator(func, values)
    source = translator.translate()
    exec(compile(source, f"<{func.name}>", "exec"), translator.namespace)
    program = translator.namespace["program"]
    outputs = _execute(func, program, arrays, values, 0)
    if check_undefined:
        again = _execute(func, program, arrays, values, 1)
        for buffer, a, b in zip(func.outputs, outputs, again, strict=True):
            differs = (a != b) & ~((a != a) & (b != b))
            if np.any(differs):
                place = np.argwhere(differs)[0].tolist()
                raise VerifyError(
                    f"element {place} of output '{buffer.name}' depends on memory that was never written"
                )
    return outputs


def _bind(func: PrimFunc, arrays: Sequence[np.ndarray], dims: Mapping[Var, int]) -> dict[Var, int]:
    """Values of the dimension variables; checks the inputs' number, dtypes and shapes."""
    buffers = [p for p in func.inputs if isinstance(p, Buffer)]
    if len(arrays) != len(buffers):
        raise InputError(f"'{func.name}' takes {len(buffers)} arrays, not {len(arrays)}")
    values = {var: int(value) for var, value in dims.items()}
    for buffer, array in zip(buffers, arrays, strict=True):
        if array.dtype != dt.to_numpy(buffer.dtype) or array.ndim != len(buffer.shape):
            raise InputError(
                f"input '{buffer.name}' is {buffer.dtype} of rank {len(buffer.shape)}, "
                f"not {array.dtype} of rank {array.ndim}"
            )
        for dim, size in zip(buffer.shape, array.shape, strict=True):
            if isinstance(dim, Var):
                values.setdefault(dim, size)
    for buffer, array in zip(buffers, arrays, strict=True):
        shape = _shape(buffer, values)
        if array.shape != shape:
            raise InputError(f"input '{buffer.name}' has shape {shape}, not {array.shape}")
    return values


def _shape(buffer: Buffer, values: Mapping[Var, int]) -> tuple[int, ...]:
    mapping: dict[Expr, Expr] = {var: as_expr(value) for var, value in values.items()}
    shape = [const_int(simplify(substitute_expr(dim, mapping))) for dim in buffer.shape]
    if any(size is None for size in shape):
        raise InputError(f"the shape of '{buffer.name}' has dimensions without a value: {list(buffer.shape)}")
    return tuple(size for size in shape if size is not None)


def _execute(
    func: PrimFunc,
    program: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    values: Mapping[Var, int],
    poison: int,
) -> list[np.ndarray]:
    outputs = [poisoned(_shape(buffer, values), buffer.dtype, poison) for buffer in func.outputs]
    protected = [array.view() for array in arrays]
    for view in protected:
        view.flags.writeable = False
    try:
        with np.errstate(all="ignore"):
            program(poison, *protected, *outputs)
    except ZeroDivisionError as error:
        raise VerifyError(f"'{func.name}' divides an integer by zero") from error
    return outputs
