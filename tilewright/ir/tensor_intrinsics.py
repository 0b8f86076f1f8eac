"""Tensor intrinsics: instructions that work on small tensors, as data.

An intrinsic is a name, a meaning and a few wishes. The meaning is a PrimFunc over small buffers, one nest of
loops around one store:

    @primfunc({"outputs": 1})
    def dot(A: bfloat16[2], B: bfloat16[16, 2], C: float32[16]):
        for j in serial(16):
            for k in serial(2):
                C[j] = C[j] + float32(A[k]) * float32(B[j, k])

``tensorize`` compares programs with it, the interpreter executes it, analyses look into it. How a machine
does it is a backend's business (``tilewright.backend.implementations``). The intrinsics of known instruction
sets are in ``ir.isa``; others register theirs by calling :func:`register` or through the entry-point group
``tilewright.intrinsics``, whose entries are functions without arguments that do.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
from collections.abc import Sequence
from typing import Final

from tilewright.errors import IntrinsicError
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Expr, Load, as_expr, load
from tilewright.ir.linear import known_divisor
from tilewright.ir.simplify import simplify
from tilewright.ir.stmt import (
    Buffer,
    For,
    OperandSpec,
    PrimFunc,
    Region,
    Stmt,
    Store,
    TensorCall,
    TensorIntrinsic,
)
from tilewright.ir.visit import const_int, loads_of, rewrite_expr

_GROUP: Final = "tilewright.intrinsics"
_registered: dict[str, TensorIntrinsic] = {}


def register(
    name: str,
    semantic: PrimFunc | str,
    operands: Sequence[OperandSpec] = (),
    requires: Sequence[str] = (),
) -> TensorIntrinsic:
    """Make an intrinsic known under ``name``. ``semantic`` may be given as text IR; without ``operands``, all
    are compact and may live anywhere.

    Raises IntrinsicError when the name is taken by another meaning or ``semantic`` is not of the form that
    :class:`~tilewright.ir.stmt.TensorIntrinsic` describes.
    """
    from tilewright.ir.printer import structural_equal

    if isinstance(semantic, str):
        from tilewright.ir.parser import parse

        semantic = parse(semantic)
    specs = tuple(operands) or tuple(OperandSpec() for _ in semantic.params)
    intrinsic = TensorIntrinsic(name, semantic, specs, tuple(requires))
    _require_form(intrinsic)
    known = _registered.get(name)
    if known is not None:
        same = (known.operands, known.requires) == (intrinsic.operands, intrinsic.requires)
        if same and structural_equal(known.semantic, semantic):
            return known
        raise IntrinsicError(f"another tensor intrinsic is called '{name}' already", hint="choose a new name")
    _registered[name] = intrinsic
    return intrinsic


def tensor_intrinsic(name: str) -> TensorIntrinsic:
    """The intrinsic registered under ``name``. Raises IntrinsicError when there is none."""
    if name not in _registered:
        _load_installed()
    known = _registered.get(name)
    if known is None:
        close = difflib.get_close_matches(name, _registered, 3) or sorted(_registered)
        raise IntrinsicError(f"there is no tensor intrinsic '{name}'", hint=f"known: {', '.join(close)}")
    return known


def tensor_intrinsics() -> list[TensorIntrinsic]:
    """All registered intrinsics, by name."""
    _load_installed()
    return [_registered[name] for name in sorted(_registered)]


@functools.cache
def _load_installed() -> None:
    import tilewright.ir.isa

    tilewright.ir.isa.register_all()
    for entry in importlib.metadata.entry_points(group=_GROUP):
        entry.load()()


# -- the meaning ---------------------------------------------------------------------------------------------


def semantic_nest(intrinsic: TensorIntrinsic) -> tuple[list[For], Store]:
    """The loops of an intrinsic's meaning, outermost first, and its store."""
    loops: list[For] = []
    stmt: Stmt = intrinsic.semantic.body
    while isinstance(stmt, For):
        loops.append(stmt)
        stmt = stmt.body
    assert isinstance(stmt, Store)
    return loops, stmt


