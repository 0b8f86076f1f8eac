"""Which ONNX operators are supported, by the version of their definition ("since version")."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from tilewright.frontend.onnx.context import NodeContext
    from tilewright.graph.graph import Value

#: Opsets of ai.onnx whose operator definitions are known here.
MIN_OPSET: Final = 1
MAX_OPSET: Final = 28

Handler: TypeAlias = "Callable[[NodeContext], Value | Sequence[Value | None]]"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A handler and the definition it covers."""

    op_type: str
    since: int
    handler: Handler


_table: dict[tuple[str, str], dict[int, Entry]] = {}


def onnx_op(op_type: str, *versions: int, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a handler for the definitions of ``op_type`` that the opsets ``versions`` introduced."""

    def decorate(handler: Handler) -> Handler:
        entries = _table.setdefault((domain, op_type), {})
        for since in versions:
            if since in entries:
                raise ValueError(f"{op_type}-{since} is registered twice")
            entries[since] = Entry(op_type, since, handler)
        return handler

    return decorate


def lookup(domain: str, op_type: str, opset: int) -> Entry | None:
    """The entry for the definition that is in force in ``opset``; None when the operator is not supported
    there.
    """
    entries = _table.get((domain, op_type), {})
    known = [since for since in entries if since <= opset]
    return entries[max(known)] if known else None


def supported_ops() -> dict[str, tuple[int, ...]]:
    """Operator type -> versions of its definition that are supported, for reports (``domain.Type`` outside
    ai.onnx).
    """
    return {
        f"{domain}.{op}" if domain else op: tuple(sorted(entries))
        for (domain, op), entries in sorted(_table.items())
    }
