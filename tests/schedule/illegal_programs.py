"""Programs that primitives must refuse, each for one reason."""

from tilewright.ir import te
from tilewright.ir.parser import parse
from tilewright.ir.stmt import PrimFunc

RECURRENCE = parse(
    """
@primfunc({"outputs": 1})
def scan(x: float32[8], y: float32[8]):
    for i in serial(8):
        with block("y"):
            v = spatial(8, i)
            reads(x[v], y[v - 1])
            writes(y[v])
            y[v] = x[v] + select(0 < v, y[v - 1], 0.0)
"""
)

TIED = parse(
    """
@primfunc({"outputs": 1})
def triangle(x: float32[8, 8], y: float32[8]):
    for i in serial(8):
        for k in serial(8):
            with block("y"):
                vi = spatial(8, i)
                vk = reduce(8, k)
                where(k < i + 1)
                reads(x[vi, vk])
                writes(y[vi])
                with init():
                    y[vi] = 0.0
                y[vi] = y[vi] + x[vi, vk]
"""
)

REPEATED_SUM = parse(
    """
@primfunc({"outputs": 1})
def repeated_sum(x: float32[4, 3], y: float32[4]):
    for i in serial(4):
        for k in serial(6):
            with block("b"):
                vi = spatial(4, i)
                vk = reduce(3, k % 3)
                reads(x[vi, vk])
                writes(y[vi])
                with init():
                    y[vi] = 0.0
                y[vi] = y[vi] + x[vi, vk]
"""
)

HALF_WRITTEN = parse(
    """
@primfunc({"outputs": 1})
def half_written(x: float32[4], y: float32[4]):
    t = alloc(float32[4])
    for i in serial(2):
        with block("a"):
            vi = spatial(2, i)
            reads(x[vi])
            writes(t[vi])
            t[vi] = x[vi]
    for i in serial(4):
        with block("b"):
            vi = spatial(4, i)
            reads(t[vi])
            writes(y[vi])
            y[vi] = select(vi < 2, t[vi], 1.0)
"""
)

SHIFTED_START = parse(
    """
@primfunc({"outputs": 1})
def from_one(x: float32[8], y: float32[1]):
    for k in serial(8):
        with block("y"):
            vk = reduce(8, k)
            reads(x[vk])
            writes(y[0])
            with init():
                y[0] = 1.0
            y[0] = y[0] + x[vk]
"""
)


def two_readers() -> PrimFunc:
    x = te.placeholder((4, 6), "float32", "x")
    a = te.compute((4, 6), lambda i, j: x[i, j] + 1.0, "a")
    b = te.compute((4, 6), lambda i, j: a[i, j] * 2.0, "b")
    c = te.compute((4, 6), lambda i, j: a[i, j] * b[i, j], "c")
    return te.primfunc("two_readers", [x], [c])


def pair() -> PrimFunc:
    """b reads a at two places."""
    x = te.placeholder((4, 6), "float32", "x")
    a = te.compute((4, 6), lambda i, j: x[i, j] + 1.0, "a")
    b = te.compute((4, 6), lambda i, j: a[i, j] + a[i, 5 - j], "b")
    return te.primfunc("pair", [x], [b])


def transposed_sum() -> PrimFunc:
    """c reads a at [i, j] and b, which is produced row by row with a, at [j, i]."""
    x = te.placeholder((4, 4), "float32", "x")
    a = te.compute((4, 4), lambda i, j: x[i, j] + 1.0, "a")
    b = te.compute((4, 4), lambda i, j: te.reduce("sum", (2,), lambda r: a[i, j] * x[i, r]), "b")
    c = te.compute((4, 4), lambda i, j: b[i, j] + b[j, i], "c")
    return te.primfunc("transposed_sum", [x], [c])


def unused() -> PrimFunc:
    """Parsed, as tensor expressions never make what nothing reads."""
    return parse(
        """
@primfunc({"outputs": 1})
def unused(x: float32[4], y: float32[4]):
    t = alloc(float32[4])
    for i in serial(4):
        with block("t"):
            v = spatial(4, i)
            reads(x[v])
            writes(t[v])
            t[v] = x[v]
    for j in serial(4):
        with block("y"):
            w = spatial(4, j)
            reads(x[w])
            writes(y[w])
            y[w] = x[w]
"""
    )


def overlapping() -> PrimFunc:
    """A reduction over windows that are computed more than once."""
    return parse(
        """
@primfunc({"outputs": 1})
def windows(x: float32[8, 3], b: float32[8]):
    for i0 in serial(6):
        for i1 in serial(3):
            for k in serial(3):
                with block("b"):
                    v = spatial(8, i0 + i1)
                    r = reduce(3, k)
                    reads(x[v, r])
                    writes(b[v])
                    with init():
                        b[v] = 0.0
                    b[v] = b[v] + x[v, r]
"""
    )


def shared_temporary() -> PrimFunc:
    return parse(
        """
@primfunc({"outputs": 1})
def shared(x: float32[4], y: float32[5]):
    t = alloc(float32[5])
    for i in serial(4):
        for j in serial(2):
            with block("t"):
                v = spatial(5, i + j)
                writes(t[v])
                t[v] = 1.0
    for k in serial(5):
        with block("y"):
            w = spatial(5, k)
            reads(t[w])
            writes(y[w])
            y[w] = t[w]
"""
    )


