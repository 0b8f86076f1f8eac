"""Alternatives of the operators, by idea. Importing this package registers them all."""

from tilewright.ops.alternatives import winograd

__all__ = ["winograd"]
