from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import threading
from typing import Any

import numpy as np
import pytest

from tests.runtime.programs import SIGNATURE, entry_object, expected, model, objects
from tilewright.errors import ArtifactError, InputError, OptionError, ShapeError, TargetError
from tilewright.runtime.host import check_host, missing_features
from tilewright.runtime.loader import load
from tilewright.runtime.model import Executable, MissingVariantError, bind_shapes
from tilewright.runtime.plan import KernelCall, Operand, Signature, TensorSpec, Variant
from tilewright.target import PRESETS, Target


@pytest.fixture(scope="module")
def sums() -> Executable:
    return Executable(model())


def _inputs(n: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(n).astype(np.float32) for name in ("x", "y")}


def test_run(sums: Executable) -> None:
    inputs = _inputs()
    result = sums.run(inputs)
    assert list(result) == ["sum", "same"]
    assert np.array_equal(result["sum"], expected(**inputs))
    assert np.array_equal(result["same"], inputs["x"])
    by_position = sums(inputs["x"], inputs["y"])
    assert np.array_equal(by_position[0], result["sum"])


def test_outputs_are_new_aligned_and_outlive_the_model() -> None:
    executable = Executable(model())
    inputs = _inputs()
    first, second = executable.run(inputs), executable.run({k: v + 1 for k, v in inputs.items()})
    executable.close()
    del executable
    gc.collect()
    assert np.array_equal(first["sum"], expected(**inputs))
    assert not np.array_equal(first["sum"], second["sum"])
    for array in (*first.values(), *second.values()):
        assert array.__array_interface__["data"][0] % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_layers_share_two_buffers(sums: Executable) -> None:
    inputs = _inputs()
    for layers in (1, 2, 7):
        assert np.array_equal(
            Executable(model(layers=layers)).run(inputs)["sum"], expected(**inputs, layers=layers)
        )


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads(threads: int) -> None:
    inputs = _inputs()
    with Executable(model(threads=4), threads=threads) as executable:
        assert executable.threads == threads
        for _ in range(100):
            assert np.array_equal(executable.run(inputs)["sum"], expected(**inputs))


def test_too_many_threads() -> None:
    with pytest.raises(OptionError, match="compiled for up to 2"):
        Executable(model(), threads=3)
    with pytest.raises(OptionError, match="threads=0"):
        Executable(model(), threads=0)


# ---- inputs


def test_inputs_are_not_copied(sums: Executable) -> None:
    """The second output is a copy of the memory that the kernel saw: change it through another view between
    runs.
    """
    inputs = _inputs()
    assert sums._arrays(inputs)[0][0] is inputs["x"]
    readonly = inputs["x"].copy()
    readonly.flags.writeable = False
    assert sums._arrays({**inputs, "x": readonly})[0][0] is readonly


def test_views_and_misaligned_arrays(sums: Executable) -> None:
    inputs = _inputs()
    wide = np.repeat(inputs["x"], 2)
    strided = wide[::2]
    raw = np.zeros(4001, np.uint8)
    misaligned = raw[1:].view(np.float32)
    misaligned[:] = inputs["y"]
    assert not misaligned.flags.aligned
    result = sums.run({"x": strided, "y": misaligned})
    assert np.array_equal(result["sum"], expected(**inputs))
    reverse = {name: value[::-1] for name, value in inputs.items()}
    assert np.array_equal(sums.run(reverse)["sum"], expected(**reverse))


def test_four_byte_alignment_is_enough(sums: Executable) -> None:
    inputs = _inputs()
    raw = np.zeros(1001, np.float32)
    raw[1:] = inputs["x"]
    assert np.array_equal(sums.run({"x": raw[1:], "y": inputs["y"]})["sum"], expected(**inputs))


