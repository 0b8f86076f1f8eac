from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper

from tests.frontend.models import INT64, agree, constant, model, ops, run, value
from tilewright.errors import GraphError, ModelFileError, ShapeError, UnsupportedError
from tilewright.frontend.common import SteeringError
from tilewright.frontend.onnx import MAX_OPSET, import_onnx, read_model, supported_ops
from tilewright.frontend.onnx.registry import MIN_OPSET
from tilewright.graph import check_types, verify
from tilewright.graph.specialise import specialise
from tilewright.ir.expr import Var, as_expr

rng = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# -------------------------------------------------------------------------------------- signatures and shapes
def test_open_dimensions_become_named_variables() -> None:
    inputs = [value("a", ["batch", 3, None, -1]), value("b", ["batch", "?", 0, 5])]
    proto = model(
        [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["b"], ["z"])], inputs, ["y", "z"]
    )
    a, b = read_model(proto).inputs
    names = [d.name if isinstance(d, Var) else d for d in (*a.type.shape, *b.type.shape)]
    assert names == ["batch", as_expr(3), "a_dim2", "a_dim3", "batch", "b_dim1", "b_dim2", as_expr(5)]
    assert a.type.shape[0] is b.type.shape[0]


def test_outputs_are_inferred_with_open_dimensions_whatever_the_file_declares() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "front"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = [constant("zero", 0), constant("front", [0]), constant("rest", [-1])]
    proto = model(nodes, [value("x", ["n", 4, 6])], [value("y", [1, 2, 3, 4, 5])], constants)
    read = read_model(proto)
    (y,) = read.outputs
    assert y.type.shape == (read.inputs[0].type.shape[0], as_expr(24))
    graph = read.to_graph()
    verify(graph)
    check_types(graph)
    assert specialise(graph, {"n": 5}).outputs[0].dims() == (5, 24)
    assert read.to_graph({"x": (5, 4, 6)}).outputs[0].dims() == (5, 24)
    assert ops(read.to_graph(dims={"n": 5})) == ["reshape"], "the shape's computation is folded"


def test_shapes_that_do_not_fit_are_explained() -> None:
    proto = model(
        [helper.make_node("Add", ["a", "b"], ["y"])], [value("a", ["n", 3]), value("b", ["n", 3])], ["y"]
    )
    read = read_model(proto)
    for shapes, message in (
        ({"c": (1, 3)}, "no input 'c'"),
        ({"a": (1, 3, 1)}, "3 dimensions does not fit"),
        ({"a": (1, 4)}, "dimension 1 of input 'a' is 3 in the model, not 4"),
        ({"a": (1, 3), "b": (2, 3)}, "'n' cannot be both 1 and 2"),
        ({"a": (-1, 3)}, "must be a size"),
    ):
        with pytest.raises(ShapeError, match=message):
            read.to_graph(shapes)
    with pytest.raises(ShapeError, match="no dimension 'm'"):
        read.to_graph(dims={"m": 1})
    assert read.to_graph({"a": (2, 3)}).inputs[1].dims() == (2, 3), "one name, one size"
    assert not read.to_graph({"a": (None, 3)}).is_static


def test_an_undeclared_rank_must_be_given() -> None:
    read = read_model(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", None)], ["y"]))
    with pytest.raises(ShapeError, match="rank of its input 'x'"):
        _ = read.inputs
    assert read.to_graph({"x": (2, 5)}).outputs[0].dims() == (2, 5)


def test_initializers_listed_as_inputs_are_constants() -> None:
    proto = model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", [2]), value("w", [2])],
        ["y"],
        [constant("w", [1, 2], "float32")],
    )
    assert [i.name for i in read_model(proto).inputs] == ["x"]


def test_outputs_may_be_inputs_or_constants() -> None:
    proto = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", [2])],
        ["y", "x", "w"],
        [constant("w", [7], "float32")],
    )
    got = run(proto, {"x": np.array([1, 2], np.float32)})
    assert {k: v.tolist() for k, v in got.items()} == {"y": [1, 2], "x": [1, 2], "w": [7]}


