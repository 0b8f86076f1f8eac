"""One step of :mod:`benchmarks.metaschedule` inside a Python that has TVM; needs NumPy and tvm alone.

    python metaschedule_child.py tune REQUEST       tune one kernel; writes its curve
    python metaschedule_child.py export REQUEST     save some of the programs that the search has seen
    python metaschedule_child.py serve REQUEST      run them whenever a line on standard input asks for it

REQUEST is a JSON document. The steps are apart so that programs are timed in a process that has not tuned.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Programs are checked against NumPy with this difference, relative to the largest expected value.
TOLERANCE = 1e-4


# ------------------------------------------------------------------------------------------------ the kernels
def primfunc(kind: str, sizes: Sequence[int], variant: str) -> Any:
    """A kernel of :mod:`benchmarks.kernels` as TVM's users write it: one TIR function made by ``te``.

    Weights are marked as free in their layout, as Relax does with constants: the search may rearrange them.
    """
    from tvm import te

    make: dict[str, Callable[..., list[Any]]] = {
        "conv": _conv,
        "depthwise": _depthwise,
        "dense": _dense,
        "softmax": _softmax,
    }
    return te.create_prim_func(make[kind](*sizes, variant=variant))


def _conv(cin: int, cout: int, size: int, kernel: int, stride: int, *, variant: str) -> list[Any]:
    from tvm import te, topi

    if variant == "matmul":
        return _dense(size * size, cout, cin, variant="relu")
    pad = (kernel - 1) // 2
    out = (size - 1) // stride + 1
    kh, kw = (te.reduce_axis((0, kernel), name=n) for n in ("kh", "kw"))
    ci = te.reduce_axis((0, cin), name="ci")
    bias = te.placeholder((cout,), name="bias")
    if variant == "nhwc":
        data = te.placeholder((1, size, size, cin), name="data")
        weight = te.placeholder((kernel, kernel, cin, cout), name="weight")
        padded = topi.nn.pad(data, [0, pad, pad, 0]) if pad else data
        product = te.compute(
            (1, out, out, cout),
            lambda n, h, w, c: te.sum(
                padded[n, h * stride + kh, w * stride + kw, ci] * weight[kh, kw, ci, c], axis=[kh, kw, ci]
            ),
            name="conv",
            attrs={"layout_free_placeholders": [weight]},
        )
        result = te.compute(
            product.shape, lambda n, h, w, c: _relu(product[n, h, w, c] + bias[c]), name="relu"
        )
    else:
        data = te.placeholder((1, cin, size, size), name="data")
        weight = te.placeholder((cout, cin, kernel, kernel), name="weight")
        padded = topi.nn.pad(data, [0, 0, pad, pad]) if pad else data
        product = te.compute(
            (1, cout, out, out),
            lambda n, c, h, w: te.sum(
                padded[n, ci, h * stride + kh, w * stride + kw] * weight[c, ci, kh, kw], axis=[ci, kh, kw]
            ),
            name="conv",
            attrs={"layout_free_placeholders": [weight]},
        )
        result = te.compute(
            product.shape, lambda n, c, h, w: _relu(product[n, c, h, w] + bias[c]), name="relu"
        )
    return [data, weight, bias, result]


def _depthwise(channels: int, size: int, stride: int, *, variant: str) -> list[Any]:
    from tvm import te, topi

    out = (size - 1) // stride + 1
    kh, kw = (te.reduce_axis((0, 3), name=n) for n in ("kh", "kw"))
    bias = te.placeholder((channels,), name="bias")
    if variant == "nhwc":
        data = te.placeholder((1, size, size, channels), name="data")
        weight = te.placeholder((3, 3, channels), name="weight")
        padded = topi.nn.pad(data, [0, 1, 1, 0])
        product = te.compute(
            (1, out, out, channels),
            lambda n, h, w, c: te.sum(
                padded[n, h * stride + kh, w * stride + kw, c] * weight[kh, kw, c], axis=[kh, kw]
            ),
            name="depthwise",
        )
        result = te.compute(
            product.shape, lambda n, h, w, c: _relu(product[n, h, w, c] + bias[c]), name="relu"
        )
    else:
        data = te.placeholder((1, channels, size, size), name="data")
        weight = te.placeholder((channels, 3, 3), name="weight")
        padded = topi.nn.pad(data, [0, 0, 1, 1])
        product = te.compute(
            (1, channels, out, out),
            lambda n, c, h, w: te.sum(
                padded[n, c, h * stride + kh, w * stride + kw] * weight[c, kh, kw], axis=[kh, kw]
            ),
            name="depthwise",
        )
        result = te.compute(
            product.shape, lambda n, c, h, w: _relu(product[n, c, h, w] + bias[c]), name="relu"
        )
    return [data, weight, bias, result]


def _dense(m: int, n: int, k: int, *, variant: str) -> list[Any]:
    from tvm import te

    data = te.placeholder((m, k), name="data")
    weight = te.placeholder((k, n), name="weight")
    bias = te.placeholder((n,), name="bias")
    along = te.reduce_axis((0, k), name="k")
    product = te.compute(
        (m, n),
        lambda i, j: te.sum(data[i, along] * weight[along, j], axis=[along]),
        name="dense",
        attrs={"layout_free_placeholders": [weight]},
    )
    after = _relu if variant == "relu" else lambda value: value
    return [data, weight, bias, te.compute((m, n), lambda i, j: after(product[i, j] + bias[j]), name="bias")]


def _softmax(rows: int, columns: int, *, variant: str) -> list[Any]:
    from tvm import te, topi

    data = te.placeholder((rows, columns), name="data")
    return [data, (topi.nn.fast_softmax if variant == "fast" else topi.nn.softmax)(data, axis=-1)]


def _relu(value: Any) -> Any:
    from tvm import te, tirx

    return te.max(value, tirx.const(0, "float32"))


def laid_out(arrays: Sequence[np.ndarray], kind: str, variant: str) -> list[np.ndarray]:
    """The arguments, channels last and weights ``[kh, kw, ci, co]``, in the layouts of a variant."""
    if kind in ("softmax", "dense"):
        return list(arrays)
    data, weight, bias, result = arrays
    if variant == "matmul":
        return [data.reshape(-1, data.shape[-1]), weight[0, 0], bias, result.reshape(-1, result.shape[-1])]
    if variant == "nchw":
        data, result = np.moveaxis(data, -1, 0), np.moveaxis(result, -1, 0)
        weight = weight.transpose(2, 0, 1) if kind == "depthwise" else weight.transpose(3, 2, 0, 1)
    return [np.ascontiguousarray(a) for a in (data[None], weight, bias, result[None])]


# ------------------------------------------------------------------------------------------------- the search
def tune(request: dict[str, Any]) -> None:
    """Search, writing a line to ``curve.jsonl`` for each measured program, in the database's order."""
    import tvm
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    folder = Path(request["folder"])
    target = tvm.target.Target(request["target"])
    func = primfunc(request["kind"], request["sizes"], request["variant"])
    ended: dict[str, float] = {}
    lines: list[dict[str, Any]] = []
    stopped = ""

    @derived_object
    class Runner(ms.runner.PyRunner):
        """The local runner, one program at a time, noting when each has been measured."""

        def __init__(self) -> None:
            super().__init__()
            config = ms.runner.EvaluatorConfig(number=3, repeat=1, min_repeat_ms=request["min_repeat_ms"])
            self.local = ms.runner.LocalRunner(evaluator_config=config)

        def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
            found = []
            for one in runner_inputs:
                found += self.local.run([one])
                ended[str(one.artifact_path)] = time.perf_counter() - begin
            return found

    @derived_object
    class Curve(ms.measure_callback.PyMeasureCallback):
        """Writes down what was measured; ends the search when its time is over."""

        def apply(
            self, scheduler: Any, task: int, candidates: Any, builds: Sequence[Any], runs: Sequence[Any]
        ) -> None:
            nonlocal stopped
            now = time.perf_counter() - begin
            for build, run in zip(builds, runs, strict=True):
                line: dict[str, Any] = {"trial": len(lines) + 1, "seconds": None}
                line["wall"] = ended.get(str(build.artifact_path), now)
                if run.run_secs is None:
                    line["error"] = str(build.error_msg or run.error_msg)[:2000]
                else:
                    line["seconds"] = float(np.mean([float(s) for s in run.run_secs]))
                lines.append(line)
                curve.write(json.dumps(line) + "\n")
            curve.flush()
            if now >= request["minutes"] * 60:
                stopped = "out of time"
                raise TimeoutError(stopped)

    cores = request["threads"]
    with open(folder / "curve.jsonl", "w") as curve:
        begin = time.perf_counter()
        try:
            ms.tir_integration.tune_tir(
                mod=func,
                target=target,
                work_dir=str(folder / "metaschedule"),
                max_trials_global=request["trials"],
                num_trials_per_iter=request["batch"],
                num_tuning_cores=cores,
                builder=ms.builder.LocalBuilder(max_workers=cores, timeout_sec=request["build_timeout"]),
                runner=Runner(),
                measure_callbacks=[*ms.measure_callback.MeasureCallback.create("default"), Curve()],
                seed=request["seed"],
            )
        except Exception:  # it has come through the library, as an error of whichever kind
            if not stopped:
                raise
        wall = time.perf_counter() - begin
    if not stopped and len(lines) < request["trials"]:
        stopped = "no further programs"
    write_json(folder / "tuned.json", {"wall": wall, "stopped": stopped, "tvm": tvm.__version__})


