"""How much work a loop iteration is, roughly: enough to choose how many iterations a thread should claim at
once.
"""

from __future__ import annotations

from tilewright.ir.expr import Const, Expr, Load
from tilewright.ir.sizes import typical_size
from tilewright.ir.stmt import Evaluate, For, If, Stmt, Store, TensorCall, child_stmts

CHUNK_WORK = 20_000
"""Operations that one claimed chunk should have at least: a few microseconds, far above the ~0.1 us that
claiming costs.
"""
_UNKNOWN_TRIPS = 16


def grain_of(loop: For) -> int:
    """Iterations of a parallel loop to claim at once: its ``grain`` annotation, or as many as give at least
    the number of its ``chunks`` annotation at the typical extent, else enough for :data:`CHUNK_WORK`.
    """
    hints = dict(loop.annotations)
    given, chunks = hints.get("grain"), hints.get("chunks")
    if isinstance(given, int):
        return max(given, 1)
    extent = typical_size(loop.extent)
    if isinstance(chunks, int) and extent is not None:
        return max(extent // max(chunks, 1), 1)
    grain = max(1, -(-CHUNK_WORK // max(work(loop.body), 1)))
    if isinstance(loop.extent, Const):
        grain = min(grain, max(int(loop.extent.value), 1))
    return grain


def work(stmt: Stmt) -> int:
    """Operations of one execution of ``stmt``; a vector operation counts as one."""
    return _work(stmt, {})


def _work(stmt: Stmt, costs: dict[Expr, int]) -> int:
    if isinstance(stmt, Store):
        return 1 + _cost(stmt.value, costs)
    if isinstance(stmt, Evaluate | TensorCall):
        return 1
    inside = sum(_work(child, costs) for child in child_stmts(stmt))
    if isinstance(stmt, For):
        if stmt.kind == "vectorized":
            return inside * max(1, int(stmt.extent.value) // 16 if isinstance(stmt.extent, Const) else 1)
        return inside * (int(stmt.extent.value) if isinstance(stmt.extent, Const) else _UNKNOWN_TRIPS)
    if isinstance(stmt, If) and stmt.orelse is not None:
        return inside // 2
    return inside


def _cost(e: Expr, costs: dict[Expr, int]) -> int:
    known = costs.get(e)
    if known is None:
        # Index arithmetic is hoisted or folded into addresses.
        known = costs[e] = 1 + (0 if isinstance(e, Load) else sum(_cost(c, costs) for c in e.children))
    return known
