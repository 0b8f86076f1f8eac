"""What this machine can do at most, measured: float32 multiply-adds and memory reads per second.

Both kernels are generated for the target's vector width. The arithmetic kernel keeps :data:`ACCUMULATORS`
independent chains of fused multiply-adds in registers, enough to hide the latency of any current core; the
reading kernel adds up a buffer with as many independent loads.
"""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import time
from collections.abc import Callable

import numpy as np

from tilewright.backend.llvm.compile import compile_many
from tilewright.runtime.loader import Library, load
from tilewright.target import Target

#: 12 chains cover a latency of 4 to 5 cycles at two instructions a cycle and fit 16 registers.
ACCUMULATORS = 12
#: Multiply-adds of one chain in one iteration of the loop.
UNROLL = 4
CACHED_BYTES = 4 << 20
MEMORY_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Measured limits of this machine.

    Attributes:
        threads: how many threads worked at the same time.
        gflops: float32 multiply-adds, counted as two operations, in GFLOP/s.
        cached_gbytes: reads of a buffer of 4 MiB a thread, in GB/s.
        memory_gbytes: reads of 256 MiB in all, in GB/s; None when it was not asked for.
    """

    threads: int
    gflops: float
    cached_gbytes: float
    memory_gbytes: float | None = None

    def share(self, flops: float, nbytes: float, seconds: float) -> float:
        """The part of the attainable speed that a kernel reached: its lower bound on time over its time."""
        if seconds <= 0:
            return 0.0
        return max(flops / (self.gflops * 1e9), nbytes / (self.cached_gbytes * 1e9)) / seconds


def measure_roofline(threads: int = 1, memory: bool = False, seconds: float = 0.3) -> Roofline:
    """Measure this machine for about ``seconds`` a limit; the best of many short runs counts.

    Raises:
        TargetError: this machine has no backend, or forbids executable memory.
    """
    target = Target.host()
    library = load(compile_many([kernels_ir(target)], target), ["tw_peak", "tw_read"])
    gflops = _best_together(threads, seconds, lambda _: _peak_call(library, target)) / 1e9
    cached = _best_together(threads, seconds, lambda _: _read_call(library, CACHED_BYTES)) / 1e9
    slow = None
    if memory:
        slow = _best_together(threads, seconds, lambda _: _read_call(library, MEMORY_BYTES // threads)) / 1e9
    return Roofline(threads, gflops, cached, slow)


def kernels_ir(target: Target) -> str:
    """LLVM IR of ``float tw_peak(i64 iterations)`` and ``float tw_read(ptr data, i64 vectors)``."""
    lanes = target.lanes(32)
    vector = f"<{lanes} x float>"
    loop = _Loop(vector)
    fma_name = f"@llvm.fma.v{lanes}f32"
    factors = f"{vector} %a, {vector} %b"
    text = [f'target triple = "{target.triple}"']
    text.append(f"declare {vector} {fma_name}({vector}, {vector}, {vector})")
    text.append(f"declare float @llvm.vector.reduce.fadd.v{lanes}f32(float, {vector})")
    fma = [
        f"  %v{step + 1}.{chain} = call {vector} {fma_name}({factors}, {vector} %v{step}.{chain})"
        for step in range(UNROLL)
        for chain in range(ACCUMULATORS)
    ]
    # The factors come from an argument, or LLVM could fold the loop.
    splats = [*_splat("a", vector), *_splat("b", vector)]
    text += loop.function("float @tw_peak(i64 %n, float %x)", splats, fma, UNROLL)
    read = []
    for chain in range(ACCUMULATORS):
        read += [
            f"  %i{chain} = add i64 %base, {chain}",
            f"  %p{chain} = getelementptr {vector}, ptr %data, i64 %i{chain}",
            f"  %d{chain} = load {vector}, ptr %p{chain}, align 64",
            f"  %v1.{chain} = fadd {vector} %v0.{chain}, %d{chain}",
        ]
    read = [f"  %base = mul i64 %i, {ACCUMULATORS}", *read]
    text += loop.function("float @tw_read(ptr %data, i64 %n)", [], read, 1)
    return "\n".join(text) + "\n"


@dataclasses.dataclass(frozen=True)
class _Loop:
    """Writes functions that run a body ``%n`` times on accumulator vectors and return the sum of them."""

    vector: str

    def function(self, head: str, entry: list[str], body: list[str], last: int) -> list[str]:
        """The lines of a function whose ``body`` leads from ``%v0.*`` to ``%v{last}.*``."""
        chains = range(ACCUMULATORS)
        lines = [f"define {head} {{", "entry:", *entry, "  br label %loop", "loop:"]
        lines.append("  %i = phi i64 [0, %entry], [%next, %loop]")
        lines += [
            f"  %v0.{c} = phi {self.vector} [zeroinitializer, %entry], [%v{last}.{c}, %loop]" for c in chains
        ]
        lines += [*body, "  %next = add i64 %i, 1", "  %more = icmp slt i64 %next, %n"]
        lines += ["  br i1 %more, label %loop, label %done", "done:"]
        lines += [f"  %s0 = fadd {self.vector} %v{last}.0, zeroinitializer"]
        lines += [f"  %s{c} = fadd {self.vector} %s{c - 1}, %v{last}.{c}" for c in chains[1:]]
        count = self.vector.split()[0].lstrip("<")
        sum_of = f"@llvm.vector.reduce.fadd.v{count}f32"
        lines.append(f"  %r = call reassoc float {sum_of}(float 0.0, {self.vector} %s{ACCUMULATORS - 1})")
        return [*lines, "  ret float %r", "}"]


def _splat(name: str, vector: str) -> list[str]:
    lanes = vector.split()[0].lstrip("<")
    return [
        f"  %{name}.0 = insertelement {vector} poison, float %x, i64 0",
        f"  %{name} = shufflevector {vector} %{name}.0, {vector} poison, <{lanes} x i32> zeroinitializer",
    ]


def _peak_call(library: Library, target: Target) -> Callable[[], int]:
    """A call of about 1 ms that returns the number of floating-point operations it did."""
    function = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float)(library.addresses["tw_peak"])
    iterations = 40_000
    done = iterations * UNROLL * ACCUMULATORS * target.lanes(32) * 2

    def call() -> int:
        function(iterations, 0.5)
        return done

    return call


def _read_call(library: Library, nbytes: int) -> Callable[[], int]:
    """A call that reads ``nbytes`` bytes (at least once, for some ms) and returns how many it read."""
    function = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p, ctypes.c_int64)(library.addresses["tw_read"])
    repeats = max(1, (8 << 20) // nbytes)
    whole = np.ones(nbytes + 64, np.uint8)  # written to, or every page would be the same page of zeros
    address = whole.ctypes.data + (-whole.ctypes.data) % 64
    lanes_bytes = Target.host().vector_bits // 8
    turns = nbytes // (ACCUMULATORS * lanes_bytes)

    def call() -> int:
        for _ in range(repeats):
            function(address, turns)
        return repeats * turns * ACCUMULATORS * lanes_bytes

    call.buffer = whole  # type: ignore[attr-defined]  # lives as long as the call
    return call


def _best_together(threads: int, seconds: float, make: Callable[[int], Callable[[], int]]) -> float:
    """Units per second of threads that run their calls at the same time (ctypes frees the GIL)."""
    calls = [make(number) for number in range(threads)]
    rates = [0.0] * threads
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        call = calls[number]
        call()
        barrier.wait()
        deadline = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            done = call()
            now = time.perf_counter()
            rates[number] = max(rates[number], done / (now - start))
            if now > deadline:
                return

    workers = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
    return sum(rates)
