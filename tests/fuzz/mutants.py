"""Deliberate bugs in legality checks and rewriting steps, each of which the fuzzer must find.

Add one with its function, a piece of its source and what to put there; run it with
``python -m tests.fuzz.mutation --name NAME``, and note the seed that finds it where that takes long.
"""

from __future__ import annotations

from tests.fuzz.mutation import Mutant

#: Programs among which bugs of legality show soonest.
ODD = ("odd", "small")
#: No choice among programs.
ALL: tuple[str, ...] = ()


def _family(kinds: tuple[str, ...], *bugs: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    """Mutants by name, function, old and new text, to look for among programs of ``kinds``."""
    return tuple(Mutant(*bug, kinds=kinds) for bug in bugs)


LOOPS = _family(
    ODD,
    ("split without a guard", "schedule.loops:split", "if exact else", "if True else"),
    (
        "split's guard one short",
        "schedule.loops:split",
        "index < target.extent",
        "index < target.extent - 1",
    ),
    ("split's guard one long", "schedule.loops:split", "index < target.extent", "index < target.extent + 1"),
    ("split with digits mixed up", "schedule.loops:split", "index * extent + var", "index + var * extent"),
    (
        "split rounds down",
        "schedule.loops:_split_extents",
        "ceildiv(loop.extent, product)",
        "loop.extent // product",
    ),
    (
        "split accepts short factors",
        "schedule.loops:_split_extents",
        "if not prove(loop.extent <= product):",
        "if False:",
    ),
    (
        "fuse takes the wrong digit",
        "schedule.loops:fuse",
        "rest = simplify(rest // loop.extent)",
        "rest = simplify(rest % loop.extent)",
    ),
    ("reorder unchecked", "schedule.loops:reorder", "_require_reorderable(tree, chain, order)", "pass"),
    (
        "loop kinds unchecked",
        "schedule.loops:_with_kind",
        "require_independent(Tree(func), changed, name)",
        "pass",
    ),
)

DEPENDENCES = _family(
    ODD,
    (
        "reads are always complete",
        "schedule.dependence:_require_complete_reads",
        "if writers and not covers(tree, writers[-1], block, buffer):",
        "if False:",
    ),
    (
        "everything is covered",
        "schedule.dependence:covers",
        "if tree.order[writer] > tree.order[reader]:\n        return False",
        "return True",
    ),
    (
        "covered by what comes later",
        "schedule.dependence:covers",
        "if tree.order[writer] > tree.order[reader]:",
        "if False:",
    ),
    ("covered from any start", "schedule.dependence:covers", "if not (starts and stops):", "if not stops:"),
    (
        "every variable is determined",
        "ir.itermap:determined_vars",
        "return set(_determined(",
        "return set(variables) or set(_determined(",
    ),
    ("a remainder determines a number", "ir.itermap:_follows", "return e in known or", "return True or"),
)

REGIONS = _family(
    ODD,
    (
        "regions one short",
        "schedule.region:relax",
        "span = span + width * step",
        "span = span + (width - 1) * step",
    ),
    (
        "regions of falling indices",
        "schedule.region:relax",
        "part.lo if ascending else part.lo + width",
        "part.lo",
    ),
    (
        "quotients of regions that straddle",
        "schedule.region:_relax_atom",
        "(width + divisor - 2) // divisor",
        "(width - 1) // divisor",
    ),
    (
        "remainders of regions that straddle",
        "schedule.region:_relax_atom",
        "if aligned and prove(width <= divisor):",
        "if prove(width <= divisor):",
    ),
    ("union begins with the first", "schedule.region:union", "before = min(0, least)", "before = 0"),
    (
        "union ends with the first",
        "schedule.region:union",
        "b.extent + (most - before)",
        "b.extent - before",
    ),
    ("guards shorten regions too much", "schedule.region:_tighten", "as_expr(top + 1)", "as_expr(top)"),
)

PLACES = _family(
    ODD,
    (
        "compute_at past consumers",
        "schedule.compute_location:compute_at",
        "outside = [c for c in consumers if not tree.is_below(c, target)]",
        "outside = []",
    ),
    (
        "compute_at without a guard",
        "schedule.compute_location:_regenerate",
        "& simplify(binding < it.extent)",
        "",
    ),
    (
        "compute_at without a lower guard",
        "schedule.compute_location:_regenerate",
        "simplify(as_expr(0) <= binding) &",
        "",
    ),
    ("compute_at for one load", "schedule.region:loads_region", "for node in loads[1:]:", "for node in ():"),
    (
        "moved blocks are covered",
        "schedule.compute_location:_moved",
        "require_covered(moved_tree, moved, what)",
        "pass",
    ),
    (
        "consumers are left behind",
        "schedule.compute_location:_moved",
        "require_covered(moved_tree, consumer, what)",
        "pass",
    ),
    (
        "inline past other readers",
        "schedule.inline:reverse_compute_inline",
        "others = [c.name for c in tree.consumers(producer) if c is not block]",
        "others = []",
    ),
    (
        "inline several positions",
        "schedule.inline:reverse_compute_inline",
        "if len({node.indices for node in loads}) > 1:",
        "if False:",
    ),
    (
        "inline parts of a dimension",
        "schedule.inline:_positions",
        "and iters[index].extent is buffer.shape[dim]",
        "",
    ),
    ("copy what is not yet produced", "schedule.cache:cache_read", "if inside is not None:", "if False:"),
    (
        "layouts that fold",
        "schedule.layout:transform_layout",
        "if not index_map.is_injective(buffer.shape):",
        "if False:",
    ),
    (
        "layouts without padding",
        "schedule.index_map:IndexMap._extent",
        "ceildiv(self._extent(e.a, extents), e.b)",
        "self._extent(e.a, extents) // e.b",
    ),
)

REDUCTIONS = _family(
    ODD,
    ("initialisation without guards", "schedule.reduction:_init_block", "guards.append(cond)", "pass"),
    (
        "initialisation repeated",
        "schedule.reduction:_require_one_start",
        "if inner.var in variables - determined or inner.var in both:",
        "if False:",
    ),
    (
        "initialisation inside the sum",
        "schedule.reduction:decompose_reduction",
        "if outer.var in reduced and",
        "if False and",
    ),
    ("rfactor without a mask", "schedule.reduction:_partial_block", "if masked:", "if False:"),
    (
        "rfactor reads the wrong partial result",
        "schedule.reduction:_final_nest",
        "source.insert(axis, over)",
        "source.insert(0, over)",
    ),
)

LOWERING = _family(
    ALL,
    (
        "predicates are dropped",
        "lower.flatten:flatten_blocks",
        "return If(all_of(guards), body) if guards else body",
        "return body",
    ),
    (
        "initialising nests without guards",
        "lower.flatten:_init_nest",
        "if not free_vars(c) & reduced",
        "if False",
    ),
    ("shrunk buffers begin at 0", "lower.compact:_rebuild", "simplify(index - base)", "simplify(index)"),
    (
        "shrunk buffers for the last access",
        "lower.compact:_hull",
        "low, high = min(low, lo), max(high, hi)",
        "low, high = lo, hi",
    ),
    ("overrun beyond buffers", "lower.overrun:_Overrun._harmless", "or span.hi >= limit", ""),
    (
        "overrun of reductions",
        "lower.overrun:_Overrun._harmless",
        "if not all(_tells(store, var, env) for var in guarded & inside[store.buffer]):",
        "if False:",
    ),
    (
        "any constant is padding",
        "ir.padding:split_zero",
        "isinstance(e.b, Const) and e.b.value == 0",
        "isinstance(e.b, Const)",
    ),
    ("any constant is an identity", "lower.guards:_split_identity", "if e.b.value == identity:", "if True:"),
    ("guards leave their loops", "lower.guards:hoist_guards", "if stmt.var not in free_vars(c) and", "if"),
    ("lower bounds round down", "lower.guards:_bound_on", "(coefficient - 1)", "0"),
    ("upper bounds one short", "lower.guards:_bound_on", "rest // -coefficient + 1", "rest // -coefficient"),
    (
        "clipped loops begin at 0",
        "lower.guards:clip_loops",
        "{stmt.var: inner + begin}",
        "{stmt.var: inner}",
    ),
    (
        "interior one too wide below",
        "lower.edges:_analyse",
        "-(worst // coefficient)",
        "-(worst // coefficient) - 1",
    ),
    (
        "interior one too wide above",
        "lower.edges:_analyse",
        "worst // -coefficient)",
        "worst // -coefficient + 1)",
    ),
    ("unrolled once too little", "lower.unroll:_expand", "range(extent)", "range(max(extent - 1, 1))"),
)

PADDING = _family(
    ("small", "model"),
    (
        "padding with any number",
        "schedule.pad:_fillings",
        "if all(isinstance(e, Const) and e.value == identity.value for e in terms):",
        "if True:",
    ),
    (
        "padding read beyond the end",
        "schedule.pad:_filling_nest",
        "simplify(select(inside, load(source, at), value))",
        "load(source, at)",
    ),
)

THREADS = _family(
    ("threads",),
    ("threads unchecked", "schedule.bind:_with_kind", "require_independent(fresh, changed, what)", "pass"),
    ("launches unchecked", "schedule.bind:_with_kind", "require_launches(fresh, what)", "pass"),
    ("virtual threads share everything", "lower.virtual:_collect_varying", "found.add(s.buffer)", "pass"),
    (
        "no barriers",
        "lower.barriers:_launch",
        "return _Placer(body, threads).place() if threads else body",
        "return body",
    ),
)

PIPELINES = _family(
    ("small", "threads"),
    (
        "one copy too few for the stages",
        "lower.pipeline:_Pipeline._copies_of",
        "max(stages) - min(stages) + 1",
        "max(max(stages) - min(stages), 1)",
    ),
    (
        "epilogues one step short",
        "lower.pipeline:_Pipeline._epilogue",
        "for step in range(self._depth):",
        "for step in range(self._depth - 1):",
    ),
)

INSTRUCTIONS = _family(
    ("instructions",),
    (
        "instructions for parts of tiles",
        "schedule.tensorize:_overrunning",
        "if Simplifier().assuming(inside).prove(cond):",
        "if True:",
    ),
    ("tiles do not grow", "schedule.tensorize:_grown", "sizes[dim] = whole", "pass"),
    (
        "tiles one after the other",
        "schedule.blockize:tiled_block",
        "value: Expr = var * split.count",
        "value: Expr = var",
    ),
)

#: Bugs that hardly any program shows, with a seed of one that does.
RARE = (
    Mutant(
        "any sum determines its digits",
        "ir.itermap:_digits",
        "if not env.prove(span < size):",
        "if False:",
        seed=185,
        kinds=ODD,
    ),
    Mutant(
        "kinds are not checked again",
        "schedule.dependence:recheck_kinds",
        'if loop.kind not in ("serial", "unrolled"):',
        "if False:",
        seed=163,
        kinds=ODD,
    ),
    Mutant(
        "pipelines unchecked",
        "schedule.pipeline:_Checker._check_buffer",
        "if not before:",
        "if False:",
        seed=209,
        kinds=("small", "threads"),
    ),
    Mutant(
        "moved sums may repeat",
        "schedule.compute_location:_moved",
        "_require_once(moved_tree, moved)",
        "pass",
        seed=209,
        kinds=ODD,
    ),
    Mutant(
        "repeated sums start once",
        "lower.flatten:_starts_once",
        "return several.keys() <= determined_vars(bindings, set(several), block.predicate, several)",
        "return True",
        seed=3000031,
    ),
    Mutant(
        "buffers move into loops that carry their values",
        "lower.compact:_before_carrying",
        "if loop.var in kept or _spans_stages(loop, accesses) or not _reads_more(buffer, accesses, outer):",
        "if True:",
        seed=3000029,
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *LOOPS, *DEPENDENCES, *REGIONS, *PLACES, *REDUCTIONS, *LOWERING, *PADDING, *THREADS, *PIPELINES,
    *INSTRUCTIONS, *RARE,
)  # fmt: skip
