"""Recurrent cells over a sequence, in one direction: rnn, lstm, gru.

Inputs are ``x`` ``[T, B, G * H]``, the input's share of every gate with all biases; ``r`` ``[H, G * H]``;
``h`` ``[B, H]``, the first hidden state; for lstm ``c`` ``[B, H]`` and the peepholes ``p`` ``[3, H]`` (input,
output, forget); for gru ``b`` ``[H]``, a bias inside the reset gate; last ``lengths`` ``[B]``. All but ``x``
and ``r`` may be absent. Gates are in ONNX's order: lstm input, output, forget, cell; gru update, reset,
hidden.

Results are the states over time, ``[T + 1, B, H]``, from the first one on. After its length a sample's state
stands still. Steps run one after the other (``te.scan``); what does not depend on the state is done before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tilewright.graph.graph import TensorType
from tilewright.graph.opdef import FusionKind, OpContext, OpDef, register
from tilewright.ir import te
from tilewright.ir.expr import Expr, as_expr, const, maximum, minimum, select
from tilewright.ir.intrinsics import intrinsic
from tilewright.ir.visit import const_int
from tilewright.ops.activation import ACTIVATIONS
from tilewright.ops.common import Operands, format_shape

#: Gates and states of each cell, and its optional inputs after ``h`` and before ``lengths``.
CELLS: Final[Mapping[str, tuple[int, int, tuple[str, ...]]]] = {
    "rnn": (1, 1, ()),
    "lstm": (4, 2, ("c", "p")),
    "gru": (3, 1, ("b",)),
}
_Scalar = Callable[[Any], Any]


def _tanh(x: Expr, attrs: Mapping[str, Any]) -> Expr:
    return intrinsic("tanh", x)


def _affine(x: Any, attrs: Mapping[str, Any]) -> Any:
    return x * attrs["alpha"] + attrs["beta"]


def _scaled_tanh(x: Expr, attrs: Mapping[str, Any]) -> Expr:
    return intrinsic("tanh", x * attrs["beta"]) * attrs["alpha"]


#: Activations of gates: expression and NumPy twin, of the element and ``alpha`` and ``beta``.
GATES: Final[dict[str, tuple[Callable[..., Expr], Callable[..., Any]]]] = {
    **{name: ACTIVATIONS[name] for name in ("elu", "hard_sigmoid", "leaky_relu", "relu")},
    **{name: ACTIVATIONS[name] for name in ("sigmoid", "softplus", "softsign", "thresholded_relu")},
    "tanh": (_tanh, lambda x, attrs: np.tanh(x)),
    "affine": (_affine, _affine),
    "scaled_tanh": (_scaled_tanh, lambda x, attrs: attrs["alpha"] * np.tanh(attrs["beta"] * x)),
}


def _activations(ctx: OpContext, numpy: bool) -> list[_Scalar]:
    """The cell's activations, each a tuple of name, alpha and beta in attribute ``activations``."""
    return [
        functools.partial(GATES[name][numpy], attrs={"alpha": alpha, "beta": beta})
        for name, alpha, beta in ctx.attr("activations")
    ]


def _operand(ctx: OpContext, cell: str, inputs: Sequence[Any], name: str) -> Any:
    """An input by name, None when it is absent."""
    names = ("x", "r", "h", *CELLS[cell][2], "lengths")
    index = names.index(name)
    return inputs[index] if index < len(inputs) else None


def _infer(cell: str) -> Callable[[OpContext], list[TensorType]]:
    gates, states, _ = CELLS[cell]

    def infer(ctx: OpContext) -> list[TensorType]:
        x, r = ctx.input(0), ctx.input(1)
        size = const_int(r.shape[0]) if r.rank == 2 else None
        if x.rank != 3 or size is None or const_int(r.shape[1]) != gates * size:
            ctx.fail(f"{cell} takes [T, B, {gates} * H] and [H, {gates} * H], not {x} and {r}")
        if const_int(x.shape[2]) != gates * size or x.dtype != r.dtype:
            ctx.fail(f"{format_shape(x.shape)} does not hold {gates} gates of {size}")
        if x.dtype not in ("float32", "float64"):
            ctx.fail(f"{cell} is not defined for {x.dtype}")
        if len(ctx.attr("activations")) != (3 if cell == "lstm" else 2 if cell == "gru" else 1):
            ctx.fail(f"{cell} with {len(ctx.attr('activations'))} activations")
        unknown = [name for name, _, _ in ctx.attr("activations") if name not in GATES]
        if unknown:
            ctx.fail(f"there is no activation '{unknown[0]}' (there are {', '.join(GATES)})")
        batch, hidden = x.shape[1], as_expr(size)
        shapes = {"h": (batch, hidden), "c": (batch, hidden), "p": (as_expr(3), hidden), "b": (hidden,)}
        shapes["lengths"] = (batch,)
        for name in ("h", *CELLS[cell][2], "lengths"):
            operand = _operand(ctx, cell, ctx.inputs, name)
            if operand is not None:
                found, wanted = (tuple(map(const_int, s)) for s in (operand.shape, shapes[name]))
                if len(found) != len(wanted) or any(
                    None not in pair and pair[0] != pair[1] for pair in zip(found, wanted, strict=True)
                ):
                    ctx.fail(f"operand '{name}' has the shape {found}, not {wanted}")
        return [TensorType((x.shape[0] + 1, x.shape[1], as_expr(size)), x.dtype)] * states

    return infer


