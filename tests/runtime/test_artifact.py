from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.runtime.programs import SIGNATURE, entry_object, expected, model, objects, variant, weight_data
from tilewright.errors import ArtifactError
from tilewright.runtime.artifact import MANIFEST, WEIGHTS, Artifact, WeightStore, _add
from tilewright.runtime.model import Executable
from tilewright.runtime.plan import KernelCall, Operand, Range, Signature, Space, TensorSpec, Variant


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "sums.tw"
    model().save(path)
    return path


def test_round_trip(saved: Path) -> None:
    original, loaded = model(), Artifact.load(saved, verify_weights=True)
    assert loaded.manifest() == original.manifest()
    assert loaded.weights == original.weights
    assert loaded.objects == original.objects
    for field in ("target", "threads", "signature", "variants", "runtime", "model"):
        assert getattr(loaded, field) == getattr(original, field)


def test_equal_artifacts_are_equal_files(saved: Path, tmp_path: Path) -> None:
    model().save(tmp_path / "again.tw")
    assert (tmp_path / "again.tw").read_bytes() == saved.read_bytes()


def test_members_are_stored_and_aligned(saved: Path) -> None:
    data = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            content = archive.read(info)
            start = data.index(content, info.header_offset)
            assert start % (4096 if info.filename == WEIGHTS else 64) == 0


def test_loaded_weights_are_mapped_not_copied(saved: Path) -> None:
    weights = Artifact.load(saved).weights
    assert weights.readonly
    address = np.frombuffer(weights, np.uint8).__array_interface__["data"][0]
    assert address % 4096 == 0
    maps = Path("/proc/self/maps")
    if maps.exists():
        ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(saved) in line]
        assert any(int(a, 16) <= address < int(b, 16) for a, b in ranges)


def test_saving_over_a_loaded_artifact(saved: Path, tmp_path: Path) -> None:
    """The old file stays mapped: a rename replaces the name, not the content."""
    path = tmp_path / "x.tw"
    path.write_bytes(saved.read_bytes())
    loaded = Artifact.load(path)
    loaded.save(path)
    x = np.ones(1000, np.float32)
    with Executable(loaded) as executable:
        assert (executable(x, x)[0] == expected(x, x)).all()


def test_weights_are_stored_once() -> None:
    store = WeightStore()
    a = np.arange(10, dtype=np.float32)
    first, second = store.add(a), store.add(a.reshape(2, 5) + 1)
    assert (first, second) == (0, 64)
    assert store.add(a.copy()) == first
    assert store.add(a.view(np.int32)) == first
    assert store.nbytes == 128
    packed = store.pack()
    assert packed.nbytes == 128
    assert packed.readonly
    assert np.array_equal(np.frombuffer(packed, np.float32, 10, second), a + 1)
    third = store.add(np.array(7, ml_dtypes.bfloat16))
    assert third == 128
    assert np.array_equal(np.frombuffer(store.pack(), np.float32, 10, first), a)
    assert np.frombuffer(store.pack(), ml_dtypes.bfloat16, 1, third)[0] == 7


def test_growing_weights_keep_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.runtime.artifact._RESERVED", 4096)
    store = WeightStore()
    arrays = [np.full(100, i, np.float32) for i in range(40)]
    offsets, sections = [], []
    for array in arrays:
        offsets.append(store.add(array))
        sections.append(store.pack())
    assert np.shares_memory(np.frombuffer(sections[0], np.uint8), np.frombuffer(sections[1], np.uint8))
    for number, section in enumerate(sections):
        for offset, array in zip(offsets[: number + 1], arrays[: number + 1], strict=True):
            assert np.array_equal(np.frombuffer(section, np.float32, 100, offset), array)


def test_not_contiguous_weights() -> None:
    store = WeightStore()
    a = np.arange(12.0).reshape(3, 4).T
    offset = store.add(a)
    assert np.array_equal(np.frombuffer(store.pack(), np.float64, 12, offset), a.reshape(-1))


def test_empty_weights_and_no_kernels(tmp_path: Path) -> None:
    base = model()
    v = Variant({}, "tw_main_empty", "empty", (), (), (), 0)
    artifact = dataclasses.replace(
        base, signature=Signature((), ()), variants=(v,), objects={"empty": entry_object(v)},
        weights=WeightStore().pack(),
    )  # fmt: skip
    artifact.save(tmp_path / "empty.tw")
    assert Executable(Artifact.load(tmp_path / "empty.tw")).run({}) == {}


def test_with_variant(tmp_path: Path) -> None:
    store = WeightStore()
    first = variant(100, store.add(weight_data(100)))
    artifact = dataclasses.replace(
        model(),
        variants=(first,),
        objects={**objects(), first.entry_object: entry_object(first)},
        weights=store.pack(),
    )
    second = variant(200, store.add(weight_data(200)))
    more = artifact.with_variant(second, {second.entry_object: entry_object(second)}, store.pack())
    assert [dict(v.binding) for v in more.variants] == [{"n": 100}, {"n": 200}]
    assert more.with_variant(second, {}, store.pack()).variants == more.variants
    more.save(tmp_path / "two.tw")
    executable = Executable(artifact)
    executable.extend(more)
    for program in (executable, Executable(Artifact.load(tmp_path / "two.tw"))):
        for n in (100, 200):
            x = np.linspace(0, 1, n, dtype=np.float32)
            assert (program(x, x)[0] == expected(x, x)).all()


