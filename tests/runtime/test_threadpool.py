from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.runtime.programs import REGIONS, host_runtime
from tilewright.backend.llvm.compile import compile_many
from tilewright.backend.llvm.worker import emit_object
from tilewright.errors import TargetError
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.pool import ThreadPool
from tilewright.runtime.threadpool import EXPORTS, thread_pool_ir
from tilewright.target import Target

_CALLS = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3)


class Regions:
    """The pool's functions, and a region that counts how often it ran each index."""

    def __init__(self) -> None:
        self.runtime = load_runtime(host_runtime())
        code = compile_many([REGIONS], Target.host())
        self.library = load(code, ["calls", "count", "where", "length"], self.runtime)
        self.calls = _CALLS(self.library.addresses["calls"])

    def counts(self, pool: int, n: int, grain: int, reps: int) -> list[int]:
        x = (ctypes.c_int64 * (16 * max(n, 1)))()
        self.calls(pool, self.library.addresses["count"], ctypes.addressof(x), n, grain, reps)
        return list(x)[: 16 * n : 16]

    def threads_used(self, pool: int, n: int) -> set[int]:
        x = (ctypes.c_int64 * n)()
        self.calls(pool, self.library.addresses["where"], ctypes.addressof(x), n, 1, 1)
        return {number - 1 for number in x}


@pytest.fixture(scope="module")
def regions() -> Regions:
    return Regions()


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 9])
def test_every_index_runs_once(regions: Regions, threads: int) -> None:
    pool = ThreadPool(regions.runtime, threads)
    for n, grain in [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 2),
        (7, 1),
        (64, 1),
        (100, 7),
        (1000, 1000),
        (1000, 1),
        (5, 0),
        (10, -3),
    ]:
        assert regions.counts(pool.address, n, grain, 50) == [50] * n


def test_tiny_grain_of_a_huge_range(regions: Regions) -> None:
    """The number of chunks is limited, whatever the grain: the count of finished ones has 32 bits."""
    pool = ThreadPool(regions.runtime, 2)
    for n in (1 << 45, (1 << 21) - 1, (1 << 40) + 12345):
        x = (ctypes.c_int64 * 2)()
        regions.calls(pool.address, regions.library.addresses["length"], ctypes.addressof(x), n, 1, 1)
        assert x[0] == n
        assert x[1] <= 1 << 22


def test_all_threads_take_part(regions: Regions) -> None:
    pool = ThreadPool(regions.runtime, 3)
    used: set[int] = set()
    for _ in range(50):
        used |= regions.threads_used(pool.address, 60)
        if used == {0, 1, 2}:
            break
    assert used == {0, 1, 2}


def test_threads_wake_from_sleep(regions: Regions) -> None:
    pool = ThreadPool(regions.runtime, 2)
    for _ in range(20):
        regions.counts(pool.address, 2, 1, 1)
        time.sleep(0.002)  # far beyond the time after which threads sleep
        assert regions.counts(pool.address, 64, 1, 3) == [3] * 64


def test_idle_threads_burn_no_time(regions: Regions) -> None:
    pool = ThreadPool(regions.runtime, 4)
    regions.counts(pool.address, 64, 1, 10)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.05