def _clipped(ctx: OpContext, value: Expr) -> Expr:
    clip = ctx.attr("clip", None)
    return value if clip is None else maximum(minimum(value, float(clip)), -float(clip))


def _compute(cell: str) -> Callable[[OpContext, Operands], list[te.Tensor]]:
    def compute(ctx: OpContext, inputs: Operands) -> list[te.Tensor]:
        x, r = inputs[0], inputs[1]
        steps, batch, size = x.shape[0], x.shape[1], r.shape[0]
        lengths = _operand(ctx, cell, inputs, "lengths")

        def first(name: str) -> te.Tensor:
            given = _operand(ctx, cell, inputs, name)

            def body(*i: Expr) -> Expr:
                return const(0, x.dtype) if given is None else given[i]

            return te.compute((batch, size), body, f"{name}_first")

        def product(h: te.Tensor, begin: int, count: Expr, name: str) -> te.Tensor:
            """``h @ r[:, begin : begin + count]`` of one step."""

            def body(t: Expr, b: Expr, n: Expr) -> Expr:
                return te.reduce("sum", [size], lambda k: h[t, b, k] * r[k, n + begin])

            return te.compute((steps, batch, count), body, name)

        def kept(fresh: Callable[..., Expr], old: te.Tensor, name: str) -> te.Tensor:
            """``fresh`` while a sample lasts, then the old state."""

            def body(t: Expr, b: Expr, j: Expr) -> Expr:
                if lengths is None:
                    return fresh(t, b, j)
                return select(t < lengths[b].astype("int64"), fresh(t, b, j), old[t, b, j])

            return te.compute((steps, batch, size), body, name)

        step = {"rnn": _rnn_step, "lstm": _lstm_step, "gru": _gru_step}[cell]
        starts = [first(name) for name in ("h", "c")[: CELLS[cell][1]]]

        def one(*states: te.Tensor) -> Sequence[te.Tensor]:
            return step(ctx, inputs, states, product, kept)

        return list(te.scan(steps, starts, one, [f"{cell}_h", f"{cell}_c"][: len(starts)]))

    return compute


_Product = Callable[[te.Tensor, int, Expr, str], te.Tensor]
_Kept = Callable[[Callable[..., Expr], te.Tensor, str], te.Tensor]


def _rnn_step(
    ctx: OpContext, inputs: Operands, states: Sequence[te.Tensor], product: _Product, kept: _Kept
) -> list[te.Tensor]:
    x, (h,), (f,) = inputs[0], states, _activations(ctx, False)
    total = product(h, 0, inputs[1].shape[1], "recurrent")
    return [kept(lambda *i: f(_clipped(ctx, x[i] + total[i])), h, "next_h")]


def _lstm_step(
    ctx: OpContext, inputs: Operands, states: Sequence[te.Tensor], product: _Product, kept: _Kept
) -> list[te.Tensor]:
    x, r, (h, c), (f, g, hidden) = inputs[0], inputs[1], states, _activations(ctx, False)
    size, peep = const_int(r.shape[0]) or 0, _operand(ctx, "lstm", inputs, "p")
    total = product(h, 0, r.shape[1], "recurrent")
    coupled = bool(ctx.attr("input_forget", False))

    def gate(number: int, function: _Scalar, t: Expr, b: Expr, j: Expr, cell: Expr | None = None) -> Expr:
        at = (t, b, j + number * size)
        value = x[at] + total[at]
        if peep is not None and cell is not None:
            value = value + peep[as_expr(number), j] * cell
        return function(_clipped(ctx, value))

    def cell(t: Expr, b: Expr, j: Expr) -> Expr:
        old = c[t, b, j]
        entering = gate(0, f, t, b, j, old)
        staying = 1.0 - entering if coupled else gate(2, f, t, b, j, old)
        return staying * old + entering * gate(3, g, t, b, j)

    next_c = kept(cell, c, "next_c")

    def output(t: Expr, b: Expr, j: Expr) -> Expr:
        return gate(1, f, t, b, j, next_c[t, b, j]) * hidden(next_c[t, b, j])

    return [kept(output, h, "next_h"), next_c]


