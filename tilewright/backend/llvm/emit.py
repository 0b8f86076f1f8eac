"""A lowered PrimFunc as an LLVM IR module with one kernel.

The kernel's signature is ``i32 (ptr pool, ptr args, ptr workspace)`` (docs/backend_llvm.md). It unpacks
``args`` and calls a body whose buffers are ``noalias`` parameters, which is how LLVM learns that they do not
overlap. Every parallel loop becomes a function of its own, called through ``tw_parallel`` with a closure of
the pointers and loop variables that it needs.
"""

from __future__ import annotations

from tilewright.backend.llvm.analysis import Analysis, analyse
from tilewright.backend.llvm.mathlib import Features
from tilewright.backend.llvm.ops import Namer
from tilewright.backend.llvm.placement import Value, flatten
from tilewright.backend.llvm.statements import Statements
from tilewright.backend.llvm.tensors import require_intrinsics
from tilewright.backend.llvm.work import grain_of
from tilewright.backend.llvm.workspace import ALIGNMENT, Workspace
from tilewright.backend.module import KernelModule
from tilewright.errors import CompileError
from tilewright.ir.expr import Var
from tilewright.ir.stmt import Buffer, For, PrimFunc
from tilewright.target import Target


def emit_kernel(func: PrimFunc, target: Target, symbol: str) -> KernelModule:
    """The LLVM IR of a lowered function. Raises CompileError for what the backend cannot express, TargetError
    for tensor intrinsics that the target does not have.
    """
    require_intrinsics(func, target)
    return _Module(func, target, symbol).emit()


