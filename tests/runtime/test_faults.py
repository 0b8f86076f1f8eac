"""What the system can do to a run: no memory, no disk, processes killed at any moment, odd arrays."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.programs import expected, model
from tilewright.cache import DiskCache, cache_key
from tilewright.errors import ArtifactError, CacheError, InputError, OutOfMemoryError, TilewrightError
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.model import Executable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes as Linux has them")
CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def sums() -> Executable:
    return Executable(model())


def _inputs(seed: int = 0, n: int = 1000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(n).astype(np.float32) for name in ("x", "y")}


def _in_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or the error that it raises, from a process of its own."""
    ours, theirs = CONTEXT.Pipe(duplex=False)

    def child() -> None:
        try:
            theirs.send(work())
        except TilewrightError as error:
            theirs.send(f"{type(error).__name__}: {error.message}")

    process = CONTEXT.Process(target=child)
    process.start()
    theirs.close()
    assert ours.poll(60)
    result = ours.recv()
    process.join(10)
    assert process.exitcode == 0
    return result


# ---- disk


def test_files_may_not_grow(tmp_path: Path) -> None:
    """A real limit, which the write meets in the middle of an entry."""
    cache, path = DiskCache(tmp_path / "cache"), tmp_path / "model.tw"
    path.write_bytes(b"what was there before")

    def work() -> tuple[str, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        found = []
        for error, write in (
            (CacheError, lambda: cache.put("ab" * 32, bytes(100_000))),
            (ArtifactError, lambda: model().save(path)),
        ):
            with pytest.raises(error) as caught:
                write()
            found.append(str(caught.value.message))
        return found[0], found[1]

    first, second = _in_child(work)
    assert first == "cannot write the compile cache: file too large"
    assert second == f"cannot write '{path}': file too large"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_bytes() == b"what was there before"


def test_killed_writers_leave_whole_entries_or_none(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    payloads = {cache_key(str(n)): bytes([n]) * (100_000 + n) for n in range(20)}

    def write() -> None:
        while True:
            for key, payload in payloads.items():
                cache.put(key, payload)
                cache.put_file(key, lambda path, payload=payload: path.write_bytes(payload) and None)

    for wait in (0.01, 0.02, 0.03):
        process = CONTEXT.Process(target=write)
        process.start()
        time.sleep(wait)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(10)
        for key, payload in payloads.items():
            assert cache.get(key) in (None, payload)
            file = cache.get_file(key)
            assert file is None or file.read_bytes() == payload
    assert any(cache.get(key) for key in payloads)
    old = time.time() - 7200
    for path in tmp_path.rglob("*.tmp"):
        os.utime(path, (old, old))
    cache.prune()
    assert not list(tmp_path.rglob("*.tmp"))


# ---- memory


def _allow(more: int) -> None:
    """From now on at most ``more`` bytes of address space besides what is used."""
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * 4096 + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def test_no_memory_for_outputs_and_threads(sums: Executable) -> None:
    """Runs go on with the threads that there are, or end in an error."""
    n = 1 << 20

    def work() -> list[str]:
        executable = Executable(model(n, threads=16))
        inputs = _inputs(1, n)
        _allow(24 << 20)
        seen = []
        kept = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer threads than asked for
            for _ in range(20):
                try:
                    kept.append(executable.run(inputs))
                    seen.append("ran" if np.array_equal(kept[0]["sum"], kept[-1]["sum"]) else "wrong")
                except OutOfMemoryError:
                    seen.append("none")
        return seen

    seen = _in_child(work)
    assert "none" in seen
    assert "wrong" not in seen


def test_no_memory_for_a_contiguous_copy(sums: Executable) -> None:
    huge = np.broadcast_to(np.float32(1), (1 << 45,))
    with pytest.raises(OutOfMemoryError, match=r"contiguous copy of input 'x' of 131072\.0 GiB"):
        sums.run({"x": huge, "y": _inputs()["y"]})


def test_a_thread_with_a_small_stack(sums: Executable) -> None:
    inputs = _inputs()
    found: list[bool] = []
    before = threading.stack_size(128 << 10)
    try:
        runner = threading.Thread(
            target=lambda: found.append(np.array_equal(sums.run(inputs)["sum"], expected(**inputs)))
        )
        runner.start()
    finally:
        threading.stack_size(before)
    runner.join(60)
    assert found == [True]


def test_threads_that_cannot_be_started() -> None:
    executable, inputs = Executable(model(threads=4)), _inputs()

    def work() -> tuple[int, bool]:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.setuid(65534) if os.getuid() == 0 else None  # the limit is not for root
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            right = np.array_equal(executable.run(inputs)["sum"], expected(**inputs))
        return len([w for w in seen if "started only" in str(w.message)]), right

    assert _in_child(work) == (1, True)


# ---- arrays


def test_numbers_that_are_none(sums: Executable) -> None:
    inputs = _inputs()
    inputs["x"][:4] = np.nan, np.inf, -np.inf, np.float32(1e-45)
    inputs["y"][1:3] = -np.inf, np.inf
    with np.errstate(invalid="ignore"):
        wanted = expected(**inputs)
    np.testing.assert_array_equal(sums.run(inputs)["sum"], wanted)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (np.ma.masked_array(np.zeros(1000, np.float32), mask=True), "'x' is a masked array"),
        (np.zeros(1000, object), "'x' has dtype object, expected float32"),
        (np.zeros(1000, [("a", "f4")]), r"'x' has dtype \[\('a', '<f4'\)\], expected float32"),
        (np.zeros(1000, "U4"), "'x' has dtype <U4, expected float32"),
        (np.zeros(1000, "M8[s]"), r"'x' has dtype datetime64\[s\], expected float32"),
        (np.zeros(1000, ">f4"), "'x' has dtype >f4, expected float32"),
        (None, "'x' is a NoneType, expected an array"),
    ],
)
def test_arrays_that_are_none(sums: Executable, odd: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sums.run({"x": odd, "y": _inputs()["y"]})


def test_arrays_of_every_layout(sums: Executable) -> None:
    inputs = _inputs()
    x = inputs["x"]
    raw = np.zeros(4008, np.uint8)
    unaligned = raw[3:4003].view(np.float32)
    unaligned[:] = x
    readonly = x.copy()
    readonly.flags.writeable = False
    for same in (
        unaligned, readonly, np.repeat(x, 3)[::3], x[::-1].copy()[::-1], np.asfortranarray(x),
    ):  # fmt: skip
        assert np.array_equal(sums.run({"x": same, "y": inputs["y"]})["sum"], expected(**inputs))
    ones = np.broadcast_to(np.float32(1), (1000,))
    wanted = expected(np.ones(1000, np.float32), inputs["y"])
    assert np.array_equal(sums.run({"x": ones, "y": inputs["y"]})["sum"], wanted)


def test_a_damaged_file_in_place_of_the_old(tmp_path: Path) -> None:
    """The name points to nonsense by now; what was loaded runs, loading again is refused."""
    path = tmp_path / "model.tw"
    model().save(path)
    loaded = Artifact.load(path)
    (tmp_path / "new").write_bytes(b"nonsense")
    (tmp_path / "new").replace(path)
    inputs = _inputs()
    with Executable(loaded) as executable:
        assert np.array_equal(executable.run(inputs)["sum"], expected(**inputs))
    with pytest.raises(ArtifactError, match="not a tilewright artifact"):
        Artifact.load(path)