def test_concurrent_callers_share_a_pool(regions: Regions) -> None:
    pool = ThreadPool(regions.runtime, 4)
    results: list[bool] = []

    def caller() -> None:
        results.append(regions.counts(pool.address, 100, 3, 2000) == [2000] * 100)

    callers = [threading.Thread(target=caller) for _ in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert results == [True] * 6


def test_many_pools_on_few_cores(regions: Regions) -> None:
    pools = [ThreadPool(regions.runtime, 4) for _ in range(6)]
    results: list[bool] = []

    def caller(pool: ThreadPool) -> None:
        results.append(regions.counts(pool.address, 40, 1, 300) == [300] * 40)

    callers = [threading.Thread(target=caller, args=(pool,)) for pool in pools]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert results == [True] * 6


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_threads_end_with_their_pool(regions: Regions) -> None:
    before = _threads()
    for _ in range(20):
        pool = ThreadPool(regions.runtime, 4)
        assert regions.counts(pool.address, 16, 1, 2) == [2] * 16
        assert _threads() == before + 3
        del pool
        gc.collect()
        assert _threads() == before


def test_shared_pools(regions: Regions) -> None:
    one, two, other = (ThreadPool.shared(regions.runtime, n) for n in (2, 2, 3))
    assert one is two
    assert one is not other


def test_a_forked_child_gets_its_own_threads(regions: Regions) -> None:
    pool = ThreadPool(regions.runtime, 3)
    assert regions.counts(pool.address, 50, 1, 20) == [20] * 50

    def child(connection) -> None:  # type: ignore[no-untyped-def]
        connection.send(
            regions.counts(pool.address, 50, 1, 20) == [20] * 50 and _used(regions, pool) == {0, 1, 2}
        )

    context = multiprocessing.get_context("fork")
    for _ in range(3):
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,))
        process.start()
        assert ours.poll(60)
        assert ours.recv() is True
        process.join(10)
        assert process.exitcode == 0
    assert regions.counts(pool.address, 50, 1, 20) == [20] * 50


def _used(regions: Regions, pool: ThreadPool) -> set[int]:
    used: set[int] = set()
    for _ in range(50):
        used |= regions.threads_used(pool.address, 60)
        if len(used) == 3:
            break
    return used


def _blocked_signals() -> list[int]:
    """The signal masks of the pool threads of this process."""
    masks = []
    for task in os.listdir("/proc/self/task"):
        lines = Path(f"/proc/self/task/{task}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if status["Name"].strip() == "tilewright":
            masks.append(int(status["SigBlk"], 16))
    return masks


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads signal masks in /proc")
def test_pool_threads_leave_signals_to_the_program(regions: Regions) -> None:
    got = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        pool = ThreadPool(regions.runtime, 4)
        regions.counts(pool.address, 16, 1, 1)
        masks: list[int] = []
        for _ in range(500):  # while a thread starts, the C library blocks every signal in it
            masks = _blocked_signals()
            if not any(mask >> (signal.SIGSEGV - 1) & 1 for mask in masks):
                break
            time.sleep(0.01)
        assert len(masks) >= 3
        for mask in masks:
            assert mask >> (signal.SIGUSR1 - 1) & 1
            assert not mask >> (signal.SIGSEGV - 1) & 1
        os.kill(os.getpid(), signal.SIGUSR1)
        assert got == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, previous)


def _pool_threads() -> set[int]:
    tasks = Path("/proc/self/task")
    return {int(t.name) for t in tasks.iterdir() if (t / "comm").read_text().strip() == "tilewright"}


# Stands for sched_setaffinity in the pool: counts its calls and keeps the masks of the last two.
_MOVING = r"""
@moves = global i32 0
@masks = global [2 x i64] zeroinitializer
define i32 @moving(i32 %thread, i64 %size, ptr %mask) {
  %n = atomicrmw add ptr @moves, i32 1 seq_cst
  %word = load i64, ptr %mask
  %odd = and i32 %n, 1
  %p = getelementptr i64, ptr @masks, i32 %odd
  store atomic i64 %word, ptr %p seq_cst, align 8
  %r = call i32 @sched_setaffinity(i32 %thread, i64 %size, ptr %mask)
  ret i32 %r
}
"""
_AFFINITY = hasattr(os, "sched_getaffinity") and os.path.isdir("/proc/self/task")