def test_origins_name_the_models_nodes() -> None:
    graph = import_onnx(model([helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="dense")], [
        value("x", [2, 3]), value("w", [3, 4]), value("b", [4])], ["y"]))  # fmt: skip
    assert ops(graph) == ["matmul", "add"]
    assert {str(n.origin) for n in graph.nodes} == {"onnx Gemm 'dense'"}


# ---------------------------------------------------------------------------------------- what is unsupported
def test_all_unknown_operators_are_reported_at_once() -> None:
    nodes = [helper.make_node("StringNormalizer", ["x"], [f"n{i}"], name=f"nz{i}") for i in range(5)]
    nodes.append(helper.make_node("FusedGelu", ["x"], ["g"], name="fused", domain="com.microsoft"))
    nodes.append(helper.make_node("Relu", ["x"], ["y"]))
    read = read_model(model(nodes, [value("x", [2])], ["y"], domains={"com.microsoft": 1}))
    lines = read.unsupported()
    assert lines[0] == "StringNormalizer (opset 17): 5 nodes ('nz0', 'nz1', 'nz2' and 2 more)"
    assert lines[1] == "com.microsoft.FusedGelu (opset 1): 1 node ('fused')"
    with pytest.raises(UnsupportedError, match="2 operators") as caught:
        read.to_graph()
    assert caught.value.items == tuple(lines)


def test_unused_domains_are_no_matter() -> None:
    proto = model(
        [helper.make_node("Relu", ["x"], ["y"])], [value("x", [2])], ["y"], domains={"ai.onnx.ml": 2}
    )
    assert ops(import_onnx(proto)) == ["relu"]


def test_opsets_out_of_range() -> None:
    def at(opset: int) -> None:
        import_onnx(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2])], ["y"], opset=opset))

    at(MIN_OPSET)
    at(MAX_OPSET)
    with pytest.raises(UnsupportedError, match="1 is the oldest"):
        at(MIN_OPSET - 1)
    with pytest.raises(UnsupportedError, match="is the newest"):
        at(MAX_OPSET + 1)
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2])], ["y"], domains={"own": 1})
    del proto.opset_import[0]
    with pytest.raises(ModelFileError, match="imports no opset"):
        import_onnx(proto)


def test_unsupported_uses_name_the_node() -> None:
    node = helper.make_node("BatchNormalization", ["x", "a", "a", "a", "a"], ["y"], name="norm", spatial=0)
    with pytest.raises(UnsupportedError, match="spatial=0") as caught:
        import_onnx(model([node], [value("x", [1, 3, 4]), value("a", [3, 4])], ["y"], opset=8))
    assert "BatchNormalization node 'norm'" in str(caught.value)


def test_nodes_that_contradict_themselves_name_the_node() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"], name="sum")
    with pytest.raises(GraphError, match="cannot be broadcast") as caught:
        import_onnx(model([node], [value("a", [2]), value("b", [3])], ["y"]))
    assert "onnx Add 'sum'" in str(caught.value)


def test_every_definition_in_force_is_covered() -> None:
    """A definition that ONNX adds or changes must be looked at before models with it are taken."""
    known: dict[str, set[int]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            known.setdefault(schema.name, set()).add(schema.since_version)
    for op_type, versions in supported_ops().items():
        if op_type not in known:
            continue  # another domain's
        since = {v for v in known[op_type] if v <= MAX_OPSET}
        oldest = max((v for v in since if v <= MIN_OPSET), default=MIN_OPSET)
        assert {v for v in since if v >= oldest} - set(versions) == set(), op_type


# ----------------------------------------------------------------------------------- definitions that changed
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [9, 11, 13])
@pytest.mark.parametrize("axis", [None, 1, 2, -1])
def test_softmax_flattened_before_opset_13(kind: str, opset: int, axis: int | None) -> None:
    attrs = {} if axis is None else {"axis": axis}
    agree(
        model([helper.make_node(kind, ["x"], ["y"], **attrs)], [value("x", [2, 3, 4])], ["y"], opset=opset),
        {"x": floats(2, 3, 4)},
    )