def export(request: dict[str, Any]) -> None:
    """Save programs of a finished search, by their numbers, as libraries with weights as they want them.

    They are what MetaSchedule has timed: weights are rearranged beforehand, not in each call.
    """
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    folder = Path(request["folder"])
    target = tvm.target.Target(request["target"])
    arrays = load_arrays(request)
    [workload] = [
        ms.database.Workload.from_json(json.loads(line))
        for line in (folder / "metaschedule" / "database_workload.json").read_text().splitlines()
    ]
    records = (folder / "metaschedule" / "database_tuning_record.json").read_text().splitlines()
    programs = []
    for trial in request["trials_wanted"]:
        record = ms.database.TuningRecord.from_json(json.loads(records[trial - 1])[1], workload)
        schedule = Schedule(workload.mod)
        record.trace.apply_to_schedule(schedule, remove_postproc=False)
        mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
        tvm.driver.build(mod, target=target).export_library(str(folder / f"program-{trial}.so"))
        weights = ""
        if len(arrays) > 2:
            weight = arrays[1]
            for inst in schedule.trace.insts:
                if inst.kind.name == "TransformLayout":
                    weight = inst.inputs[1].map_tensor(tvm.runtime.tensor(weight)).numpy()
            wanted = tuple(map(int, ArgInfo.from_prim_func(mod["main"])[1].shape))
            if weight.shape != wanted:
                raise SystemExit(f"the weights became {weight.shape}, the program takes {wanted}")
            weights = f"program-{trial}.npy"
            np.save(folder / weights, weight)
        programs.append({"trial": trial, "library": f"program-{trial}.so", "weights": weights})
    write_json(folder / "exported.json", {"programs": programs})


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a whole file or none."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document, indent=2) + "\n")
    temporary.replace(path)


