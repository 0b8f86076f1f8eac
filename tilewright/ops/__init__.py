"""Operator definitions by family. Importing this package registers them all with ``graph.opdef``."""

from tilewright.ops import (
    activation,
    alternatives,
    contract,
    conv_transpose,
    elementwise,
    index,
    norm,
    pool,
    reduce,
    resize,
    sample,
    scatter,
    shape,
    signal,
    slicing,
    winograd,
)

__all__ = [
    "activation",
    "alternatives",
    "contract",
    "conv_transpose",
    "elementwise",
    "index",
    "norm",
    "pool",
    "reduce",
    "resize",
    "sample",
    "scatter",
    "shape",
    "signal",
    "slicing",
    "winograd",
]
