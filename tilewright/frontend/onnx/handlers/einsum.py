"""Einsum as transposes, matrix products, elementwise products and sums."""

from __future__ import annotations

from tilewright.frontend.onnx.context import NodeContext, product
from tilewright.frontend.onnx.registry import onnx_op
from tilewright.graph.graph import Value
from tilewright.ir.expr import as_expr


@onnx_op("Einsum", 12, 28)
def einsum(ctx: NodeContext) -> Value:
    """Operands are contracted from left to right."""
    terms, result = _parse(ctx, str(ctx.attr("equation")))
    operands = [_diagonal(ctx, ctx.value(n), term) for n, term in enumerate(terms)]
    terms = ["".join(dict.fromkeys(term)) for term in terms]
    value, labels = operands[0], terms[0]
    for n, (operand, term) in enumerate(zip(operands[1:], terms[1:], strict=True), 1):
        kept = set(result).union(*terms[n + 1 :])
        value, labels = _contract(ctx, value, labels, operand, term, kept)
    value, labels = _sum_out(ctx, value, labels, set(result))
    return _arrange(ctx, value, labels, result)


def _parse(ctx: NodeContext, equation: str) -> tuple[list[str], str]:
    """A label for each dimension of the operands and the result; digits stand for those under '...'."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    if len(written) != len(ctx.inputs):
        ctx.fail(f"equation '{equation}' is for {len(written)} operands, there are {len(ctx.inputs)}")
    widest, terms = 0, []
    for n, term in enumerate(written):
        rank, named = ctx.value(n).rank, term.replace("...", "")
        hidden = rank - len(named)
        if hidden < 0 or (hidden and "..." not in term) or hidden > 9:
            ctx.fail(f"'{term}' in equation '{equation}' does not fit an operand of rank {rank}")
        terms.append(term.replace("...", _digits(hidden)))
        widest = max(widest, hidden)
    if arrow:
        result = right.replace("...", _digits(widest))
    else:
        named = "".join(terms)
        once = sorted(c for c in set(named) if named.count(c) == 1 and not c.isdigit())
        result = _digits(widest) + "".join(once)
    if not set(result) <= set("".join(terms)) or len(set(result)) != len(result):
        ctx.fail(f"the result '{right}' of equation '{equation}' does not follow from its operands")
    return terms, result


def _diagonal(ctx: NodeContext, value: Value, labels: str) -> Value:
    """The elements of ``value`` whose indices agree where a label occurs twice; the first place stays."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first, second = labels.index(label), labels.rindex(label)
            sizes = ctx.static_dims(value, "an operand with a diagonal")
            if sizes[first] != sizes[second]:
                ctx.fail(f"label '{label}' stands for {sizes[first]} and for {sizes[second]} elements")
            size = sizes[first]
            front = (*(d for d in range(value.rank) if d not in (first, second)), first, second)
            y = ctx.op("transpose", value, perm=front)
            y = ctx.reshape(y, [*y.shape[:-2], size * size])
            y = ctx.op(
                "gather", y, ctx.constant([n * (size + 1) for n in range(size)], "int64"), axis=y.rank - 1
            )
            back = list(range(y.rank - 1))
            back.insert(first, y.rank - 1)
            value = ctx.op("transpose", y, perm=tuple(back))
            labels = labels[:second] + labels[second + 1 :]
    return value


def _digits(count: int) -> str:
    """Labels for ``count`` dimensions under an ellipsis; the last is '0', so they align at the right."""
    return "".join(str(n) for n in reversed(range(count)))


def _sum_out(ctx: NodeContext, value: Value, labels: str, kept: set[str]) -> tuple[Value, str]:
    """Sum over the dimensions that nothing else needs."""
    axes = tuple(n for n, label in enumerate(labels) if label not in kept)
    if not axes:
        return value, labels
    rest = "".join(label for label in labels if label in kept)
    return ctx.op("reduce", value, op="sum", axes=axes, keepdims=False), rest


def _arrange(ctx: NodeContext, value: Value, labels: str, order: str) -> Value:
    perm = tuple(labels.index(label) for label in order)
    return value if perm == tuple(range(len(perm))) else ctx.op("transpose", value, perm=perm)


def _contract(
    ctx: NodeContext, a: Value, a_labels: str, b: Value, b_labels: str, kept: set[str]
) -> tuple[Value, str]:
    """The product of two operands, summed over the labels that are in both and not kept."""
    a, a_labels = _sum_out(ctx, a, a_labels, kept | set(b_labels))
    b, b_labels = _sum_out(ctx, b, b_labels, kept | set(a_labels))
    shared = [label for label in a_labels if label in b_labels]
    batch = "".join(label for label in shared if label in kept)
    inner = "".join(label for label in shared if label not in kept)
    rows = "".join(label for label in a_labels if label not in b_labels)
    columns = "".join(label for label in b_labels if label not in a_labels)
    a = _arrange(ctx, a, a_labels, batch + rows + inner)
    b = _arrange(ctx, b, b_labels, batch + inner + columns)
    labels = batch + rows + columns
    cut = len(batch)
    if not inner:
        ones = [as_expr(1)] * len(columns)
        left = ctx.reshape(a, [*a.shape, *ones])
        right = ctx.reshape(b, [*b.shape[:cut], *[as_expr(1)] * len(rows), *b.shape[cut:]])
        return ctx.op("mul", left, right), labels
    row_dims, column_dims = a.shape[cut : cut + len(rows)], b.shape[cut + len(inner) :]
    depth = product(a.shape[cut + len(rows) :])
    left = ctx.reshape(a, [*a.shape[:cut], product(row_dims), depth])
    right = ctx.reshape(b, [*b.shape[:cut], depth, product(column_dims)])
    y = ctx.op("matmul", left, right)
    return ctx.reshape(y, [*y.shape[:cut], *row_dims, *column_dims]), labels
