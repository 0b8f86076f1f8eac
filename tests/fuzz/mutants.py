"""Deliberate bugs in legality checks and rewriting steps, each of which the fuzzer must find.

Add one with its function, a piece of its source and what to put there; run it with
``python -m tests.fuzz.mutation --name NAME``, and note the seed that finds it where that takes long.
"""

from __future__ import annotations

from tests.fuzz.mutation import Mutant

LOOPS = (
    Mutant("split without a guard", "schedule.loops:split", "if exact else", "if True else"),
    Mutant(
        "split's guard one short",
        "schedule.loops:split",
        "index < target.extent",
        "index < target.extent - 1",
    ),
    Mutant(
        "split's guard one long", "schedule.loops:split", "index < target.extent", "index < target.extent + 1"
    ),
    Mutant(
        "split with digits mixed up", "schedule.loops:split", "index * extent + var", "index + var * extent"
    ),
    Mutant(
        "split rounds down",
        "schedule.loops:_split_extents",
        "ceildiv(loop.extent, product)",
        "loop.extent // product",
    ),
    Mutant(
        "split accepts short factors",
        "schedule.loops:_split_extents",
        "if not prove(loop.extent <= product):",
        "if False:",
    ),
    Mutant(
        "fuse takes the wrong digit",
        "schedule.loops:fuse",
        "rest = simplify(rest // loop.extent)",
        "rest = simplify(rest % loop.extent)",
    ),
    Mutant("reorder unchecked", "schedule.loops:reorder", "_require_reorderable(tree, chain, order)", "pass"),
    Mutant(
        "reorder around several blocks unchecked",
        "schedule.loops:_require_reorderable",
        'require_independent(tree, loop, "reorder")',
        "pass",
    ),
    Mutant(
        "loop kinds unchecked",
        "schedule.loops:_with_kind",
        "require_independent(Tree(func), changed, name)",
        "pass",
    ),
)

DEPENDENCES = (
    Mutant(
        "reads are always complete",
        "schedule.dependence:_require_complete_reads",
        "if writers and not covers(tree, writers[-1], block, buffer):",
        "if False:",
    ),
    Mutant(
        "kinds are not checked again",
        "schedule.dependence:recheck_kinds",
        'if loop.kind not in ("serial", "unrolled"):',
        "if False:",
    ),
    Mutant(
        "everything is covered",
        "schedule.dependence:covers",
        "if tree.order[writer] > tree.order[reader]:\n        return False",
        "return True",
    ),
    Mutant(
        "covered by what comes later",
        "schedule.dependence:covers",
        "if tree.order[writer] > tree.order[reader]:",
        "if False:",
    ),
    Mutant(
        "covered by half a sum",
        "schedule.dependence:covers",
        'if any(loop.var in binding_vars(writer, "reduce") for loop in shared):',
        "if False:",
    ),
    Mutant(
        "covered up to any end", "schedule.dependence:covers", "if not (starts and stops):", "if not starts:"
    ),
    Mutant(
        "covered from any start", "schedule.dependence:covers", "if not (starts and stops):", "if not stops:"
    ),
    Mutant(
        "guards leave no gaps",
        "schedule.dependence:written_ranges",
        "if block.predicate is not TRUE and",
        "if False and",
    ),
    Mutant(
        "steps leave no gaps", "schedule.dependence:_dense", "if not env.prove(reach >= step):", "if False:"
    ),
    Mutant(
        "all digits are independent",
        "schedule.dependence:_independent_digits",
        "if len(atoms) == 1:",
        "if True:",
    ),
    Mutant(
        "any sum determines its digits",
        "schedule.itermap:_digits",
        "if not env.prove(span < size):",
        "if False:",
    ),
    Mutant(
        "every variable is determined",
        "schedule.itermap:determined_vars",
        "return {v for v in variables if v in known}",
        "return set(variables)",
    ),
    Mutant(
        "a remainder determines a number", "schedule.itermap:_joined", "if rest in known or", "if True or"
    ),
)

REGIONS = (
    Mutant(
        "regions one short",
        "schedule.region:relax",
        "span = span + width * step",
        "span = span + (width - 1) * step",
    ),
    Mutant(
        "regions of falling indices",
        "schedule.region:relax",
        "part.lo if ascending else part.lo + width",
        "part.lo",
    ),
    Mutant(
        "quotients of regions that straddle",
        "schedule.region:_relax_atom",
        "(width + divisor - 2) // divisor",
        "(width - 1) // divisor",
    ),
    Mutant(
        "remainders of regions that straddle",
        "schedule.region:_relax_atom",
        "if aligned and prove(width <= divisor):",
        "if prove(width <= divisor):",
    ),
    Mutant("union begins with the first", "schedule.region:union", "before = min(0, least)", "before = 0"),
    Mutant(
        "union ends with the first",
        "schedule.region:union",
        "b.extent + (most - before)",
        "b.extent - before",
    ),
    Mutant("guards shorten regions too much", "schedule.region:_tighten", "as_expr(top + 1)", "as_expr(top)"),
)