def test_clip_by_attributes_and_by_inputs() -> None:
    x = {"x": np.array([-2, 0.5, 9], np.float32)}
    old = model(
        [helper.make_node("Clip", ["x"], ["y"], min=-1.0, max=6.0)], [value("x", [3])], ["y"], opset=9
    )
    assert agree(old, x)["y"].tolist() == [-1.0, 0.5, 6.0]
    bounds = [constant("lo", 0, "float32"), constant("hi", 6, "float32")]
    for names in (["x", "lo", "hi"], ["x", "", "hi"], ["x", "lo"], ["x"]):
        agree(model([helper.make_node("Clip", names, ["y"])], [value("x", [3])], ["y"], bounds, opset=13), x)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_unsqueeze_and_reduce_axes_moved_to_inputs(opset: int) -> None:
    x = {"x": floats(2, 1, 3)}
    axes = constant("axes", [1])
    for kind in ("Squeeze", "Unsqueeze", "ReduceSum"):
        if opset < 13:
            node, constants = helper.make_node(kind, ["x"], ["y"], axes=[1]), []
        else:
            node, constants = helper.make_node(kind, ["x", "axes"], ["y"]), [axes]
        agree(model([node], [value("x", [2, 1, 3])], ["y"], constants, opset=opset), x)


def test_reduce_with_empty_axes() -> None:
    for noop in (0, 1):
        node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], noop_with_empty_axes=noop, keepdims=0)
        agree(
            model([node], [value("x", [2, 3])], ["y"], [constant("axes", [])], opset=13), {"x": floats(2, 3)}
        )


@pytest.mark.parametrize(
    ("opset", "sizes", "count"), [(11, [2, 3], 2), (13, [1, 1, 3], 3), (13, None, 5), (18, None, 2)]
)
def test_split(opset: int, sizes: list[int] | None, count: int) -> None:
    outputs = [f"y{n}" for n in range(count)]
    attrs: dict[str, object] = {"axis": 1}
    names, constants = ["x"], []
    if sizes and opset < 13:
        attrs["split"] = sizes
    elif sizes:
        names, constants = ["x", "sizes"], [constant("sizes", sizes)]
    elif opset >= 18:
        attrs["num_outputs"] = count
    node = helper.make_node("Split", names, outputs, **attrs)
    agree(model([node], [value("x", [2, 5])], outputs, constants, opset=opset), {"x": floats(2, 5)})


def test_pads_of_every_definition() -> None:
    x = {"x": floats(3, 4)}
    node = helper.make_node("Pad", ["x"], ["y"], pads=[1, 0, 0, 2], value=5.0)
    agree(model([node], [value("x", [3, 4])], ["y"], opset=10), x)
    pads, fill = constant("pads", [0, 1, 2, 0]), constant("fill", 2.5, "float32")
    for mode in ("constant", "reflect", "edge"):
        node = helper.make_node("Pad", ["x", "pads", "fill"], ["y"], mode=mode)
        agree(model([node], [value("x", [3, 4])], ["y"], [pads, fill], opset=13), x)
    node = helper.make_node("Pad", ["x", "some", "", "axes"], ["y"], mode="wrap")
    constants = [constant("some", [1, 2]), constant("axes", [-1])]
    agree(model([node], [value("x", [3, 4])], ["y"], constants, opset=19), x)


def test_upsample_and_early_resize() -> None:
    x = {"x": floats(1, 1, 3, 4)}
    node = helper.make_node("Upsample", ["x"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 3.0])
    agree(model([node], [value("x", [1, 1, 3, 4])], ["y"], opset=7), x)
    scales = constant("scales", [1, 1, 0.5, 2], "float32")
    for kind, opset in (("Upsample", 9), ("Resize", 10)):
        node = helper.make_node(kind, ["x", "big" if opset == 9 else "scales"], ["y"], mode="nearest")
        big = constant("big", [1, 1, 2, 2], "float32")
        agree(model([node], [value("x", [1, 1, 3, 4])], ["y"], [scales, big], opset=opset), x)


def test_batch_normalisation_and_dropout_in_inference() -> None:
    names = ["x", "s", "b", "m", "v"]
    constants = [constant(n, np.abs(floats(3)) + 0.1, "float32") for n in names[1:]]
    nodes = [
        helper.make_node("BatchNormalization", names, ["n"], epsilon=1e-3),
        helper.make_node("Dropout", ["n"], ["y"]),
    ]
    for opset in (7, 9, 13, 15):
        agree(model(nodes, [value("x", [2, 3, 4])], ["y"], constants, opset=opset), {"x": floats(2, 3, 4)})