class _Module:
    """Emission of one kernel and the functions of its parallel loops."""

    def __init__(self, func: PrimFunc, target: Target, symbol: str) -> None:
        self.func = func
        self.target = target
        self.symbol = symbol
        self.namer = Namer(target.arch)
        self.features = Features.of(target)
        self.analysis: Analysis = analyse(func)
        self.functions: list[str] = []
        self.shared = Workspace()
        self.per_thread = Workspace()
        self._regions = 0
        self._thread_stride = "@TW_THREAD_STRIDE@"

    def emit(self) -> KernelModule:
        params = [p for p in self.func.params if isinstance(p, Buffer)]
        dims = [p for p in self.func.params if isinstance(p, Var)]
        body = Statements(self.namer, self.analysis, self.features, self.shared, "%workspace", self._launch)
        self._bind(body, params, dims)
        body.statement(self.analysis.body)
        self._define(
            f"{self.symbol}.body", self._signature(params, dims, "ptr %pool, ptr noalias %workspace"), body
        )
        self._define_kernel(params, dims)
        text = "\n".join(
            [
                f'target triple = "{self.target.triple}"',
                *self.functions,
                *self.namer.declarations.values(),
                "",
            ]
        )
        shared = -(-self.shared.size // ALIGNMENT) * ALIGNMENT
        text = text.replace("@TW_SHARED@", str(shared)).replace(
            self._thread_stride, str(self.per_thread.size)
        )
        return KernelModule(text, self.symbol, shared, self.per_thread.size, self._regions > 0)

    # ---------------------------------------------------------------------------------------------- functions
    def _signature(self, buffers: list[Buffer], scalars: list[Var], head: str) -> str:
        mutable = self.analysis.mutable
        params = [head]
        params += [f"ptr noalias {'' if b in mutable else 'readonly '}%b{i}" for i, b in enumerate(buffers)]
        params += [f"i64 %s{i}" for i in range(len(scalars))]
        return ", ".join(params)

    def _bind(self, body: Statements, buffers: list[Buffer], scalars: list[Var]) -> None:
        for i, buffer in enumerate(buffers):
            body.bases[buffer] = Value(f"%b{i}", 0, 0)
        for i, var in enumerate(scalars):
            body.remember(var, Value(f"%s{i}", 0, 0))

    def _define(self, name: str, signature: str, body: Statements) -> None:
        lines = flatten(body.code)
        self.functions += [
            f"define internal void @{name}({signature}) nounwind {{",
            "entry:",
            *flatten(body.entry),
            *lines,
            "  ret void",
            "}",
        ]

    def _define_kernel(self, buffers: list[Buffer], dims: list[Var]) -> None:
        lines: list[str] = []
        args = ["ptr %pool", "ptr %workspace"]
        unpacked: dict[Buffer | Var, str] = {}
        for i, param in enumerate(self.func.params):
            kind = "ptr" if isinstance(param, Buffer) else "i64"
            lines.append(f"  %p{i} = getelementptr ptr, ptr %args, i64 {i}")
            lines.append(f"  %a{i} = load {kind}, ptr %p{i}, align 8")
            unpacked[param] = f"{kind} %a{i}"
        args += [unpacked[b] for b in buffers] + [unpacked[v] for v in dims]
        self.functions += [
            f"define i32 @{self.symbol}(ptr %pool, ptr %args, ptr %workspace) nounwind {{",
            *lines,
            f"  call void @{self.symbol}.body({', '.join(args)})",
            "  ret i32 0",
            "}",
        ]

    # ----------------------------------------------------------------------------------------- parallel loops
    def _launch(self, outer: Statements, loop: For) -> None:
        """Outline ``loop`` and call it through the thread pool."""
        name = f"{self.symbol}.region{self._regions}"
        self._regions += 1
        used = self.analysis.used[loop]
        buffers = [b for b in outer.bases if b in used]
        scalars = [v for v in outer.memo if isinstance(v, Var) and v not in self.analysis.lanes]
        extent = outer.value(loop.extent)
        captured = [(f"ptr {outer.bases[b].text}", "ptr") for b in buffers]
        captured += [(f"i64 {outer.memo[v].text}", "i64") for v in scalars]
        captured.append(("ptr %workspace", "ptr"))
        closure = self.namer.fresh()
        outer.entry.append(f"  {closure} = alloca [{len(captured)} x i64], align 8")
        here = outer.here()
        for i, (value, _) in enumerate(captured):
            slot = here.inst(f"getelementptr i64, ptr {closure}, i64 {i}")
            outer.code.append(f"  store {value}, ptr {slot}, align 8")
        self.namer.declare("tw_parallel", "void", ["ptr", "ptr", "ptr", "i64", "i64"])
        grain = grain_of(loop)
        outer.code.append(
            f"  call void @tw_parallel(ptr %pool, ptr @{name}, ptr {closure}, i64 {extent.text}, i64 {grain})"
        )
        outer.forget_buffers(self.analysis.stored[loop])
        self._define_region(name, loop, outer, buffers, scalars, [kind for _, kind in captured])

    def _define_region(
        self,
        name: str,
        loop: For,
        outer: Statements,
        buffers: list[Buffer],
        scalars: list[Var],
        kinds: list[str],
    ) -> None:
        inner = Statements(self.namer, self.analysis, self.features, self.per_thread, "%workspace", _nested)
        inner.ranges = outer.ranges
        self._bind(inner, buffers, scalars)
        inner.loop(
            loop.var,
            "%end",
            outer.ranges.interval(loop.extent),
            self.analysis.stored[loop],
            lambda: inner.statement(loop.body),
            first="%begin",
        )
        head = "ptr noalias %workspace, i64 %begin, i64 %end"
        self._define(f"{name}.body", self._signature(buffers, scalars, head), inner)
        lines, args = [], ["ptr %mine", "i64 %begin", "i64 %end"]
        for i, kind in enumerate(kinds):
            lines.append(f"  %q{i} = getelementptr i64, ptr %closure, i64 {i}")
            lines.append(f"  %c{i} = load {kind}, ptr %q{i}, align 8")
        last = len(kinds) - 1
        args += [f"{kind} %c{i}" for i, kind in enumerate(kinds[:-1])]
        self.functions += [
            f"define internal void @{name}(ptr %closure, i64 %begin, i64 %end, i64 %tid) nounwind {{",
            *lines,
            f"  %skip = mul i64 %tid, {self._thread_stride}",
            "  %offset = add i64 %skip, @TW_SHARED@",
            f"  %mine = getelementptr i8, ptr %c{last}, i64 %offset",
            f"  call void @{name}.body({', '.join(args)})",
            "  ret void",
            "}",
        ]


def _nested(outer: Statements, loop: For) -> None:
    raise CompileError(f"parallel loop '{loop.var.name}' inside another parallel loop")
