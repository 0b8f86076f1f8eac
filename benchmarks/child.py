"""One measurement in a process of its own, for :mod:`benchmarks.models`; prints JSON.

Steps: ``compile`` (a model to an artifact), ``load`` (the artifact, then runs), ``peer`` (the same in
onnxruntime).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 5


def compile_step(request: dict[str, Any]) -> float:
    """Seconds from the model's file to a model ready to run; saves the artifact."""
    from tilewright import api

    start = time.perf_counter()
    model = api.compile(request["model"], threads=request["threads"], shapes=_shapes(request))
    seconds = time.perf_counter() - start
    model.save(Path(request["artifact"]))
    return seconds


def load_step(request: dict[str, Any]) -> float:
    """Seconds from the artifact to a model ready to run; runs it for the peak memory."""
    from tilewright import api

    start = time.perf_counter()
    model = api.load(request["artifact"])
    seconds = time.perf_counter() - start
    inputs = {spec.name: _data(_shapes(request)[spec.name], np.dtype(spec.dtype)) for spec in model.inputs}
    for _ in range(RUNS):
        model.run(inputs)
    return seconds


def peer_step(request: dict[str, Any]) -> float:
    """As :func:`load_step`, by onnxruntime from the model's file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    kinds = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
    inputs = {
        value.name: _data(_shapes(request)[value.name], np.dtype(kinds[value.type]))
        for value in session.get_inputs()
    }
    for _ in range(RUNS):
        session.run(None, inputs)
    return seconds


def peak_bytes() -> int:
    """Peak resident memory of this program: not getrusage's, which counts what its parent had before exec."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _shapes(request: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in request["shapes"].items()}


def _data(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    return np.ones(shape, dtype)


def main() -> None:
    """Carry out ``child.py STEP REQUEST``."""
    step, request = sys.argv[1], json.loads(sys.argv[2])
    seconds = {"compile": compile_step, "load": load_step, "peer": peer_step}[step](request)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
