"""What a scheduled program is like, as numbers that a cost model learns from.

Features are expressions over the open decisions of a schedule, derived from its loops, bindings and accesses
alone: they serve any rule's sketch and any function. On a bound schedule the same derivation gives constants,
so a candidate's features can be checked against its program's.

A function is described by its *main* block, the one with most work, by sums over the other blocks, and by
totals. Sizes are base-2 logarithms, so that ratios are differences. The levels of a block's loop nest are:

    micro   the innermost loops that are unrolled or vectorized: what stays in registers
    inner   micro and the loop around it: what the first-level cache should hold
    task    everything inside the innermost parallel loop (or GPU block): the work of one thread
    all     the whole nest
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ScheduleError
from tilewright.ir import dtype as dt
from tilewright.ir.bounds import interval
from tilewright.ir.expr import (
    BinOp,
    Call,
    Expr,
    as_expr,
    call,
    cast,
    maximum,
    minimum,
)
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import Alloc, Block, Buffer, For, PrimFunc
from tilewright.ir.visit import const_int, walk_expr
from tilewright.schedule.columns import compile_columns
from tilewright.schedule.nests import Access, Nest, product_of, sum_of, work_of
from tilewright.schedule.region import relax
from tilewright.schedule.state import Tree
from tilewright.target import Target

#: Loads of the main block that are described one by one, in the order of the expression; its store too.
LOADS: Final = 4
LEVELS: Final = ("micro", "inner", "task", "all")
#: Depths at which the arithmetic intensity is sampled, from the innermost iteration to the whole nest.
CURVE: Final = 6
#: Iterators of the main block that are described one by one, by kind: the innermost first.
ITERS: Final = 3
_ACCESS: Final = ("bytes", *LEVELS, "stride", "run", "reuse")
_OPS: Final = ("add", "mul", "div", "minmax", "call")

FEATURES: Final[tuple[str, ...]] = (
    "flops", "program_flops", "points", "steps", "param_bytes", "intensity", "element_bytes", "blocks",
    "reductions",
    *(f"spatial_{n}" for n in range(ITERS)), *(f"reduce_{n}" for n in range(ITERS)),
    *(f"ops_{name}" for name in _OPS),
    "executed", "waste", *(f"waste_{n}" for n in range(ITERS)), "lanes", "lane_fill", "lanes_reduce",
    "unrolled", "micro_points", "micro_steps", "inner_extent", "inner_reduces", "task_steps", "depth",
    "iterations",
    "accumulators", "registers", "register_fill", "micro_loads", "micro_broadcasts", "micro_gathers",
    "micro_stores", "loads_per_op", "code",
    *(f"{access}_{what}" for access in ("store", *(f"load{n}" for n in range(LOADS))) for what in _ACCESS),
    *(f"footprint_{level}" for level in LEVELS), "l1_fill", "l2_fill", "l3_fill", "temporary_bytes",
    "register_bytes", "shared_bytes", "packed_bytes",
    *(f"intensity_{n}" for n in range(CURVE)), "ridge",
    "items", "items_per_core", "imbalance", "flops_per_item", "bytes_per_item",
    "threads", "thread_blocks", "virtual_threads",
    "other_flops", "other_bytes", "other_iterations", "other_waste",
)  # fmt: skip

#: Raised when features of the same names begin to mean something else.
REVISION: Final = 2
#: Tells lists of features apart: what was kept of another list cannot be read.
VERSION: Final = hashlib.sha256(f"{' '.join(FEATURES)} {REVISION}".encode()).hexdigest()[:8]


def features_of(func: PrimFunc, target: Target, main: str | None = None) -> NDArray[np.float32]:
    """``[len(FEATURES)]``: the features of a bound schedule's function; ``main`` as in :func:`feature_exprs`.

    Raises ScheduleError when its sizes are not constant.
    """
    exprs = feature_exprs(func, target, main)
    values = compile_columns([exprs[name] for name in FEATURES], [])(np.empty((1, 0), np.int64))
    return np.asarray(values[0], np.float32)


def main_block(func: PrimFunc) -> str:
    """The name of the block with most work, the first of equals. Raises ScheduleError where there is none."""
    tree = Tree(func)
    if not tree.blocks:
        raise ScheduleError(f"'{func.name}' has no blocks to describe")

    def work(block: Block) -> tuple[float, float]:
        points, operations = 1.0, max(work_of(block))
        for it in block.iters:
            points *= _typical(it.extent)
        return operations * points, points

    return max(tree.blocks.values(), key=work).name


def feature_exprs(func: PrimFunc, target: Target, main: str | None = None) -> dict[str, Expr]:
    """Every feature by name, float64 over the open decisions of ``func``.

    ``main`` names the block to describe in detail (default: :func:`main_block`); candidates of one sketch
    must agree on it. Raises ScheduleError for a function without that block.
    """
    tree = Tree(func)
    name = main_block(func) if main is None else main
    if name not in tree.blocks:
        raise ScheduleError(f"'{func.name}' has no block '{name}' to describe")
    nests = {block: Nest.of(tree, tree.blocks[block]) for block in tree.blocks}
    nest = nests[name]
    found = {name: as_expr(0.0, "float64") for name in FEATURES}
    found.update(_workload(tree, nest, list(nests.values())))
    found.update(_tiles(nest, target))
    found.update(_micro(nest, target))
    found.update(_accesses(nest))
    found.update(_memory(tree, nest, target))
    found.update(_parallel(nest, target))
    found.update(_others([other for other in nests.values() if other is not nest]))
    assert len(found) == len(FEATURES), found.keys() ^ set(FEATURES)
    return found


# -- expressions ---------------------------------------------------------------------------------------------


def _float(e: Expr) -> Expr:
    return e if dt.is_float(e.dtype) else cast("float64", e)


def _log(e: Expr | int | float) -> Expr:
    """``log2(max(e, 1))``."""
    return call("log2", [maximum(_float(as_expr(e, None if isinstance(e, Expr) else "float64")), 1.0)])


def _ratio(a: Expr | int, b: Expr | int) -> Expr:
    return _as_float(a) / maximum(_as_float(b), 1.0)


def _as_float(e: Expr | int) -> Expr:
    return _float(e) if isinstance(e, Expr) else as_expr(float(e), "float64")


def _log_ratio(a: Expr | int, b: Expr | int) -> Expr:
    """``log2(a / b)`` of positive numbers."""
    return call("log2", [maximum(_ratio(a, b), 2.0**-40)])


def _any(loops: Sequence[For]) -> Expr:
    """1 where one of the loops runs more than once, else 0."""
    return _as_float(minimum(product_of([loop.extent for loop in loops]) - 1, 1))


def _typical(e: Expr) -> float:
    """A value of ``e`` in the middle of its range."""
    low, high = interval(e)
    return ((low or 0) * (high or 0)) ** 0.5 or float(max(low or 1, 1))


# -- the groups of features ----------------------------------------------------------------------------------


def _workload(tree: Tree, main: Nest, nests: Sequence[Nest]) -> dict[str, Expr]:
    params = [p for p in tree.func.params if isinstance(p, Buffer)]
    size = sum_of([product_of(list(p.shape)) * dt.nbytes(p.dtype) for p in params])
    total = sum_of([nest.points * nest.flops for nest in nests])
    found = {
        "flops": _log(main.points * main.flops),
        "program_flops": _log(total),
        "points": _log(main.elements),
        "steps": _log(main.steps),
        "param_bytes": _log(size),
        "intensity": _log_ratio(total, size),
        "element_bytes": _as_float(dt.nbytes(main.store.buffer.dtype)),
        "blocks": _as_float(len(nests)),
        "reductions": _as_float(sum(any(it.kind == "reduce" for it in n.block.iters) for n in nests)),
    }
    for kind in ("spatial", "reduce"):
        extents = [it.extent for it in main.block.iters if it.kind == kind]
        for n, extent in enumerate(extents[-ITERS:][::-1]):
            found[f"{kind}_{n}"] = _log(extent)
    counts = _operations(main)
    return {**found, **{f"ops_{name}": _as_float(count) for name, count in counts.items()}}


def _operations(nest: Nest) -> dict[str, int]:
    """Floating-point operations of one instance by kind."""
    counts = dict.fromkeys(_OPS, 0)
    for value in nest.values:
        for node in walk_expr(value):
            if isinstance(node, BinOp) and dt.is_float(node.dtype):
                counts[{"sub": "add", "min": "minmax", "max": "minmax"}.get(node.op, node.op)] += 1
            elif isinstance(node, Call):
                counts["call"] += 1
    return counts


def _tiles(main: Nest, target: Target) -> dict[str, Expr]:
    lanes = product_of([s.extent for s in main.loops if s.kind == "vectorized"])
    bits = dt.bits(main.store.buffer.dtype)
    inner = main.loops[main.starts["inner"]] if main.starts["inner"] < main.starts["micro"] else None
    micro, task = main.level("micro"), main.level("task")
    found = {
        "executed": _log(main.count()),
        "waste": _log_ratio(main.count(), main.points),
        "lanes": _log(lanes),
        "lane_fill": _ratio(lanes * bits, target.vector_bits),
        "lanes_reduce": _any([s for s in main.loops if s.kind == "vectorized" and main.is_reduce(s)]),
        "unrolled": _log(product_of([s.extent for s in main.loops if s.kind == "unrolled"])),
        "micro_points": _log(product_of([s.extent for s in micro if not main.is_reduce(s)])),
        "micro_steps": _log(product_of([s.extent for s in micro if main.is_reduce(s)])),
        "inner_extent": _log(inner.extent if inner is not None else 1),
        "inner_reduces": _any([inner] if inner is not None and main.is_reduce(inner) else []),
        "task_steps": _log(product_of([s.extent for s in task if main.is_reduce(s)])),
        "depth": _as_float(len(main.loops)),
        "iterations": _log(product_of([s.extent for s in main.loops if s.kind != "vectorized"])),
    }
    extents = {loop.var: loop.extent for loop in main.loops}
    spatial = [it for it in main.block.iters if it.kind == "spatial"]
    for n, it in enumerate(spatial[-ITERS:][::-1]):
        reached = relax(simplify(it.binding), extents)
        if reached is not None:
            found[f"waste_{n}"] = _log_ratio(maximum(reached.extent, it.extent), it.extent)
    return found


def _micro(main: Nest, target: Target) -> dict[str, Expr]:
    micro = main.level("micro")
    lanes = product_of([s.extent for s in micro if s.kind == "vectorized"])
    vector = next((s for s in micro if s.kind == "vectorized"), None)
    bits = dt.bits(main.store.buffer.dtype)
    accumulators = product_of([s.extent for s in micro if s is not vector and not main.is_reduce(s)])
    per_register = max(target.vector_bits // bits, 1)
    vectors: list[Expr] = []
    broadcasts: list[Expr] = []
    gathers: list[Expr] = []
    live: list[Expr] = []
    for access in main.loads:
        distinct = access.distinct([s for s in micro if s is not vector])
        stride = as_expr(0) if vector is None else access.stride(vector)
        known = const_int(stride)
        if access.buffer.scope == "register":
            continue
        if known == 0:
            broadcasts.append(distinct)
        elif known == 1:
            vectors.append(distinct)
            live.append(distinct)
        else:
            gathers.append(distinct)
            live.append(distinct)
    registers = accumulators * ((lanes + per_register - 1) // per_register) + sum_of(live)
    operations = main.count([s for s in micro if s is not vector]) * max(main.flops, 1)
    return {
        "accumulators": _log(accumulators),
        "registers": _log(registers),
        "register_fill": _log_ratio(registers, target.vector_registers),
        "micro_loads": _log(sum_of(vectors)),
        "micro_broadcasts": _log(sum_of(broadcasts)),
        "micro_gathers": _log(sum_of(gathers)),
        "micro_stores": _log(main.store.distinct([s for s in micro if s is not vector])),
        "loads_per_op": _log_ratio(sum_of([*vectors, *broadcasts, *gathers]) + 1, operations),
        "code": _log(operations * max(len(main.loads), 1)),
    }


def _accesses(main: Nest) -> dict[str, Expr]:
    found: dict[str, Expr] = {}
    vector = next((s for s in reversed(main.loops) if s.kind == "vectorized"), None)
    named = [("store", main.store), *((f"load{n}", a) for n, a in enumerate(main.loads[:LOADS]))]
    for name, access in named:
        size = dt.nbytes(access.buffer.dtype)
        found[f"{name}_bytes"] = _log(product_of(list(access.buffer.shape)) * size)
        found[f"{name}_micro"] = _log(access.distinct(main.level("micro")) * (size * access.group))
        for level in LEVELS[1:]:
            found[f"{name}_{level}"] = _log(access.bytes(main.level(level)))
        stride = as_expr(0) if vector is None else access.stride(vector)
        known = const_int(stride)
        # Contiguous 0, one element for all lanes -1, else how far apart.
        if known is not None and known <= 0:
            found[f"{name}_stride"] = as_expr(-1.0 if known == 0 else 8.0, "float64")
        else:
            found[f"{name}_stride"] = _log(maximum(stride, 1))
        found[f"{name}_run"] = _log(_run(access, main.level("task")) * size)
        touches = main.count(main.level("task"))
        found[f"{name}_reuse"] = _log_ratio(touches * (size * access.group), access.bytes(main.level("task")))
    return found


def _run(access: Access, loops: Sequence[For]) -> Expr:
    """Elements in a row that lie next to each other in what ``loops`` touch."""
    touched = access.touched(loops)
    return touched[-1] if touched else as_expr(1)


def _memory(tree: Tree, main: Nest, target: Target) -> dict[str, Expr]:
    found: dict[str, Expr] = {}
    sizes = {level: main.footprint(main.level(level)) for level in LEVELS}
    for level, size in sizes.items():
        found[f"footprint_{level}"] = _log(size)
    found["l1_fill"] = _log_ratio(sizes["inner"], target.l1d_bytes)
    found["l2_fill"] = _log_ratio(sizes["task"], target.l2_bytes)
    found["l3_fill"] = _log_ratio(sizes["all"], target.l3_bytes)
    by_scope: dict[str, list[Expr]] = {}
    for stmt in tree.order:
        if isinstance(stmt, Alloc):
            by_scope.setdefault(stmt.buffer.scope, []).append(_allocated(tree, stmt.buffer))
    found["temporary_bytes"] = _log(sum_of(by_scope.get("global", [])))
    found["register_bytes"] = _log(sum_of(by_scope.get("register", [])))
    found["shared_bytes"] = _log(sum_of(by_scope.get("shared", [])))
    laid = dict(tree.func.attr("param_layouts", {}))
    packed = [p for p in tree.func.params if isinstance(p, Buffer) and p.name in laid]
    found["packed_bytes"] = _log(sum_of([product_of(list(p.shape)) * dt.nbytes(p.dtype) for p in packed]))
    loops = main.loops
    for n in range(CURVE):
        inside = loops[len(loops) - (len(loops) * n) // (CURVE - 1) :]
        work = main.count(inside) * max(main.flops, 1)
        found[f"intensity_{n}"] = _log_ratio(work, main.footprint(inside) + 1)
    # Operations per byte from which on the machine computes more slowly than it loads.
    ridge = 2 * target.fma_bits // 32 * 4
    found["ridge"] = _log_ratio(main.count() * max(main.flops, 1), (sizes["all"] + 1) * ridge)
    return found


def _allocated(tree: Tree, buffer: Buffer) -> Expr:
    """Bytes of a temporary that are live at once: what its writers fill within the loops shared with its
    readers."""
    writers, readers = tree.writers(buffer), tree.readers(buffer)
    if not writers or not readers:
        return as_expr(0)
    nest = Nest.of(tree, writers[0])
    shared = tree.common_loops(writers[0], readers[-1])
    return nest.store.bytes(nest.loops[len(shared) :])


def _parallel(main: Nest, target: Target) -> dict[str, Expr]:
    def extent_of(part: str) -> Expr:
        return product_of([s.extent for s in main.loops if part in s.kind])

    items = extent_of("parallel")
    cores = max(target.cores, 1)
    rounds = (items + cores - 1) // cores
    task = main.level("task")
    return {
        "items": _log(items),
        "items_per_core": _log_ratio(items, cores),
        "imbalance": _log_ratio(rounds * cores, items),
        "flops_per_item": _log(main.count(task) * max(main.flops, 1)),
        "bytes_per_item": _log(main.footprint(task)),
        "threads": _log(extent_of("threadIdx")),
        "thread_blocks": _log(extent_of("blockIdx")),
        "virtual_threads": _log(extent_of("virtual")),
    }


def _others(nests: Sequence[Nest]) -> dict[str, Expr]:
    def scalar_iterations(nest: Nest) -> Expr:
        return product_of([s.extent for s in nest.loops if s.kind != "vectorized"])

    return {
        "other_flops": _log(sum_of([nest.count() * nest.flops for nest in nests])),
        "other_bytes": _log(sum_of([nest.footprint(nest.loops) for nest in nests])),
        "other_iterations": _log(sum_of([scalar_iterations(nest) for nest in nests])),
        "other_waste": _log_ratio(
            sum_of([nest.count() for nest in nests]) + 1, sum_of([nest.points for nest in nests]) + 1
        ),
    }
