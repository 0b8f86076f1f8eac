"""What thread axes ask of a program beyond independent iterations: how their loops nest, and that no thread
reads the registers of another one.

A block is computed by the threads whose axes are among its loops. On an axis that is not, a block that writes
registers is computed by all threads, each for itself, and any other block by thread 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.digits import one_owner
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.itermap import pinned_vars
from tilewright.ir.launch import (
    AXES,
    THREAD_AXES,
    has_thread_axes,
    is_block_axis,
    is_thread_axis,
    root_parts,
    thread_axis,
)
from tilewright.ir.simplify import Simplifier
from tilewright.ir.stmt import Alloc, Annotate, Block, Buffer, For, Stmt
from tilewright.ir.visit import const_int, stores_of, substitute_expr
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import Tree


def require_launches(tree: Tree, what: str) -> None:
    """Raise ScheduleError, beginning with ``what``, unless the loops over thread axes make well-formed
    launches in which registers stay with their threads.
    """
    bound = [loop for loop in tree.loops.values() if thread_axis(loop) is not None]
    if not bound:
        return
    for loop in tree.loops.values():
        if loop.kind == "parallel":
            raise failure(
                tree,
                f"{what}: the program mixes the parallel loop '{loop.var.name}' with thread axes",
                loop,
                bound[0],
                hint="a program runs either on the cores of a CPU or in the thread blocks of a GPU",
            )
    for loop in bound:
        _require_nesting(tree, loop, what)
    for part in root_parts(tree.func.body):
        if has_thread_axes(part):
            _require_own_registers(tree, part, what)


def _require_nesting(tree: Tree, loop: For, what: str) -> None:
    axis = thread_axis(loop)
    above = tree.loops_above(loop)
    if axis not in AXES:
        raise failure(tree, f"{what}: '{axis}' is not a thread axis", loop, hint=f"one of {', '.join(AXES)}")
    for outer in above:
        if thread_axis(outer) == axis:
            raise failure(
                tree,
                f"{what}: loop '{loop.var.name}' is inside loop '{outer.var.name}', which is bound to "
                f"{axis} too",
                outer,
                loop,
                hint="loops over one axis stand beside each other: reorder the outer one inwards, so "
                "that what "
                "all threads work on together comes before it",
            )
    if not is_block_axis(loop):
        return
    for outer in above:
        if not is_block_axis(outer):
            raise failure(
                tree,
                f"{what}: loop '{loop.var.name}' over {axis} is inside loop '{outer.var.name}', which is "
                f"{thread_axis(outer) or outer.kind}",
                outer,
                loop,
                hint="only loops over blockIdx may be around it: reorder it outwards, bind outer loops first",
            )
    beside = _beside(tree, loop, above)
    if beside is not None:
        raise failure(
            tree,
            f"{what}: inside loop '{above[-1].var.name}' there is more than loop '{loop.var.name}' over "
            f"{axis}",
            above[-1],
            loop,
            beside,
            hint="the loops over blockIdx of a launch are perfectly nested; compute the rest inside of "
            "them, or "
            "in a launch of its own",
        )


def _beside(tree: Tree, loop: For, above: Sequence[For]) -> Block | None:
    """A block that is inside the innermost loop around ``loop`` but not inside ``loop``."""
    if not above:
        return None
    inner: Stmt = above[-1].body
    while isinstance(inner, Alloc | Annotate):
        inner = inner.body
    if inner is loop:
        return None
    return next(b for b in tree.blocks_below(above[-1]) if not tree.is_below(b, loop))


def _require_own_registers(tree: Tree, part: Stmt, what: str) -> None:
    blocks = tree.blocks_below(part)
    written = {b: None for block in blocks for b in tree.accesses[block.name].written}
    loops = [
        loop for loop in tree.loops.values() if tree.is_below(loop, part) and const_int(loop.extent) != 1
    ]
    several = [axis for axis in THREAD_AXES if any(thread_axis(loop) == axis for loop in loops)]
    for buffer in written:
        users = list({b.name: b for b in [*tree.writers(buffer), *tree.readers(buffer)]}.values())
        # A buffer that several launches use is in global memory, whatever its scope says.
        if buffer.scope == "register" and all(tree.is_below(b, part) for b in users):
            for axis in several:
                _require_own_register(tree, buffer, users, axis, what)


def _require_own_register(tree: Tree, buffer: Buffer, users: list[Block], axis: str, what: str) -> None:
    """Every thread on ``axis`` reads only those elements of a register buffer that it has written itself."""
    loops = {b.name: _axis_loop(tree, b, axis) for b in users}
    writers = tree.writers(buffer)
    if all(loops[w.name] is None for w in writers):
        return  # every thread has computed its own copy
    for user in users:
        if loops[user.name] is None:
            other = next(b for b in users if loops[b.name] is not None)
            raise failure(
                tree,
                f"{what}: registers belong to one thread, and block '{user.name}' uses '{buffer.name}' "
                "outside "
                f"of loops over {axis}, on which block '{other.name}' divides it among threads",
                other,
                user,
                hint=f"bind a loop of block '{user.name}' to {axis} first, or put '{buffer.name}' into "
                "shared "
                "memory",
            )
    if len({id(loop) for loop in loops.values()}) == 1:
        return  # used inside one iteration
    accesses = []
    for user in users:
        loop = loops[user.name]
        assert loop is not None
        env = Simplifier()
        for outer in tree.loops_above(user):
            env = env.with_loop(outer.var, outer.extent)
        # Where a guard leaves one iteration, thread 0 runs it.
        own: Expr = as_expr(0) if loop.var in pinned_vars(user.predicate) else loop.var
        accesses += [(own, loop.extent, indices, env) for indices in _indices(tree, user, buffer)]
    if not one_owner(accesses, buffer.shape):
        raise failure(
            tree,
            f"{what}: registers belong to one thread, and blocks "
            f"{' and '.join(repr(b.name) for b in users[:2])} may use elements of '{buffer.name}' in "
            "different "
            f"threads of {axis}",
            *users[:2],
            hint=f"divide '{buffer.name}' among the threads in the same way in all blocks, or put it into "
            "shared "
            "memory",
        )


def _axis_loop(tree: Tree, block: Block, axis: str) -> For | None:
    above = tree.loops_above(block)
    return next((s for s in above if is_thread_axis(s) and thread_axis(s) == axis), None)


def _indices(tree: Tree, block: Block, buffer: Buffer) -> list[tuple[Expr, ...]]:
    """The indices at which a block accesses a buffer, over the loops around it."""
    bindings: dict[Expr, Expr] = {it.var: it.binding for it in block.iters}
    found = [node.indices for node in tree.accesses[block.name].loads.get(buffer, ())]
    for body in (block.init, block.body):
        if body is not None:
            found += [s.indices for s in stores_of(body) if s.buffer is buffer]
    return [tuple(substitute_expr(i, bindings) for i in indices) for indices in found]