@pytest.mark.skipif(
    not _AFFINITY or not 2 <= len(os.sched_getaffinity(0)) <= max(os.sched_getaffinity(0)) + 1 <= 64,
    reason="needs two processors, and masks of one word",
)
def test_threads_on_one_processor_part(regions: Regions) -> None:
    allowed, others = os.sched_getaffinity(0), _pool_threads()
    text = thread_pool_ir(Target.host().triple)
    text = text.replace("call i32 @sched_setaffinity(", "call i32 @moving(") + _MOVING
    (code,) = compile_many([text], Target.host())
    library = load([code], [*EXPORTS, "moves", "masks"])
    found = library.addresses
    parallel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int64)(
        found["tw_parallel"]
    )
    moves = ctypes.c_int32.from_address(found["moves"])
    masks = (ctypes.c_uint64 * 2).from_address(found["masks"])
    x = (ctypes.c_int64 * (16 * 64))()
    pool = ThreadPool(found, 2)
    pool.address  # noqa: B018 - starts the thread
    [worker] = _pool_threads() - others
    one = min(allowed)
    deadline = time.monotonic() + 30
    try:
        os.sched_setaffinity(0, {one})
        while moves.value == 0 and time.monotonic() < deadline:
            os.sched_setaffinity(worker, {one})  # as if the system had put it there
            os.sched_setaffinity(worker, allowed)
            for _ in range(100):
                parallel(pool.address, regions.library.addresses["count"], ctypes.addressof(x), 64, 1)
        while moves.value % 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        away, back = ({n for n in range(64) if mask >> n & 1} for mask in masks)
        assert away == allowed - {one}
        assert back == allowed
    finally:
        os.sched_setaffinity(0, allowed)
        del pool  # before its code


@pytest.mark.skipif(not _AFFINITY, reason="asks for the processors of threads")
def test_threads_without_another_processor_stay(regions: Regions) -> None:
    allowed, others = os.sched_getaffinity(0), _pool_threads()
    os.sched_setaffinity(0, {min(allowed)})
    try:
        pool = ThreadPool(regions.runtime, 3)
        for _ in range(5):
            assert regions.counts(pool.address, 64, 1, 100) == [100] * 64
            time.sleep(0.002)
        assert [os.sched_getaffinity(thread) for thread in _pool_threads() - others] == [{min(allowed)}] * 2
    finally:
        os.sched_setaffinity(0, allowed)


def test_clock(regions: Regions) -> None:
    now = ctypes.CFUNCTYPE(ctypes.c_int64)(regions.runtime["tw_now"])
    assert abs(now() - time.monotonic_ns()) < 1_000_000_000
    assert now() <= now()


@pytest.mark.parametrize(
    "triple",
    [
        "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "riscv64-unknown-linux-gnu",
        "powerpc64le-unknown-linux-gnu", "x86_64-apple-darwin22", "arm64-apple-macosx13.0.0",
    ],
)  # fmt: skip
def test_compiles_for_other_systems(triple: str) -> None:
    text = thread_pool_ir(triple)
    assert "$" not in text
    code = emit_object(text, triple, "", "")
    assert all(name.encode() in code for name in EXPORTS)


def test_sleeping_without_futex(regions: Regions) -> None:
    """The variant for systems without futex also runs on Linux: an unknown architecture's code, compiled
    for this one.
    """
    text = thread_pool_ir(Target.host().triple.replace(Target.host().arch, "powerpc64le", 1))
    assert "pthread_cond_wait" in text
    pool = ThreadPool(load_runtime(compile_many([text], Target.host())[0]), 4)
    for _ in range(10):
        # `calls` is linked with the futex pool's tw_parallel; call this one's directly.
        parallel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int64)(
            pool._functions["tw_parallel"]
        )
        x = (ctypes.c_int64 * (16 * 64))()
        for _ in range(20):
            parallel(pool.address, regions.library.addresses["count"], ctypes.addressof(x), 64, 1)
        assert list(x)[::16] == [20] * 64
        time.sleep(0.002)


def test_unknown_system() -> None:
    with pytest.raises(TargetError, match="x86_64-pc-windows-msvc"):
        thread_pool_ir("x86_64-pc-windows-msvc")
