"""Whole compiled models in the compile cache.

An artifact is kept under the model's content and everything that was asked for. Where schedules were chosen
by a measurement store, what the store answered is kept beside it: the artifact serves as long as the store
would answer the same. Whether it has changed at all is seen from its file, without opening it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tilewright.build import compiler_epoch
from tilewright.cache import DiskCache, cache_key
from tilewright.config import options
from tilewright.dims import Dims, Shapes
from tilewright.errors import ArtifactError
from tilewright.runtime.artifact import Artifact
from tilewright.sources import Source
from tilewright.target import Target


class Advice(Protocol):
    """What chooses schedules by measurements: :class:`tilewright.tune.lookup.Lookup`."""

    def confirms(self, evidence: Mapping[str, str]) -> bool:
        """Whether the store answers today as it did then."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Kept:
    """The place of one compiled model in the cache.

    Args:
        key: from :func:`source_key`.
        store: the address of the measurement store by which schedules are chosen, or None.

    All methods raise CacheError when the cache cannot be read or written.
    """

    def __init__(self, cache: DiskCache, key: str, store: str | None) -> None:
        self._cache, self._key, self._store = cache, key, store
        self._stamp = "" if store is None else _stamp(store)

    def find(self, advice: Callable[[], Advice]) -> Artifact | None:
        """The artifact, if it is there and what it was chosen by still holds. ``advice`` is asked where the
        store has changed."""
        evidence = {} if self._store is None else self._valid_evidence(advice)
        if evidence is None:
            return None
        key = self._artifact_key(evidence)
        path = self._cache.get_file(key)
        try:
            return None if path is None else Artifact.load(path)
        except ArtifactError:  # damaged by a crash of the machine: as if it had not been there
            self._cache.drop_file(key)
            return None

    def keep(self, artifact: Artifact, evidence: Mapping[str, str]) -> None:
        """Put an artifact here that was compiled with these answers of the store."""
        self._cache.put_file(self._artifact_key(evidence), artifact.save)
        if self._store is not None:
            self._remember(evidence)

    def _valid_evidence(self, advice: Callable[[], Advice]) -> dict[str, str] | None:
        """What the store has answered for this model, if it would answer the same now."""
        data = self._cache.get(self._evidence_key)
        if data is None:
            return None
        known = json.loads(data)
        evidence: dict[str, str] = known["evidence"]
        if self._stamp and known["stamp"] == self._stamp:
            return evidence
        lookup = advice()
        try:
            if not lookup.confirms(evidence):
                return None
        finally:
            lookup.close()
        self._remember(evidence)
        return evidence

    def _remember(self, evidence: Mapping[str, str]) -> None:
        text = json.dumps({"stamp": self._stamp, "evidence": dict(evidence)}, sort_keys=True)
        self._cache.put(self._evidence_key, text.encode())

    @property
    def _evidence_key(self) -> str:
        return cache_key("evidence", self._key)

    def _artifact_key(self, evidence: Mapping[str, str]) -> str:
        return cache_key(self._key, json.dumps(dict(evidence), sort_keys=True))


def _stamp(address: str) -> str:
    """Changes with every write to the store at a path; empty for databases elsewhere."""
    if "://" in address:
        return ""
    found: list[list[int]] = []
    for path in (address, f"{address}-wal"):
        try:
            status = os.stat(os.path.expanduser(path))
        except OSError:
            continue
        if status.st_size:
            found.append([status.st_ino, status.st_size, status.st_mtime_ns])
    return json.dumps(found)


def source_key(
    source: Source, shapes: Shapes | None, dims: Dims | None, target: Target, threads: int, store: str | None
) -> str | None:
    """The cache key of a whole compiled model; None when its content is not all in one file.

    Models that mention external data are left out: their weights may change while the file stays.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            if not path.is_file() or path.stat().st_size >= 1 << 31:
                return None  # the importer says what is wrong with it
            data = path.read_bytes()
        except (OSError, ValueError):  # ValueError: a name that holds a zero byte
            return None
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    else:
        return None
    if b"location" in data:
        return None
    settings = f"{options().fast_conv} {options().max_computed}"
    chosen_by = "" if store is None else f"{options().choose} {store}"
    given = {name: list(shape) for name, shape in (shapes or {}).items()}
    sizes = json.dumps([given, dict(dims or {})], default=str, sort_keys=True)
    digest = hashlib.sha256(data).hexdigest()
    parts = (sizes, target.to_json(), str(threads), settings, chosen_by, digest)
    return cache_key("model", compiler_epoch(), *parts)
