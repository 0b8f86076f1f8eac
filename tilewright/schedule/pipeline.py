"""The primitive pipeline: the parts of a loop's body work on different iterations at a time.

Legal is what keeps every dependence. Within an iteration, what reads or overwrites an element must not run in
an earlier stage than what wrote it. Between iterations, either a buffer is complete again in each iteration
(lowering gives overlapping iterations copies of it), or each iteration has elements of its own, or all that
touches it is in one stage, whose iterations stay in their order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tilewright.ir.expr import Load
from tilewright.ir.itermap import determined_vars
from tilewright.ir.pipeline import Part, loop_body, mark, marked, pipeline_parts, stray_mark
from tilewright.ir.stmt import Alloc, Block, Buffer, For, PrimFunc, Seq, Stmt, Store
from tilewright.schedule.dependence import covers
from tilewright.schedule.diagnostics import failure
from tilewright.schedule.state import LoopRef, Tree, find_loop, replace

#: Stages are copies of buffers and of code; deeper pipelines than this gain nothing on any machine.
MAX_STAGES = 32


def pipeline(
    func: PrimFunc,
    loop: LoopRef,
    stages: Sequence[int],
    order: Sequence[int] | None = None,
    async_stages: Sequence[int] = (),
) -> PrimFunc:
    """Let the parts of a loop's body, in stages, work on different iterations at a time.

    The parts are the statements of the body in program order: nests of loops, each around what was computed
    at this loop. ``stages`` has a number from 0 on for each. A part of stage ``s`` works on an iteration
    ``s`` steps after stage 0; in a step the parts run in the given ``order`` (the place of each part, a
    permutation of ``0 ..``), as they stand in the program where none is given. What is written in one stage
    and read in a later one exists in several copies: with loads in stage 0 and the computation in stage 1
    this is double buffering. Stages in ``async_stages`` only copy, and asynchronously on targets that can:
    the computation waits as late as possible. What later moves into the loop joins the part that it serves.

    The program shows the stages; lowering makes a prologue, a steady loop and an epilogue of them. Raises
    ScheduleError when the loop is not serial or has fewer than two parts, numbers do not fit, a dependence
    would be violated, or an asynchronous stage does more than copy into buffers that only later stages read.
    """
    tree = Tree(func)
    target = find_loop(tree, loop, "pipeline")
    parts = loop_body(target)
    if len(parts) < 2:
        raise failure(
            tree,
            f"pipeline: the body of loop '{target.var.name}' has only one part",
            target,
            hint="compute producers inside the loop first (cache_read and compute_at)",
        )
    if any(marked(part) is not None for part in parts):
        raise failure(
            tree,
            f"pipeline: loop '{target.var.name}' is pipelined already",
            target,
            hint="give all stages at once, after what else moves into the loop",
        )
    places = list(range(len(parts))) if order is None else list(order)
    _require_numbers(tree, target, stages, places, async_stages, len(parts))
    marks: list[Stmt] = [
        mark(part, stage, place, stage in async_stages)
        for part, stage, place in zip(parts, stages, places, strict=True)
    ]
    body: Stmt = Seq(tuple(marks))
    around: list[Alloc] = []
    inner = target.body
    while isinstance(inner, Alloc):
        around.append(inner)
        inner = inner.body
    for alloc in reversed(around):
        body = dataclasses.replace(alloc, body=body)
    func = replace(tree, {target: dataclasses.replace(target, body=body)})
    require_pipelines(Tree(func), "pipeline")
    return func


def _require_numbers(
    tree: Tree,
    loop: For,
    stages: Sequence[int],
    order: Sequence[int],
    async_stages: Sequence[int],
    count: int,
) -> None:
    names = _names(tree, loop)
    if len(stages) != count:
        raise failure(
            tree,
            f"pipeline: {len(stages)} stages are given for the {count} parts of loop '{loop.var.name}' "
            f"({names})",
            loop,
            hint="give a stage for each part",
        )
    if any(type(s) is not int or not 0 <= s < MAX_STAGES for s in stages) or min(stages) != 0:
        raise failure(
            tree,
            f"pipeline: {list(stages)!r} are not stages",
            loop,
            hint=f"stages are integers from 0, which one part must have, to {MAX_STAGES - 1}",
        )
    if any(type(n) is not int for n in order) or sorted(order) != list(range(count)):
        raise failure(
            tree,
            f"pipeline: {list(order)!r} is not an order of {count} parts",
            loop,
            hint=f"give each part its place, from 0 to {count - 1}",
        )
    unknown = [s for s in async_stages if type(s) is not int or s not in stages]
    if unknown:
        raise failure(
            tree,
            f"pipeline: no part is in stage {unknown[0]!r}",
            loop,
            hint=f"the stages are {sorted(set(stages))}",
        )


def _names(tree: Tree, loop: For) -> str:
    """The parts of a loop's body by the blocks in them."""
    return "; ".join(", ".join(b.name for b in tree.blocks_below(part)) for part in loop_body(loop))


def require_pipelines(tree: Tree, what: str | None = None) -> None:
    """Raise ScheduleError, beginning with ``what``, unless every pipelined loop keeps all dependences."""
    stray = stray_mark(tree.func.body)
    if stray is not None:
        loops: list[Stmt] = [*tree.loops_above(stray)]
        part = f"part '{tree.blocks_below(stray)[0].name}'"
        raise failure(
            tree,
            f"{what or 'a pipelined loop would become illegal'}: {part} has a stage, and what is beside it "
            "has none",
            *(loops[-1:] or [stray]),
            hint="pipeline is the last step on the body of a loop: compute everything inside the loop first",
        )
    for loop in tree.loops.values():
        parts = pipeline_parts(loop)
        if parts:
            _Checker(
                tree, loop, parts, what or f"the pipelined loop '{loop.var.name}' would become illegal"
            ).run()