def test_batch_normalisation_with_the_datas_statistics() -> None:
    names = ["x", "s", "b", "m", "v"]
    constants = [constant(n, np.abs(floats(3)) + 0.1, "float32") for n in names[1:]]
    node = helper.make_node("BatchNormalization", names, ["y", "mean", "var"], training_mode=1, momentum=0.7)
    feeds = {"x": floats(4, 3, 2, 5)}
    got = run(model([node], [value("x", [4, 3, 2, 5])], ["y", "mean", "var"], constants, opset=15), feeds)
    scale, bias, mean, var = (onnx.numpy_helper.to_array(c) for c in constants)
    centre, spread = feeds["x"].mean((0, 2, 3)), feeds["x"].var((0, 2, 3))
    normal = (feeds["x"] - centre[:, None, None]) / np.sqrt(spread + 1e-5)[:, None, None]
    want = {
        "y": normal * scale[:, None, None] + bias[:, None, None],
        "mean": 0.7 * mean + 0.3 * centre,
        "var": 0.7 * var + 0.3 * spread,
    }
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------- compositions
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_auto_pad(auto: str, stride: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad=auto, strides=[stride, 1]),
        helper.make_node("MaxPool", ["c"], ["y"], auto_pad=auto, kernel_shape=[2, 3], strides=[1, stride]),
    ]
    proto = model(
        nodes, [value("x", ["n", 2, "h", "w"])], ["y"], [constant("w", floats(3, 2, 4, 3), "float32")]
    )
    x = {"x": floats(1, 2, 9, 10)}
    want = agree(proto, x)["y"]
    symbolic = specialise(read_model(proto).to_graph(), {"n": 1, "h": 9, "w": 10})
    assert symbolic.outputs[0].dims() == want.shape


@pytest.mark.parametrize("attrs", [
    {"output_shape": [9, 8]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"},
])  # fmt: skip
def test_transposed_convolution_to_a_given_shape(attrs: dict[str, object]) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **attrs)
    proto = model([node], [value("x", [1, 2, 4, 4])], ["y"], [constant("w", floats(2, 3, 3, 3), "float32")])
    agree(proto, {"x": floats(1, 2, 4, 4)})


@pytest.mark.parametrize(
    "attrs", [{}, {"transA": 1}, {"transB": 1, "alpha": 0.5}, {"transA": 1, "transB": 1, "beta": 2.0}]
)
@pytest.mark.parametrize("c", [(4, 5), (5,), (4, 1), ()])
def test_gemm(attrs: dict[str, object], c: tuple[int, ...]) -> None:
    a = (3, 4) if "transA" in attrs else (4, 3)
    b = (5, 3) if "transB" in attrs else (3, 5)
    proto = model(
        [helper.make_node("Gemm", ["a", "b", "c"], ["y"], **attrs)],
        [value("a", a), value("b", b), value("c", c)],
        ["y"],
    )
    agree(proto, {"a": floats(*a), "b": floats(*b), "c": floats(*c)})


