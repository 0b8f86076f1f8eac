"""Expressions over the lanes of threads that run in lockstep. Internal to ``ir.interp_threads``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tilewright.errors import VerifyError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import BinOp, Call, Cast, Cmp, Const, Expr, Load, Select, Var
from tilewright.ir.interp_ops import BINARY, cast, divide
from tilewright.ir.intrinsics import INTRINSICS

_COMPARE = {"lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal}


class Lockstep(ABC):
    """Evaluates expressions for ``count`` lanes: a value is an array of that length, or a number that is
    the same in all lanes.

    Attributes:
        env: values of variables.
        origin: for each lane what undefined memory the statement being evaluated has read, 0 for none; None
            when no lane has.
    """

    count: int
    env: dict[Var, Any]
    origin: np.ndarray[Any, Any] | None

    def __init__(self) -> None:
        self.env, self.origin = {}, None
        self._memo: list[dict[Expr, Any]] = []
        self._masks: list[np.ndarray[Any, Any]] = []
        self._constants: dict[Const, Any] = {}

    @abstractmethod
    def load(self, e: Load, mask: np.ndarray[Any, Any]) -> Any:
        """The elements that the lanes in ``mask`` read."""

    @contextmanager
    def statement(self, mask: np.ndarray[Any, Any]) -> Iterator[None]:
        """Expressions of one statement, run by the lanes in ``mask``, are evaluated inside."""
        outer = self._memo, self._masks, self.origin
        self._memo, self._masks, self.origin = [{}], [mask], None
        yield
        self._memo, self._masks, self.origin = outer

    def value(self, e: Expr) -> Any:
        """The value of ``e``; its loads happen only in the lanes that need it."""
        if isinstance(e, Var):
            return self.env[e]
        if isinstance(e, Const):
            return self._const(e)
        for memo in reversed(self._memo):
            if e in memo:
                return memo[e]
        result = self._memo[-1][e] = self._compute(e)
        return result

    def _const(self, e: Const) -> Any:
        if e.dtype == dt.INDEX:
            return e.value
        known = self._constants.get(e)
        if known is None:
            with np.errstate(all="ignore"):
                known = self._constants[e] = np.array(e.value).astype(dt.to_numpy(e.dtype))[()]
        return known

    def _compute(self, e: Expr) -> Any:
        if isinstance(e, Load):
            return self.load(e, self._masks[-1])
        if isinstance(e, Select):
            return self._select(e)
        operands = [self.value(c) for c in e.children]
        if isinstance(e, BinOp):
            if e.op in ("floordiv", "mod") and not isinstance(e.b, Const):
                a, b = operands
                return divide(e.op, a, b, self._masks[-1])
            if e.dtype == dt.INDEX and not any(isinstance(x, np.ndarray) for x in operands):
                return int(BINARY[e.op](*operands))
            return BINARY[e.op](*operands)
        if isinstance(e, Cmp):
            return _COMPARE[e.op](*operands)
        if isinstance(e, Cast):
            return cast(operands[0], e.dtype)
        spec = INTRINSICS.get(e.name) if isinstance(e, Call) else None
        if spec is None or spec.numpy is None:
            raise VerifyError(f"{e!r} is not an expression with a value")
        return spec.numpy(*operands)

    def _select(self, e: Select) -> Any:
        cond = self.value(e.cond)
        if not isinstance(cond, np.ndarray):
            return self.value(e.a if cond else e.b)
        mask = self._masks[-1]
        a = self._under(mask & cond, e.a)
        b = self._under(mask & ~cond, e.b)
        return np.where(cond, a, b)

    def _under(self, mask: np.ndarray[Any, Any], e: Expr) -> Any:
        """``e`` in the lanes of a narrower mask; what it computes is not known in the others."""
        self._memo.append({})
        self._masks.append(mask)
        value = self.value(e)
        self._memo.pop()
        self._masks.pop()
        return value