# ---- bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a zip file at all", "not a tilewright artifact"),
        (b"PK\x05\x06" + bytes(18), "no member 'manifest.json'"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.tw"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        Artifact.load(tmp_path / "none.tw")
    with pytest.raises(ArtifactError, match="cannot read"):
        Artifact.load(tmp_path)


def test_truncation_at_every_length(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "cut.tw"
    for size in [1, 30, 100, *range(200, len(data), 487), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError):
            Artifact.load(path)


def test_corruption_of_any_byte_is_noticed_or_harmless(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    path = tmp_path / "bad.tw"
    good = Artifact.load(saved, verify_weights=True).manifest()
    for position in range(0, len(data), 61):
        data[position] ^= 0x41
        path.write_bytes(data)
        data[position] ^= 0x41
        try:
            loaded = Artifact.load(path, verify_weights=True)
        except ArtifactError:
            continue
        assert loaded.manifest() == good  # it was padding


def _rewritten(saved: Path, path: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of the artifact with another manifest: `change` edits it, or returns a list to put in its
    place.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == MANIFEST:
                manifest = json.loads(data)
                result = change(manifest)
                data = json.dumps(result if isinstance(result, list) else manifest).encode()
            _add(target, name, data, 64)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=99), "newer tilewright"),
        (lambda m: m.update(abi=7), "ABI 7"),
        (lambda m: m.update(abi=0), "compile the model again"),
        (lambda m: m.update(format="x"), "no version"),
        (lambda m: m.pop("format"), "cannot be read"),
        (lambda m: [1, 2], "cannot be read"),
        (lambda m: m.update(threads=0), "no thread"),
        (lambda m: m.update(threads="many"), "malformed"),
        (lambda m: m.pop("target"), "malformed"),
        (lambda m: m.update(target={"name": "x"}), "malformed"),
        (lambda m: m.update(runtime="00"), "checksum"),
        (lambda m: m["objects"].update(add="00"), "'add' does not match its checksum"),
        (lambda m: m["objects"].update(other="00"), "no member 'objects/other.o'"),
        (lambda m: m["objects"].pop("add"), "'add' of variant"),
        (lambda m: m["weights"].update(bytes=1), "wrong size"),
        (lambda m: m["variants"][0].pop("entry"), "no field 'entry'"),
        (lambda m: m["variants"][0].update(arena_bytes=-1), "negative size"),
        (lambda m: m["variants"][0].update(input_shapes=[]), "number of inputs"),
        (lambda m: m["variants"][0]["kernels"][0].update(operands=[["nowhere", 0]]), "operand"),
        (lambda m: m["variants"][0]["kernels"][0].update(operands=[["input", 9]]), "input 9 of only 2"),
        (lambda m: m["variants"][0]["kernels"][0].update(operands=[["weight", 1 << 40]]), "refers to weight"),
        (lambda m: m["variants"][0]["kernels"][0].update(operands=[["arena", -64]]), "refers to arena"),
        (lambda m: m["variants"][0]["kernels"][0].update(workspace=1 << 40), "workspace outside"),
        (lambda m: m["variants"][0]["kernels"][-1].update(operands=[]), "source and a target"),
        (lambda m: m["signature"]["inputs"][0].update(shape=[-1]), "negative dimension"),
        (lambda m: m["signature"]["inputs"][0].update(shape=[1.5]), "whole number"),
    ],
)
def test_hostile_manifests(saved: Path, tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = _rewritten(saved, tmp_path / "bad.tw", change)
    with pytest.raises(ArtifactError, match=message) as error:
        Artifact.load(path)
    assert str(path) in str(error.value)


def test_unchanged_rewrite_loads(saved: Path, tmp_path: Path) -> None:
    assert (
        Artifact.load(_rewritten(saved, tmp_path / "same.tw", lambda m: None)).manifest()
        == model().manifest()
    )


def test_failing_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="no such file or directory"):
        model().save(tmp_path / "no" / "folder.tw")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "x.tw").write_bytes(b"what was there before")
    with pytest.raises(ArtifactError, match="no space left on device"):
        model().save(tmp_path / "x.tw")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tw"]
    assert (tmp_path / "x.tw").read_bytes() == b"what was there before"


# ---- plans


def test_plan_records_round_trip_as_json() -> None:
    operands = (
        Operand.input(1), Operand.output(0, 128), Operand.weight(64), Operand.arena(192), Operand.scalar(-5),
        Operand.dim(0), Operand(Space.ARENA, 64, 0, 1),
    )  # fmt: skip
    call = KernelCall(
        "k", "tw_k_1", operands, 256, False, ("conv1", "relu1"), ("Conv", "Relu"), 10, 20, "o", "w", "t"
    )
    spec = TensorSpec("x", (1, "n", 3), "bfloat16")
    signature = Signature((spec,), (spec,), {"n": Range(1), "m": Range(2, 8, 2)})
    v = Variant({"n": 4}, "tw_main", "e", (call,), ((1, 4, 3),), ((1, 4, 3),), 512)
    copy = KernelCall.copy("c", operands[0], operands[1], 64, size=0)
    defining = dataclasses.replace(call, defines=((1, 2),))
    dims = {"m": Range(2, 8, 2), "k": Range(0, 4)}
    shapes = ((1, "m", 3),), ((1, "m * 2", "k"),)
    ranged = Variant(
        {}, "tw_main", "e", (defining, copy), *shapes, 512, dims, ("m * 64",), ("m <= 4",), (-1,), "s"
    )
    assert ranged.computed_dims == ("k",)
    for record in (call, copy, defining, spec, signature, v, ranged, *operands):
        assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record
    assert v.objects() == ["e", "o"]
    assert SIGNATURE.to_json()["dims"] == {"n": [1, 1 << 20]}
    assert str(spec) == "x: bfloat16[1, n, 3]"
