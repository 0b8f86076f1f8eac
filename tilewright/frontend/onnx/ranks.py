"""Ranks of operands and ranges of attributes that ONNX's definitions state in prose only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

#: Operator -> the rank of each input, None where several are allowed.
RANKS: Final[Mapping[str, Sequence[int | None]]] = {
    "Compress": (None, 1),
    "Conv": (None, None, 1),
    "ConvInteger": (None, None),
    "ConvTranspose": (None, None, 1),
    "DeformConv": (4, 4, 4, 1, 4),
    "DepthToSpace": (4,),
    "EyeLike": (2,),
    "GRU": (3, 3, 3, 2, 1, 3),
    "Gemm": (2, 2),
    "InstanceNormalization": (None, 1, 1),
    "LSTM": (3, 3, 3, 2, 1, 3, 3, 2),
    "MaxRoiPool": (4, 2),
    "Multinomial": (2,),
    "NonMaxSuppression": (3, 3),
    "QLinearConv": (None, 0, 0, None, None, None, 0, 0, 1),
    "RNN": (3, 3, 3, 2, 1, 3),
    "ReverseSequence": (None, 1),
    "RoiAlign": (4, 2, 1),
    "SpaceToDepth": (4,),
    "TensorScatter": (None, None, 1),
}
#: Attributes that say yes or no, as 1 or 0.
FLAGS: Final = frozenset((
    "align_corners", "antialias", "ceil_mode", "count_include_pad", "exclude_outside", "exclusive", "fmod",
    "input_forget", "inverse", "is_causal", "keepdims", "largest", "layout", "linear_before_reset",
    "noop_with_empty_axes", "onesided", "reverse", "select_last_index", "sorted", "storage_order", "transA",
    "transB", "upper",
))  # fmt: skip
#: Attributes whose numbers are all at least 1.
POSITIVE: Final = frozenset((
    "blocksize", "dilations", "group", "hidden_size", "kernel_shape", "num_groups", "num_outputs", "strides",
))  # fmt: skip


def problem_of_attribute(name: str, value: Any) -> str | None:
    """What is wrong with a number or a list of numbers given as attribute ``name``, or None."""
    if name in FLAGS and isinstance(value, int) and value not in (0, 1):
        return f"must be 0 or 1, not {value}"
    numbers = value if isinstance(value, tuple) else (value,)
    if name in POSITIVE and any(isinstance(n, int) and n < 1 for n in numbers):
        return f"must be positive, not {value}"
    return None
