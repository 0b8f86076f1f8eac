from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.ops.harness import check, floats, ints, reference, type_of
from tilewright.errors import GraphError
from tilewright.graph.graph import TensorType
from tilewright.ir.expr import Var
from tilewright.ops.cast import cast_numpy

SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-8, -1e-8, 90.0, -90.0, 1.0, -1.0, 0.5, 2.5], np.float32
)
PLAIN = (
    "neg abs sign exp reciprocal floor ceil round tanh sin cos erf relu sigmoid hard_swish softplus mish "
    "softsign identity isnan isinf tan atan sinh asinh"
)
UNARY = {
    **{op: {} for op in PLAIN.split()},
    "leaky_relu": {"alpha": 0.1},
    "thresholded_relu": {"alpha": 0.7},
    "elu": {"alpha": 1.3},
    "celu": {"alpha": 0.8},
    "selu": {"alpha": 1.6732632, "gamma": 1.0507010},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "silu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
}


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    check(op, [floats(3, 5)], rtol=1e-4, **UNARY[op])
    with np.errstate(all="ignore"):
        check(op, [SPECIAL], rtol=1e-4, **UNARY[op])
    check(op, [floats(0, 4)], **UNARY[op])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("op", ["exp", "gelu", "mish", "softplus", "hard_swish"])
def test_other_float_types(op: str, dtype: str) -> None:
    import ml_dtypes

    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    x = floats(4, 3).astype(numpy_dtype)
    (got,) = check(op, [x], rtol=1e-2 if dtype != "float64" else 1e-7, **UNARY[op])
    assert got.dtype == numpy_dtype


@pytest.mark.parametrize(
    ("op", "low", "high"), [("log", 0.01, 5), ("sqrt", 0, 9), ("acosh", 1, 9), ("atanh", -0.9, 0.9)]
)
def test_unary_on_their_domain(op: str, low: float, high: float) -> None:
    check(op, [floats(7, low=low, high=high)], rtol=1e-4)


def test_nan_reaches_the_result_of_relu_clip_and_maximum() -> None:
    x = np.array([np.nan, 1.0], np.float32)
    zero = np.zeros((), np.float32)
    for got in (
        check("relu", [x])[0],
        check("clip", [x, zero, np.float32(6).reshape(())], consts=(1, 2))[0],
        check("maximum", [x, zero])[0],
        check("minimum", [zero, x])[0],
    ):
        assert np.isnan(got[0])


