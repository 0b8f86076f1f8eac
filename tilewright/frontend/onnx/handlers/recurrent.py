"""RNN, LSTM and GRU: the input's share of all gates is one matrix product, then the steps follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from tilewright.frontend.onnx.context import NodeContext
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, as_expr
from tilewright.ir.visit import const_int

#: ONNX activation -> (ours, default of alpha, default of beta).
_ACTIVATIONS: Final[dict[str, tuple[str, float, float]]] = {
    "affine": ("affine", 1.0, 0.0),
    "elu": ("elu", 1.0, 0.0),
    "hardsigmoid": ("hard_sigmoid", 0.2, 0.5),
    "leakyrelu": ("leaky_relu", 0.01, 0.0),
    "relu": ("relu", 0.0, 0.0),
    "scaledtanh": ("scaled_tanh", 1.0, 1.0),
    "sigmoid": ("sigmoid", 0.0, 0.0),
    "softplus": ("softplus", 0.0, 0.0),
    "softsign": ("softsign", 0.0, 0.0),
    "tanh": ("tanh", 0.0, 0.0),
    "thresholdedrelu": ("thresholded_relu", 1.0, 0.0),
}
#: Those that take alpha, and those that take beta, from the lists in the attributes.
_WITH_ALPHA: Final = ("affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu")
_WITH_BETA: Final = ("affine", "hardsigmoid", "scaledtanh")


class _Cell(NamedTuple):
    op: str
    gates: int
    activations: tuple[str, ...]


_RNN: Final = _Cell("rnn", 1, ("Tanh",))
_LSTM: Final = _Cell("lstm", 4, ("Sigmoid", "Tanh", "Tanh"))
_GRU: Final = _Cell("gru", 3, ("Sigmoid", "Tanh"))


@onnx_op("RNN", 1, 7, 14, 22)
def rnn(ctx: NodeContext) -> Sequence[Value]:
    """A plain recurrent layer."""
    return _layer(ctx, _RNN)


@onnx_op("LSTM", 1, 7, 14, 22)
def lstm(ctx: NodeContext) -> Sequence[Value]:
    """With peepholes, coupled gates and clipping where they are asked for."""
    return _layer(ctx, _LSTM)


@onnx_op("GRU", 1, 3, 7, 14, 22)
def gru(ctx: NodeContext) -> Sequence[Value]:
    """The reset gate before or after the hidden state's product (``linear_before_reset``)."""
    return _layer(ctx, _GRU)


def _layer(ctx: NodeContext, cell: _Cell) -> Sequence[Value]:
    """Y ``[T, D, B, H]`` and the last states ``[D, B, H]`` (batch first with ``layout`` 1)."""
    x, weights = ctx.value(0), ctx.value(1)
    given = x.dtype
    batch_first = bool(ctx.attr("layout", 0))
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    named = str(ctx.attr("direction", "forward")).lower()
    if named not in directions or const_int(weights.shape[0]) != len(directions[named]):
        ctx.fail(f"direction '{named}' does not fit weights {weights.type}")
    x = _turned(ctx, _wide(ctx, x), batch_first)
    lengths = ctx.optional(4)
    outputs: list[list[Value]] = []
    for number, backwards in enumerate(directions[named]):
        steps = _flipped(ctx, x, lengths) if backwards else x
        states = _direction(ctx, cell, steps, number, len(directions[named]), lengths, batch_first)
        outputs.append([_sequence(ctx, states[0], lengths, backwards), *(_last(ctx, s) for s in states)])
    results = []
    for n, parts in enumerate(zip(*outputs, strict=True)):
        axis = 1 if n == 0 else 0
        stacked = [ctx.reshape(p, [*p.shape[:axis], as_expr(1), *p.shape[axis:]]) for p in parts]
        y = stacked[0] if len(stacked) == 1 else ctx.op("concat", *stacked, axis=axis)
        if batch_first:
            y = ctx.op("transpose", y, perm=(2, 0, 1, 3) if n == 0 else (1, 0, 2))
        results.append(y if y.dtype == given else ctx.op("cast", y, to=given))
    return results


def _wide(ctx: NodeContext, value: Value) -> Value:
    return ctx.op("cast", value, to="float32") if dt.bits(value.dtype) < 32 else value


def _turned(ctx: NodeContext, value: Value, batch_first: bool) -> Value:
    perm = (1, 0, *range(2, value.rank))
    return ctx.op("transpose", value, perm=perm) if batch_first else value


def _flipped(ctx: NodeContext, value: Value, lengths: Value | None) -> Value:
    """Each sample's own steps backwards."""
    if lengths is not None:
        return ctx.op("reverse_sequence", value, lengths, time_axis=0, batch_axis=1)
    return ctx.op("slice", value, starts=(-1,), ends=(-(2**63) + 1,), axes=(0,), steps=(-1,))


