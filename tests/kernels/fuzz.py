"""Endless fuzzing of the kernel path: ``python -m tests.kernels.fuzz``.

Runs random programs through :mod:`tests.kernels.harness`. What fails is minimised (fewer stages, smaller
sizes) and printed as text IR with the call that repeats it. ``--seeds A:B`` bounds it, ``--slow`` lists
blocks that were left to plain loops.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import time
import traceback
from collections.abc import Mapping, Sequence

import numpy as np

from tests.kernels.harness import check, prepare, slow_parts
from tests.kernels.programs import Case, ProgramGenerator, Value
from tests.kernels.strategies import generator as new_generator
from tilewright.ir.interp import run
from tilewright.ir.printer import to_text
from tilewright.target import Target

TARGETS = ("x86-64-v3", "x86-64-v4", "native")


def failure(case: Case | None, targets: Sequence[str], native: Sequence[str]) -> str | None:
    """The kind of failure, or None."""
    if case is None:
        return None
    try:
        check(case, targets, native)
    except Exception as error:
        return type(error).__name__
    return None


def stages_of(generator: ProgramGenerator) -> list[Value]:
    """Every computed tensor of the program, hidden ones included, producers first."""
    found: dict[object, Value] = {v.tensor: v for v in generator.values if v.tensor.body is not None}
    pending = list(found.values())
    while pending:
        for source in pending.pop().tensor.sources:
            if source.body is not None and source not in found:
                found[source] = Value(source, False, 1e9)
                pending.append(found[source])
    return list(found.values())


def build(
    seed: int, stages: int, sizes: Mapping[int, int], out: str | None, cuts: Sequence[str]
) -> Case | None:
    """The program of ``seed``, reduced to output ``out``, with the tensors ``cuts`` given as inputs."""
    generator = new_generator(seed, stages, sizes)
    made = stages_of(generator)
    if not made:
        return None
    if out is None:
        return generator.case()
    outputs = [v for v in made if v.tensor.name == out]
    if not outputs:
        return None
    given: dict[object, np.ndarray] = {}
    for value in made:
        if value.tensor.name in cuts and value is not outputs[0]:
            whole = generator.subcase([value], {})
            given[value.tensor] = run(whole.func, whole.inputs)[0]
    return generator.subcase(outputs, given)  # type: ignore[arg-type]


def minimise(seed: int, stages: int, targets: Sequence[str], native: Sequence[str], kind: str) -> str:
    """Arguments for :func:`build` of a smaller program that fails in the same way."""
    sizes: dict[int, int] = {}
    out: str | None = None
    cuts: list[str] = []
    deadline = time.monotonic() + 120

    def fails(s: Mapping[int, int], o: str | None, c: Sequence[str]) -> bool:
        if time.monotonic() > deadline:
            return False
        try:
            return failure(build(seed, stages, s, o, c), targets, native) == kind
        except Exception:
            return False

    for fewer in range(1, stages):
        if failure(build(seed, fewer, {}, None, []), targets, native) == kind:
            stages = fewer
            break
    generator = new_generator(seed, stages)
    names = [v.tensor.name for v in stages_of(generator)]
    for name in names:
        if fails(sizes, name, []):
            out = name
            break
    if out is not None:
        for name in names:
            if name != out and fails(sizes, out, [*cuts, name]):
                cuts.append(name)
    for n, value in enumerate(generator.drawn):
        for smaller in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33):
            if smaller < value and fails({**sizes, n: smaller}, out, cuts):
                sizes[n] = smaller
                break
    case = build(seed, stages, sizes, out, cuts)
    assert case is not None
    call = f"check(build({seed}, {stages}, {sizes}, {out!r}, {cuts}), {list(targets)}, {list(native)})"
    return f"{call}\n{to_text(case.func)}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:", help="first:last (last left out: endless)")
    parser.add_argument("--stages", type=int, default=0, help="stages of each program (0: by seed)")
    parser.add_argument("--no-native", action="store_true", help="interpreter only")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--slow", action="store_true", help="report blocks left to plain loops")
    parser.add_argument("--no-minimise", action="store_true")
    options = parser.parse_args(argv)
    first, _, last = options.seeds.partition(":")
    seeds = range(int(first or 0), int(last)) if last else itertools.count(int(first or 0))
    failed = done = 0
    began = time.monotonic()
    slow: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        stages = options.stages or 1 + seed % 5
        case = build(seed, stages, {}, None, [])
        if case is None:
            continue
        target = TARGETS[seed % 3]
        native = [] if options.no_native else [target]
        start = time.monotonic()
        try:
            if options.slow:
                for part in slow_parts(prepare(case, Target.parse(target))):
                    slow[part.reason] += 1
                    print(f"seed {seed} stages {stages}: {part}", flush=True)
            check(case, [target], native)
        except Exception as error:
            failed += 1
            print(f"\n=== seed {seed}, {stages} stages, {target}: {type(error).__name__}: {str(error)[:600]}")
            print("".join(traceback.format_tb(error.__traceback__)[-4:]))
            if not options.no_minimise:
                print(minimise(seed, stages, [target], native, type(error).__name__), flush=True)
            if not options.keep_going:
                return 1
        seconds = time.monotonic() - start
        if seconds > 15:
            print(f"seed {seed} stages {stages} {target}: took {seconds:.1f} s", flush=True)
        done += 1
        if done % 50 == 0:
            rate = done / (time.monotonic() - began)
            print(f"{done} programs, {failed} failed, {rate:.2f} programs/s", flush=True)
    print(f"{done} programs, {failed} failed, slow: {dict(slow)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
