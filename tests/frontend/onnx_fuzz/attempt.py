"""One file through the compiler, and what became of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

import tilewright
from tilewright import config
from tilewright.compare import compare
from tilewright.errors import CompileError, TilewrightError, VerifyError
from tilewright.frontend.onnx import read_model
from tilewright.frontend.onnx.reader import read
from tilewright.frontend.onnx.tensors import dtype_name
from tilewright.graph.graph import Node, Value
from tilewright.graph.interpret import interpret
from tilewright.graph.partition import partition
from tilewright.graph.pipeline import optimise
from tilewright.ir import dtype as dt
from tilewright.ir.expr import Const

#: Small enough that what they allow fits in the memory of a worker.
LIMITS: Final = {
    "max_tensor_bytes": 32 << 20,
    "max_fold_bytes": 64 << 20,
    "max_fold_work": 50_000_000,
    "max_nodes": 4000,
    "cache": False,
    "jobs": 1,
}
#: A model is run when its inputs and outputs together have at most so many bytes.
MAX_RUN_BYTES: Final = 1 << 20
#: Longest message that counts as clear.
MAX_MESSAGE: Final = 2000
#: Results of these are not to be compared.
_RANDOM: Final = ("Random", "Bernoulli", "Multinomial", "Dropout")
#: Errors that say that tilewright, not the model, is wrong.
_DEFECTS: Final = (VerifyError, CompileError)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        kind: ``ok`` (imported and optimised), ``ran`` (compiled and run, too), ``refused`` (one clear error)
            or ``finding``.
        signature: the class of the error and, of a finding, where it was raised: equal for equal causes.
        detail: the message, with a traceback for a finding.
        inputs, outputs: of a run.
    """

    kind: str
    signature: str = ""
    detail: str = ""
    inputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class TooLong(BaseException):
    """The time is over. Nothing catches it on the way."""


def attempt(source: bytes | Path, *, run: bool, seconds: int) -> Outcome:
    """Import a model and optimise its graph; with ``run`` compile it and run it on random inputs, too."""
    try:
        with _time_limit(seconds), config.overriding(**LIMITS), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # NumPy's are not for users
            return _through(source, run)
    except TilewrightError as error:
        return _judged(error)
    except TooLong as error:
        return _finding("TooLong", error, f"not done after {seconds} s")
    except Exception as error:
        return _finding(type(error).__name__, error, str(error))


def _through(source: bytes | Path, run: bool) -> Outcome:
    model = read_model(source)
    shapes = {
        i.name: tuple(int(d.value) if isinstance(d, Const) else 2 for d in i.type.shape) for i in model.inputs
    }
    graph = model.to_graph(shapes)
    partition(optimise(graph))
    nbytes = sum(
        math.prod(v.static_shape or ()) * dt.bits(v.dtype) // 8 for v in (*graph.inputs, *graph.outputs)
    )
    if not run or nbytes > MAX_RUN_BYTES or any(v.static_shape is None for v in graph.outputs):
        return Outcome("ok")
    rng = np.random.default_rng(0)
    inputs = {v.name: _sample(rng, v.static_shape or (), dt.to_numpy(v.dtype)) for v in graph.inputs}
    with tilewright.compile(source, threads=1, cache=False, shapes=shapes) as compiled:
        outputs = {name: np.array(data) for name, data in compiled.run(inputs).items()}
    chancy = any(n.origin.op_type.startswith(_RANDOM) for n in graph.nodes)
    return Outcome("ran", "", "", inputs, {} if chancy else outputs)


