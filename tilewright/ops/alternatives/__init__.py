"""Alternatives of the operators, by idea. Importing this package registers them all."""

from tilewright.graph.alternatives import all_alternatives
from tilewright.ops.alternatives import chunked_reduce, chunked_rows, im2col, split_k, winograd

__all__ = ["BUILT_IN", "chunked_reduce", "chunked_rows", "im2col", "split_k", "winograd"]

#: Those that come with the compiler. Others may change while the compiler stays the same.
BUILT_IN = all_alternatives()
