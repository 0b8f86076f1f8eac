"""The primitive annotate: a hint on a block or loop that never changes meaning."""

from __future__ import annotations

import dataclasses

from tilewright.ir.stmt import Attr, PrimFunc
from tilewright.schedule.state import BlockRef, LoopRef, Tree, find_block, find_loop, replace


def annotate(func: PrimFunc, ref: BlockRef | LoopRef, key: str, value: Attr) -> PrimFunc:
    """Set the hint ``key`` of a block or loop to ``value``; an earlier value is replaced."""
    tree = Tree(func)
    node = (
        find_block(tree, ref, "annotate") if isinstance(ref, BlockRef) else find_loop(tree, ref, "annotate")
    )
    annotations = tuple(sorted({**dict(node.annotations), key: value}.items()))
    return replace(tree, {node: dataclasses.replace(node, annotations=annotations)})
