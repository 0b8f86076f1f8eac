"""The entry function of a compiled graph: one native call that runs all kernels of a variant in order.

Its signature is ``i32 entry(ptr pool, ptr inputs, ptr outputs, ptr weights, ptr arena, ptr prof, ptr dims)``;
see docs/runtime.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.backend.llvm.control import SIGNATURE, address_of, control_function, stop
from tilewright.backend.llvm.sizes import check_function, shapes_function, size_function
from tilewright.backend.module import RunTimeSizes
from tilewright.runtime.control import Region
from tilewright.runtime.plan import BROKEN, STATUS_BITS, TOO_LARGE, KernelCall, Space

_PART = 64
"""Kernels in one function of the entry: code generation takes more than linear time in a function's length.
"""


def entry_ir(
    symbol: str,
    kernels: Sequence[KernelCall],
    triple: str,
    sizes: RunTimeSizes | None = None,
    regions: Sequence[Region] = (),
) -> str:
    """LLVM IR text of the entry function ``symbol`` that runs ``kernels`` in order, and of the function that
    computes shapes where there are ``sizes``. The kernels of ``regions``, which steps run, come last.

    If ``prof`` is not null it is an array of ``2 * len(kernels) + 1`` int64. The first is the time in ns of
    the last event, the next receive how long each kernel took, all of its calls together, the others how many
    calls these were. The function stops at the first kernel with a nonzero status and returns which one it
    was.
    """
    parallel = any(k.parallel and k.symbol for k in kernels)
    own = kernels[: regions[0].first] if regions else kernels
    controls = ((number, k.control) for number, k in enumerate(kernels) if k.control is not None)
    owners = {region: number for number, control in controls for region in control.regions}
    lines = [
        f'target triple = "{triple}"',
        "declare i64 @tw_now()",
        "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
        "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
        *(["declare void @tw_pool_enter(ptr)", "declare void @tw_pool_exit(ptr)"] if parallel else []),
        *(f"declare i32 @{name}(ptr, ptr, ptr)" for name in dict.fromkeys(k.symbol for k in kernels) if name),
        _MARK.replace("KERNELS", str(len(kernels))),
        *([] if sizes is None else _size_functions(sizes)),
    ]
    for number, call in enumerate(kernels):
        if call.control is not None:
            lines += control_function(number, call, regions)
    for n, region in enumerate(regions):
        checks = [line for check in region.checks for line in _check(owners[n], check)]
        steps = kernels[region.first : region.first + region.steps]
        lines += _function(f"region{n}", "internal ", region.first, steps, sizes, checks, [])
    begin = [
        *(["  call void @tw_pool_enter(ptr %pool)"] if parallel else []),
        f"  call void @start(ptr %prof, i64 {8 * (2 * len(kernels) + 1)})",
    ]
    end = ["  call void @tw_pool_exit(ptr %pool)"] if parallel else []
    lines += _function(symbol, "", 0, own, sizes, begin, end)
    return "\n".join(lines) + "\n"


def _function(
    symbol: str,
    linkage: str,
    first: int,
    kernels: Sequence[KernelCall],
    sizes: RunTimeSizes | None,
    begin: Sequence[str],
    end: Sequence[str],
) -> list[str]:
    """A function that runs ``kernels``, of which the first has number ``first``, between ``begin`` and
    ``end``.
    """
    starts = range(first, first + len(kernels), _PART)
    lines = [line for s in starts for line in _part(s, kernels[s - first : s - first + _PART], sizes)]
    lines += [f"define {linkage}i32 @{symbol}{SIGNATURE} {{", "entry:", *begin, "  br label %p0"]
    for number, start in enumerate(starts):
        lines += [
            f"p{number}:",
            f"  %r{number} = call i32 @part{start}{SIGNATURE}",
            f"  %f{number} = icmp ne i32 %r{number}, 0",
            f"  br i1 %f{number}, label %done, label %p{number + 1}",
        ]
    results = [f"[ %r{number}, %p{number} ]" for number in range(len(starts))]
    return [
        *lines,
        f"p{len(starts)}:",
        "  br label %done",
        "done:",
        f"  %result = phi i32 {', '.join([*results, f'[ 0, %p{len(starts)} ]'])}",
        *end,
        "  ret i32 %result",
        "}",
    ]


def _size_functions(sizes: RunTimeSizes) -> list[str]:
    dims = {dim: n for n, dim in enumerate(sizes.dims)}
    lines = shapes_function(sizes.symbol, sizes.outputs, sizes.checks[: sizes.given], dims)
    for n, check in enumerate(sizes.checks[sizes.given :], sizes.given):
        lines += check_function(f"check{n}", check, dims)
    for n, size in enumerate(sizes.sizes):
        lines += size_function(f"size{n}", size, dims)
    return lines


def _part(start: int, kernels: Sequence[KernelCall], sizes: RunTimeSizes | None) -> list[str]:
    """A function that runs ``kernels``, of which the first has number ``start``; same parameters as the
    entry.
    """
    slots = max((len(k.operands) for k in kernels if k.symbol), default=0)
    last = start + len(kernels)
    lines = [
        f"define internal i32 @part{start}{SIGNATURE} {{",
        "entry:",
        f"  %args = alloca [{max(slots, 1)} x ptr], align 16",
        f"  br label %k{start}",
    ]
    fails = []
    for number, call in enumerate(kernels, start):
        lines.append(f"k{number}:")
        if call.control is not None:
            lines += _control(number)
        elif call.symbol:
            lines += _kernel(number, call)
            fails.append(number)
        else:
            lines += [*_copy(number, call), f"  br label %m{number}"]
        lines += [
            f"m{number}:",
            *(line for d, source in call.defines for line in _define(number, call, d, source, sizes)),
            *(line for check in call.checks for line in _check(number, check)),
            f"  call void @mark(ptr %prof, i64 {number + 1})",
            f"  br label %k{number + 1}",
        ]
    lines += [f"k{last}:", "  ret i32 0"]
    if fails:
        numbers = ", ".join(f"[ {(n + 1) << STATUS_BITS}, %k{n} ]" for n in fails)
        statuses = ", ".join(f"[ %s{n}, %k{n} ]" for n in fails)
        lines += [
            "failed:",
            f"  %number = phi i32 {numbers}",
            f"  %status = phi i32 {statuses}",
            f"  %low = and i32 %status, {(1 << STATUS_BITS) - 1}",
            "  %code = or i32 %number, %low",
            "  ret i32 %code",
        ]
    return [*lines, "}"]


_MARK = """
define internal void @start(ptr %prof, i64 %bytes) {
entry:
  %off = icmp eq ptr %prof, null
  br i1 %off, label %done, label %on
on:
  call void @llvm.memset.p0.i64(ptr %prof, i8 0, i64 %bytes, i1 false)
  %now = call i64 @tw_now()
  store i64 %now, ptr %prof
  br label %done
done:
  ret void
}