def parameters(intrinsic: TensorIntrinsic) -> list[Buffer]:
    """The buffers of an intrinsic's meaning, in the order of its operands."""
    return [p for p in intrinsic.semantic.params if isinstance(p, Buffer)]


def accumulates(intrinsic: TensorIntrinsic) -> bool:
    """Whether the output is also read."""
    _, store = semantic_nest(intrinsic)
    return any(node.buffer is store.buffer for node in loads_of(store.value))


@functools.lru_cache(maxsize=4096)
def expand(call: TensorCall) -> Stmt:
    """What a call means: the loops of the intrinsic's meaning over the call's operands."""
    loops, store = semantic_nest(call.intrinsic)
    regions = dict(zip(parameters(call.intrinsic), call.operands, strict=True))

    def indices(param: Buffer, at: Sequence[Expr]) -> tuple[Expr, ...]:
        region = regions[param]
        moved = [r.lo for r in region.ranges]
        for dim, index in zip(region_dims(param, region), at, strict=True):
            if dim is not None:
                moved[dim] = moved[dim] + index
        return tuple(moved)

    def visit(node: Expr) -> Expr | None:
        if isinstance(node, Load):
            return load(regions[node.buffer].buffer, indices(node.buffer, node.indices))
        return None

    body: Stmt = Store(
        regions[store.buffer].buffer, indices(store.buffer, store.indices), rewrite_expr(store.value, visit)
    )
    for loop in reversed(loops):
        body = For(loop.var, loop.extent, body)
    return body


def region_dims(param: Buffer, region: Region) -> list[int | None]:
    """For each dimension of a parameter, the dimension of the operand that runs along it; None where both
    have one element.

    Raises IntrinsicError when their shapes differ.
    """
    dims: list[int | None] = []
    long = [(d, const_int(r.extent)) for d, r in enumerate(region.ranges) if const_int(r.extent) != 1]
    for size in map(const_int, param.shape):
        if size == 1:
            dims.append(None)
        elif long and long[0][1] == size:
            dims.append(long.pop(0)[0])
        else:
            raise _shape_error(param, region)
    if long:
        raise _shape_error(param, region)
    return dims


def _shape_error(param: Buffer, region: Region) -> IntrinsicError:
    def shown(shape: Sequence[Expr]) -> str:
        return f"[{', '.join(map(repr, shape))}]"

    extents = [r.extent for r in region.ranges]
    return IntrinsicError(
        f"operand '{param.name}' is {shown(param.shape)}, the given part of '{region.buffer.name}' is "
        f"{shown(extents)}"
    )


def operand_strides(param: Buffer, region: Region) -> tuple[Expr, ...]:
    """Elements of memory between neighbours in each dimension of a parameter; 0 where it has one element."""
    steps = region.buffer.row_major_strides()
    return tuple(as_expr(0) if d is None else steps[d] for d in region_dims(param, region))


def wanted_strides(param: Buffer, spec: OperandSpec) -> tuple[int | None, ...]:
    """What ``spec`` says of each dimension of a parameter; None where nothing is wanted."""
    if spec.strides is not None:
        return spec.strides
    return tuple(const_int(s) for s in param.row_major_strides())