@dataclasses.dataclass(frozen=True)
class _User:
    """A block of a pipelined loop, its part, and the place of the part in the program."""

    block: Block
    part: Part
    number: int


class _Checker:
    """The rules for one pipelined loop."""

    def __init__(self, tree: Tree, loop: For, parts: list[Part], what: str) -> None:
        self._tree, self._loop, self._parts, self._what = tree, loop, parts, what
        self._users = [
            _User(block, part, number)
            for number, part in enumerate(parts)
            for block in tree.blocks_below(part.mark)
        ]

    def run(self) -> None:
        if self._loop.kind != "serial":
            raise failure(
                self._tree,
                f"{self._what}: loop '{self._loop.var.name}' is {self._loop.kind}",
                self._loop,
                hint="the steps of a pipeline run one after the other",
            )
        written = dict.fromkeys(
            b for user in self._users for b in self._tree.accesses[user.block.name].written
        )
        for buffer in written:
            self._check_buffer(buffer, [u for u in self._users if self._touches(u, buffer)])
        for user in self._users:
            if user.part.asynchronous:
                self._check_copy(user)

    def _touches(self, user: _User, buffer: Buffer) -> bool:
        access = self._tree.accesses[user.block.name]
        return buffer in access.written or buffer in access.loads

    def _writes(self, user: _User, buffer: Buffer) -> bool:
        return buffer in self._tree.accesses[user.block.name].written

    def _check_buffer(self, buffer: Buffer, users: list[_User]) -> None:
        """The dependences over one buffer."""
        for n, first in enumerate(users):
            for second in users[n + 1 :]:
                if first.part is second.part or not (
                    self._writes(first, buffer) or self._writes(second, buffer)
                ):
                    continue
                before = first.part.stage < second.part.stage
                if first.part.stage == second.part.stage:
                    before = first.part.order < second.part.order
                if not before:
                    raise failure(
                        self._tree,
                        f"{self._what}: block '{second.block.name}' would run before block "
                        f"'{first.block.name}' in an iteration of loop '{self._loop.var.name}', and both use "
                        f"'{buffer.name}'",
                        self._loop,
                        first.block,
                        second.block,
                        hint="what reads or overwrites data needs a stage not before that of what wrote it, "
                        "and in one stage a later place in the order",
                    )
        stages = {u.part.stage for u in users}
        if len(stages) > 1 and not self._complete(buffer, users):
            raise failure(
                self._tree,
                f"{self._what}: '{buffer.name}' carries data between iterations of loop "
                f"'{self._loop.var.name}' and is used in stages {', '.join(map(str, sorted(stages)))}",
                self._loop,
                *dict.fromkeys(u.block for u in (users[0], users[-1])),
                hint="put all parts that use it into one stage",
            )

    def _complete(self, buffer: Buffer, users: list[_User]) -> bool:
        """Whether each iteration reads only what it has written, into copies or elements of its own."""
        for user in users:
            access = self._tree.accesses[user.block.name]
            own = access.accumulates and user.block.init is None and self._writes(user, buffer)
            if own or buffer in access.loads:
                place = self._tree.order[user.block]
                writers = [u.block for u in users if self._writes(u, buffer)]
                before = [b for b in writers if self._tree.order[b] < place]
                if not before or not covers(self._tree, before[-1], user.block, buffer):
                    return False
        return self._is_inside(buffer) or all(
            self._own_elements(u.block) for u in users if self._writes(u, buffer)
        )

    def _is_inside(self, buffer: Buffer) -> bool:
        """Whether nothing outside of the loop uses the buffer."""
        everyone = [*self._tree.writers(buffer), *self._tree.readers(buffer)]
        return not self._tree.is_param(buffer) and all(self._tree.is_below(b, self._loop) for b in everyone)

    def _own_elements(self, block: Block) -> bool:
        """Whether each iteration of the loop writes elements that no other one does."""
        below = {s.var: s.extent for s in [self._loop, *self._tree.loops_between(self._loop, block)]}
        spatial = [it.binding for it in block.iters if it.kind == "spatial"]
        return self._loop.var in determined_vars(spatial, set(below), block.predicate, below)

    def _check_copy(self, user: _User) -> None:
        """That a block of an asynchronous stage copies, and that later stages alone use the copy."""
        block = user.block
        plain = isinstance(block.body, Store) and isinstance(block.body.value, Load) and block.init is None
        if not plain:
            raise failure(
                self._tree,
                f"{self._what}: block '{block.name}' in the asynchronous stage {user.part.stage} does more "
                "than copy",
                block,
                hint="only blocks as cache_read makes them are copied asynchronously",
            )
        buffer = self._tree.store(block).buffer
        inside = self._is_inside(buffer)
        for other in self._users:
            if other.block is not block and self._touches(other, buffer):
                inside = inside and other.part.stage > user.part.stage and not self._writes(other, buffer)
        if not inside:
            raise failure(
                self._tree,
                f"{self._what}: '{buffer.name}', which block '{block.name}' copies asynchronously, is not "
                f"only read in later stages of loop '{self._loop.var.name}'",
                self._loop,
                block,
                hint="the data arrives some steps later: read it in a later stage",
            )