def _part(ctx: NodeContext, index: int, number: int, batch_first: bool = False) -> Value | None:
    """Input ``index`` of direction ``number``, without the dimension of directions."""
    value = ctx.optional(index)
    if value is None:
        return None
    value = _turned(ctx, _wide(ctx, value), batch_first)
    one = ctx.op("slice", value, starts=(number,), ends=(number + 1,), axes=(0,))
    return ctx.reshape(one, one.shape[1:])


def _direction(
    ctx: NodeContext,
    cell: _Cell,
    x: Value,
    number: int,
    count: int,
    lengths: Value | None,
    batch_first: bool,
) -> tuple[Value, ...]:
    """The states over time of one direction."""
    w, r, bias = (_part(ctx, n, number) for n in (1, 2, 3))
    assert w is not None
    assert r is not None
    size = ctx.static_dims(r, "the recurrent weights")[1]
    if int(ctx.attr("hidden_size", size)) != size:
        ctx.fail(f"hidden_size {ctx.attr('hidden_size')} does not fit recurrent weights {r.type}")
    share = ctx.op("matmul", x, ctx.op("transpose", w, perm=(1, 0)))
    inner: Value | None = None
    if bias is not None:
        width = cell.gates * size
        first, second = (
            ctx.op("slice", bias, starts=(n * width,), ends=((n + 1) * width,), axes=(0,)) for n in (0, 1)
        )
        if cell.op == "gru":
            inner = ctx.op("slice", second, starts=(2 * size,), ends=(width,), axes=(0,))
            second = ctx.op("slice", second, starts=(0,), ends=(2 * size,), axes=(0,))
            second = ctx.op("pad", second, pads=(0, size))
        share = ctx.op("add", share, ctx.op("add", first, second))
    h = _part(ctx, 5, number, batch_first)
    extra: list[Value | None] = []
    if cell.op == "lstm":
        peep = _part(ctx, 7, number)
        c = _part(ctx, 6, number, batch_first)
        extra = [c, None if peep is None else ctx.reshape(peep, [as_expr(3), as_expr(size)])]
    elif cell.op == "gru":
        extra = [inner]
    clip = ctx.attr("clip", None)
    return ctx.emit(
        cell.op,
        [share, ctx.op("transpose", r, perm=(1, 0)), h, *extra, lengths],
        activations=_activations(ctx, cell, number, count),
        clip=None if not clip else float(clip),
        input_forget=bool(ctx.attr("input_forget", 0)) or None,
        linear_before_reset=bool(ctx.attr("linear_before_reset", 0)) or None,
    )


def _activations(
    ctx: NodeContext, cell: _Cell, number: int, count: int
) -> tuple[tuple[str, float, float], ...]:
    """Name, alpha and beta of the activations of one direction.

    The lists of alphas and betas hold numbers only for activations that take them, in order.
    """
    names = ctx.attr("activations", None) or cell.activations * count
    if len(names) != len(cell.activations) * count:
        ctx.fail(f"{len(names)} activations for {count} directions of {len(cell.activations)}")
    alphas, betas = (list(ctx.attr(name, ())) for name in ("activation_alpha", "activation_beta"))
    found = []
    for name in names:
        key = str(name).lower()
        if key not in _ACTIVATIONS:
            ctx.unsupported(f"there is no activation '{name}'")
        ours, alpha, beta = _ACTIVATIONS[key]
        if key in _WITH_ALPHA and alphas:
            alpha = float(alphas.pop(0))
        if key in _WITH_BETA and betas:
            beta = float(betas.pop(0))
        found.append((ours, alpha, beta))
    each = len(cell.activations)
    return tuple(found[number * each : (number + 1) * each])


def _sequence(ctx: NodeContext, states: Value, lengths: Value | None, backwards: bool) -> Value:
    """The hidden states after each step, zero past a sample's end."""
    y = ctx.op("slice", states, starts=(1,), ends=(2**63 - 1,), axes=(0,))
    if lengths is not None:
        wide = ctx.op("cast", lengths, to="int64")
        step = ctx.op("range", start=(0,), limit=(_count(y.shape[0]),), delta=(1,), dtype="int64")
        lasts = ctx.op("less", ctx.reshape(step, [y.shape[0], as_expr(1)]), wide)
        lasts = ctx.reshape(lasts, [y.shape[0], y.shape[1], as_expr(1)])
        y = ctx.op("where", lasts, y, ctx.like(0, y))
    return _flipped(ctx, y, lengths) if backwards else y


def _count(dim: Expr) -> int | Expr:
    size = const_int(dim)
    return dim if size is None else size


def _last(ctx: NodeContext, states: Value) -> Value:
    last = ctx.op("slice", states, starts=(-1,), ends=(2**63 - 1,), axes=(0,))
    return ctx.reshape(last, last.shape[1:])
