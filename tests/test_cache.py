from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tilewright.cache import DiskCache, cache_key
from tilewright.errors import CacheError


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


def _entries(cache: DiskCache) -> list[Path]:
    return sorted(p for p in cache.root.rglob("*") if p.is_file())


def test_keys() -> None:
    assert cache_key("a", "b") != cache_key("ab", "") != cache_key("", "ab")
    assert cache_key("é") == cache_key("é".encode())
    assert len(cache_key()) == 64


def test_get_and_put(cache: DiskCache) -> None:
    key = cache_key("x")
    assert cache.get(key) is None
    assert not cache.root.exists()  # reading makes no folders
    for payload in (b"", b"data", bytes(range(256)) * 1000):
        cache.put(key, payload)
        assert cache.get(key) == payload
    assert DiskCache(cache.root).get(key) == payload
    assert len(_entries(cache)) == 1


def test_every_damage_is_noticed_and_removed(cache: DiskCache) -> None:
    key = cache_key("x")
    cache.put(key, b"some object code")
    (path,) = _entries(cache)
    good = path.read_bytes()
    bad = [good[:n] for n in range(len(good))] + [good + b"!"]
    bad += [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good))]
    for data in bad:
        path.write_bytes(data)
        assert cache.get(key) is None
        assert not path.exists()
        cache.put(key, b"some object code")
        assert cache.get(key) == b"some object code"


def test_pruning_removes_what_was_not_used(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit_bytes=10_000)
    keys = [cache_key(str(i)) for i in range(9)]
    for age, key in enumerate(keys):
        cache.put(key, bytes(1000))
        os.utime(cache._path(key), (time.time() - 1000 + age,) * 2)
    assert cache.get(keys[0]) is not None  # now the most recently used
    cache.put(cache_key("big"), bytes(4000))
    cache.prune()
    assert cache.size_bytes() <= 10_000
    assert cache.get(cache_key("big")) is not None
    assert cache.get(keys[0]) is not None
    assert cache.get(keys[1]) is None
    assert cache.get(keys[8]) is not None


def test_the_limit_holds_without_asking(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit_bytes=100_000)
    for i in range(300):
        cache.put(cache_key(str(i)), bytes(1000))
    assert cache.size_bytes() < 120_000


def test_leftovers_of_killed_writers_go(cache: DiskCache) -> None:
    cache.put(cache_key("x"), b"1")
    folder = _entries(cache)[0].parent
    old, young = folder / "k.1.aa.tmp", folder / "k.2.bb.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.prune()
    assert not old.exists()
    assert young.exists()


def test_clear_touches_only_its_own(cache: DiskCache) -> None:
    cache.put(cache_key("x"), b"1")
    mine = cache.root / "ab" / "notes.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("not an entry")
    (cache.root / "README").write_text("not a folder")
    cache.clear()
    assert [p.name for p in _entries(cache)] == ["README", "notes.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(cache: DiskCache, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    cache.put(cache_key("before"), b"kept")

    def full(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CacheError, match="disk that holds the compile cache is full") as error:
        cache.put(cache_key("x"), b"data")
    assert "--no-cache" in str(error.value)
    assert len(_entries(cache)) == 1
    assert cache.get(cache_key("x")) is None


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = DiskCache(tmp_path / "cache")
    assert cache.get(cache_key("x")) is None
    with pytest.raises(CacheError, match="cannot write the compile cache"):
        cache.put(cache_key("x"), b"1")
    cache.prune()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CacheError, match="permission denied"):
        DiskCache(tmp_path / "cache").put(cache_key("x"), b"1")
    tmp_path.chmod(0o700)


def _write_and_read(root: Path, seed: int, failures: object) -> None:
    cache = DiskCache(root, limit_bytes=60_000)
    for i in range(150):
        key = cache_key(str((i * 7 + seed) % 20))
        payload = key.encode() * 100
        cache.put(key, payload)
        data = cache.get(key)
        if data not in (None, payload):  # None: another process pruned it
            failures.put(key)  # type: ignore[attr-defined]


def test_processes_write_the_same_keys(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [context.Process(target=_write_and_read, args=(tmp_path, seed, failures)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert failures.empty()
    assert not list(tmp_path.rglob("*.tmp"))
