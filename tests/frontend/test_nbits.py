"""com.microsoft.MatMulNBits against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontend.models import agree, run
from tests.frontend.test_microsoft import floats, node
from tilewright.errors import GraphError, UnsupportedError

rng = np.random.default_rng(3)


def arrays_of(depth: int, columns: int, bits: int, block: int, zeros: str = "") -> dict[str, Any]:
    blocks = -(-depth // block)
    packed = rng.integers(0, 256, columns * -(-blocks * bits // 8)).astype(np.uint8)
    return {
        "a": floats(3, depth),
        "b": rng.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8),
        "s": np.abs(floats(columns * blocks)) + 0.1,
        "z": {"packed": packed, "float": floats(columns, blocks) + 5, "": None}[zeros],
    }


@pytest.mark.parametrize(
    ("bits", "zeros"), [(2, ""), (2, "packed"), (4, ""), (4, "packed"), (4, "float"), (8, "packed")]
)
@pytest.mark.parametrize(("depth", "block"), [(64, 32), (40, 16)])
def test_weights_of_few_bits(bits: int, zeros: str, depth: int, block: int) -> None:
    arrays = arrays_of(depth, 37, bits, block, zeros)
    fixed = ("b", "s", "z") if zeros else ("b", "s")
    agree(*node("MatMulNBits", arrays, fixed=fixed, K=depth, N=37, bits=bits, block_size=block))


def test_stacks_of_rows_and_a_bias() -> None:
    arrays = arrays_of(48, 20, 4, 16)
    arrays |= {"a": floats(2, 3, 48), "g": None, "bias": floats(20)}
    fixed = ("b", "s", "bias")
    agree(*node("MatMulNBits", arrays, fixed=fixed, K=48, N=20, bits=4, block_size=16, accuracy_level=1))


def test_what_is_refused() -> None:
    arrays = arrays_of(32, 5, 4, 16)
    sizes = {"K": 32, "N": 5, "bits": 4, "block_size": 16}
    with pytest.raises(GraphError, match="6 columns of 2 blocks of 16 weights do not fit"):
        run(*node("MatMulNBits", arrays, fixed=("b", "s"), **(sizes | {"N": 6})))
    with pytest.raises(GraphError, match="power of two"):
        run(*node("MatMulNBits", arrays, fixed=("b", "s"), **(sizes | {"block_size": 24})))
    with pytest.raises(UnsupportedError, match="weights of 5 bits"):
        run(*node("MatMulNBits", arrays, fixed=("b", "s"), **(sizes | {"bits": 5})))
    with pytest.raises(UnsupportedError, match="the weights of MatMulNBits"):
        run(*node("MatMulNBits", arrays, fixed=("s",), **sizes))