def _gru_step(
    ctx: OpContext, inputs: Operands, states: Sequence[te.Tensor], product: _Product, kept: _Kept
) -> list[te.Tensor]:
    x, r, (h,), (f, g) = inputs[0], inputs[1], states, _activations(ctx, False)
    width, bias = r.shape[0], _operand(ctx, "gru", inputs, "b")
    size = const_int(width) or 0
    inside = bool(ctx.attr("linear_before_reset", False))
    total = product(h, 0, width * (3 if inside else 2), "recurrent")

    def gate(number: int, t: Expr, b: Expr, j: Expr) -> Expr:
        at = (t, b, j + number * size)
        return f(_clipped(ctx, x[at] + total[at]))

    if inside:

        def candidate(t: Expr, b: Expr, j: Expr) -> Expr:
            at = (t, b, j + 2 * size)
            share = total[at] if bias is None else total[at] + bias[j]
            return g(_clipped(ctx, x[at] + gate(1, t, b, j) * share))

    else:
        reset = te.compute(
            (x.shape[0], x.shape[1], width), lambda t, b, j: gate(1, t, b, j) * h[t, b, j], "reset"
        )
        share = product(reset, 2 * size, width, "recurrent_reset")

        def candidate(t: Expr, b: Expr, j: Expr) -> Expr:
            value = x[t, b, j + 2 * size] + share[t, b, j]
            return g(_clipped(ctx, value if bias is None else value + bias[j]))

    def fresh(t: Expr, b: Expr, j: Expr) -> Expr:
        update = gate(0, t, b, j)
        return (1.0 - update) * candidate(t, b, j) + update * h[t, b, j]

    return [kept(fresh, h, "next_h")]


# -------------------------------------------------------------------------------------------------- reference
def _reference(cell: str) -> Callable[[OpContext, Operands], list[np.ndarray]]:
    def reference(ctx: OpContext, inputs: Operands) -> list[np.ndarray]:
        x, r = inputs[0], inputs[1]
        steps, batch, size = x.shape[0], x.shape[1], r.shape[0]
        lengths = _operand(ctx, cell, inputs, "lengths")
        states = []
        for name in ("h", "c")[: CELLS[cell][1]]:
            given = _operand(ctx, cell, inputs, name)
            states.append(np.zeros((steps + 1, batch, size), x.dtype))
            states[-1][0] = 0 if given is None else given
        step = {"rnn": _rnn_numpy, "lstm": _lstm_numpy, "gru": _gru_numpy}[cell]
        for t in range(steps):
            old = [s[t] for s in states]
            for state, before, value in zip(states, old, step(ctx, inputs, x[t], old), strict=True):
                lasts = True if lengths is None else (t < lengths.astype(np.int64))[:, None]
                state[t + 1] = np.where(lasts, value, before)
        return states

    return reference


def _clip_numpy(ctx: OpContext, value: np.ndarray) -> np.ndarray:
    clip = ctx.attr("clip", None)
    return value if clip is None else np.clip(value, -clip, clip)


def _rnn_numpy(
    ctx: OpContext, inputs: Operands, x: np.ndarray, old: Sequence[np.ndarray]
) -> list[np.ndarray]:
    (f,) = _activations(ctx, True)
    return [f(_clip_numpy(ctx, x + old[0] @ inputs[1]))]


def _lstm_numpy(
    ctx: OpContext, inputs: Operands, x: np.ndarray, old: Sequence[np.ndarray]
) -> list[np.ndarray]:
    (h, c), (f, g, hidden), size = old, _activations(ctx, True), inputs[1].shape[0]
    peep = _operand(ctx, "lstm", inputs, "p")
    total = x + h @ inputs[1]

    def gate(number: int, function: _Scalar, cell: np.ndarray | None = None) -> np.ndarray:
        value = total[:, number * size : (number + 1) * size]
        if peep is not None and cell is not None:
            value = value + peep[number] * cell
        return np.asarray(function(_clip_numpy(ctx, value)))

    entering = gate(0, f, c)
    staying = 1 - entering if ctx.attr("input_forget", False) else gate(2, f, c)
    fresh = staying * c + entering * gate(3, g)
    return [gate(1, f, fresh) * hidden(fresh), fresh]


def _gru_numpy(
    ctx: OpContext, inputs: Operands, x: np.ndarray, old: Sequence[np.ndarray]
) -> list[np.ndarray]:
    (h,), (f, g), r = old, _activations(ctx, True), inputs[1]
    size, bias = r.shape[0], _operand(ctx, "gru", inputs, "b")
    both = f(_clip_numpy(ctx, x[:, : 2 * size] + h @ r[:, : 2 * size]))
    update, reset = both[:, :size], both[:, size:]
    inner = 0 if bias is None else bias
    if ctx.attr("linear_before_reset", False):
        value = x[:, 2 * size :] + reset * (h @ r[:, 2 * size :] + inner)
    else:
        value = x[:, 2 * size :] + (reset * h) @ r[:, 2 * size :] + inner
    return [(1 - update) * g(_clip_numpy(ctx, value)) + update * h]


for _name in CELLS:
    register(
        OpDef(
            _name,
            FusionKind.opaque,
            infer=_infer(_name),
            compute=_compute(_name),
            reference=_reference(_name),
        )
    )
