"""Weights in files beside the model, and files that are no models."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.frontend.models import FLOAT, model, run, value
from tilewright import config
from tilewright.errors import LimitError, ModelFileError
from tilewright.frontend.onnx import import_onnx, read_model
from tilewright.frontend.onnx.reader import read

DATA = np.arange(16, dtype=np.float32)


def external(folder: Path, dims: list[int] | None = None, **entries: str) -> Path:
    """A model that adds a weight with these entries of external data, beside ``w.bin``."""
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(DATA.tobytes())
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4] if dims is None else dims)
    weight.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        weight.external_data.add(key=key, value=text)
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    path = folder / "model.onnx"
    path.write_bytes(model(nodes, [value("x", [4])], ["y"], [weight]).SerializeToString())
    return path


def refused(path: Path, message: str) -> ModelFileError:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_model(path)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("entries", "first"),
    [
        ({"length": "16"}, 0),
        ({"offset": "16", "length": "16"}, 4),
        ({"offset": "48"}, 12),
        ({"offset": "0"}, 0),
    ],
)
def test_offsets_and_lengths(tmp_path: Path, entries: dict[str, str], first: int) -> None:
    weight = read(external(tmp_path, location="w.bin", **entries)).initializers["w"]
    assert weight.tolist() == DATA[first : first + 4].tolist()
    assert not weight.flags.writeable


def test_tensors_of_one_file_share_its_memory(tmp_path: Path) -> None:
    weights = [onnx.numpy_helper.from_array(DATA + n, f"w{n}") for n in range(2)]
    proto = model([helper.make_node("Add", ["w0", "w1"], ["y"])], [], ["y"], weights)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="all.bin", size_threshold=0)
    first, second = read(tmp_path / "m.onnx").initializers.values()
    assert first.base is not None
    assert np.shares_memory(first, DATA) is False
    distance = second.__array_interface__["data"][0] - first.__array_interface__["data"][0]
    assert 0 < distance < os.stat(tmp_path / "all.bin").st_size
    assert run(onnx.load(tmp_path / "m.onnx"), {})["y"].tolist() == (2 * DATA + 1).tolist()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "does not say which file"),
        ({"location": "missing"}, "needs the data file 'missing', which is missing"),
        ({"location": "../secret"}, "points outside the model's folder"),
        ({"location": "sub/../../secret"}, "points outside the model's folder"),
        ({"location": "/etc/passwd"}, "points outside the model's folder"),
        ({"location": "..\\secret"}, "points outside the model's folder"),
        ({"location": "C:\\secret"}, "points outside the model's folder"),
        ({"location": "link"}, "points outside the model's folder, by a symbolic link"),
        ({"location": "folder/secret"}, "points outside the model's folder, by a symbolic link"),
        ({"location": "loop"}, "cannot be read|is missing"),
        ({"location": "."}, "is not a plain file"),
        ({"location": "pipe"}, "is not a plain file"),
        ({"location": "x" * 400}, "cannot be read"),
        ({"location": "a\0b"}, "is missing"),
        ({"location": "w.bin", "offset": "-8"}, "gives '-8' as the offset"),
        ({"location": "w.bin", "offset": "0x10"}, "gives '0x10' as the offset"),
        ({"location": "w.bin", "length": "9" * 30}, "as the length"),
        ({"location": "w.bin", "offset": "56"}, "needs bytes 56 to 72 of 'w.bin', which has only 64"),
        ({"location": "w.bin", "length": "12"}, "holds 12 bytes, but .* takes 16"),
    ],
)
def test_entries_that_are_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    path = external(folder, **entries)
    (tmp_path / "secret").write_bytes(DATA.tobytes())
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    refused(path, message)


def test_links(tmp_path: Path) -> None:
    """Inside of the folder they are fine, out of it when that is allowed: hubs keep files so."""
    folder = tmp_path / "model"
    path = external(folder, location="inside", length="16")
    (folder / "inside").symlink_to("w.bin")
    assert read(path).initializers["w"].tolist() == [0, 1, 2, 3]
    path = external(folder, location="outside", length="16")
    (tmp_path / "blob").write_bytes(DATA[4:].tobytes())
    (folder / "outside").symlink_to(tmp_path / "blob")
    error = refused(path, "by a symbolic link")
    assert "--follow-links" in str(error.hint)
    with config.overriding(follow_links=True):
        assert read(path).initializers["w"].tolist() == [4, 5, 6, 7]


def test_models_of_many_gigabytes_are_mapped(tmp_path: Path) -> None:
    """The file is sparse: reading it as a whole would take 12 GiB of memory."""
    path = external(tmp_path, [3 << 28, 4], location="big", offset="4096")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(4096 + (12 << 30))
        file.seek(4096)
        file.write(DATA.tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = import_onnx(path)
    (weight,) = graph.constants.values()
    assert weight.nbytes == 12 << 30
    assert weight[1].tolist() == [4, 5, 6, 7]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    with (
        config.overriding(max_tensor_bytes=1 << 30),
        pytest.raises(LimitError, match="more than 1073741824 bytes"),
    ):
        import_onnx(path)


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            # A fixed date: the names of parametrized tests must be the same in every worker.
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        (_zip("model/data.pkl"), "a PyTorch checkpoint", "torch.onnx.export"),
        (_zip("manifest.json", "weights.bin"), "a compiled model of tilewright", "tilewright.load"),
        (_zip("a.npy", "b.npy"), "NumPy arrays", "binary ONNX"),
        (_zip("config.json", "model.weights.h5"), "a Keras model", "export"),
        (_zip("a.txt"), "a zip file", "unpack"),
        (pickle.dumps({"a": 1}, protocol=2), "a Python pickle", "torch.onnx.export"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "a TensorFlow Lite model", "tf2onnx"),
        (b"\x1c\0\0\0ORTM" + bytes(50), r"onnxruntime's own format \(.ort\)", "made from"),
        (b'\x10\0\0\0\0\0\0\0{"w": {}}      ', "a safetensors file", "torch.onnx.export"),
        (b"GGUF\3\0\0\0", "a GGUF model", "ONNX export"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file", "tf2onnx"),
        (b"\x93NUMPY\x01\0", "a NumPy array", "binary ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\noid 0\n", "a pointer of Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "a web page", "download it again"),
        (b'<?xml version="1.0"?><net name="m">', "XML, such as OpenVINO's", "made from"),
        (b"ir_version: 8\ngraph {\n}\n", "ONNX as text", "onnx.save"),
        (b'<\n  ir_version: 8\n>\nagraph (float[N] x) => (y) {}', "ONNX as text", "onnx.save"),
        (b"\x1f\x8b\x08" + bytes(9), "a gzip archive", "unpack"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "a Zstandard archive", "unpack"),
        (bytes(257) + b"ustar\0", "a tar archive", "unpack"),
        (b"#!/bin/sh\necho hello\n", "text", "binary ONNX"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_named(tmp_path: Path, data: bytes, what: str, hint: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    error = refused(path, f"this is not an ONNX model: it looks like {what}")
    assert hint in str(error.hint)


def test_folders_and_devices(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    assert "tf2onnx" in str(refused(tmp_path, "a folder with a TensorFlow SavedModel").hint)
    (tmp_path / "saved_model.pb").rename(tmp_path / "net.onnx")
    assert refused(tmp_path, "this is a folder, not a model file").hint == "it holds net.onnx"
    refused(Path(os.devnull), "a pipe or device")
    refused(Path("x" * 5000), "cannot be read: File name too long")
    big = tmp_path / "big.onnx"
    with big.open("wb") as file:
        file.truncate(3 << 30)
    assert "external data" in str(refused(big, "larger than 2 GiB").hint)
