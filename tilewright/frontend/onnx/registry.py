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
    """A handler and the definition it covers; ``limits`` says what of it is not supported, ``lists`` whether
    the handler takes sequences and optional values.
    """

    op_type: str
    since: int
    handler: Handler
    limits: str = ""
    lists: bool = False


_table: dict[tuple[str, str], dict[int, Entry]] = {}


def onnx_op(
    op_type: str, *versions: int, domain: str = "", limits: str = "", lists: bool = False
) -> Callable[[Handler], Handler]:
    """Register a handler for the definitions of ``op_type`` that the opsets ``versions`` introduced.

    ``limits`` says in a few words what of them is not supported, ``lists`` whether operands may be sequences
    or optional values.
    """

    def decorate(handler: Handler) -> Handler:
        known = _table.setdefault((domain, op_type), {})
        for since in versions:
            if since in known:
                raise ValueError(f"{op_type}-{since} is registered twice")
            known[since] = Entry(op_type, since, handler, limits, lists)
        return handler

    return decorate


def lookup(domain: str, op_type: str, opset: int) -> Entry | None:
    """The entry for the definition that is in force in ``opset``; None when the operator is not supported
    there.
    """
    found = _table.get((domain, op_type), {})
    known = [since for since in found if since <= opset]
    return found[max(known)] if known else None


#: Operators that are not supported and what to do instead, for reports.
_LOOP: Final = "export the decoder alone, and let the application search"
ADVICE: Final = {
    ("ai.onnx.ml", "ZipMap"): "it makes maps; skl2onnx leaves it out with options={'zipmap': False}",
    ("com.microsoft", "BeamSearch"): _LOOP,
    ("com.microsoft", "GreedySearch"): _LOOP,
    ("com.microsoft", "Sampling"): _LOOP,
    ("com.microsoft", "WhisperBeamSearch"): _LOOP,
}


def entries() -> dict[tuple[str, str], dict[int, Entry]]:
    """Every entry by domain and operator type, then by version."""
    return {key: dict(sorted(found.items())) for key, found in sorted(_table.items())}


def supported_ops() -> dict[str, tuple[int, ...]]:
    """Operator type -> versions of its definition that are supported, for reports (``domain.Type`` outside
    ai.onnx).
    """
    return {
        f"{domain}.{op}" if domain else op: tuple(sorted(found))
        for (domain, op), found in sorted(_table.items())
    }
