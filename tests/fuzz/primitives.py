"""A generator of random arguments for every instruction of a trace.

A new primitive needs one function here::

    @primitive("my_primitive", weight=2)
    def _my_primitive(d: Driver) -> None:
        d.do("my_primitive", d.loop(), factor=d.rng.randint(1, 4))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

from tests.fuzz.driver import Driver
from tilewright.ir.expr import Expr, Var
from tilewright.ir.launch import AXES
from tilewright.ir.pipeline import loop_body
from tilewright.ir.tensor_intrinsics import tensor_intrinsics
from tilewright.schedule import BlockRef, IndexMap, LoopRef
from tilewright.schedule.trace import INSTRUCTIONS

Generator = Callable[[Driver], None]

#: Instructions that only name things.
HANDLES = frozenset(["get_block", "get_loops"])


@dataclasses.dataclass(frozen=True)
class Entry:
    weight: int
    generate: Generator


GENERATORS: dict[str, Entry] = {}


def primitive(name: str, weight: int) -> Callable[[Generator], Generator]:
    """Register the generator of an instruction; ``weight`` says how often it comes."""

    def register(generate: Generator) -> Generator:
        assert name in INSTRUCTIONS, name
        GENERATORS[name] = Entry(weight, generate)
        return generate

    return register


def random_step(d: Driver) -> None:
    """One random primitive with random arguments. Raises ScheduleError where it refuses."""
    names = list(GENERATORS)
    name = d.rng.choices(names, [GENERATORS[n].weight for n in names])[0]
    GENERATORS[name].generate(d)


# ----------------------------------------------------------------------------------------------------- loops


@primitive("decide", weight=2)
def _decide(d: Driver) -> None:
    domain = sorted(d.rng.sample([1, 2, 3, 4, 5, 6, 8], d.rng.randint(1, 4)))
    name = f"d{len(d.sch.decisions)}"
    d.do("decide", name=name, domain=domain, value=None if d.sch.symbolic else d.rng.choice(domain))


@primitive("split", weight=6)
def _split(d: Driver) -> None:
    n = d.number()
    forms = [[None, n], [None, n], [n, None], [2, None, n], [None, n, 2], [n, 3], [None, 2, n]]
    d.do("split", d.loop(d.block()), factors=d.rng.choice(forms))


@primitive("fuse", weight=3)
def _fuse(d: Driver) -> None:
    mine = d.around(d.block())
    start = d.rng.randrange(len(mine)) if mine else 0
    d.do("fuse", *mine[start : start + d.rng.randint(2, 3)])


@primitive("reorder", weight=4)
def _reorder(d: Driver) -> None:
    mine = d.around(d.block())
    d.do("reorder", *d.rng.sample(mine, min(len(mine), d.rng.randint(2, 4))))


@primitive("parallel", weight=3)
def _parallel(d: Driver) -> None:
    d.do("parallel", d.loop(d.block()))


@primitive("vectorize", weight=2)
def _vectorize(d: Driver) -> None:
    mine = d.around(d.block())
    d.do("vectorize", mine[-1] if mine and d.chance(0.8) else d.loop())


@primitive("unroll", weight=1)
def _unroll(d: Driver) -> None:
    d.do("unroll", d.loop(d.block()))


@primitive("bind", weight=2)
def _bind(d: Driver) -> None:
    d.do("bind", d.loop(d.block()), axis=d.rng.choice(AXES))


@primitive("virtual_thread", weight=1)
def _virtual_thread(d: Driver) -> None:
    d.do("virtual_thread", d.loop(d.block()))


@primitive("pipeline", weight=3)
def _pipeline(d: Driver) -> None:
    """Mostly a loop with several parts, in stages that ascend."""
    several = [loop for loop in d.tree.loops.values() if len(loop_body(loop)) > 1]
    loop = d.rng.choice(several) if several and d.chance(0.9) else d.tree.loops[d.loop().var]
    count = len(loop_body(loop))
    stages = [d.rng.randint(0, 2) for _ in range(count)]
    if d.chance(0.8):
        stages = sorted(s - min(stages) for s in stages)
    order = d.rng.sample(range(count), count) if d.chance(0.4) else None
    copies = [s for s in sorted(set(stages)) if d.chance(0.2)]
    d.do("pipeline", LoopRef(loop.var), stages=stages, order=order, async_stages=copies)


# ---------------------------------------------------------------------------------- where a block is computed


@primitive("compute_at", weight=5)
def _compute_at(d: Driver) -> None:
    block = d.block()
    others = d.sch.get_consumers(block)
    d.do("compute_at", block, d.loop(d.rng.choice(others) if others else None))


@primitive("reverse_compute_at", weight=4)
def _reverse_compute_at(d: Driver) -> None:
    block = d.block()
    others = d.sch.get_producers(block)
    d.do("reverse_compute_at", block, d.loop(d.rng.choice(others) if others else None))


@primitive("compute_inline", weight=2)
def _compute_inline(d: Driver) -> None:
    d.do("compute_inline", _elementwise(d))


@primitive("reverse_compute_inline", weight=2)
def _reverse_compute_inline(d: Driver) -> None:
    alone = [name for name, block in d.tree.blocks.items() if len(d.tree.producers(block)) == 1]
    d.do("reverse_compute_inline", BlockRef(d.rng.choice(alone)) if alone else d.block())


# ------------------------------------------------------------------------------------------- where data lives


def _scope(d: Driver) -> str:
    return d.rng.choice(["global", "register", "register", "shared"])


@primitive("cache_read", weight=2)
def _cache_read(d: Driver) -> None:
    d.do("cache_read", d.block(), buffer_index=d.rng.choice([0, 0, 1]), scope=_scope(d))


@primitive("cache_write", weight=2)
def _cache_write(d: Driver) -> None:
    d.do("cache_write", d.block(), scope=_scope(d))


@primitive("set_scope", weight=1)
def _set_scope(d: Driver) -> None:
    d.do("set_scope", d.block(), scope=_scope(d))


@primitive("pad", weight=3)
def _pad(d: Driver) -> None:
    block = d.block()
    count = len(d.tree.blocks[block.name].iters)
    d.do("pad", block, factors=[None if d.chance(0.4) else d.number() for _ in range(count)])


@primitive("storage_align", weight=1)
def _storage_align(d: Driver) -> None:
    factor = d.rng.choice([2, 3, 8])
    offset = d.rng.randint(0, factor)
    d.do("storage_align", d.block(), dim=d.rng.randint(-1, 1), factor=factor, offset=offset)


@primitive("transform_layout", weight=2)
def _transform_layout(d: Driver) -> None:
    block, role = d.block(), d.rng.choice(["read", "write"])
    regions = getattr(d.tree.blocks[block.name], f"{role}s")
    index = d.rng.choice([0, 0, 1])
    shape = regions[min(index, len(regions) - 1)].buffer.shape if regions else ()
    d.do("transform_layout", block, role=role, index=index, index_map=random_map(d.rng, len(shape) or 1))


def random_map(rng: Random, rank: int) -> IndexMap:
    """Tiled, permuted, merged, swizzled or (refused) folded dimensions."""
    kind = rng.choice(["tile", "tile", "permute", "merge", "swizzle", "shift", "fold"])
    n, dim = rng.choice([2, 3, 4]), rng.randrange(rank)
    if kind == "tile":
        return IndexMap.tile(rank, dim, n, rng.sample(range(rank + 1), rank + 1))
    inputs = tuple(Var(f"i{k}", lo=0) for k in range(rank))
    outputs: list[Expr] = list(rng.sample(inputs, rank))
    if kind == "merge" and rank > 1:
        a, b, *rest = outputs
        outputs = [a * rng.choice([2, 8, 16]) + b, *rest]
    elif kind == "swizzle" and rank > 1:
        outputs[0] = (outputs[0] + outputs[1]) % n
        outputs.append(inputs[dim] // n)
    elif kind == "shift":
        outputs[0] = outputs[0] * rng.randint(1, 2) + rng.randint(0, 2)
    elif kind == "fold":
        outputs[0] = outputs[0] // n if rng.random() < 0.5 else outputs[0] % n
    return IndexMap(inputs, tuple(outputs))


# ---------------------------------------------------------------------------------------------- instructions


@primitive("blockize", weight=1)
def _blockize(d: Driver) -> None:
    d.do("blockize", d.loop(d.block()))


@primitive("tensorize", weight=1)
def _tensorize(d: Driver) -> None:
    name = d.rng.choice(tensor_intrinsics()).name
    d.do("tensorize", d.loop(d.block()) if d.chance(0.7) else d.block(), intrinsic=name)


# ------------------------------------------------------------------------------------------ reductions, hints


@primitive("decompose_reduction", weight=3)
def _decompose_reduction(d: Driver) -> None:
    block = _reduction(d)
    d.do("decompose_reduction", block, d.loop(block))


@primitive("rfactor", weight=3)
def _rfactor(d: Driver) -> None:
    d.do("rfactor", d.loop(_reduction(d)), axis=d.rng.randint(-1, 1))


@primitive("annotate", weight=1)
def _annotate(d: Driver) -> None:
    d.do("annotate", d.loop() if d.chance(0.5) else d.block(), key="grain", value=d.rng.randint(1, 9))


def _elementwise(d: Driver) -> BlockRef:
    """Mostly a block that does not reduce, and is read."""
    blocks = d.tree.blocks.items()
    found = [name for name, block in blocks if block.init is None and d.tree.consumers(block)]
    return BlockRef(d.rng.choice(found)) if found and d.chance(0.8) else d.block()


def _reduction(d: Driver) -> BlockRef:
    """Mostly a block that reduces."""
    found = [name for name, block in d.tree.blocks.items() if block.init is not None]
    return BlockRef(d.rng.choice(found)) if found and d.chance(0.9) else d.block()
