"""Whether different threads of a thread block may touch one element."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from tilewright.ir.digits import one_owner
from tilewright.ir.expr import BinOp, Cmp, Const, Expr, Load, Var, as_expr
from tilewright.ir.simplify import Simplifier
from tilewright.ir.stmt import Buffer, For
from tilewright.ir.visit import free_vars, substitute_expr, walk_expr

#: Remainders by a loop's variable that are tried one by one.
MAX_RESIDUES = 24


@dataclasses.dataclass(frozen=True)
class Access:
    """One load or store as written in the program of a thread, under loops and conditions.

    Attributes:
        asynchronous: it is the store of an asynchronous copy.
    """

    buffer: Buffer
    indices: tuple[Expr, ...]
    write: bool
    loops: tuple[For, ...]
    conds: tuple[Expr, ...]
    asynchronous: bool = False

    @staticmethod
    def read(node: Load, loops: tuple[For, ...], conds: tuple[Expr, ...]) -> Access:
        return Access(node.buffer, node.indices, False, loops, conds)

    def env(self) -> Simplifier:
        """What is known where the access happens."""
        env = Simplifier()
        for loop in self.loops:
            env = env.with_loop(loop.var, loop.extent)
        for cond in self.conds:
            if not any(isinstance(n, Load) for n in walk_expr(cond)):
                env = env.assuming(cond)
        return env

    def coordinate(self, thread: Var) -> Expr:
        """The thread that makes the access: ``thread``, or the constant that a condition makes of it."""
        for cond in self.conds:
            if isinstance(cond, Cmp) and cond.op == "eq":
                for one, other in ((cond.a, cond.b), (cond.b, cond.a)):
                    if one is thread and isinstance(other, Const):
                        return other
        return thread


class Conflicts:
    """Questions about accesses in a launch whose ``threadIdx`` variables take the extents ``threads``."""

    def __init__(self, threads: Mapping[Var, Expr]) -> None:
        self._threads = threads
        self._known: dict[tuple[Access, Access, frozenset[Var]], bool] = {}

    def between(self, a: Access, b: Access, earlier: frozenset[Var]) -> bool:
        """Whether ``a`` and then ``b`` may touch one element from different threads, at least one writing.
        They happen in one iteration of the loops around both, except that ``a`` happened in another one of
        those over ``earlier``.
        """
        if a.buffer is not b.buffer or not (a.write or b.write):
            return False
        key = (a, b, earlier)
        if key not in self._known:
            self._known[key] = not (self._one_thread(a, b) or self._apart(a, b, earlier))
        return self._known[key]

    def _one_thread(self, a: Access, b: Access) -> bool:
        """Whether only one thread can touch an element that both touch."""
        for thread, extent in self._threads.items():
            places = [(x.coordinate(thread), extent, x.indices, x.env()) for x in (a, b)]
            if not one_owner(places, a.buffer.shape):
                return False
        return True

    def _apart(self, a: Access, b: Access, earlier: frozenset[Var]) -> bool:
        """Whether the accesses never touch the same element."""
        common = set()
        for x, y in zip(a.loops, b.loops, strict=False):
            if x is not y or x.var in earlier:
                break
            common.add(x.var)
        # Everything else is another variable in the other access.
        other: dict[Expr, Expr] = {}
        env = a.env()
        for loop in b.loops:
            if loop.var not in common:
                fresh = Var(loop.var.name, lo=0, hi=loop.var.hi)
                other[loop.var] = fresh
                env = env.with_loop(fresh, substitute_expr(loop.extent, other))
        other |= {t: Var(t.name, lo=0, hi=t.hi) for t in self._threads}
        for i, j in zip(a.indices, b.indices, strict=True):
            gap = i - substitute_expr(j, other)
            if _never_zero(gap, env) or self._never_zero_by_residue(gap, common, env):
                return True
        return False

    def _never_zero_by_residue(self, gap: Expr, common: set[Var], env: Simplifier) -> bool:
        """Whether ``gap`` is never 0 because of the remainders of one variable that both accesses share."""
        moduli: dict[Var, int] = {}
        for node in walk_expr(gap):
            if (
                isinstance(node, BinOp)
                and node.op == "mod"
                and isinstance(node.b, Const)
                and node.b.value > 0
            ):
                for var in free_vars(node.a) & common:
                    moduli[var] = math.lcm(moduli.get(var, 1), int(node.b.value))
        for var, modulus in moduli.items():
            if modulus <= MAX_RESIDUES:
                times = Var(var.name, lo=0)
                values = (times * modulus + as_expr(r) for r in range(modulus))
                if all(_never_zero(substitute_expr(gap, {var: value}), env) for value in values):
                    return True
        return False


def _never_zero(e: Expr, env: Simplifier) -> bool:
    lo, hi = env.interval(env.simplify(e))
    return (lo is not None and lo > 0) or (hi is not None and hi < 0)
