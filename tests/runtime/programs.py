"""Hand-written kernels and the models made of them."""

from __future__ import annotations

import functools

import numpy as np

from tilewright.backend.llvm.compile import compile_many
from tilewright.backend.llvm.entry import entry_ir
from tilewright.runtime.artifact import Artifact, WeightStore
from tilewright.runtime.plan import KernelCall, Operand, Range, Signature, TensorSpec, Variant
from tilewright.runtime.threadpool import thread_pool_ir
from tilewright.target import Target

# z[i] = x[i] + y[i], in parallel; args: x, y, z, n (int64 by value), grain (int64 by value)
ADD = r"""
declare void @tw_parallel(ptr, ptr, ptr, i64, i64)

define internal void @body(ptr %args, i64 %begin, i64 %end, i64 %tid) {
entry:
  %x = load ptr, ptr %args
  %yp = getelementptr ptr, ptr %args, i64 1
  %y = load ptr, ptr %yp
  %zp = getelementptr ptr, ptr %args, i64 2
  %z = load ptr, ptr %zp
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %xi = getelementptr float, ptr %x, i64 %i
  %xv = load float, ptr %xi
  %yi = getelementptr float, ptr %y, i64 %i
  %yv = load float, ptr %yi
  %sum = fadd float %xv, %yv
  %zi = getelementptr float, ptr %z, i64 %i
  store float %sum, ptr %zi
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define i32 @tw_k_add(ptr %pool, ptr %args, ptr %workspace) {
  %np = getelementptr ptr, ptr %args, i64 3
  %n = load i64, ptr %np
  %gp = getelementptr ptr, ptr %args, i64 4
  %grain = load i64, ptr %gp
  call void @tw_parallel(ptr %pool, ptr @body, ptr %args, i64 %n, i64 %grain)
  ret i32 0
}
"""

# For the pool alone. @count: int64 x[16 * i] += 1 for i in [begin, end). @where: int64 x[i] = thread number
# + 1, slowly. @length: int64 x[0] += end - begin, x[1] += 1. @calls runs @fn as a region `reps` times;
# args: pool, fn, closure, n, grain, reps.
REGIONS = r"""
declare void @tw_parallel(ptr, ptr, ptr, i64, i64)

define void @count(ptr %x, i64 %begin, i64 %end, i64 %tid) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %j = mul i64 %i, 16
  %p = getelementptr i64, ptr %x, i64 %j
  %v = load i64, ptr %p
  %w = add i64 %v, 1
  store i64 %w, ptr %p
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @where(ptr %x, i64 %begin, i64 %end, i64 %tid) {
entry:
  %who = add i64 %tid, 1
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %spun ]
  %p = getelementptr i64, ptr %x, i64 %i
  store i64 %who, ptr %p
  br label %spin
spin:
  %s = phi i64 [ 0, %loop ], [ %s.next, %spin ]
  call void asm sideeffect "", "~{memory}"()
  %s.next = add i64 %s, 1
  %spinning = icmp slt i64 %s.next, 100000
  br i1 %spinning, label %spin, label %spun
spun:
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @length(ptr %x, i64 %begin, i64 %end, i64 %tid) {
  %n = sub i64 %end, %begin
  %old = atomicrmw add ptr %x, i64 %n seq_cst
  %chunks = getelementptr i64, ptr %x, i64 1
  %c = atomicrmw add ptr %chunks, i64 1 seq_cst
  ret void
}

define void @calls(ptr %pool, ptr %fn, ptr %closure, i64 %n, i64 %grain, i64 %reps) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @tw_parallel(ptr %pool, ptr %fn, ptr %closure, i64 %n, i64 %grain)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %reps
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

# returns the status given by its only argument (int64 by value)
FAIL = r"""
define i32 @tw_k_fail(ptr %pool, ptr %args, ptr %workspace) {
  %s = load i64, ptr %args
  %status = trunc i64 %s to i32
  ret i32 %status
}
"""


@functools.cache
def host_runtime() -> bytes:
    return compile_many([thread_pool_ir(Target.host().triple)], Target.host())[0]


@functools.cache
def objects() -> dict[str, bytes]:
    return dict(zip(("add", "fail"), compile_many([ADD, FAIL], Target.host()), strict=True))


def add_call(name: str, x: Operand, y: Operand, z: Operand, n: int, grain: int = 64) -> KernelCall:
    return KernelCall(
        name, "tw_k_add", (x, y, z, Operand.scalar(n), Operand.scalar(grain)), origins=(f"node_{name}",),
        op_types=("Add",), flops=n, bytes=12 * n, object="add",
    )  # fmt: skip


def variant(n: int, weight: int, layers: int = 3) -> Variant:
    """sum = x + y + layers * w, same = x, for float32[n]; activations take turns in two arena buffers."""
    size = -(-4 * n // 64) * 64
    steps = [add_call("first", Operand.input(0), Operand.input(1), Operand.arena(0), n)]
    for i in range(layers):
        source = Operand.arena(size * (i % 2))
        target = Operand.arena(size * ((i + 1) % 2)) if i + 1 < layers else Operand.output(0)
        steps.append(add_call(f"layer{i}", source, Operand.weight(weight), target, n))
    steps.append(KernelCall.copy("pass", Operand.input(0), Operand.output(1), 4 * n, ["node_pass"]))
    symbol = f"tw_main_{n}"
    return Variant({"n": n}, symbol, symbol, tuple(steps), ((n,), (n,)), ((n,), (n,)), 2 * size)


def entry_object(v: Variant) -> bytes:
    return compile_many([entry_ir(v.entry, v.kernels, Target.host().triple)], Target.host())[0]


SIGNATURE = Signature(
    (TensorSpec("x", ("n",), "float32"), TensorSpec("y", ("n",), "float32")),
    (TensorSpec("sum", ("n",), "float32"), TensorSpec("same", ("n",), "float32")),
    {"n": Range(1, 1 << 20)},
)


def weight_data(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32) % 17


def model(n: int = 1000, threads: int = 2, layers: int = 3) -> Artifact:
    store = WeightStore()
    v = variant(n, store.add(weight_data(n)), layers)
    return Artifact(
        target=Target.host(),
        threads=threads,
        signature=SIGNATURE,
        variants=(v,),
        objects={**objects(), v.entry_object: entry_object(v)},
        runtime=host_runtime(),
        weights=store.pack(),
        model={"name": "sums"},
    )


def expected(x: np.ndarray, y: np.ndarray, layers: int = 3) -> np.ndarray:
    result = x + y
    for _ in range(layers):
        result = result + weight_data(len(x))
    return result
