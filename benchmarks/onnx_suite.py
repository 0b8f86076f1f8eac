"""ONNX's own backend suite through tilewright's compiled code, counted honestly.

    python -m benchmarks.onnx_suite                          # all groups, a table and the failures
    python -m benchmarks.onnx_suite --only resize --against onnxruntime --json suite.json

Every case is compiled and run as a user would do it, and its outputs are held against the expected ones with
the case's own tolerances. A case counts as passed only when that happened; one that the engine refuses is
unsupported, never skipped. Each runs in a process with a limit of time and memory, so that a crash or a hang
is one failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks import workers
from tilewright.cli.common import table

GROUPS: Final = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")
#: What may become of a case. ``wrong``: it ran and the result differs. ``error``: anything but a refusal.
#: ``disputed``: it differs as listed in DISPUTED.
OUTCOMES: Final = ("passed", "unsupported", "wrong", "error", "disputed")
#: Cases whose expected data no implementation has to give, by pattern; they never count as passed.
DISPUTED: Final = {
    "test_resize_downsample_scales_(linear|cubic)_align_corners": "the text places samples by the resized "
    "length, the data by that length before rounding; other runtimes follow the text",
    "test_bernoulli.*": "one draw of NumPy's generator; the standard calls the case informational",
    "test_training_dropout(_default)?(_mask)?": "one draw of NumPy's generator",
    "test_dft_inverse.*": "the data holds float32 noise of 2e-7 where the exact result, which we give, is 0",
    "test_attention_4d_causal_fp16.*": "differs by one unit in the last place of float16 in one element",
}
#: The newest opset that counts for the project's goal (docs/operators.md).
GOAL_OPSET: Final = 22

Arrays = list[Any]
#: Compiles a model and runs it on its inputs: (model, inputs in its order) -> outputs.
Engine = Callable[[onnx.ModelProto, Arrays], Arrays]


class Refused(Exception):
    """The engine says that it does not support the model."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: node cases are made in memory, the others lie on disk."""

    group: str
    name: str
    rtol: float
    atol: float
    model: onnx.ModelProto | None = None
    data: Any = None
    path: Path | None = None

    def load(self) -> tuple[onnx.ModelProto, list[tuple[Arrays, Arrays]]]:
        """The model and its data sets: inputs and expected outputs."""
        if self.model is not None:
            return self.model, [([_array(i) for i in x], [_array(o) for o in y]) for x, y in self.data]
        assert self.path is not None
        if self.path.is_dir():
            model = onnx.load(self.path / "model.onnx")
            folders = sorted(self.path.glob("test_data_set*"))
            return model, [
                (_protos(d, "input", model.graph.input), _protos(d, "output", model.graph.output))
                for d in folders
            ]
        return _light_case(self.path)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one case; ``message`` says why it did not pass."""

    group: str
    name: str
    opset: int | None
    ops: tuple[str, ...]
    outcome: str
    seconds: float
    message: str = ""


# ------------------------------------------------------------------------------------------------------ cases
def collect(only: str = "") -> list[Case]:
    """All cases in whose name the regular expression ``only`` is found."""
    return [case for case in _all_cases() if re.search(only, case.name)]


@functools.cache
def _all_cases() -> list[Case]:
    from onnx.backend.test import loader

    root, found = Path(onnx.__file__).parent / "backend/test/data", []
    for group in GROUPS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for case in loader.load_model_tests(kind=group):
                path = case.model_dir
                if path is None and case.url:
                    path = root / "light" / Path(case.url).name
                found.append(
                    Case(
                        group,
                        case.name,
                        case.rtol,
                        case.atol,
                        case.model,
                        case.data_sets,
                        None if path is None else Path(path),
                    )
                )
    return found


def _array(item: Any) -> Any:
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return np.asarray(item) if isinstance(item, np.generic) else item  # scalars are tensors too


def _protos(folder: Path, prefix: str, values: Sequence[onnx.ValueInfoProto]) -> Arrays:
    """The arrays (or lists of them) of one data set in a folder."""
    result = []
    for n in range(len(list(folder.glob(f"{prefix}_*.pb")))):
        data, kind = (folder / f"{prefix}_{n}.pb").read_bytes(), values[n].type.WhichOneof("value")
        if kind == "sequence_type":
            result.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif kind == "optional_type":
            result.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            result.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return result


def _light_case(path: Path) -> tuple[onnx.ModelProto, list[tuple[Arrays, Arrays]]]:
    """A model without weights of its own; its input counts up from 0 to 1."""
    from onnx.backend.test.runner import Runner
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    weights = {i.name for i in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    feeds = {v.name: Runner.generate_dummy_data(v) for v in inputs}
    stored = [path.with_name(f"{path.stem}_output_{n}.pb") for n in range(len(model.graph.output))]
    if all(p.exists() for p in stored):
        expected = [numpy_helper.to_array(onnx.TensorProto.FromString(p.read_bytes())) for p in stored]
    else:
        expected = list(ReferenceEvaluator(model).run(None, feeds))
    return model, [(list(feeds.values()), expected)]


# ---------------------------------------------------------------------------------------------------- engines
def tilewright_engine(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """Compiled natively, on one thread."""
    import tilewright
    from tilewright.errors import UnsupportedError

    try:
        with tilewright.compile(model, threads=1) as compiled:
            names = [spec.name for spec in compiled.inputs]
            given = dict(zip(_input_names(model), inputs, strict=False))
            results = compiled.run({name: given[name] for name in names})
            return [_copied(v) for v in results.values()]
    except UnsupportedError as error:
        items = [re.sub(r": \d+ node.*", "", item) for item in error.items]
        raise Refused("; ".join(items) or error.message) from error


def _copied(value: Any) -> Any:
    """An output that outlives the model."""
    if isinstance(value, list):
        return [_copied(v) for v in value]
    return None if value is None else np.array(value)


def onnxruntime_engine(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """onnxruntime's CPU provider with its default options, on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        refusals = ("NOT_IMPLEMENTED", "is not a registered", "is under development")
        if any(words in str(error) for words in refusals):
            raise Refused(str(error).splitlines()[0][:200]) from error
        raise
    feeds = {}
    for name, value, info in zip(_input_names(model), inputs, model.graph.input, strict=False):
        kind = info.type.tensor_type.elem_type
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biufOSU":
            value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(value), kind)
        feeds[name] = value
    if any(isinstance(v, ort.OrtValue) for v in feeds.values()):
        tensors = {
            k: v if isinstance(v, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(v)
            for k, v in feeds.items()
        }
        names = [o.name for o in session.get_outputs()]
        return [v.numpy() for v in session.run_with_ort_values(names, tensors)]
    return list(session.run(None, feeds))


ENGINES: Final[Mapping[str, Engine]] = {"tilewright": tilewright_engine, "onnxruntime": onnxruntime_engine}


def _input_names(model: onnx.ModelProto) -> list[str]:
    weights = {t.name for t in model.graph.initializer}
    return [v.name for v in model.graph.input if v.name not in weights]


# ------------------------------------------------------------------------------------------------------- runs
def run_case(engine: str, case: Case) -> Result:
    """Run one case; never raises."""
    start = time.perf_counter()
    opset, ops, outcome, message = None, (), "error", ""
    try:
        model, sets = case.load()
        opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
        ops = tuple(sorted({f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph.node}))
        for inputs, expected in sets:
            compare(ENGINES[engine](model, inputs), expected, case.rtol, case.atol)
        outcome = "passed"
    except Refused as refusal:
        outcome, message = "unsupported", str(refusal)
    except AssertionError as error:
        reason = next((why for names, why in DISPUTED.items() if re.fullmatch(names, case.name)), None)
        outcome, message = "wrong" if reason is None else "disputed", reason or " ".join(str(error).split())
    except (Exception, MemoryError) as error:
        outcome, message = "error", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Result(case.group, case.name, opset, ops, outcome, time.perf_counter() - start, message[:400])


def compare(got: Arrays, expected: Arrays, rtol: float, atol: float) -> None:
    """Raise AssertionError where results differ in number, shape, dtype or value (as ONNX's own runner)."""
    assert len(got) == len(expected), f"{len(got)} outputs, {len(expected)} expected"
    for n, (have, want) in enumerate(zip(got, expected, strict=True)):
        if isinstance(want, list | tuple):
            assert isinstance(have, list | tuple), f"output {n} is no sequence"
            compare(list(have), list(want), rtol, atol)
            continue
        if want is None or have is None:
            assert want is have, f"output {n}: one of both is missing"
            continue
        have, want = np.asarray(have), np.asarray(want)
        assert have.shape == want.shape, f"output {n} has shape {have.shape}, not {want.shape}"
        if want.dtype.kind in "OSU":
            assert [str(x) for x in have.ravel()] == [str(x) for x in want.ravel()], f"output {n} differs"
            continue
        assert have.dtype == want.dtype, f"output {n} is {have.dtype}, not {want.dtype}"
        tolerance = rtol
        if want.dtype.kind == "V":
            # Custom types: NumPy cannot promote them. Two units in bfloat16's last place.
            tolerance = max(rtol, 2**-6) if want.dtype.name == "bfloat16" else rtol
            have, want = have.astype(np.float32), want.astype(np.float32)
        np.testing.assert_allclose(have, want, rtol=tolerance, atol=atol)


def run(engine: str, cases: Sequence[Case], processes: int, seconds: float, gibibytes: float) -> list[Result]:
    """All cases in the order given."""
    results: dict[int, Result] = {}
    limits: dict[str, Any] = {"seconds": seconds, "memory": int(gibibytes * 2**30)}
    for reply in workers.each(lambda case: run_case(engine, case), cases, processes=processes, **limits):
        case = cases[reply.index]
        if reply.error is not None:
            results[reply.index] = Result(case.group, case.name, None, (), "error", seconds, reply.error)
        else:
            results[reply.index] = reply.value
        if sys.stderr.isatty():
            print(f"\r{engine}: {len(results)} of {len(cases)}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return [results[n] for n in range(len(cases))]


# ----------------------------------------------------------------------------------------------------- report
def summary(results: Sequence[Result]) -> dict[str, dict[str, int]]:
    """Counts of outcomes by group, with the node cases up to the goal's opset on their own."""
    groups: dict[str, list[Result]] = {g: [r for r in results if r.group == g] for g in GROUPS}
    old = [r for r in groups["node"] if r.opset is not None and r.opset <= GOAL_OPSET]
    groups = {"node": groups.pop("node"), f"node, opset <= {GOAL_OPSET}": old, **groups}
    counts = {name: Counter(r.outcome for r in members) for name, members in groups.items() if members}
    return {name: {o: count[o] for o in OUTCOMES} for name, count in counts.items()}


def report(engine: str, results: Sequence[Result]) -> None:
    """Print the counts, the failures and what is not supported."""
    rows = [
        [name, sum(c.values()), *(c[outcome] for outcome in OUTCOMES)]
        for name, c in summary(results).items()
    ]
    columns = ["group", "cases", *OUTCOMES]
    table(f"ONNX backend suite, {engine}", columns, rows)
    failed = [[r.outcome, r.name, r.message] for r in results if r.outcome in ("wrong", "error", "disputed")]
    if failed:
        table("failures", ["kind", "case", "why"], failed, text=range(3))
    missing = Counter(r.message for r in results if r.outcome == "unsupported")
    if missing:
        table("unsupported", ["what", "cases"], missing.most_common())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exits with 1 when a result was wrong or an engine failed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--group", choices=GROUPS, action="append", help="only these groups")
    parser.add_argument("--against", choices=["onnxruntime"], help="count the same cases for a peer too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0, help="limit of one case")
    parser.add_argument("--memory", type=float, default=16.0, metavar="GIB", help="of one process")
    options = parser.parse_args(arguments)
    cases = [c for c in collect(options.only) if not options.group or c.group in options.group]
    os.environ.setdefault("TILEWRIGHT_JOBS", "1")
    every: dict[str, list[Result]] = {}
    for engine in ["tilewright", *([options.against] if options.against else [])]:
        every[engine] = run(engine, cases, options.processes, options.seconds, options.memory)
        report(engine, every[engine])
    if options.json:
        written = {
            name: {"summary": summary(results), "cases": [dataclasses.asdict(r) for r in results]}
            for name, results in every.items()
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    return int(any(r.outcome in ("wrong", "error") for r in every["tilewright"]))


if __name__ == "__main__":
    sys.exit(main())
