"""Random programs under random schedules until one fails: ``python -m tests.fuzz``.

A failure is minimised and written as a Python file that repeats it by itself. Without ``--seeds``,
``--count`` or ``--time`` it goes on without end, from the time of day.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.fuzz.campaign import KINDS, Report, run_seed
from tests.fuzz.minimise import minimise
from tests.fuzz.repro import write_repro


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    first, last = _range(options)
    began, shown = time.monotonic(), 0.0
    total = Report()
    done, failed = first, 0
    for seed, report, problems in _results(options, first, last):
        done += 1
        total.add(report)
        for problem in problems:
            failed += 1
            print(f"\nseed {seed}: {problem[:1500]}", flush=True)
        if problems and not options.no_minimise:
            _write_repros(seed, options)
        if failed and not options.keep_going:
            break
        seconds = time.monotonic() - began
        if seconds - shown >= 10:
            shown = seconds
            print(_progress(total, done - first, seconds, seed, failed), flush=True)
        if options.time and seconds > options.time:
            break
    print(_summary(total, done - first, time.monotonic() - began))
    print(f"  failed: {failed}")
    return 1 if failed else 0


def _write_repros(seed: int, options: argparse.Namespace) -> None:
    """Run a seed again, here, and make a file of each of its failures."""
    for found in run_seed(seed, tuple(options.kind or ()), not options.no_native).found:
        path = write_repro(minimise(found, seconds=60), Path(options.out))
        print(f"repeat it with: python {path}", flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seeds", metavar="A:B", help="from A up to B, which is left out; A: is endless")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N seeds")
    parser.add_argument("--time", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    names = [k.name for k in KINDS]
    parser.add_argument("--kind", action="append", choices=names, help="programs of this kind only")
    parser.add_argument("--no-native", action="store_true", help="interpreter only")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--no-minimise", action="store_true")
    parser.add_argument("--out", default="fuzz-failures", metavar="DIR", help="where repeating files go")
    return parser.parse_args(argv)


def _range(options: argparse.Namespace) -> tuple[int, int | None]:
    if options.seeds is None:
        bounded = options.count is not None
        first = 0 if bounded else int(time.time()) * 1000
        return first, first + options.count if bounded else None
    low, _, high = options.seeds.partition(":")
    first, last = int(low or 0), int(high) if high else None
    if options.count is not None:
        last = first + options.count if last is None else min(last, first + options.count)
    return first, last


def _results(
    options: argparse.Namespace, first: int, last: int | None
) -> Iterator[tuple[int, Report, list[str]]]:
    """Reports of the seeds and messages of what failed, as they come in."""
    seeds = itertools.count(first) if last is None else range(first, last)
    step = partial(_one, kinds=tuple(options.kind or ()), native=not options.no_native)
    if options.jobs == 1:
        yield from map(step, seeds)
        return
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        yield from pool.imap_unordered(step, _ahead(seeds), chunksize=4)


def _ahead(seeds: Iterator[int] | range) -> Iterator[int]:
    """The seeds; a pool reads all of them ahead, so endless ones come no faster than they can be run."""
    began = time.monotonic()
    for n, seed in enumerate(seeds):
        while isinstance(seeds, itertools.count) and n > 400 + 300 * (time.monotonic() - began):
            time.sleep(0.1)
        yield seed


def _one(seed: int, kinds: Sequence[str], native: bool) -> tuple[int, Report, list[str]]:
    try:
        report = run_seed(seed, kinds, native)
    except Exception:
        return seed, Report(), [f"the fuzzer itself failed\n{traceback.format_exc()}"]
    problems = [f"({found.kind}) {found.failure}" for found in report.found]
    report.found.clear()  # programs do not travel between processes; the seed makes them again
    return seed, report, problems


def _progress(total: Report, seeds: int, seconds: float, seed: int, failed: int) -> str:
    rate = total.schedules.total() / seconds
    share = total.accepted.total() / max(1, total.accepted.total() + total.refused.total())
    return (
        f"{seconds:6.0f} s  {total.schedules.total()} scheduled ({rate:.1f}/s), {total.native} natively, "
        f"of {total.programs.total()}, {share:.0%} of primitives accepted, {failed} failed, "
        f"{seeds} seeds, last {seed}"
    )


def _summary(total: Report, seeds: int, seconds: float) -> str:
    lines = [f"{seeds} seeds in {seconds:.1f} s"]
    lines += [f"  {k}: {n} programs, {total.schedules[k]} scheduled" for k, n in total.programs.items()]
    rate = total.schedules.total() / max(seconds, 1e-9)
    lines.append(f"  all: {total.schedules.total()} scheduled ({rate:.1f}/s), {total.native} natively")
    lines.append(f"  and {total.quick} only run, in two orders")
    for name in sorted({*total.accepted, *total.refused}):
        yes, no = total.accepted[name], total.refused[name]
        lines.append(f"  {name}: {yes} of {yes + no} accepted ({yes / (yes + no):.0%})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
