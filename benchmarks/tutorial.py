"""The tutorial's own table: every step of docs/tutorial.md, timed on this machine."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tilewright.ir.stmt import PrimFunc, TensorCall
from tilewright.ir.tensor_intrinsics import parameters
from tilewright.ir.visit import const_int, walk_stmt

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


def run_page(step: Callable[[str, Any], None], size: int | None = None) -> None:
    """Execute the page's code; ``step(name, schedule)`` is called where it says so. ``size`` replaces its
    N."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    if size is not None:
        code = code.replace("N = 1024", f"N = {size}")
    else:  # the interpreter would take minutes
        code = code.replace("sch.check()", "sch.check(native=True)")
    exec(compile(code, str(PAGE), "exec"), {"step": step})


def steps_at_once(func: PrimFunc) -> int:
    """Reduction steps that one instruction of a scheduled function does: its peak is as many times that of a
    multiply-add."""
    calls = [s.intrinsic for s in walk_stmt(func.body) if isinstance(s, TensorCall)]
    return max([const_int(parameters(c)[0].shape[-1]) or 1 for c in calls], default=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Print one row a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each step")
    seconds = parser.parse_args(argv).seconds
    table = Table(
        "step",
        "ms",
        "GFLOP/s",
        "share of peak",
        title="matrix product, 1024 x 1024 x 1024, float32 unless said otherwise, 1 thread",
    )

    def step(name: str, sch: Any) -> None:
        timing = sch.bench(seconds=seconds)
        share = timing.gflops / (timing.roofline.gflops * steps_at_once(sch.func))
        table.add_row(name, f"{timing.best * 1e3:.2f}", f"{timing.gflops:.1f}", f"{share:.1%}")

    run_page(step)
    Console().print(table)


if __name__ == "__main__":
    main()
