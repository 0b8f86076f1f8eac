"""Handlers of ONNX operators by family; importing this package registers them all."""

import tilewright.ops  # noqa: F401  (handlers emit these operators)
from tilewright.frontend.onnx.handlers import (
    attention,
    control,
    einsum,
    indexing,
    legacy,
    math,
    microsoft,
    movement,
    nn,
    normalise,
    random,
    recurrent,
    reduction,
    resampling,
    sampling,
    signal,
    sources,
    training,
)

__all__ = [
    "attention",
    "control",
    "einsum",
    "indexing",
    "legacy",
    "math",
    "microsoft",
    "movement",
    "nn",
    "normalise",
    "random",
    "recurrent",
    "reduction",
    "resampling",
    "sampling",
    "signal",
    "sources",
    "training",
]
