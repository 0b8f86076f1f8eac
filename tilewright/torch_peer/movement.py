"""Data movement in torch. Views stay views, as in a model written for torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tilewright.graph.opdef import OpContext, get_op
from tilewright.ir import dtype as dt
from tilewright.ops.slicing import slices
from tilewright.torch_peer.registry import (
    Call,
    axis_of,
    dims,
    makes,
    numbers,
    refuse,
    steering,
    torch_dtype,
)


def _result(ctx: OpContext, name: str) -> tuple[int, ...]:
    """The shape of the result."""
    return numbers(get_op(name).infer(ctx)[0].shape)


@makes("reshape")
def _reshape(ctx: OpContext) -> Call:
    shape = _result(ctx, "reshape")
    return lambda x, *_: x.reshape(shape)


@makes("transpose")
def _transpose(ctx: OpContext) -> Call:
    perm = tuple(ctx.attr("perm", None) or reversed(range(ctx.input(0).rank)))
    return lambda x: x.permute(perm)


@makes("expand")
def _expand(ctx: OpContext) -> Call:
    shape = _result(ctx, "expand")
    return lambda x, *_: x.expand(shape)


@makes("concat")
def _concat(ctx: OpContext) -> Call:
    axis = axis_of(ctx)
    return lambda *parts: torch.cat(parts, axis)


@makes("tile")
def _tile(ctx: OpContext) -> Call:
    repeats = numbers(steering(ctx, "repeats") or ())
    return lambda x, *_: x.repeat(repeats)


@makes("shape")
def _shape(ctx: OpContext) -> Call:
    shape = torch.tensor(dims(ctx)[slice(ctx.attr("start", 0), ctx.attr("end", None))], dtype=torch.int64)
    return lambda x: shape


@makes("slice")
def _slice(ctx: OpContext) -> Call:
    """Torch has no negative steps: the same elements are taken forwards, then flipped."""
    parts = slices(ctx)
    if parts is None:
        refuse("a slice whose bounds depend on data")
    index, flipped = [], []
    for axis, part in enumerate(parts):
        start, extent = numbers((part.start, part.extent))
        step = abs(part.step)
        first = start if part.step > 0 else start - max(extent - 1, 0) * step
        index.append(slice(first, first + max(extent - 1, 0) * step + (extent > 0), step))
        if part.step < 0:
            flipped.append(axis)
    where = tuple(index)
    if flipped:
        return lambda x, *_: x[where].flip(flipped)
    return lambda x, *_: x[where]


@makes("split")
def _split(ctx: OpContext) -> Call:
    axis, sizes = axis_of(ctx), list(numbers(steering(ctx, "sizes") or ()))
    return lambda x, *_: torch.split(x, sizes, axis)


@makes("trilu")
def _trilu(ctx: OpContext) -> Call:
    cut, k = torch.triu if ctx.attr("upper", True) else torch.tril, int(ctx.attr("k", 0))
    return lambda x: cut(x, k)


# ------------------------------------------------------------------------------------------------------- pad
@makes("pad")
def _pad(ctx: OpContext) -> Call:
    rank = ctx.input(0).rank
    pads, axes = steering(ctx, "pads"), steering(ctx, "axes")
    around = [(0, 0)] * rank
    positions = range(rank) if axes is None else [a % rank for a in numbers(axes)]
    amounts = numbers(pads or ())
    for n, axis in enumerate(positions):
        around[axis] = (amounts[n], amounts[len(amounts) // 2 + n])
    mode = ctx.attr("mode", "constant")
    if mode == "constant":
        return _pad_constant(ctx, around)
    first = next((n for n, pair in enumerate(around) if pair != (0, 0)), rank)
    native = {"reflect": "reflect", "edge": "replicate"}.get(mode)
    grows = dt.is_float(ctx.input(0).dtype) and all(amount >= 0 for pair in around for amount in pair)
    if native and grows and first in (1, 2) and 1 <= rank - first <= 3:
        border = _reversed(around[first:])
        return lambda x, *_: F.pad(x, border, mode=native)
    return _pad_by_index(dims(ctx), around, mode)


def _reversed(pads: Sequence[tuple[int, int]]) -> list[int]:
    return [n for pair in reversed(pads) for n in pair]


def _pad_constant(ctx: OpContext, around: Sequence[tuple[int, int]]) -> Call:
    border = _reversed(around)
    if not ctx.has_input(2):
        return lambda x, *_: F.pad(x, border)
    known = ctx.consts[2]
    if known is None:
        return lambda x, pads, value, *_: F.pad(x, border, value=value.reshape(()).item())
    fill = known.reshape(()).item()
    return lambda x, *_: F.pad(x, border, value=fill)


def _pad_by_index(shape: Sequence[int], around: Sequence[tuple[int, int]], mode: str) -> Call:
    """Positions of the source, dimension by dimension; negative pads cut what the others have made."""
    tables: list[tuple[int, torch.Tensor]] = []
    for axis, (size, (before, after)) in enumerate(zip(shape, around, strict=True)):
        if (before, after) == (0, 0):
            continue
        source = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
        source = source[max(-before, 0) : len(source) - max(-after, 0)]
        tables.append((axis, torch.from_numpy(source.copy())))
    return lambda x, *_: take_tables(x, tables)


def take_tables(x: torch.Tensor, tables: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """``x`` at the listed positions of each listed dimension."""
    for axis, table in tables:
        x = torch.index_select(x, axis, table)
    return x


# ---------------------------------------------------------------------------------------------------- gather
def _positions(indices: Any, size: int) -> Any:
    """Indices of a model as positions: negative ones count from the end."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@makes("gather")
