"""What a parallel region costs: hot, after gaps, and with other processes on the cores (docs/runtime.md).

Run as ``python -m benchmarks.thread_pool``. Times are in microseconds; nothing else should be running.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tilewright.backend.llvm.compile import compile_many
from tilewright.runtime.loader import load, load_runtime
from tilewright.runtime.pool import ThreadPool
from tilewright.runtime.threadpool import thread_pool_ir
from tilewright.target import Target

# @spin does nothing `end - begin` times; @regions runs it as `reps` regions and returns the time in ns.
_CODE = r"""
declare void @tw_parallel(ptr, ptr, ptr, i64, i64)
declare i64 @tw_now()

define internal void @spin(ptr %closure, i64 %begin, i64 %end, i64 %tid) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  call void asm sideeffect "", "~{memory}"()
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define i64 @regions(ptr %pool, i64 %n, i64 %grain, i64 %reps) {
entry:
  %t0 = call i64 @tw_now()
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @tw_parallel(ptr %pool, ptr @spin, ptr null, i64 %n, i64 %grain)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %reps
  br i1 %more, label %loop, label %done
done:
  %t1 = call i64 @tw_now()
  %ns = sub i64 %t1, %t0
  ret i64 %ns
}
"""
_REGION = 5_000_000  # iterations: about a millisecond of work on one thread


@contextmanager
def _other_processes(count: int) -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.1)
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def _report(what: str, times: list[float]) -> None:
    times.sort()
    lowest, median, high = times[0], times[len(times) // 2], times[len(times) * 9 // 10]
    print(f"{what:52s} min {lowest:9.2f}   median {median:9.2f}   p90 {high:9.2f}")


def main() -> None:
    """Print the table."""
    target = Target.host()
    runtime, code = compile_many([thread_pool_ir(target.triple), _CODE], target)
    functions = load_runtime(runtime)
    library = load([code], ["regions"], functions)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 3)(
        library.addresses["regions"]
    )
    enter, leave = (
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions[name]) for name in ("tw_pool_enter", "tw_pool_exit")
    )

    for threads in (1, 2):
        pool = ThreadPool(functions, threads)
        enter(pool.address)
        for chunks in (2, 4, 64):
            times = [call(pool.address, chunks, 1, 100) / 1e5 for _ in range(300)]
            _report(f"empty region, {threads} threads, {chunks} chunks, hot", times)
        leave(pool.address)
    pool = ThreadPool(functions, 2)
    for gap in (20e-6, 100e-6, 500e-6, 5e-3):
        times = []
        for _ in range(200):
            start = time.perf_counter()
            while time.perf_counter() - start < gap:
                pass
            times.append(call(pool.address, 2, 1, 1) / 1e3)
        _report(f"empty region, 2 threads, {gap * 1e6:.0f} us after the last", times)
    for hogs in (0, 1, 2):
        with _other_processes(hogs):
            for threads in (1, 2, 4):
                pool = ThreadPool(functions, threads)
                times = []
                for _ in range(100):
                    enter(pool.address)
                    times.append(call(pool.address, _REGION, _REGION // 16, 1) / 1e3)
                    leave(pool.address)
                _report(f"1 ms of work in 16 chunks, {threads} threads, {hogs} busy processes", times)


if __name__ == "__main__":
    main()
