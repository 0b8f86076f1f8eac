"""Alternatives of the operators, by idea. Importing this package registers them all."""

from tilewright.ops.alternatives import chunked_reduce, chunked_rows, im2col, split_k, winograd

__all__ = ["chunked_reduce", "chunked_rows", "im2col", "split_k", "winograd"]
