from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import FLOAT, INT64, constant, model, run, value
from tilewright.errors import ModelFileError, UnsupportedError
from tilewright.frontend.onnx import read_model
from tilewright.frontend.onnx.reader import read


def _relu() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2, 3])], ["y"])


def _fails(source: object, message: str) -> ModelFileError:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_model(source)  # type: ignore[arg-type]
    assert "Traceback" not in str(caught.value)
    return caught.value


def test_path_bytes_and_proto_read_alike(tmp_path: Path) -> None:
    proto = _relu()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes()), proto):
        assert read_model(source).inputs[0].name == "x"


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    assert "nowhere.onnx" in str(_fails(tmp_path / "nowhere.onnx", "no such model file"))
    _fails(tmp_path, "is a folder")
    (tmp_path / "empty.onnx").touch()
    _fails(tmp_path / "empty.onnx", "empty")
    _fails(b"", "empty")
    for junk in (
        b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
        b"hello, this is a text file\n" * 9,
        b"PK\x03\x04" + b"\0" * 99,
    ):
        _fails(junk, "not an ONNX model|truncated or corrupt|names no operator set")


def test_every_truncation_is_found(tmp_path: Path) -> None:
    weights = constant("w", np.ones(64), "float32")
    nodes = [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    data = model(nodes, [value("x", [64])], ["y"], [weights]).SerializeToString()
    assert read_model(data).unsupported() == []
    for length in range(1, len(data)):
        with pytest.raises(ModelFileError):
            read_model(data[:length])


def test_a_cycle_is_named() -> None:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Neg", ["b"], ["c"], name="third"),
        helper.make_node("Exp", ["c"], ["y"], name="after"),
    ]
    error = _fails(model(nodes, [value("x", [2])], ["y"]), "cyclic")
    assert all(f"'{name}'" in error.message for name in ("first", "second", "third"))
    assert "after" not in error.message


def test_a_node_that_reads_itself_is_a_cycle() -> None:
    _fails(
        model([helper.make_node("Add", ["x", "y"], ["y"], name="own")], [value("x", [2])], ["y"]),
        "'own' → 'own'",
    )


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Exp", ["x"], ["a"])]
    x = np.array([0.0, 1.0], np.float32)
    np.testing.assert_allclose(
        run(model(nodes, [value("x", [2])], ["y"]), {"x": x})["y"], -np.exp(x), rtol=1e-6
    )


def test_contradictions_are_named() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    _fails(
        model([helper.make_node("Relu", ["z"], ["y"])], [value("x", [2])], ["y"]),
        "reads 'z', which nothing produces",
    )
    _fails(
        model([relu, helper.make_node("Neg", ["x"], ["y"])], [value("x", [2])], ["y"]), "two things produce"
    )
    _fails(model([relu], [value("x", [2])], ["q"]), "output 'q' is produced by no node")
    _fails(model([relu], [value("x", [2])], []), "no outputs")


def test_data_that_does_not_fit_its_shape() -> None:
    weight = constant("w", [1.0, 2.0], "float32")
    weight.dims[0] = 3
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    error = _fails(model(nodes, [value("x", [3])], ["y"], [weight]), "initializer 'w' holds 8 bytes")
    assert "takes 12" in error.message
    typed = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    del typed.float_data[2]
    _fails(model(nodes, [value("x", [3])], ["y"], [typed]), "initializer 'w' does not hold")


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "uint16", "int32", "int64", "bool"]
)
def test_weights_of_every_type(dtype: str, raw: bool) -> None:
    data = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(data.dtype)
    values = (
        data.view(np.uint16).reshape(-1).tolist()
        if dtype == "float16" and not raw
        else data.reshape(-1).tolist()
    )
    tensor = helper.make_tensor("w", kind, data.shape, data.tobytes() if raw else values, raw=raw)
    if dtype == "float16" and not raw:
        tensor = helper.make_tensor("w", kind, data.shape, data.reshape(-1))
    got = read(model([helper.make_node("Identity", ["w"], ["y"])], [], ["y"], [tensor])).initializers["w"]
    assert got.dtype == data.dtype
    np.testing.assert_array_equal(got, data)


def test_bfloat16_weights() -> None:
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.0, -2.0])
    got = read(model([helper.make_node("Identity", ["w"], ["y"])], [], ["y"], [tensor])).initializers["w"]
    assert got.dtype.name == "bfloat16"
    assert got.astype(np.float32).tolist() == [1.0, -2.0]


def test_external_data(tmp_path: Path) -> None:
    weights = np.arange(600, dtype=np.float32)
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    proto = model(nodes, [value("x", [600])], ["y"], [constant("w", weights, "float32")])
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert b"\x00\x00\x80?" not in path.read_bytes()
    np.testing.assert_array_equal(read(path).initializers["w"], weights)
    error = _fails(path.read_bytes(), "beside a model file")
    assert error.hint == "pass the model's path instead of its bytes"
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    _fails(path, "which has only 100")
    (tmp_path / "weights.bin").unlink()
    _fails(path, "'weights.bin', which is missing")


def test_external_data_stays_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    folder = tmp_path / "inner"
    folder.mkdir()
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", [2])], ["y"], [tensor])
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    _fails(folder / "model.onnx", "points outside the model's folder")


def test_what_cannot_be_meant_is_unsupported() -> None:
    relu = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(UnsupportedError, match="'x' has the element type string"):
        read_model(
            model([relu], [value("x", [2], TensorProto.STRING)], [value("y", [2], TensorProto.STRING)])
        )
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [2]))
    with pytest.raises(UnsupportedError, match="'x' is declared as map; tensors, sequences of them"):
        read_model(model([relu], [helper.make_value_info("x", kind)], ["y"]))


def test_unnamed_nodes_get_stable_unique_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["c"], name="same"),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    names = [n.name for n in read(model(nodes, [value("x", [2])], ["y"])).nodes]
    assert names == ["Relu_0", "same", "same_2", "Relu_3"]


def test_model_local_functions_are_expanded() -> None:
    body = [helper.make_node("Mul", ["v", "v"], ["s"]), helper.make_node("Neg", ["s"], ["r"])]
    function = helper.make_function("own", "MinusSquare", ["v"], ["r"], body, [helper.make_opsetid("", 17)])
    node = helper.make_node("MinusSquare", ["x"], ["y"], domain="own")
    proto = model([node], [value("x", [3])], ["y"], domains={"own": 1})
    proto.functions.append(function)
    assert run(proto, {"x": np.array([1, 2, 3], np.float32)})["y"].tolist() == [-1, -4, -9]
