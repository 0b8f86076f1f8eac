"""Running emitted kernels in this process: a JIT and a serial ``tw_parallel`` (no thread pool)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tilewright.backend.llvm.emit import emit_kernel
from tilewright.backend.module import KernelModule
from tilewright.ir.stmt import PrimFunc
from tilewright.target import Target

SERIAL_POOL = """
define void @tw_parallel(ptr %pool, ptr %fn, ptr %closure, i64 %n, i64 %grain) {
entry:
  %none = icmp sle i64 %n, 0
  br i1 %none, label %done, label %loop
loop:
  %begin = phi i64 [ 0, %entry ], [ %end, %loop ]
  %next = add i64 %begin, %grain
  %end = call i64 @llvm.smin.i64(i64 %next, i64 %n)
  call void %fn(ptr %closure, i64 %begin, i64 %end, i64 0)
  %more = icmp slt i64 %end, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
declare i64 @llvm.smin.i64(i64, i64)
"""


class Kernel:
    """A compiled kernel: call it with one array per buffer parameter and one int per dimension parameter."""

    def __init__(self, module: KernelModule, target: Target) -> None:
        self.module = module
        self._engine = _engine(module.text, target)
        self.address = self._engine.get_function_address(module.symbol)
        self._fn = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)(self.address)

    def __call__(self, *args: np.ndarray | int) -> None:
        slots = (ctypes.c_int64 * max(len(args), 1))()
        for i, arg in enumerate(args):
            slots[i] = arg.ctypes.data if isinstance(arg, np.ndarray) else arg
        size = self.module.ws_shared + self.module.ws_thread
        memory = np.full(size + 64, 0xAA, np.uint8)
        base = -memory.ctypes.data % 64 + memory.ctypes.data
        assert self._fn(None, ctypes.addressof(slots), base) == 0


def _engine(text: str, target: Target) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, jit=True
    )
    modules = [llvm.parse_assembly(t) for t in (text, SERIAL_POOL)]
    for module in modules:
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    engine = llvm.create_mcjit_compiler(modules[0], machine)
    engine.add_module(modules[1])
    engine.finalize_object()
    return engine


def build(func: PrimFunc, target: str | Target = "native") -> Kernel:
    """Emit, compile and load a lowered function."""
    parsed = Target.parse(target)
    return Kernel(emit_kernel(func, parsed, "tw_k_test"), parsed)


def call(
    func: PrimFunc, inputs: Sequence[np.ndarray | int], target: str | Target = "native"
) -> list[np.ndarray]:
    """Run ``func`` on ``inputs``; returns its outputs, which start out filled with garbage."""
    from tilewright.ir import dtype as dt

    outputs = [
        np.full([int(d.value) for d in b.shape], 77, dt.to_numpy(b.dtype))  # type: ignore[attr-defined]
        for b in func.outputs
    ]
    build(func, target)(*inputs, *outputs)
    return outputs