def check_operands(intrinsic: TensorIntrinsic, operands: Sequence[Region]) -> None:
    """Raise IntrinsicError unless each operand has the shape, type, place and layout that the intrinsic
    wants. The message names the first difference.
    """
    params = parameters(intrinsic)
    if len(operands) != len(params):
        raise IntrinsicError(f"'{intrinsic.name}' takes {len(params)} operands, not {len(operands)}")
    for param, spec, region in zip(params, intrinsic.operands, operands, strict=True):
        buffer, what = region.buffer, f"operand '{param.name}' of '{intrinsic.name}'"
        if len(region.ranges) != len(buffer.shape):
            raise IntrinsicError(
                f"{len(region.ranges)} ranges for buffer '{buffer.name}' of rank {len(buffer.shape)}"
            )
        if buffer.dtype != param.dtype:
            raise IntrinsicError(f"{what} is {param.dtype}, '{buffer.name}' is {buffer.dtype}")
        if spec.scopes and buffer.scope not in spec.scopes:
            raise IntrinsicError(
                f"{what} lives in scope {' or '.join(spec.scopes)}, '{buffer.name}' in {buffer.scope}",
                hint="cache_read, cache_write or set_scope put it there",
            )
        strides = operand_strides(param, region)
        wanted = wanted_strides(param, spec)
        for dim, (stride, step, size) in enumerate(zip(strides, wanted, param.shape, strict=True)):
            if step is not None and const_int(size) != 1 and const_int(simplify(stride)) != step:
                raise IntrinsicError(
                    f"{what} needs neighbours along dimension {dim} {step} elements apart; in "
                    f"'{buffer.name}' they are {stride!r} apart",
                    hint="transform_layout lays it out that way",
                )
        _check_alignment(region, spec.alignment, what)


def _check_alignment(region: Region, alignment: int, what: str) -> None:
    """Whether the first element's address is certainly a multiple of ``alignment``, if the buffer's is."""
    offset: Expr = as_expr(0)
    for r, step in zip(region.ranges, region.buffer.row_major_strides(), strict=True):
        offset = offset + r.lo * step
    size = dt.nbytes(region.buffer.dtype)
    offset = simplify(offset)
    if alignment > size and known_divisor(simplify(offset * size)) % alignment and const_int(offset) != 0:
        raise IntrinsicError(
            f"{what} must begin at a multiple of {alignment} bytes; element {offset!r} of "
            f"'{region.buffer.name}' need not"
        )


def _require_form(intrinsic: TensorIntrinsic) -> None:
    """Raise IntrinsicError unless the meaning is of the form that all code here relies on."""
    func, name = intrinsic.semantic, intrinsic.name

    def wrong(reason: str) -> IntrinsicError:
        return IntrinsicError(f"the meaning of tensor intrinsic '{name}' {reason}")

    if len(intrinsic.operands) != len(func.params) or not all(isinstance(p, Buffer) for p in func.params):
        raise wrong(f"has {len(func.params)} parameters, {len(intrinsic.operands)} operands are described")
    stmt, loops = func.body, {}
    while isinstance(stmt, For):
        if const_int(stmt.extent) is None:
            raise wrong(f"has a loop '{stmt.var.name}' whose extent is not constant")
        loops[stmt.var] = stmt
        stmt = stmt.body
    if not isinstance(stmt, Store):
        raise wrong("is not one nest of loops around one store")
    if list(func.outputs) != [stmt.buffer]:
        raise wrong("must have its one output as the last parameter, and store to it")
    for node in loads_of(stmt.value):
        if node.buffer is stmt.buffer and node.indices != stmt.indices:
            raise wrong("reads other elements of its output than it writes")
    accesses = [(stmt.buffer, stmt.indices), *((n.buffer, n.indices) for n in loads_of(stmt.value))]
    for buffer, indices in accesses:
        for index, size in zip(indices, buffer.shape, strict=True):
            loop = loops.get(index)  # type: ignore[call-overload]
            if const_int(size) != 1 and (loop is None or const_int(loop.extent) != const_int(size)):
                raise wrong(f"indexes '{buffer.name}' by {index!r}, which is not a loop over the dimension")
        if len({i for i in indices if i in loops}) < sum(i in loops for i in indices):
            raise wrong(f"indexes two dimensions of '{buffer.name}' by one loop")
    unused = set(parameters(intrinsic)) - {buffer for buffer, _ in accesses}
    if unused:
        raise wrong(f"does not use '{min(b.name for b in unused)}'")
