"""A small model, its tasks, and hand-made records of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.assembly import Program
from tilewright.graph.pipeline import optimise
from tilewright.graph.quantize import multiplied_type
from tilewright.ir.parser import parse
from tilewright.ir.stmt import PrimFunc
from tilewright.records import Device, Epoch, Record, Sample, Workload
from tilewright.schedule.space import sketches
from tilewright.sources import open_model
from tilewright.target import Target

TARGET = Target.parse("native")
DEVICE = Device.of(TARGET)


def dense_model() -> bytes:
    """relu(x[24, 40] @ w) -> softmax: two kernels."""
    w = np.random.default_rng(0).standard_normal((40, 36)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="dense"),
        helper.make_node("Relu", ["product"], ["active"], name="relu"),
        helper.make_node("Softmax", ["active"], ["y"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [24, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [24, 36])],
        [numpy_helper.from_array(w, "w")],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def run_onnxruntime(model: bytes, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def tasks(model: bytes | onnx.ModelProto) -> list[PrimFunc]:
    """The functions of the model's kernels."""
    case = open_model(model).case({}, {})
    graph = optimise(case.graph, threads=1, operands=multiplied_type(TARGET))
    return [kernel.func for kernel in Program.of(graph).all_kernels()]


def traces(func: PrimFunc, count: int, seed: int = 0) -> list[str]:
    """Schedules of the task's canonical function, all others than the default one."""
    sketch = sketches(parse(Workload.of(func).text), TARGET)[0]
    rows = [row for row in sketch.sample(count + 1, seed) if not np.array_equal(row, sketch.default[0])]
    return [sketch.bind(row).trace.to_json() for row in rows[:count]]


def epoch(device: Device = DEVICE, origin: str = "local", uid: str = "e" * 32) -> Epoch:
    return Epoch(uid, device, "0.1.0", "Linux 6.1", "2026-01-01T00:00:00+00:00", origin)


def record(
    func: PrimFunc,
    trace: str,
    ratio: float = 0.5,
    *,
    when: Epoch | None = None,
    threads: int = 1,
    status: str = "ok",
    samples: int = 8,
    role: str = "search",
) -> Record:
    """A record of times ``ratio`` times those of the reference kernel beside them."""
    times = tuple(Sample(ratio * 1e-3, 1e-3) for _ in range(samples))
    return Record(
        Workload.of(func), trace, when or epoch(), threads, status, times if status == "ok" else (),
        role, created=1.75e9,
    )  # fmt: skip
