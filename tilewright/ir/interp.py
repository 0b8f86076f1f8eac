"""The interpreter: executes any PrimFunc with NumPy, before or after scheduling and lowering. It is the
oracle of the tests.

The function is translated into Python source. Inner loops that provably touch each element once, or
accumulate into it, become operations on whole arrays; a sum is still taken one term after the other, so
results do not depend on what was vectorised.

Loops over thread axes run as threads (``interp_threads``), loops of every other kind in order. Memory that
was not written is NaN (integers: a pattern), so that a result computed from it shows. Every access that is
not provably within its buffer is checked.
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
from tilewright.ir.interp_shadow import DEFINED, Memory
from tilewright.ir.interp_threads import Launch, Machine
from tilewright.ir.launch import has_thread_axes, root_parts
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Buffer, PrimFunc, Stmt
from tilewright.ir.visit import (
    all_exprs,
    const_int,
    loads_of,
    replace_buffers,
    stores_of,
    substitute,
    substitute_expr,
    walk_stmt,
)


def run(
    func: PrimFunc,
    inputs: Sequence[np.ndarray],
    dims: Mapping[Var, int] | None = None,
    *,
    check_undefined: bool = False,
    seed: int = 0,
) -> list[np.ndarray]:
    """Execute ``func``.

    Args:
        func: any PrimFunc, with blocks or without.
        inputs: one array for each input Buffer, of its shape and dtype.
        dims: values of the Var parameters; those left out are read off the shapes of ``inputs``.
        check_undefined: also run with other contents of unwritten memory, and raise if that changes an
            output.
        seed: of the order in which thread blocks run, where there are loops over thread axes.

    Returns:
        The outputs, in order.

    Raises:
        InputError: ``inputs`` do not fit the parameters.
        VerifyError: an access is out of bounds, an integer is divided by zero, or (with ``check_undefined``)
            an output depends on memory that was never written. In programs with loops over thread axes also:
            two threads touch an element, one of them writes, and no barrier orders them; not all threads of a
            block come to a barrier; what an asynchronous copy writes is used before it was waited for; or
            undefined memory reaches an output, an address or a condition.
    """
    arrays = [np.asarray(a) for a in inputs]
    values = _bind(func, arrays, dims or {})
    if has_thread_axes(func.body):
        return _run_threads(func, arrays, values, check_undefined, seed)
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


def _run_threads(
    func: PrimFunc, arrays: Sequence[np.ndarray], values: Mapping[Var, int], check_undefined: bool, seed: int
) -> list[np.ndarray]:
    """:func:`run` for a program with loops over thread axes: launches and parts without such loops in
    order.
    """
    sizes: dict[Expr, Expr] = {var: as_expr(value) for var, value in values.items()}
    inside = [s.buffer for s in walk_stmt(func.body) if isinstance(s, Alloc)]
    sized = {b: b.with_(shape=tuple(substitute_expr(dim, sizes) for dim in b.shape)) for b in inside}
    func = func.with_(body=substitute(replace_buffers(func.body, sized), sizes))
    memories: dict[Buffer, Memory] = {}
    for buffer, array in zip((p for p in func.inputs if isinstance(p, Buffer)), arrays, strict=True):
        memories[buffer] = Memory(_shape(buffer, values), buffer.dtype, data=np.ascontiguousarray(array))
        memories[buffer].data.flags.writeable = False
    parts = list(root_parts(func.body))
    for buffer in [*func.outputs, *_between(parts)]:
        if buffer not in memories:
            memories[buffer] = Memory(_shape(buffer, values), buffer.dtype)
    machine = Machine(func, memories, func.outputs)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        try:
            for part in parts:
                if has_thread_axes(part):
                    machine.run(Launch(part), rng)
                else:
                    _run_part(func, part, memories)
        except ZeroDivisionError as error:
            raise VerifyError(f"'{func.name}' divides an integer by zero") from error
    for buffer in func.outputs if check_undefined else ():
        if memories[buffer].state.any():
            raise VerifyError(f"elements of output '{buffer.name}' were never written")
    return [memories[buffer].data.reshape(_shape(buffer, values)) for buffer in func.outputs]


def _between(parts: Sequence[Stmt]) -> list[Buffer]:
    """Temporaries that outlive a part: used in several of them, or in one without loops over thread axes."""
    owners: dict[Buffer, int] = {}
    shared: dict[Buffer, None] = {}
    for number, part in enumerate(parts):
        used = {s.buffer for s in stores_of(part)}
        used |= {node.buffer for e in all_exprs(part) for node in loads_of(e)}
        inside = {s.buffer for s in walk_stmt(part) if isinstance(s, Alloc)}
        for buffer in used - inside:
            local = buffer.scope in ("shared", "register") and has_thread_axes(part)
            if owners.setdefault(buffer, number) != number or not local:
                shared[buffer] = None
    return list(shared)


def _run_part(func: PrimFunc, part: Stmt, memories: Mapping[Buffer, Memory]) -> None:
    """A part without loops over thread axes; all that it may write counts as defined afterwards."""
    part_func = func.with_(params=tuple(memories), body=part)
    translator = Translator(part_func, {})
    source = translator.translate()
    exec(compile(source, f"<{func.name}>", "exec"), translator.namespace)
    translator.namespace["program"](0, *(m.data.reshape(m.shape) for m in memories.values()))
    for store in stores_of(part):
        memories[store.buffer].state[:] = DEFINED


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
