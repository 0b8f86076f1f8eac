"""The table that maps graph operators to torch: one maker an operator, which reads a node once and returns
the call that is made at every inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import ml_dtypes
import numpy as np
import torch

from tilewright.graph.opdef import OpContext
from tilewright.ir.expr import as_expr
from tilewright.ir.visit import const_int

#: From the node's inputs (None for an absent one) to its result, or to a sequence of them.
Call: TypeAlias = Callable[..., Any]
Maker: TypeAlias = Callable[[OpContext], Call]


class NoTorchForm(Exception):
    """A node asks for something that torch has no operator for. The text says what."""


MAKERS: Final[dict[str, Maker]] = {}

_DTYPES: Final = {
    "bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32,
    "int64": torch.int64, "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
    "float64": torch.float64,
}  # fmt: skip


def makes(*names: str) -> Callable[[Maker], Maker]:
    """Register the decorated maker for the operators ``names``."""

    def add(maker: Maker) -> Maker:
        MAKERS.update(dict.fromkeys(names, maker))
        return maker

    return add


def refuse(what: str) -> NoReturn:
    """Say that the node has no counterpart in torch. Raises NoTorchForm."""
    raise NoTorchForm(what)


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a dtype. Raises NoTorchForm when it has no arithmetic for it."""
    found = _DTYPES.get(name)
    return refuse(f"dtype {name}") if found is None else found


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A tensor that shares the memory of ``array`` where torch can take it as it is."""
    torch_dtype(array.dtype.name)
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The opposite of :func:`to_torch`."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def dims(ctx: OpContext, index: int = 0) -> tuple[int, ...]:
    """The shape of an input, which is known: graphs come here with all sizes fixed."""
    return numbers(ctx.input(index).shape)


def numbers(values: Sequence[Any]) -> tuple[int, ...]:
    """Sizes or positions as ints. Raises NoTorchForm when one is only known from the data."""
    found = [const_int(as_expr(v)) for v in values]
    return tuple(refuse("sizes that depend on data") if n is None else n for n in found)


def steering(ctx: OpContext, name: str) -> tuple[Any, ...] | None:
    """A parameter of the operator as numbers, None when it is absent. Raises NoTorchForm when it is
    computed from data.
    """
    value = ctx.arg(name)
    if value is None and ctx.has_arg(name):
        refuse(f"'{name}' that depends on data")
    return value


def axis_of(ctx: OpContext, default: int | None = None) -> int:
    """The attribute ``axis``, counted from the front."""
    axis = int(ctx.attr("axis") if default is None else ctx.attr("axis", default))
    return axis % max(ctx.input(0).rank, 1)
