"""From a path, bytes or a ``ModelProto`` to a parsed ``ModelProto``; what other files look like."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import onnx

from tilewright.errors import ModelFileError, UnsupportedError

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto"

_HINT: Final = "expected a binary ONNX file (.onnx), as written by onnx.save or an exporter"
_EXPORT: Final = "export the model to ONNX, for instance with "
_UNPACK: Final = "unpack it first"
#: Protobuf messages are at most this long; larger models keep their weights in files beside them.
_MAX_BYTES: Final = (1 << 31) - 1

#: (offset, bytes there, what such a file is, what to do instead).
_MAGIC: Final[Sequence[tuple[int, bytes, str, str]]] = (
    (4, b"ORTM", "onnxruntime's own format (.ort)", "give the ONNX model that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model", f"{_EXPORT}tf2onnx --tflite"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as a Keras model", f"{_EXPORT}tf2onnx"),
    (0, b"GGUF", "a GGUF model", "give the ONNX export of the original model"),
    (0, b"ptrt", "a TensorRT engine", "give the ONNX model that it was built from"),
    (0, b"ftrt", "a TensorRT engine", "give the ONNX model that it was built from"),
    (0, b"\x93NUMPY", "a NumPy array", _HINT),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull fetches it"),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x7fELF", "a program or library (ELF)", _HINT),
    (0, b"\x89PNG", "a PNG image", _HINT),
    (0, b"\xff\xd8\xff", "a JPEG image", _HINT),
    (0, b"%PDF", "a PDF document", _HINT),
)


def load(source: Source) -> tuple[onnx.ModelProto, str, Path | None]:
    """The parsed file, what to call it in messages, and the folder for external data (None: there is none).

    Raises ModelFileError when it is missing, not readable, empty, truncated, or not ONNX, naming what it is
    where that is known.
    """
    if isinstance(source, onnx.ModelProto):
        _check_model(source, "ModelProto")
        return source, "ModelProto", None
    if isinstance(source, bytes | bytearray | memoryview):
        return _parse(source, "bytes"), "bytes", None
    path = Path(source)
    location = str(path)
    try:
        if not path.exists():
            raise ModelFileError("no such model file", location=location)
        if path.is_dir():
            what, hint = _folder(path)
            raise ModelFileError(f"this is a folder{what}, not a model file", location=location, hint=hint)
        if not path.is_file():
            raise ModelFileError("this is a pipe or device, not a file", location=location, hint=_HINT)
        size = path.stat().st_size
        if size > _MAX_BYTES:
            what, hint = _identify(_head(path), path)
            raise ModelFileError(
                f"this is not an ONNX model: it {what or f'is larger than 2 GiB ({size} bytes)'}",
                location=location,
                hint=hint or "larger models keep their weights in a file of external data",
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"the model file cannot be read: {reason}", location=location) from error
    return _parse(data, location, path), location, path.parent


def text(value: str | bytes, what: str, location: str) -> str:
    """A string of the file. Raises ModelFileError when it is not UTF-8: protobuf then hands out the bytes.

    Control characters are written as escapes, so that messages stay on their lines.
    """
    if isinstance(value, bytes):
        shown = repr(value[:40])[2:-1]
        raise ModelFileError(
            f"{what} is not UTF-8 text: '{shown}': the file is corrupt", location=location
        )
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _parse(data: bytes | bytearray | memoryview, location: str, path: Path | None = None) -> onnx.ModelProto:
    size = len(data)
    if not size:
        raise ModelFileError("the model file is empty (0 bytes)", location=location)
    what, hint = _identify(bytes(data[:4096]), path)
    if what:
        raise ModelFileError(f"this is not an ONNX model: it {what}", location=location, hint=hint)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(bytes(data) if isinstance(data, bytearray) else data)
    except Exception as error:  # DecodeError, whose module differs between protobuf's implementations
        # Every ONNX writer puts ir_version (field 1, a small varint) first.
        looks_right = size > 2 and data[0] == 0x08 and data[1] < 0x40
        nested = " or nested too deeply" if looks_right else ""
        what = "the ONNX file is truncated or corrupt" if looks_right else "this is not an ONNX model"
        raise ModelFileError(f"{what}{nested} ({size} bytes)", location=location, hint=_HINT) from error
    _check_model(proto, location)
    return proto


def _check_model(proto: onnx.ModelProto, location: str) -> None:
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelFileError("this is not an ONNX model: it holds no graph", location=location, hint=_HINT)
    if proto.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(
            f"the file has version {proto.ir_version} of the ONNX format; {onnx.IR_VERSION} is the newest "
            "that is known here",
            location=location,
            hint="pip install --upgrade onnx, or export with an older version",
        )
    if not proto.opset_import and proto.ir_version not in (1, 2):
        raise ModelFileError(
            "the ONNX file names no operator set: it is truncated or corrupt", location=location, hint=_HINT
        )


def _identify(head: bytes, path: Path | None) -> tuple[str, str | None]:
    """How a file that starts with ``head`` continues the sentence "it ...", and what to do; '' if unknown."""
    for offset, magic, what, hint in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return f"looks like {what}", hint
    if head[:4] == b"PK\x03\x04":
        return _identify_zip(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "looks like a Python pickle, such as an old PyTorch checkpoint", f"{_EXPORT}torch.onnx.export"
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "looks like a safetensors file, which holds weights only", f"{_EXPORT}torch.onnx.export"
    return _identify_text(head)


def _identify_zip(path: Path | None) -> tuple[str, str | None]:
    names: list[str] = []
    if path is not None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            pass
    if any(name.endswith("data.pkl") for name in names):
        return "looks like a PyTorch checkpoint (a zip file with data.pkl)", f"{_EXPORT}torch.onnx.export"
    if "manifest.json" in names and "weights.bin" in names:
        return "looks like a compiled model of tilewright", "tilewright.load takes it"
    if names and all(name.endswith(".npy") for name in names):
        return "looks like NumPy arrays (.npz)", _HINT
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return "looks like a Keras model", f"{_EXPORT}model.export(format='onnx')"
    return "looks like a zip file", _UNPACK


def _identify_text(head: bytes) -> tuple[str, str | None]:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "looks like a web page, perhaps of a download that failed", "download it again"
    if start.startswith((b"<?xml", b"<net ")):
        return "looks like XML, such as OpenVINO's format", "give the ONNX model that it was made from"
    if start.startswith((b"ir_version:", b"<ir_version", b"<\n")) or (
        start.startswith(b"{") and b"irversion" in start
    ):
        return "looks like ONNX as text", "onnx.load(path, format=...) and onnx.save make it binary"
    try:
        shown = head[:64].decode("ascii")
    except UnicodeDecodeError:
        return "", None
    if len(head) >= 4 and all(c.isprintable() or c in "\r\n\t" for c in shown):
        return "looks like text", _HINT
    return "", None


def _folder(path: Path) -> tuple[str, str | None]:
    """What a folder looks like and what to do."""
    if (path / "saved_model.pb").exists():
        return " with a TensorFlow SavedModel", f"{_EXPORT}tf2onnx --saved-model"
    models = sorted(p.name for p in path.glob("*.onnx"))
    if models:
        return "", f"it holds {', '.join(models[:3])}"
    return "", None