define internal void @mark(ptr %prof, i64 %slot) {
entry:
  %off = icmp eq ptr %prof, null
  br i1 %off, label %done, label %on
on:
  %now = call i64 @tw_now()
  %last = load i64, ptr %prof
  store i64 %now, ptr %prof
  %took = sub i64 %now, %last
  %p = getelementptr i64, ptr %prof, i64 %slot
  %before = load i64, ptr %p
  %sum = add i64 %before, %took
  store i64 %sum, ptr %p
  %c = getelementptr i64, ptr %p, i64 KERNELS
  %calls = load i64, ptr %c
  %more = add i64 %calls, 1
  store i64 %more, ptr %c
  br label %done
done:
  ret void
}
"""


def _control(number: int) -> list[str]:
    """Run a branch or a loop; a status that is not 0 says already which kernel it is from."""
    name = f"%c{number}"
    return [
        f"  {name} = call i32 @control{number}{SIGNATURE}",
        f"  {name}.f = icmp ne i32 {name}, 0",
        f"  br i1 {name}.f, label %c{number}.stop, label %m{number}",
        f"c{number}.stop:",
        f"  ret i32 {name}",
    ]


def _kernel(number: int, call: KernelCall) -> list[str]:
    lines = []
    for slot, operand in enumerate(call.operands):
        name = f"%a{number}.{slot}"
        lines.append(f"  {name}.p = getelementptr ptr, ptr %args, i64 {slot}")
        if operand.space is Space.SCALAR:
            lines.append(f"  store i64 {operand.value}, ptr {name}.p")
        elif operand.space is Space.DIM:
            lines.append(f"  {name}.d = getelementptr i64, ptr %dims, i64 {operand.value}")
            lines.append(f"  {name} = load i64, ptr {name}.d")
            lines.append(f"  store i64 {name}, ptr {name}.p")
        else:
            text, address = address_of(operand, name)
            lines += [*text, f"  store ptr {address}, ptr {name}.p"]
    workspace = "null"
    if call.workspace is not None:
        workspace = f"%w{number}"
        lines.append(f"  {workspace} = getelementptr i8, ptr %arena, i64 {call.workspace}")
    lines += [
        f"  %s{number} = call i32 @{call.symbol}(ptr %pool, ptr %args, ptr {workspace})",
        f"  %f{number} = icmp ne i32 %s{number}, 0",
        f"  br i1 %f{number}, label %failed, label %m{number}",
    ]
    return lines


def _define(number: int, call: KernelCall, dim: int, source: int, sizes: RunTimeSizes | None) -> list[str]:
    """Keep the int64 that the kernel has computed as the size of dimension ``dim``; stop the run when memory
    is not planned for it.
    """
    assert sizes is not None
    var = sizes.dims[dim]
    lo, hi = var.lo or 0, var.hi or 0
    name = f"%d{number}.{dim}"
    text, address = address_of(call.operands[source], name)
    return [
        *text,
        f"  {name}.v = load i64, ptr {address}",
        f"  {name}.p = getelementptr i64, ptr %dims, i64 {dim}",
        f"  store i64 {name}.v, ptr {name}.p",
        f"  {name}.r = sub i64 {name}.v, {lo}",
        f"  {name}.f = icmp ugt i64 {name}.r, {hi - lo}",
        *stop(f"{name}.f", f"d{number}.{dim}", number, TOO_LARGE),
    ]


def _check(number: int, check: int) -> list[str]:
    """Stop the run after kernel ``number`` unless the condition holds."""
    name = f"%e{number}.{check}"
    return [
        f"  {name} = call i1 @check{check}(ptr %dims)",
        f"  {name}.f = xor i1 {name}, true",
        *stop(f"{name}.f", f"e{number}.{check}", number, BROKEN + check),
    ]


def _copy(number: int, call: KernelCall) -> list[str]:
    source, read = address_of(call.operands[0], f"%c{number}.s")
    target, written = address_of(call.operands[1], f"%c{number}.t")
    size: int | str = call.bytes // 2
    if call.size is not None:
        size = f"%c{number}.n"
        source.append(f"  {size} = call i64 @size{call.size}(ptr %dims)")
    return [
        *source,
        *target,
        f"  call void @llvm.memcpy.p0.p0.i64(ptr {written}, ptr {read}, i64 {size}, i1 false)",
    ]
