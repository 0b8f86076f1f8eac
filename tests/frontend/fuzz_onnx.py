"""Hostile ONNX files: ``python -m tests.frontend.fuzz_onnx``.

Mutated bytes, mutated messages, adversarial shapes and external data, through import and graph passes, and
for a share through compilation and a run that is compared with onnxruntime. The only outcomes allowed are
success and one clear error; anything else is minimised and written as a Python file that repeats it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.frontend.onnx_fuzz.campaign import Report, Settings, run_campaign
from tests.frontend.onnx_fuzz.cases import KINDS
from tests.frontend.onnx_fuzz.minimise import minimise, write_repro
from tests.frontend.onnx_fuzz.seeds import node_seeds, own_seeds


def main(argv: Sequence[str] | None = None) -> int:
    """Try files until there are enough; 1 when there were findings."""
    options = _options(argv)
    seeds = own_seeds() | ({} if options.own_seeds else node_seeds())
    settings = Settings(options.seconds, options.memory << 20, options.jobs, options.run_share)
    kinds = {k: KINDS[k] for k in options.kind or KINDS}
    total, seen = Report(), dict[str, int]()
    began = time.monotonic()
    numbers = range(options.first, options.first + options.count)
    print(f"{len(seeds)} seeds, cases {numbers.start} to {numbers.stop - 1}", flush=True)
    for report in run_campaign(numbers, seeds, settings, kinds):
        total.outcomes += report.outcomes
        total.refusals += report.refusals
        total.compared += report.compared
        for finding in report.findings:
            signature = finding.outcome.signature
            seen[signature] = seen.get(signature, 0) + 1
            if seen[signature] > 1:
                continue
            print(f"\ncase {finding.case.number} ({finding.case.kind}, {finding.case.seed}): {signature}")
            print(finding.outcome.detail[-3000:], flush=True)
            smaller = finding if options.no_minimise else minimise(finding, settings)
            print(f"repeat it with: python {write_repro(smaller, Path(options.out))}", flush=True)
        print(f"{time.monotonic() - began:5.0f} s: {total}; {sum(seen.values())} findings", flush=True)
        if options.time and time.monotonic() - began > options.time:
            break
    for signature, count in sorted(seen.items(), key=lambda item: -item[1]):
        print(f"{count:6d}  {signature}")
    return 1 if seen else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.frontend.fuzz_onnx", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=10_000, help="number of cases")
    parser.add_argument("--time", type=float, default=0, metavar="S", help="stop after S seconds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=int, default=10, help="time of one file")
    parser.add_argument("--memory", type=int, default=3072, help="MiB that one file may take")
    parser.add_argument("--run-share", type=float, default=0.03, help="share of files that are run, too")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="files of this kind only")
    parser.add_argument("--own-seeds", action="store_true", help="start from our own models only")
    parser.add_argument("--no-minimise", action="store_true")
    parser.add_argument("--out", default="fuzz-failures", metavar="DIR", help="where repeating files go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
