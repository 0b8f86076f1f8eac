"""The primitive transform_layout: store a buffer in another layout."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from tilewright.ir.expr import Expr, Load, Var, load
from tilewright.ir.stmt import Alloc, Block, Buffer, PrimFunc, Stmt, Store
from tilewright.ir.visit import rewrite_expr, transform_stmt
from tilewright.schedule.dependence import recheck_kinds
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.index_map import IndexMap, unknown_names
from tilewright.schedule.state import BlockRef, Tree, find_block, with_body


def transform_layout(
    func: PrimFunc,
    ref: BlockRef,
    role: Literal["read", "write"],
    index: int,
    index_map: IndexMap,
    decisions: Collection[Expr] = (),
) -> PrimFunc:
    """Store the ``index``-th distinct buffer that a block reads or writes in the layout ``index_map``, for
    all blocks.

    The buffer must be a parameter whose data is known at compile time (``attrs["const_params"]``) or a
    temporary. For a parameter the map is recorded in ``attrs["param_layouts"][name]`` as text; whoever binds
    the data re-lays it (:meth:`IndexMap.apply`). Padding is never read and, in temporaries, never written.
    The map is over the indices and open ``decisions``; after pad it begins from the filled parameter. Raises
    ScheduleError for other parameters, maps of another rank, and maps that let two elements coincide.
    """
    tree = Tree(func)
    block = find_block(tree, ref, "transform_layout")
    regions = block.reads if role == "read" else block.writes
    buffers = list(dict.fromkeys(r.buffer for r in regions))
    if not 0 <= index < len(buffers):
        names = ", ".join(f"{n}: '{b.name}'" for n, b in enumerate(buffers)) or "none"
        raise failure(
            tree,
            f"transform_layout: block '{block.name}' has no {role} {index} ({role}s: {names})",
            block,
            hint="count the buffers that the block reads or writes, from 0, each one once",
        )
    buffer = buffers[index]
    constant = tree.is_param(buffer) and buffer.name in func.attr("const_params", ())
    if tree.is_param(buffer) and not constant:
        raise failure(
            tree,
            f"transform_layout: '{buffer.name}' is a parameter whose layout is the caller's",
            block,
            hint="only temporaries and parameters with data known at compile time can change layout; use "
            "cache_read or cache_write",
        )
    if buffer.strides is not None or buffer.stride_align:
        raise failure(
            tree,
            f"transform_layout: '{buffer.name}' has explicit or aligned strides",
            block,
            hint="transform_layout before storage_align",
        )
    # Run-time dimensions have no value yet when constants are bound.
    allowed = [d for d in decisions if not (constant and d in func.params)]
    unknown = unknown_names(index_map, allowed)
    if unknown:
        raise failure(
            tree,
            f"transform_layout: the map '{index_map}' uses {', '.join(unknown)}, neither an index nor a "
            "decision",
            block,
            hint="decide the name first, or write a number",
        )
    if len(index_map.inputs) != len(buffer.shape):
        raise failure(
            tree,
            f"transform_layout: the map '{index_map}' takes {len(index_map.inputs)} indices, "
            f"'{buffer.name}' has {len(buffer.shape)}",
            block,
            hint="name each dimension of the buffer once before the arrow",
        )
    if not index_map.is_injective(buffer.shape):
        raise failure(
            tree,
            f"transform_layout: the map '{index_map}' may put two elements in one place",
            block,
            hint="write outputs from which every index follows, such as both k//16 and k%16",
        )
    if index_map.multiples and not constant:
        raise failure(
            tree,
            f"transform_layout: the map '{index_map}' fills '{buffer.name}' up, and nobody writes the zeros",
            block,
            hint="only parameters with data known at compile time can be filled up; use pad",
        )
    layouts = func.attr("param_layouts", {})
    filled: IndexMap | None = None
    if constant and buffer.name in layouts and not index_map.multiples:
        scope = {d.name: d for d in decisions if isinstance(d, Var)}
        old = IndexMap.parse(layouts[buffer.name], scope)
        filled = old if old.is_filling() else None
    if constant and buffer.name in layouts and filled is None:
        raise failure(
            tree,
            f"transform_layout: '{buffer.name}' already has the layout '{layouts[buffer.name]}'",
            block,
            hint="give the whole map from the original indices at once",
        )
    func = relaid(func, buffer, index_map)
    if constant:
        whole = index_map if filled is None else filled.then(index_map)
        func = func.with_attr("param_layouts", {**layouts, buffer.name: str(whole)})
    recheck_kinds(Tree(func))
    return func


def relaid(func: PrimFunc, buffer: Buffer, index_map: IndexMap) -> PrimFunc:
    """``func`` with ``buffer`` stored in the layout ``index_map`` and accessed there."""
    fresh = buffer.with_(shape=index_map.shape(buffer.shape))
    return func.with_(
        body=_relaid(func.body, buffer, fresh, index_map),
        params=tuple(fresh if p is buffer else p for p in func.params),
    )


def _relaid(body: Stmt, old: Buffer, fresh: Buffer, index_map: IndexMap) -> Stmt:
    memo: dict[Expr, Expr] = {}

    def relaid_load(node: Expr) -> Expr | None:
        if isinstance(node, Load) and node.buffer is old:
            return load(fresh, index_map.indices(node.indices))
        return None

    def visit(stmt: Stmt) -> Stmt | None:
        if isinstance(stmt, Store):
            value = rewrite_expr(stmt.value, relaid_load, memo)
            indices = tuple(rewrite_expr(i, relaid_load, memo) for i in stmt.indices)
            if stmt.buffer is old:
                return Store(fresh, index_map.indices(indices), value)
            same = value is stmt.value and all(a is b for a, b in zip(indices, stmt.indices, strict=True))
            return None if same else Store(stmt.buffer, indices, value)
        if isinstance(stmt, Alloc) and stmt.buffer is old:
            return Alloc(fresh, stmt.body)
        if isinstance(stmt, Block):
            touched = any(r.buffer is old for r in (*stmt.reads, *stmt.writes))
            return with_body(stmt, stmt.body, stmt.init) if touched else None
        return None

    return transform_stmt(body, visit)