def load_arrays(request: dict[str, Any]) -> list[np.ndarray]:
    """The inputs and the expected output, in the layouts of the variant."""
    with np.load(request["data"]) as stored:
        arrays = [stored[f"a{n}"] for n in range(len(stored.files))]
    return laid_out(arrays, request["kind"], request["variant"])


# ------------------------------------------------------------------------------------------------- the timing
def serve(request: dict[str, Any]) -> None:
    """Check each program and say how long a call takes; then run what is asked for, line by line."""
    import tvm

    arrays = load_arrays(request)
    folder = Path(request["folder"])
    device = tvm.cpu()
    *inputs, expected = [tvm.runtime.tensor(a, device) for a in arrays]
    evaluators = []
    ready = []
    for program in request["programs"]:
        module = tvm.runtime.load_module(str(folder / program["library"]))
        own = list(inputs)
        if program["weights"]:
            own[1] = tvm.runtime.tensor(np.load(folder / program["weights"]), device)
        output = tvm.runtime.empty(expected.shape, "float32", device)
        module["main"](*own, output)
        error = float(np.abs(output.numpy() - arrays[-1]).max() / np.abs(arrays[-1]).max())
        if not error <= TOLERANCE:
            raise SystemExit(f"{program['library']} differs from NumPy by {error:.2g} of the largest value")
        call = (module, [*own, output])
        evaluators.append(call)
        ready.append({"seconds": timed(call, device, 3), "error": error})
    say({"ready": ready})
    for line in sys.stdin:
        wanted = json.loads(line)
        say({"seconds": timed(evaluators[wanted["program"]], device, wanted["calls"])})


def timed(call: tuple[Any, list[Any]], device: Any, calls: int) -> float:
    """Seconds of a call, the mean of several after one that does not count, by TVM's own timer."""
    module, arguments = call
    return float(module.time_evaluator("main", device, number=calls, repeat=1)(*arguments).results[0])


def say(message: dict[str, Any]) -> None:
    """A line to the process that asked."""
    os.write(_answers, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    _answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not come between the answers
    {"tune": tune, "export": export, "serve": serve}[sys.argv[1]](json.loads(sys.argv[2]))
