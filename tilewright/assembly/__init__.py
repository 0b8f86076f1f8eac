"""From a graph to the steps of a variant: programs, sizes known at run time, places of operands."""

from tilewright.assembly.program import (
    CompiledKernel,
    Program,
    cold_bytes,
    count_bytes,
    count_flops,
    graph_kernels,
)
from tilewright.assembly.sizes import Sizes, shape_text
from tilewright.assembly.steps import Steps, assemble

__all__ = [
    "CompiledKernel",
    "Program",
    "Sizes",
    "Steps",
    "assemble",
    "cold_bytes",
    "count_bytes",
    "count_flops",
    "graph_kernels",
    "shape_text",
]
