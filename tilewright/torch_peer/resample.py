"""Resizing in torch: its own interpolation where that computes what the model asks for.

Torch has fewer coordinate rules than ONNX. Whether one of its modes is the wanted one is seen by trying it on
each dimension: resampling is linear, so the identity matrix shows all its weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tilewright.graph.opdef import OpContext
from tilewright.ops.resize import Axis, nearest_index, resampled_axes, resampling_matrix
from tilewright.torch_peer.movement import take_tables
from tilewright.torch_peer.registry import Call, dims, makes, refuse

#: Weights may differ by the rounding of torch's float32 coordinates.
_TOLERANCE = 1e-4
#: By mode: what to try on an image, and torch's name for it by number of spatial dimensions.
_NATIVE: dict[str, tuple[tuple[str, dict[int, str]], ...]] = {
    "nearest": (
        ("nearest", dict.fromkeys((1, 2, 3), "nearest")),
        ("nearest-exact", dict.fromkeys((1, 2, 3), "nearest-exact")),
    ),
    "linear": (("bilinear", {1: "linear", 2: "bilinear", 3: "trilinear"}),),
    "cubic": (("bicubic", {2: "bicubic"}),),
}


@makes("resize")
def _resize(ctx: OpContext) -> Call:
    axes, mode, shape = resampled_axes(ctx), ctx.attr("mode", "nearest"), dims(ctx)
    if any(axis.crop for axis in axes):
        refuse("cropping")
    rank = len(shape) - 2
    size = list(shape[2:])
    if all(axis.dim >= 2 for axis in axes) and 1 <= rank <= 3:
        for axis in axes:
            size[axis.dim - 2] = axis.out
        wanted = [_matrix(ctx, axis, mode) for axis in axes]
        for image_mode, names in _NATIVE[mode]:
            for corners in (None,) if mode == "nearest" else (False, True):
                options: dict[str, Any] = {} if corners is None else {"align_corners": corners}
                if rank in names and all(
                    _same(axis, matrix, image_mode, options)
                    for axis, matrix in zip(axes, wanted, strict=True)
                ):
                    options |= {"size": tuple(size), "mode": names[rank]}
                    return lambda x, *_: F.interpolate(x, **options)
    if mode == "nearest":
        tables = [(axis.dim, torch.from_numpy(_table(ctx, axis))) for axis in axes]
        return lambda x, *_: take_tables(x, tables)
    matrices = [(axis.dim, torch.from_numpy(_matrix(ctx, axis, mode))) for axis in axes]
    return lambda x, *_: _by_products(x, matrices)


def _table(ctx: OpContext, axis: Axis) -> np.ndarray:
    """The source of each position of a nearest resize."""
    found = nearest_index(axis, ctx.attr("nearest", "round_prefer_floor"), np.arange(axis.out))
    return np.clip(found, 0, axis.size - 1).astype(np.int64)


def _matrix(ctx: OpContext, axis: Axis, mode: str) -> np.ndarray:
    """The weights [out, size] of one dimension."""
    if mode == "nearest":
        return np.eye(axis.size, dtype=np.float32)[_table(ctx, axis)]
    return resampling_matrix(ctx, axis).astype(np.float32)


def _same(axis: Axis, matrix: np.ndarray, mode: str, options: dict[str, Any]) -> bool:
    """Whether torch's ``mode`` has these weights."""
    identity = torch.eye(axis.size)[None, None]
    found = F.interpolate(identity, size=(axis.out, axis.size), mode=mode, **options)[0, 0]
    return bool(np.abs(found.numpy() - matrix).max(initial=0) <= _TOLERANCE)


def _by_products(x: torch.Tensor, matrices: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
    for dim, matrix in matrices:
        x = torch.movedim(torch.tensordot(x, matrix.to(x.dtype), ([dim], [1])), -1, dim)
    return x
