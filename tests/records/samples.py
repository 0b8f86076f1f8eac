"""Records to store in tests."""

from __future__ import annotations

from tilewright.ir import te
from tilewright.ir.parser import parse
from tilewright.ir.printer import canonical_text
from tilewright.ir.stmt import PrimFunc
from tilewright.ir.visit import find_blocks
from tilewright.records import Device, Epoch, Record, Sample, Workload
from tilewright.schedule import Schedule
from tilewright.target import PRESETS

DEVICE = Device("a processor", PRESETS["x86-64-v4"].to_json())
OTHER = Device("another processor", PRESETS["x86-64-v3"].to_json())
EPOCH = Epoch("a" * 32, DEVICE, "1.0", "Linux 6.1", "2026-01-01T00:00:00+00:00")


def product(m: int = 8, n: int = 16, k: int = 4) -> PrimFunc:
    a, b = te.placeholder((m, k), "float32", "a"), te.placeholder((k, n), "float32", "b")
    c = te.compute((m, n), lambda i, j: te.reduce("sum", (k,), lambda r: a[i, r] * b[r, j]), "c")
    return te.primfunc("product", [a, b], [c])


def trace(func: PrimFunc, factor: int) -> str:
    """The rows in tiles of ``factor``."""
    sch = Schedule(parse(canonical_text(func)))
    (block,) = find_blocks(sch.func.body)
    sch.split(sch.get_loops(sch.get_block(block.name))[0], [None, factor])
    return sch.trace.to_json()


def record(
    *times: float, factor: int = 2, size: int = 8, epoch: Epoch = EPOCH, status: str = "ok", threads: int = 1
) -> Record:
    func = product(size)
    return Record(
        Workload.of(func, "matmul", "a model"), trace(func, factor), epoch, threads, status,
        tuple(Sample(t) for t in times), sketch="rows", error="" if status == "ok" else "it failed",
    )  # fmt: skip
