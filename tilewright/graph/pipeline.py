"""The graph passes in order, each with its name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, TypeAlias

from tilewright.graph.affine import fold_affine, shrink_uniform
from tilewright.graph.builder import check_types
from tilewright.graph.canonical import collapse_matmul, fold_pads
from tilewright.graph.cse import eliminate_common_subexpressions
from tilewright.graph.decompose import decompose, decompose_elementwise
from tilewright.graph.embedding import lookup_one_hot_products
from tilewright.graph.fast_conv import use_fast_convolutions
from tilewright.graph.fold import absorb_parameters, fold_constants
from tilewright.graph.graph import Graph, verify
from tilewright.graph.layout import assign_layouts
from tilewright.graph.movement import simplify_movement, sink_reshapes, sink_transposes
from tilewright.graph.narrow import pack_narrow_convolutions
from tilewright.graph.rewrite import eliminate_dead_code, fixpoint

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
    ("decompose_elementwise", decompose_elementwise),
    ("simplify", simplify),
    ("lookup_one_hot_products", lookup_one_hot_products),
    ("decompose", decompose),
    ("simplify_decomposed", simplify),
    ("assign_layouts", assign_layouts),
    ("simplify_layouts", simplify),
    ("pack_narrow_convolutions", pack_narrow_convolutions),
    ("use_fast_convolutions", use_fast_convolutions),
    ("canonicalise_views", canonicalise_views),
    ("eliminate_dead_code", eliminate_dead_code),
)


def optimise(
    graph: Graph,
    dump: Callable[[str, Graph], None] | None = None,
    check: bool = False,
    skip: Collection[str] = (),
    threads: int = 1,
) -> Graph:
    """Run :data:`PASSES` but those named in ``skip``. ``dump`` sees the graph after every pass by name;
    ``check`` verifies it there; the graph will run on ``threads`` threads.

    Raises GraphError when a pass left a graph that breaks the rules (with ``check``).
    """
    for name, step in PASSES:
        if name in skip:
            continue
        graph = use_fast_convolutions(graph, threads) if step is use_fast_convolutions else step(graph)
        if check:
            verify(graph)
            check_types(graph)
        if dump is not None:
            dump(name, graph)
    return graph