def _sample(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if np.issubdtype(dtype, np.integer) or dtype.name in ("int4", "uint4"):
        return rng.integers(0, 3, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _judged(error: TilewrightError) -> Outcome:
    """Whether an error is one that a user can do something with."""
    text = str(error)
    if isinstance(error, _DEFECTS):
        return _finding(type(error).__name__, error, text)
    one_line = bool(error.message) and "\n" not in error.message
    if not one_line or len(text) > MAX_MESSAGE or not text.replace("\n", "").isprintable():
        return _finding(f"unclear {type(error).__name__}", error, text[: 2 * MAX_MESSAGE])
    return Outcome("refused", type(error).__name__, text)


def _finding(kind: str, error: BaseException, message: str) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"tilewright{os.sep}" in f.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"
    text = "".join(traceback.format_list(frames[-12:]))
    return Outcome("finding", f"{kind} in {place}", f"{message[:1000]}\n{text}")


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Processor time, which other processes on the machine do not shorten."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def compare_with_peer(model: bytes, outcome: Outcome) -> Outcome | None:
    """A finding when onnxruntime gives other finite numbers, else None. It may crash: use a worker."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        results = dict(zip(names, session.run(names, outcome.inputs), strict=True))
    except Exception:
        return None
    for name, want in results.items():
        got = outcome.outputs.get(name)
        if got is None or not isinstance(want, np.ndarray) or not _finite(want):
            continue
        if want.dtype.kind == "u" and got.dtype.kind == "V" and got.dtype.itemsize == want.dtype.itemsize:
            want = want.view(got.dtype)  # onnxruntime's arrays know no small floating types
        if got.shape != want.shape or got.dtype != want.dtype:
            text = f"'{name}' is {got.dtype}{list(got.shape)}, there {want.dtype}{list(want.shape)}"
            return Outcome("finding", "wrong type", text)
        difference = compare(name, got, want, None, None)
        if not difference.ok and _well_defined(model, outcome.inputs):
            return Outcome("finding", "wrong numbers", f"'{name}': {difference.describe()}\n{got}\n{want}")
    return None


def _well_defined(model: bytes, inputs: dict[str, np.ndarray]) -> bool:
    """Whether all values on the way are numbers far from the ends of their ranges, and no integer is divided
    by zero: engines may differ otherwise.
    """
    raw = read(model)
    given = [*raw.initializers.values(), *(a for n in raw.nodes for a in n.attrs.values())]
    if not all(np.isfinite(a.astype(np.float64)).all() for a in given if isinstance(a, np.ndarray)):
        return False
    for node in raw.nodes:  # casts of weights are folded: no node of the graph tells of them
        weight, to = raw.initializers.get(node.inputs[0] if node.inputs else ""), node.attrs.get("to")
        if node.op_type == "Cast" and weight is not None and isinstance(to, int):
            if not _castable(weight.astype(np.float64), dtype_name(to, "a cast", "")):
                return False
    graph = read_model(model).to_graph({name: data.shape for name, data in inputs.items()})
    sound = True
    values: dict[Value, np.ndarray] = dict(graph.constants) | {v: inputs[v.name] for v in graph.inputs}

    def look(node: Node, results: list[np.ndarray]) -> None:
        nonlocal sound
        values.update(zip(node.outputs, results, strict=True))
        operands = [values[v] for v in node.inputs if v is not None]
        if node.op == "cast" and not _castable(operands[0].astype(np.float64), node.outputs[0].dtype):
            sound = False
        if node.op in ("div", "mod", "shift", "bitshift") and any((a == 0).any() for a in operands[1:]):
            sound = False

    with np.errstate(all="ignore"):
        interpret(graph, inputs, look)
        return sound and all((np.abs(a.astype(np.float64)) < 1e15).all() for a in values.values())


def _castable(numbers: np.ndarray, to: str) -> bool:
    """Whether all engines cast the numbers alike: those in range, and to types below a byte, whole ones."""
    low, high = dt.int_range(to) if dt.is_int(to) else (-127, 127)
    whole = dt.bits(to) >= 8 or (numbers == np.rint(numbers)).all()
    return bool(whole and ((numbers >= max(low, -127)) & (numbers <= min(high, 127))).all())


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "iub" or bool(np.isfinite(array.astype(np.float64)).all())