def _gather(ctx: OpContext) -> Call:
    axis, shape, known = axis_of(ctx, 0), _result(ctx, "gather"), ctx.consts[1]
    size = dims(ctx)[axis]
    if known is not None and known.size == 1:
        at = int(known.reshape(())) % max(size, 1)
        return lambda x, _: x.narrow(axis, at, 1).reshape(shape)
    if known is not None:
        table = _positions(torch.from_numpy(known.astype(np.int64)), size).reshape(-1)
        return lambda x, _: torch.index_select(x, axis, table).reshape(shape)

    def call(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return torch.index_select(x, axis, _positions(indices, size).reshape(-1)).reshape(shape)

    return call


@makes("gather_elements")
def _gather_elements(ctx: OpContext) -> Call:
    axis = axis_of(ctx, 0)
    size = dims(ctx)[axis]
    return lambda x, indices: torch.gather(x, axis, _positions(indices, size))


@makes("gather_nd")
def _gather_nd(ctx: OpContext) -> Call:
    batch, shape, kind = int(ctx.attr("batch_dims", 0)), dims(ctx), dims(ctx, 1)
    depth, outer = kind[-1], kind[:-1]
    rows = [
        torch.arange(outer[n]).reshape([-1 if d == n else 1 for d in range(len(outer))]) for n in range(batch)
    ]

    def call(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        found = [_positions(indices[..., d], shape[batch + d]) for d in range(depth)]
        return x[(*rows, *found)] if rows or found else x.expand(*outer, *x.shape)

    return call


@makes("range")
def _range(ctx: OpContext) -> Call:
    (length,), dtype = _result(ctx, "range"), torch_dtype(ctx.attr("dtype"))
    start, delta = ((steering(ctx, name) or (0,))[0] for name in ("start", "delta"))
    first, step = (v if isinstance(v, float) else numbers((v,))[0] for v in (start, delta))
    values = (torch.arange(length) * step + first).to(dtype)
    return lambda *_: values


@makes("one_hot")
def _one_hot(ctx: OpContext) -> Call:
    shape = _result(ctx, "one_hot")
    axis = int(ctx.attr("axis", -1)) % len(shape)
    ruler = torch.arange(shape[axis]).reshape([-1 if d == axis else 1 for d in range(len(shape))])

    def call(indices: torch.Tensor, values: torch.Tensor, *_: torch.Tensor | None) -> torch.Tensor:
        where = _positions(indices, shape[axis]).unsqueeze(axis)
        return torch.where(where == ruler, values[1], values[0])

    return call