@pytest.mark.parametrize(("a", "b"), [((3,), (3,)), ((3,), (2, 3, 4)), ((2, 4, 3), (3,)), ((2, 3), (3, 4))])
def test_matmul_of_vectors(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    agree(
        model([helper.make_node("MatMul", ["a", "b"], ["y"])], [value("a", a), value("b", b)], ["y"]),
        {"a": floats(*a), "b": floats(*b)},
    )


@pytest.mark.parametrize("equation", [
    "bhid,bhjd->bhij", "ij,jk->ik", "...ij,...jk->...ik", "i,j->ij", "ijk->ki", "ij,ij->", "bqc,bkhc->bqkh",
    "ij,ji", "b...c,c->b...", "ii->i", "ii", "...ii->...i", "iji->ji", "iij,jk->ik", "iii->i",
])  # fmt: skip
def test_einsum(equation: str) -> None:
    sizes = dict(zip("bcdhijkq", (2, 3, 4, 2, 3, 4, 5, 6), strict=True))
    terms = equation.split("->")[0].replace("...", "").split(",")
    shapes = [tuple(sizes[c] for c in term) for term in terms]
    if "..." in equation:
        shapes = [(s[0], 7, *s[1:]) if "..." in t and t[0] != "." else (7, *s) if "..." in t else s
                  for s, t in zip(shapes, equation.split("->")[0].split(","), strict=True)]  # fmt: skip
    names = [f"x{n}" for n in range(len(shapes))]
    feeds = {n: floats(*s) for n, s in zip(names, shapes, strict=True)}
    proto = model(
        [helper.make_node("Einsum", names, ["y"], equation=equation)],
        [value(n, s) for n, s in zip(names, shapes, strict=True)],
        ["y"],
    )
    np.testing.assert_allclose(
        run(proto, feeds)["y"], np.einsum(equation, *feeds.values()), rtol=1e-4, atol=1e-5
    )


def test_powers_with_small_exponents_are_products() -> None:
    for exponent, expected in ((2, ["mul"]), (3, ["mul", "mul"]), (-1, ["reciprocal"]), (0.5, ["pow"])):
        proto = model(
            [helper.make_node("Pow", ["x", "p"], ["y"])],
            [value("x", [3])],
            ["y"],
            [constant("p", exponent, "float32")],
        )
        assert ops(import_onnx(proto)) == expected
        agree(proto, {"x": np.abs(floats(3))})


def test_function_operators_without_a_handler_are_expanded() -> None:
    node = helper.make_node("CenterCropPad", ["x", "to"], ["y"], axes=[1])
    proto = model([node], [value("x", [2, 7])], ["y"], [constant("to", [4])], opset=18)
    assert run(proto, {"x": floats(2, 7)})["y"].shape == (2, 4)


def test_attention_masks_made_from_shapes_fold_away() -> None:
    """Export code of transformers: a triangle of the sequence's length, expanded with -1 for 'keep'."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "front"], ["row"]),
        helper.make_node("Unsqueeze", ["r", "back"], ["column"]),
        helper.make_node("LessOrEqual", ["row", "column"], ["mask"]),
        helper.make_node("Where", ["mask", "keep", "drop"], ["bias"]),
        helper.make_node("Add", ["x", "bias"], ["y"]),
    ]
    constants = [constant("zero", 0), constant("one", 1), constant("front", [0]), constant("back", [1]),
                 constant("keep", 0, "float32"), constant("drop", -1e9, "float32")]  # fmt: skip
    proto = model(nodes, [value("x", ["b", "n", "n"])], ["y"], constants)
    agree(proto, {"x": floats(2, 4, 4)})
    assert ops(import_onnx(proto, {"x": (2, 4, 4)})) == ["add"]
    assert specialise(import_onnx(proto), {"b": 2, "n": 4}).outputs[0].dims() == (2, 4, 4)


def test_integer_inputs_and_casts() -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["f"], ["y"]),
    ]
    agree(model(nodes, [value("ids", [3], INT64)], ["y"]), {"ids": np.array([1, 4, 9])})


def test_inputs_that_decide_shapes_are_named() -> None:
    expand = helper.make_node("Expand", ["x", "to"], ["e"], name="grow")
    nodes = [expand, helper.make_node("Relu", ["e"], ["y"])]
    proto = model(nodes, [value("x", [1, 3]), value("to", [2], INT64)], ["y"])
    with pytest.raises(SteeringError, match="its shape, decided by the input 'to', must be known") as caught:
        import_onnx(proto)
    assert caught.value.names == ("to",)
    assert "'grow'" in str(caught.value)
    assert caught.value.hint == "give the value: values={'to': …}, or --input to=FILE.npy"
    graph = import_onnx(proto, values={"to": np.array([4, 3])})
    assert graph.outputs[0].dims() == (4, 3)
    assert [v.name for v in graph.inputs] == ["x", "to"]


def test_empty_tensors_keep_their_zeros() -> None:
    node = helper.make_node("Reshape", ["x", "to"], ["y"], allowzero=1)
    proto = model([node], [value("x", [0, 3, 4])], ["y"], [constant("to", [3, 4, 0])])
    assert run(proto, {"x": floats(0, 3, 4)})["y"].shape == (3, 4, 0)
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    proto = model([node], [value("x", ["n", 3, 4])], ["y"], [constant("to", [0, -1])])
    assert run(proto, {"x": floats(2, 3, 4)})["y"].shape == (2, 12)