def test_subclasses_scalars_and_dlpack(sums: Executable) -> None:
    class Tensor:
        """Something of another framework."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    inputs = _inputs()
    result = sums.run({"x": Tensor(inputs["x"]), "y": inputs["y"].view(np.memmap)})
    assert np.array_equal(result["sum"], expected(**inputs))
    assert np.array_equal(np.from_dlpack(result["sum"]), result["sum"])


def test_a_device_that_is_not_the_cpu(sums: Executable) -> None:
    class Elsewhere:
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("on another device")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    with pytest.raises(InputError, match="'x' cannot be read through DLPack"):
        sums.run({"x": Elsewhere(), "y": _inputs()["y"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, r"wrong inputs \(missing: y\)"),
        ({"z": np.zeros(1)}, r"wrong inputs \(unknown: z\)"),
        ({"y": None, "z": np.zeros(1)}, r"missing: y; unknown: z"),
        ({"x": np.zeros(1000)}, "'x' has dtype float64, expected float32"),
        ({"x": np.zeros(1000, ">f4")}, "'x' has dtype >f4, expected float32"),
        ({"x": [1.0, 2.0]}, "'x' is a list, expected an array"),
        ({"x": np.zeros((1, 1000), np.float32)}, r"'x' has shape \[1, 1000\], expected \[n\]"),
        ({"x": np.float32(1)}, r"'x' has shape \[\], expected \[n\]"),
        ({"x": np.zeros(7, np.float32)}, r"'n' is 1000 in input 'y' of shape \[1000\], but 7 in input 'x'"),
    ],
)
def test_wrong_inputs(sums: Executable, change: dict[str, Any], message: str) -> None:
    inputs = {k: v for k, v in {**_inputs(), **change}.items() if v is not None}
    with pytest.raises(InputError, match=message):
        sums.run(inputs)


def test_a_size_outside_of_the_range(sums: Executable) -> None:
    with pytest.raises(ShapeError, match="'n' of input 'x' is 0, expected 1 to 1048576"):
        sums.run({k: np.zeros(0, np.float32) for k in "xy"})


def test_wrong_number_of_positional_inputs(sums: Executable) -> None:
    with pytest.raises(InputError, match="has 2 inputs, 1 were given"):
        sums(np.zeros(1000, np.float32))


def test_shapes_that_were_not_compiled(sums: Executable) -> None:
    with pytest.raises(MissingVariantError, match=r"not compiled for x=\[5\], y=\[5\]") as error:
        sums.run(_inputs(5))
    assert error.value.binding == {"n": 5}
    assert "compiled for: x=[1000], y=[1000]" in str(error.value)


def test_bind_shapes() -> None:
    signature = Signature(
        (TensorSpec("a", (1, "h", "w"), "float32"), TensorSpec("b", ("w",), "int64")), (), {"h": (2, None)}
    )
    assert bind_shapes(signature, [(1, 4, 6), (6,)]) == {"h": 4, "w": 6}
    with pytest.raises(InputError, match=r"'a' has shape \[2, 4, 6\], expected \[1, h, w\]"):
        bind_shapes(signature, [(2, 4, 6), (6,)])
    with pytest.raises(ShapeError, match="'h' of input 'a' is 1, expected at least 2"):
        bind_shapes(signature, [(1, 1, 6), (6,)])


# ---- kernels


def _single(kernels: tuple[KernelCall, ...], threads: int = 1) -> Executable:
    """A model without inputs and outputs that runs `kernels`."""
    v = Variant({}, "tw_main_single", "entry", kernels, (), (), 64)
    base = model()
    return Executable(
        dataclasses.replace(
            base,
            threads=threads,
            signature=Signature((), ()),
            variants=(v,),
            objects={**objects(), "entry": entry_object(v)},
        )
    )


def test_a_failing_kernel_stops_the_run_and_is_named() -> None:
    ok, bad = (
        KernelCall(f"kernel{s}", "tw_k_fail", (Operand.scalar(s),), origins=(f"node{s}",), object="fail")
        for s in (0, 7)
    )
    assert _single((ok, ok)).run({}) == {}
    for kernels in ((bad,), (ok, bad), (ok, bad, ok), (ok, ok, bad)):
        with pytest.raises(InputError, match="'kernel7' stopped with status 7") as error:
            _single(kernels).run({})
        assert error.value.location == "node7"
    with pytest.raises(InputError, match="'kernel7'"):
        _single((ok, bad, ok), threads=2).profile({})


def test_many_kernels() -> None:
    """The entry is cut into several functions."""
    calls = tuple(
        KernelCall(f"k{i}", "tw_k_fail", (Operand.scalar(9 if i == 150 else 0),), object="fail")
        for i in range(200)
    )
    with pytest.raises(InputError, match="'k150' stopped with status 9"):
        _single(calls).run({})
    profile = _single(calls[:150]).profile({}, runs=2)
    assert len(profile.kernels) == 150
    assert all(k.median_ns >= 0 for k in profile.kernels)


def test_profile(sums: Executable) -> None:
    profile = sums.profile(_inputs(), runs=5)
    assert [k.name for k in profile.kernels] == ["first", "layer0", "layer1", "layer2", "pass"]
    assert profile.kernels[0].origins == ("node_first",)
    assert profile.runs == 5
    assert profile.threads == 2
    assert sum(k.share for k in profile.kernels) == pytest.approx(1)
    first = profile.kernels[0]
    assert first.flops == 1000
    assert first.bytes == 12000
    assert first.gflops == pytest.approx(1000 / first.median_ns)
    assert first.gbytes == pytest.approx(12000 / first.median_ns)
    assert profile.hottest()[0].median_ns == max(k.median_ns for k in profile.kernels)
    assert profile.to_json()["kernels"][0]["name"] == "first"
    assert profile.total_ns > 0


# ---- threads and processes


def test_concurrent_runs(sums: Executable) -> None:
    other = Executable(model(333, threads=4))
    wrong: list[int] = []

    def work(seed: int) -> None:
        n, program = ((1000, sums), (333, other))[seed % 2]
        inputs = _inputs(n, seed)
        right = expected(**inputs)
        for _ in range(300):
            result = program.run(inputs)
            if not (np.array_equal(result["sum"], right) and np.array_equal(result["same"], inputs["x"])):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong
    assert not any(worker.is_alive() for worker in workers)


def test_closing_while_others_run() -> None:
    executable = Executable(model())
    inputs = _inputs()
    right = expected(**inputs)
    outcomes: list[bool] = []
    started = threading.Barrier(4)

    def work() -> None:
        started.wait()
        for _ in range(100_000):
            try:
                outcomes.append(np.array_equal(executable.run(inputs)["sum"], right))
            except Exception as error:
                outcomes.append(type(error) is InputError and "closed" in str(error))
                return

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    started.wait()
    executable.close()
    for worker in workers:
        worker.join(60)
    assert all(outcomes)
    with pytest.raises(InputError, match="was closed"):
        executable.run(inputs)


def test_forked_children_run_the_model(sums: Executable) -> None:
    inputs = _inputs()
    right = expected(**inputs)
    sums.run(inputs)

    def child(connection: Any) -> None:
        connection.send(all(np.array_equal(sums.run(inputs)["sum"], right) for _ in range(50)))

    context = multiprocessing.get_context("fork")
    stop = threading.Event()

    def keep_running() -> None:
        while not stop.is_set():
            sums.run(inputs)

    background = threading.Thread(target=keep_running)  # so that forks happen in the middle of runs
    background.start()
    try:
        for _ in range(10):
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs,))
            process.start()
            assert ours.poll(60)
            assert ours.recv() is True
            process.join(10)
            assert process.exitcode == 0
    finally:
        stop.set()
        background.join()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the size of the process")
def test_loading_and_closing_does_not_leak() -> None:
    inputs = _inputs()

    def once() -> None:
        with Executable(model()) as executable:
            executable.run(inputs)

    def resident() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(20):
        once()
    before = resident()
    for _ in range(100):
        once()
    assert resident() - before < 8 << 20


# ---- targets


def test_wrong_machine() -> None:
    other = dataclasses.replace(
        model(), target=dataclasses.replace(Target.host(), triple="sparc64-unknown-linux-gnu")
    )
    message = "for sparc64-unknown-linux-gnu, this machine is"
    with pytest.raises(TargetError, match=message):
        Executable(other)
    executable = Executable(other, foreign=True)
    assert executable.artifact is other
    executable.extend(other.with_variant(other.variants[0], {}, other.weights))
    for call in (executable.run, executable.profile, executable.variant_for):
        with pytest.raises(TargetError, match=message):
            call(_inputs())


@pytest.mark.skipif(Target.host().arch != "x86_64", reason="names x86 features")
def test_missing_features() -> None:
    host = Target.host()
    assert missing_features(host) == []
    check_host(PRESETS["x86-64-v3"])
    exotic = dataclasses.replace(
        host, name="exotic", features=host.features + ",+kl,+amx-tf32,+made-up-tuning"
    )
    assert "made-up-tuning" not in missing_features(exotic)
    lacking = [f for f in ("amx-tf32", "kl") if f in missing_features(exotic)]
    if not lacking:
        pytest.skip("this CPU has everything")
    with pytest.raises(TargetError, match=f"'exotic'.*this CPU has no {', '.join(lacking)}"):
        check_host(exotic)


def test_bad_objects_are_reported() -> None:
    with pytest.raises(ArtifactError, match="could not be loaded"):
        load([b"not an object"], ["f"])
    with pytest.raises(ArtifactError, match="could not be loaded"):
        load(list(objects().values()), ["tw_main_missing"])
    artifact = dataclasses.replace(model(), objects=dict.fromkeys(model().objects, b"\x7fELF"))
    with pytest.raises(ArtifactError, match="could not be loaded"):
        Executable(artifact)


def test_unknown_dtype() -> None:
    spec = TensorSpec("x", ("n",), "float33")
    artifact = dataclasses.replace(model(), signature=dataclasses.replace(SIGNATURE, inputs=(spec, spec)))
    with pytest.raises(ArtifactError, match="unknown dtype 'float33'"):
        Executable(artifact)