def read_ahead() -> PrimFunc:
    """The consumer also reads what only the next iteration writes, which is legal to write down (t is then
    undefined).
    """
    return parse(
        """
@primfunc({"outputs": 1})
def ahead(x: float32[5], y: float32[4]):
    t = alloc(float32[5])
    for i in serial(4):
        with block("t"):
            v = spatial(5, i)
            reads(x[v])
            writes(t[v])
            t[v] = x[v]
        for j in serial(2):
            with block("y"):
                w = spatial(4, i)
                r = reduce(2, j)
                reads(t[w + r])
                writes(y[w])
                with init():
                    y[w] = 0.0
                y[w] = y[w] + t[w + r]
"""
    )


def summed_windows() -> PrimFunc:
    """The sum of elements that are produced more than once."""
    return parse(
        """
@primfunc({"outputs": 1})
def windows(x: float32[5], y: float32[1]):
    t = alloc(float32[5])
    for i in serial(4):
        for j in serial(2):
            with block("t"):
                v = spatial(5, i + j)
                reads(x[v])
                writes(t[v])
                t[v] = x[v]
    for k in serial(5):
        with block("y"):
            r = reduce(5, k)
            reads(t[r])
            writes(y[0])
            with init():
                y[0] = 0.0
            y[0] = y[0] + t[r]
"""
    )


def diagonal() -> PrimFunc:
    return parse(
        """
@primfunc({"outputs": 1})
def diagonal(x: float32[4], y: float32[4]):
    t = alloc(float32[4, 4])
    for i in serial(4):
        with block("t"):
            v = spatial(4, i)
            reads(x[v])
            writes(t[v, v])
            t[v, v] = x[v]
    for i in serial(4):
        with block("y"):
            v = spatial(4, i)
            reads(t[v, v])
            writes(y[v])
            y[v] = t[v, v]
"""
    )


def carried(inner: int = 1) -> PrimFunc:
    """The consumer reads what the iteration before has written."""
    return parse(
        f"""
@primfunc({{"outputs": 1}})
def carried(x: float32[4, {inner}], y: float32[4, {inner}]):
    t = alloc(float32[5, {inner}])
    for i in serial(4):
        for j in serial({inner}):
            with block("t"):
                v = spatial(5, i + 1)
                u = spatial({inner}, j)
                reads(x[v - 1, u])
                writes(t[v, u])
                t[v, u] = x[v - 1, u]
            with block("y"):
                w = spatial(4, i)
                u = spatial({inner}, j)
                reads(t[w, u])
                writes(y[w, u])
                y[w, u] = select(0 < w, t[w, u], 0.0)
"""
    )

BACKWARDS = parse(
    """
@primfunc({"outputs": 1})
def total(x: float32[8], y: float32[1]):
    t = alloc(float32[8])
    for i in serial(8):
        with block("t"):
            v = spatial(8, 7 - i)
            reads(x[v])
            writes(t[v])
            t[v] = x[v]
    for k in serial(8):
        with block("y"):
            vi = spatial(1, 0)
            vk = reduce(8, k)
            reads(t[vk])
            writes(y[vi])
            with init():
                y[vi] = 0.0
            y[vi] = y[vi] + t[vk]
"""
)


def repeated() -> PrimFunc:
    """t is written again for each j."""
    return parse(
        """
@primfunc({"outputs": 1})
def repeated(x: float32[4], y: float32[4]):
    t = alloc(float32[4])
    for i in serial(4):
        for j in serial(3):
            with block("t"):
                v = spatial(4, i)
                u = spatial(3, j)
                reads(x[v])
                writes(t[v])
                t[v] = x[v]
    for i in serial(4):
        with block("y"):
            v = spatial(4, i)
            reads(t[v])
            writes(y[v])
            y[v] = t[v]
"""
    )


def shifted_pair() -> PrimFunc:
    """An iteration produces a at i and b at i + 1; c reads both at one place."""
    return parse(
        """
@primfunc({"outputs": 1})
def shifted_pair(x: float32[6], c: float32[6]):
    t = alloc(float32[6])
    u = alloc(float32[6])
    for i in serial(5):
        with block("a"):
            v = spatial(6, i)
            reads(x[v])
            writes(t[v])
            t[v] = x[v]
        with block("b"):
            v = spatial(6, i + 1)
            reads(x[v])
            writes(u[v])
            u[v] = x[v]
    for j in serial(6):
        with block("c"):
            w = spatial(6, j)
            reads(t[w], u[w])
            writes(c[w])
            c[w] = t[w] + u[w]
"""
    )


def two_stores() -> PrimFunc:
    """A block writes two buffers, one of which is read in the same iteration."""
    return parse(
        """
@primfunc({"outputs": 1})
def two_stores(x: float32[4], z: float32[4]):
    t = alloc(float32[4])
    u = alloc(float32[4])
    for i in serial(4):
        with block("two"):
            v = spatial(4, i)
            reads(x[v])
            writes(t[v], u[v])
            t[v] = x[v]
            u[v] = x[v]
        with block("z"):
            v = spatial(4, i)
            reads(t[v])
            writes(z[v])
            z[v] = t[v]
"""
    )
