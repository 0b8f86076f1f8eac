from __future__ import annotations

import numpy as np
import pytest

from tests.ops.harness import check, floats, type_of
from tests.schedule.tensor_programs import assert_equal
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import OpContext, get_op
from tilewright.graph.storage import pack_blocks
from tilewright.ir import te
from tilewright.ir.collapse import collapse_dims
from tilewright.ir.expr import as_expr
from tilewright.ir.stmt import For
from tilewright.ir.visit import const_int, walk_stmt
from tilewright.schedule.default import default_schedule
from tilewright.target import Target

rng = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_with_packed_weights(bits: int, dtype: str) -> None:
    blocks, block, columns = 3, 16, 5
    codes = rng.integers(0, 1 << bits, (blocks, block, columns))
    packed = pack_blocks(codes, bits)
    assert packed.shape == (blocks, block * bits // 8, columns)
    scale, offset = floats(blocks, columns, low=0.1), floats(blocks, columns)
    a = floats(4, blocks * block).astype(dtype)
    tolerance = 1e-5 if dtype == "float32" else 2e-3
    (got,) = check(
        "matmul_nbits", [a, packed, scale, offset], consts=(1, 2, 3), bits=bits, rtol=tolerance, atol=1e-3
    )
    dense = (codes * scale[:, None] - offset[:, None]).reshape(-1, columns)
    np.testing.assert_allclose(got.astype(np.float32), a.astype(np.float32) @ dense, rtol=1e-2, atol=1e-2)


def tensor(dtype: str, *shape: int) -> TensorType:
    return TensorType(tuple(as_expr(d) for d in shape), dtype)


@pytest.mark.parametrize(
    ("a", "scale", "bits", "message"),
    [
        (("float32", 4, 32), ("float32", 1, 6), 3, "2, 4 or 8 bits"),
        (("float64", 4, 32), ("float32", 1, 6), 4, "matrix of float"),
        (("float32", 4, 31), ("float32", 1, 6), 4, "32 columns"),
        (("float32", 4, 32), ("float32", 1, 5), 4, "scales and offsets must be"),
        (("float32", 4, 32), ("float16", 1, 6), 4, "scales and offsets must be"),
    ],
)
def test_what_does_not_fit(
    a: tuple[str, int, int], scale: tuple[str, int, int], bits: int, message: str
) -> None:
    types = [tensor(*a), tensor("uint8", 1, 16, 6), tensor(*scale), tensor("float32", 1, 6)]
    with pytest.raises(GraphError, match=message):
        type_of("matmul_nbits", types, bits=bits)


@pytest.mark.parametrize("rows", [1, 9])
def test_the_default_schedule_takes_all_parts_of_a_vector_at_once(rows: int) -> None:
    types = [tensor("float32", rows, 32), tensor("uint8", 2, 8, 40), *[tensor("float32", 2, 40)] * 2]
    tensors = [te.placeholder(t.shape, t.dtype, f"x{n}") for n, t in enumerate(types)]
    opdef = get_op("matmul_nbits")
    assert opdef.compute is not None
    outputs = opdef.compute(OpContext({"bits": 4}, tuple(types), (None,) * 4), tensors)
    func = collapse_dims(te.primfunc("product", tensors, list(outputs), tensors[1:]))
    sch = default_schedule(func, Target.parse("x86-64-v4"))
    loops = [(s.kind, const_int(s.extent)) for s in walk_stmt(sch.func.body) if isinstance(s, For)]
    assert ("unrolled", 2) in loops
    assert_equal(func, sch.func)