SHAPES = [
    ((3, 4), (3, 4)),
    ((2, 3, 4), (4,)),
    ((3, 1), (1, 4)),
    ((), (2, 3)),
    ((1,), (5, 1)),
    ((0, 3), (1, 3)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize(
    "op", ["add", "sub", "mul", "div", "maximum", "minimum", "equal", "less", "less_equal", "prelu"]
)
def test_binary_broadcasting(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    (got,) = check(op, [floats(*a), floats(*b, low=0.5, high=2.0)])
    assert got.shape == np.broadcast_shapes(a, b)


def test_integer_division_rounds_towards_zero() -> None:
    a = np.array([7, -7, 7, -7, 6, -6, 0], np.int32)
    b = np.array([2, 2, -2, -2, 3, 3, -5], np.int32)
    assert check("div", [a, b])[0].tolist() == [3, -3, -3, 3, 2, -2, 0]
    assert check("div", [a.astype(np.uint8), np.full(7, 3, np.uint8)])[0].dtype == np.uint8


def test_remainders() -> None:
    a, b = np.array([7, -7, 7, -7]), np.array([3, 3, -3, -3])
    assert check("mod", [a, b])[0].tolist() == [1, 2, -2, -1]
    assert check("fmod", [a, b])[0].tolist() == [1, -1, 1, -1]
    check("fmod", [floats(9, low=-9, high=9), floats(9, low=0.5, high=2)])
    check("mod", [floats(9, low=-9, high=9), floats(9, low=-2, high=-0.5)])


def test_powers() -> None:
    check("pow", [floats(5, low=0.1), floats(5)], rtol=1e-4)
    assert check("pow", [np.array([2, 3, -3]), np.array([3, 4, 3])])[0].tolist() == [8, 81, -27]


def test_shifts_past_all_bits() -> None:
    x, amount = np.array([-8, 8, 3, -1], np.int8), np.array([1, 9, 7, 8], np.int8)
    assert check("shift_right", [x, amount])[0].tolist() == [-4, 0, 0, -1]
    assert check("shift_left", [x, amount])[0].tolist() == [-16, 0, -128, 0]


@pytest.mark.parametrize("op", ["and", "or", "xor"])
def test_logic(op: str) -> None:
    check(op, [ints(4, 5, low=0, high=2).astype(bool), ints(5, low=0, high=2).astype(bool)])
    check("not", [np.array([True, False])])
    check(f"bitwise_{op}", [ints(6, dtype="int32"), ints(6, dtype="int32")])
    check("bitwise_not", [ints(6, dtype="int16")])


def test_where_chooses_and_broadcasts() -> None:
    cond = np.array([[True], [False]])
    (got,) = check("where", [cond, floats(1, 3), np.full((), np.nan, np.float32)])
    assert not np.isnan(got[0]).any()
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize("to", ["int8", "uint8", "int32", "int64", "bool", "float16", "float64"])
def test_cast(to: str) -> None:
    with np.errstate(all="ignore"):
        check("cast", [np.concatenate([SPECIAL, floats(5, low=-1000, high=1000)])], to=to)
    check("cast", [ints(6, dtype="int32")], to=to)
    check("cast", [np.array([True, False])], to=to)


def test_cast_truncates_and_saturates() -> None:
    x = np.array([1.9, -1.9, 300.0, -300.0, np.nan, np.inf], np.float32)
    assert cast_numpy(x, "int8").tolist() == [1, -1, 127, -128, 0, 127]
    assert cast_numpy(np.array([1e30, -1e30]), "int64").tolist() == [2**63 - 1, -(2**63)]


def test_clip_with_either_bound_or_none() -> None:
    x, low, high = floats(3, 4), np.float32(-0.5).reshape(()), np.float32(0.5).reshape(())
    assert check("clip", [x, low, high])[0].max() <= 0.5
    check("clip", [x, None, high], consts=(2,))
    check("clip", [x, low], consts=(1,))
    check("clip", [ints(4), np.array(-1), np.array(2)], consts=(1, 2))


def test_open_dimensions_broadcast() -> None:
    n, m = Var("n", lo=0), Var("m", lo=0)
    one, fixed = TensorType.make((1, 4), "float32"), TensorType.make((n, 4), "float32")
    assert type_of("add", [fixed, one]) == fixed
    assert type_of("add", [fixed, TensorType.make((7, 1), "float32")]) == TensorType.make((7, 4), "float32")
    mixed = type_of("add", [fixed, TensorType.make((m, 4), "float32")])
    again = TensorType(mixed.shape, "float32")
    assert type_of("add", [again, fixed]) == again, "a maximum absorbs its own operands"


@pytest.mark.parametrize(
    ("op", "types", "message"),
    [
        ("add", [((2, 3), "float32"), ((2, 4), "float32")], "cannot be broadcast"),
        ("add", [((2,), "float32"), ((2,), "int64")], "one dtype"),
        ("and", [((2,), "float32"), ((2,), "float32")], "not defined for float32"),
        ("exp", [((2,), "int32")], "not defined for int32"),
        ("where", [((2,), "int32"), ((2,), "float32"), ((2,), "float32")], "must be bool"),
    ],
)
def test_bad_operands_are_rejected(op: str, types: list[tuple[tuple[int, ...], str]], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        type_of(op, [TensorType.make(s, d) for s, d in types])


@pytest.mark.parametrize(
    "kind", ["Softplus", "Mish", "Gelu", "HardSwish", "Elu", "Selu", "Celu", "Erf", "Sigmoid", "Round"]
)
def test_references_agree_with_onnxruntime(kind: str) -> None:
    names = {"Gelu": "gelu", "HardSwish": "hard_swish"}
    defaults = {
        "Elu": {"alpha": 1.0},
        "Celu": {"alpha": 1.0},
        "Selu": UNARY["selu"],
        "Gelu": {"approximate": "none"},
    }
    x = np.concatenate([floats(64, low=-20, high=20), SPECIAL[1:]])
    node = helper.make_node(kind, ["x"], ["y"])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 22)],
        ir_version=10,
    )
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    (got,) = reference(names.get(kind, kind.lower()), [x], **defaults.get(kind, {}))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
