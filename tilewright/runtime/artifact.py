"""Artifacts: a compiled model, in memory and as a file.

The file format is described in docs/artifact.md: a zip archive whose members are stored uncompressed and
aligned, so that loading maps the file into memory and copies nothing. :meth:`Artifact.save` writes it
atomically; :meth:`Artifact.load` checks every offset and checksum that it relies on before it uses them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tilewright.errors import ArtifactError, TargetError
from tilewright.runtime.memory import allocate
from tilewright.runtime.plan import ALIGNMENT, KernelCall, Signature, Variant, check_variant
from tilewright.runtime.special import case_key
from tilewright.target import Target

FORMAT_VERSION = 1
"""Version of the file format. A reader refuses files with a newer one."""
ABI_VERSION = 2
"""Version of the calling convention between runtime, entry and kernels (docs/runtime.md)."""

MAX_THREADS = 1 << 16
"""More threads than this are a mistake."""

MANIFEST, WEIGHTS, RUNTIME = "manifest.json", "weights.bin", "objects/runtime.o"
_WEIGHTS_ALIGNMENT = 4096
_RESERVED = 256 << 20
"""Address space that a weight store starts with, in bytes."""


class WeightStore:
    """Constant tensors of a model, laid out one after the other, each content once.

    Offsets never change once given out, so variants that are compiled later can share a store with earlier
    ones. The memory has room reserved behind the tensors (address space, not memory), so it rarely moves
    when the store grows, and the variants share it, too.
    """

    def __init__(self) -> None:
        self._offsets: dict[tuple[int, bytes], int] = {}
        self._size = 0
        self._memory = allocate(_RESERVED, reserve=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole section."""
        return self._size

    def add(self, array: np.ndarray) -> int:
        """Copy ``array`` (any dtype; C order) into the store and return its byte offset, a multiple of 64."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = (data.nbytes, hashlib.sha256(data.data).digest())
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._offsets[key] = self._size
            self._size += -(-max(data.nbytes, 1) // ALIGNMENT) * ALIGNMENT
            if self._size > len(self._memory):
                self._move(offset, 2 * self._size)
            np.frombuffer(self._memory, np.uint8)[offset : offset + data.nbytes] = data
        return offset

    def pack(self) -> memoryview:
        """The section as one read-only block of memory that starts on a page."""
        return memoryview(self._memory)[: self._size].toreadonly()

    def _move(self, used: int, capacity: int) -> None:
        """Go on in a larger block. Whoever still uses the old one keeps it."""
        memory = allocate(capacity, reserve=True)
        np.frombuffer(memory, np.uint8)[:used] = np.frombuffer(self._memory, np.uint8)[:used]
        self._memory = memory


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A compiled model.

    Attributes:
        target: what its code runs on.
        threads: the number of threads that kernels were compiled for; a run may use fewer, not more.
        signature: inputs, outputs and symbolic dimensions.
        variants: one for each compiled binding of the symbolic dimensions.
        objects: object files by key.
        runtime: the thread pool's object file.
        weights: the weight section; variants refer to it by offset.
        model: facts about the source for people to read (name, framework, sha256 ...), JSON-able.
    """

    target: Target
    threads: int
    signature: Signature
    variants: tuple[Variant, ...]
    objects: Mapping[str, bytes]
    runtime: bytes
    weights: memoryview
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ArtifactError("the artifact was compiled for no thread at all")
        if self.threads > MAX_THREADS:
            raise ArtifactError(
                f"the artifact was compiled for {self.threads} threads, more than {MAX_THREADS}"
            )
        for variant in self.variants:
            check_variant(variant, self.signature, self.weights.nbytes)
            for key in variant.objects():
                if key not in self.objects:
                    raise ArtifactError(
                        f"the object file '{key}' of variant {dict(variant.binding)} is missing"
                    )

    def with_variant(self, variant: Variant, objects: Mapping[str, bytes], weights: memoryview) -> Artifact:
        """This artifact and one more variant (or a new one for the same binding and case).

        Args:
            variant: what to add.
            objects: its object files by key.
            weights: the weight section with what the variant added; what was there before is still at its
                place.
        """
        others = tuple(
            v
            for v in self.variants
            if dict(v.binding) != dict(variant.binding) or case_key(v) != case_key(variant)
        )
        return dataclasses.replace(
            self, variants=(*others, variant), objects={**self.objects, **objects}, weights=weights
        )

    def without_case(self, variant: Variant) -> Artifact:
        """This artifact without what is for the same values of inputs as ``variant``."""
        kept = tuple(v for v in self.variants if case_key(v) != case_key(variant))
        needed = {key for v in kept for key in v.objects()}
        objects = {key: data for key, data in self.objects.items() if key in needed}
        return dataclasses.replace(self, variants=kept, objects=objects)

    @property
    def cases(self) -> int:
        """How many values of inputs, or lists of tensors, there are variants for."""
        return len({case_key(v) for v in self.variants if v.is_special})

    def kernels(self) -> list[KernelCall]:
        """The steps of all variants."""
        return [kernel for variant in self.variants for kernel in variant.kernels]

    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``."""
        return {
            "format": FORMAT_VERSION,
            "abi": ABI_VERSION,
            "model": dict(self.model),
            "target": json.loads(self.target.to_json()),
            "threads": self.threads,
            "signature": self.signature.to_json(),
            "runtime": _digest(self.runtime),
            "objects": {key: _digest(data) for key, data in sorted(self.objects.items())},
            "weights": {"bytes": self.weights.nbytes, "sha256": _digest(self.weights)},
            "variants": [variant.to_json() for variant in self.variants],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact to the file ``path``, all of it or nothing.

        Raises:
            ArtifactError: the file cannot be written (no such folder, permissions, full disk).
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            with open(temporary, "xb") as file:
                self._write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise ArtifactError(f"cannot write '{path}': {reason[:1].lower()}{reason[1:]}") from error
            raise

    def _write(self, file: Any) -> None:
        manifest = json.dumps(self.manifest(), indent=1, sort_keys=True).encode()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, MANIFEST, manifest, ALIGNMENT)
            _add(archive, RUNTIME, self.runtime, ALIGNMENT)
            for key, data in sorted(self.objects.items()):
                _add(archive, _object_name(key), data, ALIGNMENT)
            _add(archive, WEIGHTS, self.weights, _WEIGHTS_ALIGNMENT)

    @staticmethod
    def load(path: str | os.PathLike[str], *, verify_weights: bool = False) -> Artifact:
        """Map the artifact at ``path`` into memory.

        Args:
            path: a file written by :meth:`save`.
            verify_weights: also compare the weights with their checksum, which reads all of them. Code and
                manifest are always checked.

        Raises:
            ArtifactError: the file is missing, not an artifact, damaged, or of a newer version.
        """
        path = Path(path)
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if hasattr(mmap, "MADV_WILLNEED"):
                    data.madvise(mmap.MADV_WILLNEED)  # start reading the weights, which the first run needs
                # All from one file that is open: another one may take its name at any time.
                members = _members(file, len(data))
            return _read(memoryview(data), members, verify_weights)
        except FileNotFoundError:
            raise ArtifactError(f"there is no file '{path}'") from None
        except ValueError:
            raise ArtifactError(f"'{path}' is empty") from None
        except OSError as error:
            raise ArtifactError(f"cannot read '{path}': {error.strerror}") from error
        except ArtifactError as error:
            raise ArtifactError(error.message, location=str(path), hint=error.hint) from error.__cause__


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _object_name(key: str) -> str:
    return f"objects/{key}.o"


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview, alignment: int) -> None:
    """Store one member with its data on a multiple of ``alignment`` bytes from the start of the file."""
    info = zipfile.ZipInfo(name)  # dated 1980: equal artifacts are equal files
    info.external_attr = 0o644 << 16
    large = len(data) >= 1 << 31
    # The local header: 30 bytes, the name, our padding and, only in large members, 20 bytes that `zipfile`
    # prepends.
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name) + (20 if large else 0)
    padding = -start % alignment
    if 0 < padding < 4:  # an extra field takes at least its own header
        padding += alignment
    if padding:
        info.extra = struct.pack("<HH", 0x5754, padding - 4) + bytes(padding - 4)
    with archive.open(info, "w", force_zip64=large) as member:
        member.write(data)


@dataclasses.dataclass(frozen=True)
class _Member:
    """Where the bytes of a stored member are in the file, and the checksum that the archive has for them."""

    offset: int
    size: int
    crc: int


def _members(file: BinaryIO, size: int) -> dict[str, _Member]:
    """The stored members by name, each checked to lie inside the file of ``size`` bytes."""
    damaged = "the file is damaged or was cut off"
    members = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ArtifactError(f"{damaged}: member '{info.filename}' is compressed")
                file.seek(info.header_offset)
                header = file.read(30)
                if len(header) < 30 or header[:4] != b"PK\x03\x04":
                    raise ArtifactError(f"{damaged}: member '{info.filename}' has no header")
                name_length, extra_length = struct.unpack("<HH", header[26:30])
                offset = info.header_offset + 30 + name_length + extra_length
                if info.file_size != info.compress_size or offset + info.file_size > size:
                    raise ArtifactError(f"{damaged}: member '{info.filename}' reaches beyond the end")
                members[info.filename] = _Member(offset, info.file_size, info.CRC)
    except (
        zipfile.BadZipFile,
        struct.error,
        NotImplementedError,
        UnicodeError,
        ValueError,
        EOFError,
    ) as error:
        raise ArtifactError(
            f"not a tilewright artifact, or {damaged.removeprefix('the file ')}: {error}"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{damaged}: {error.strerror or error}") from error
    return members


def _read(file: memoryview, members: Mapping[str, _Member], verify_weights: bool) -> Artifact:
    def member(name: str) -> memoryview:
        if name not in members:
            raise ArtifactError(f"not a tilewright artifact: it has no member '{name}'")
        where = members[name]
        return file[where.offset : where.offset + where.size]

    try:
        text = bytes(member(MANIFEST))
        if zlib.crc32(text) != members[MANIFEST].crc:
            raise ArtifactError("the file is damaged: the manifest does not match its checksum")
        manifest = json.loads(text)
        version, abi = manifest["format"], manifest["abi"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError("the file is damaged: its manifest cannot be read") from error
    if not isinstance(version, int) or not isinstance(abi, int):
        raise ArtifactError("the file is damaged: its manifest has no version")
    if version > FORMAT_VERSION or abi > ABI_VERSION:
        raise ArtifactError(
            f"the artifact has format {version} (ABI {abi}); "
            f"this tilewright reads format {FORMAT_VERSION} (ABI {ABI_VERSION})",
            hint="it was written by a newer tilewright: upgrade, or compile the model again",
        )
    if version < 1 or abi != ABI_VERSION:
        raise ArtifactError(
            f"the artifact has ABI {abi}; this tilewright runs ABI {ABI_VERSION}",
            hint="compile the model again",
        )
    try:
        runtime = bytes(member(RUNTIME))
        if _digest(runtime) != manifest["runtime"]:
            raise ArtifactError("the file is damaged: the runtime's code does not match its checksum")
        objects = {}
        for key, digest in manifest["objects"].items():
            objects[key] = bytes(member(_object_name(key)))
            if _digest(objects[key]) != digest:
                raise ArtifactError(f"the file is damaged: object '{key}' does not match its checksum")
        weights = member(WEIGHTS)
        if weights.nbytes != manifest["weights"]["bytes"]:
            raise ArtifactError("the file is damaged: the weights have the wrong size")
        if members[WEIGHTS].offset % ALIGNMENT:
            raise ArtifactError("the file is damaged: the weights are not aligned")
        if verify_weights and _digest(weights) != manifest["weights"]["sha256"]:
            raise ArtifactError("the file is damaged: the weights do not match their checksum")
        return Artifact(
            target=Target.from_json(json.dumps(manifest["target"])),
            threads=manifest["threads"],
            signature=Signature.from_json(manifest["signature"]),
            variants=tuple(Variant.from_json(v) for v in manifest["variants"]),
            objects=objects,
            runtime=runtime,
            weights=weights,
            model=manifest.get("model", {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, TargetError) as error:
        raise ArtifactError(f"the file is damaged: its manifest is malformed ({error})") from error
