"""The graph passes in order, each with its name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final, TypeAlias

from tilewright.graph.affine import fold_affine, shrink_uniform
from tilewright.graph.alternatives import DIRECT, ChoicePoint, Pick, choose_alternatives, default_pick
from tilewright.graph.builder import check_types
from tilewright.graph.canonical import collapse_matmul, fold_pads
from tilewright.graph.cse import eliminate_common_subexpressions
from tilewright.graph.decompose import decompose, decompose_elementwise
from tilewright.graph.embedding import lookup_one_hot_products
from tilewright.graph.fold import absorb_parameters, fold_constants
from tilewright.graph.graph import Graph, verify
from tilewright.graph.layout import assign_layouts
from tilewright.graph.movement import simplify_movement, sink_reshapes, sink_transposes
from tilewright.graph.narrow import pack_narrow_convolutions
from tilewright.graph.quantize import use_integers
from tilewright.graph.regions import map_regions, simplify_regions
from tilewright.graph.rewrite import eliminate_dead_code, fixpoint
from tilewright.graph.storage import multiply_packed, pack_constants

Pass: TypeAlias = Callable[[Graph], Graph]


def simplify(graph: Graph) -> Graph:
    """All local simplifications to a fixed point."""
    return fixpoint(
        graph,
        (
            fold_constants,
            absorb_parameters,
            simplify_movement,
            shrink_uniform,
            fold_affine,
            fold_pads,
            eliminate_common_subexpressions,
            simplify_regions,
        ),
    )


def canonicalise_views(graph: Graph) -> Graph:
    """Views to the borders: products become matrices, reshapes sink behind elementwise work and merge."""
    steps = (collapse_matmul, sink_reshapes, sink_transposes, simplify_movement, fold_affine)
    return fixpoint(graph, (*steps, eliminate_common_subexpressions))


#: The pipeline for a graph with static shapes, before partition.
PASSES: Final[tuple[tuple[str, Pass], ...]] = (
    ("fold_constants", fold_constants),
    ("absorb_parameters", absorb_parameters),
    ("multiply_packed", multiply_packed),
    ("use_integers", use_integers),
    ("decompose_elementwise", decompose_elementwise),
    ("simplify", simplify),
    ("lookup_one_hot_products", lookup_one_hot_products),
    ("decompose", decompose),
    ("simplify_decomposed", simplify),
    ("assign_layouts", assign_layouts),
    ("simplify_layouts", simplify),
    ("pack_narrow_convolutions", pack_narrow_convolutions),
    ("canonicalise_views", canonicalise_views),
    ("choose_alternatives", choose_alternatives),
    ("decompose_alternatives", decompose),
    ("canonicalise_alternatives", canonicalise_views),
    ("pack_constants", pack_constants),
    ("eliminate_dead_code", eliminate_dead_code),
)


def optimise(
    graph: Graph,
    dump: Callable[[str, Graph], None] | None = None,
    check: bool = False,
    skip: Collection[str] = (),
    threads: int = 1,
    pick: Pick = default_pick,
    disabled: Collection[str] = (),
    operands: str = "uint8",
) -> Graph:
    """Run :data:`PASSES` but those named in ``skip``, then the same on all graphs that nodes run. ``dump``
    sees the graph after every pass by name; ``check`` verifies it there; the graph will run on ``threads``
    threads. ``pick`` chooses between alternatives but those of ``disabled`` options; ``operands`` is what the
    target multiplies integers as (``quantize.multiplied_type``).

    Raises GraphError when a pass left a graph that breaks the rules (with ``check``).
    """
    choose = partial(choose_alternatives, pick=pick, threads=threads, disabled=disabled)
    chosen: dict[Pass, Pass] = {
        choose_alternatives: choose,
        use_integers: partial(use_integers, operands=operands),
    }
    for name, step in PASSES:
        if name in skip:
            continue
        graph = chosen.get(step, step)(graph)
        if check:
            verify(graph)
            check_types(graph)
        if dump is not None:
            dump(name, graph)

    def inner(where: str, region: Graph) -> Graph:
        said = None if dump is None else lambda name, after: dump(f"{where}_{name}", after)
        return optimise(region, said, check, skip, threads, pick, disabled, operands)

    return eliminate_dead_code(simplify_regions(map_regions(graph, inner)))


def variants(point: ChoicePoint) -> dict[str, Graph]:
    """The point's node as a graph of its own, ready for partition, by the name of each way to compute it."""
    found = {DIRECT: point.graph()}
    for alternative in point.alternatives:
        chosen = choose_alternatives(point.graph(), _always(alternative.name), point.threads)
        found[alternative.name] = canonicalise_views(decompose(chosen))
    return found


def _always(name: str) -> Pick:
    return lambda point: name