PLACES = (
    Mutant(
        "compute_at past consumers",
        "schedule.compute_location:compute_at",
        "outside = [c for c in consumers if not tree.is_below(c, target)]",
        "outside = []",
    ),
    Mutant(
        "compute_at without a guard",
        "schedule.compute_location:_regenerate",
        "& simplify(binding < it.extent)",
        "",
    ),
    Mutant(
        "compute_at without a lower guard",
        "schedule.compute_location:_regenerate",
        "simplify(as_expr(0) <= binding) &",
        "",
    ),
    Mutant(
        "compute_at for one load", "schedule.region:loads_region", "for node in loads[1:]:", "for node in ():"
    ),
    Mutant(
        "moved blocks are covered",
        "schedule.compute_location:_moved",
        "require_covered(moved_tree, moved, what)",
        "pass",
    ),
    Mutant(
        "consumers are left behind",
        "schedule.compute_location:_moved",
        "require_covered(moved_tree, consumer, what)",
        "pass",
    ),
    Mutant(
        "moved sums may repeat",
        "schedule.compute_location:_moved",
        "_require_once(moved_tree, moved)",
        "pass",
    ),
    Mutant(
        "follow a producer in its reduction",
        "schedule.compute_location:_require_complete",
        "if loop.var in reduced:",
        "if False:",
    ),
    Mutant(
        "follow at different places",
        "schedule.compute_location:_restrict",
        "if domains.setdefault(it.var, r) != r:",
        "if domains.setdefault(it.var, r) is None:",
    ),
    Mutant(
        "inline past other readers",
        "schedule.inline:reverse_compute_inline",
        "others = [c.name for c in tree.consumers(producer) if c is not block]",
        "others = []",
    ),
    Mutant(
        "inline several positions",
        "schedule.inline:reverse_compute_inline",
        "if len({node.indices for node in loads}) > 1:",
        "if False:",
    ),
    Mutant(
        "inline parts of a dimension",
        "schedule.inline:_positions",
        "and iters[index].extent is buffer.shape[dim]",
        "",
    ),
    Mutant(
        "copy what is not yet produced", "schedule.cache:cache_read", "if inside is not None:", "if False:"
    ),
    Mutant(
        "layouts that fold",
        "schedule.layout:transform_layout",
        "if not index_map.is_injective(buffer.shape):",
        "if False:",
    ),
    Mutant(
        "layouts without padding",
        "schedule.index_map:IndexMap._extent",
        "ceildiv(self._extent(e.a, extents), e.b)",
        "self._extent(e.a, extents) // e.b",
    ),
)

REDUCTIONS = (
    Mutant("initialisation without guards", "schedule.reduction:_init_block", "guards.append(cond)", "pass"),
    Mutant(
        "initialisation repeated",
        "schedule.reduction:decompose_reduction",
        "if inner.var in variables - determined or inner.var in spatial & reduced:",
        "if False:",
    ),
    Mutant(
        "initialisation inside the sum",
        "schedule.reduction:decompose_reduction",
        "if outer.var in reduced:",
        "if False:",
    ),
    Mutant("rfactor without a mask", "schedule.reduction:_partial_block", "if masked:", "if False:"),
    Mutant(
        "rfactor reads the wrong partial result",
        "schedule.reduction:_final_nest",
        "source.insert(axis, over)",
        "source.insert(0, over)",
    ),
)

LOWERING = (
    Mutant(
        "predicates are dropped",
        "lower.flatten:flatten_blocks",
        "return If(all_of(guards), body) if guards else body",
        "return body",
    ),
    Mutant(
        "initialising nests without guards",
        "lower.flatten:_init_guards",
        "if not free_vars(c) & reduced",
        "if False",
    ),
    Mutant(
        "shrunk buffers begin at 0", "lower.compact:_rebuild", "simplify(index - base)", "simplify(index)"
    ),
    Mutant(
        "shrunk buffers for the last access",
        "lower.compact:_hull",
        "low, high = min(low, lo), max(high, hi)",
        "low, high = lo, hi",
    ),
    Mutant("overrun beyond buffers", "lower.overrun:_harmless", "or span.hi >= limit", ""),
    Mutant(
        "overrun of reductions",
        "lower.overrun:_harmless",
        "if (guarded & inside[store.buffer]) - moved:",
        "if False:",
    ),
    Mutant(
        "any constant is padding",
        "ir.padding:split_zero",
        "isinstance(e.b, Const) and e.b.value == 0",
        "isinstance(e.b, Const)",
    ),
    Mutant(
        "any constant is an identity", "lower.guards:_split_identity", "if e.b.value == identity:", "if True:"
    ),
    Mutant(
        "guards leave their loops", "lower.guards:hoist_guards", "if stmt.var not in free_vars(c) and", "if"
    ),
    Mutant("lower bounds round down", "lower.guards:_bound_on", "(coefficient - 1)", "0"),
    Mutant(
        "upper bounds one short", "lower.guards:_bound_on", "rest // -coefficient + 1", "rest // -coefficient"
    ),
    Mutant(
        "clipped loops begin at 0",
        "lower.guards:clip_loops",
        "{stmt.var: inner + begin}",
        "{stmt.var: inner}",
    ),
    Mutant(
        "interior one too wide below",
        "lower.edges:_analyse",
        "-(worst // coefficient)",
        "-(worst // coefficient) - 1",
    ),
    Mutant(
        "interior one too wide above",
        "lower.edges:_analyse",
        "worst // -coefficient)",
        "worst // -coefficient + 1)",
    ),
    Mutant(
        "unrolled once too little", "lower.unroll:unroll_loops", "range(extent)", "range(max(extent - 1, 1))"
    ),
)

MUTANTS: tuple[Mutant, ...] = (*LOOPS, *DEPENDENCES, *REGIONS, *PLACES, *REDUCTIONS, *LOWERING)
