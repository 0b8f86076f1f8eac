"""One artifact, many sizes: real and exported models compiled once for ranges of sizes, and checked at many.

    python -m benchmarks.sweeps                    every model of the zoo
    python -m benchmarks.sweeps rec bert-dynamo    these (--list shows all)
    python -m benchmarks.sweeps rec --time         beside kernels compiled for each size, and onnxruntime

A model is compiled once with ranges for its open dimensions and compared with onnxruntime at each size,
outputs by ``tilewright.compare`` (or, where :attr:`Sweep.judge` says so, what the task makes of them).
Exports of torch models (:mod:`benchmarks.exports`) have to be there already.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import tilewright as tw
from benchmarks import exports, zoo
from tilewright.cli.common import table
from tilewright.compare import compare
from tilewright.dims import DimLike, Shapes
from tilewright.errors import TilewrightError
from tilewright.feeds import complete_inputs, integer_bounds, model_inputs
from tilewright.frontend.onnx.reader import read
from tilewright.graph.builder import GraphBuilder
from tilewright.peers import open_peer

Sizes = dict[str, int]
Outputs = Mapping[str, np.ndarray]

ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A model, the ranges that it is compiled for, and the sizes at which it is checked.

    Attributes:
        key: short name.
        path: gives the model's file.
        dims, shapes: as for :func:`tilewright.compile`.
        sizes: at which it is checked, by dimension.
        timed: of these, those at which it is timed.
        data: values of inputs, where random ones would not do.
        axes: instead of shapes, names of open axes by input.
        judge: compares outputs (ours, onnxruntime's) and says what is wrong; None for element by element.
    """

    key: str
    path: Callable[[], Path]
    dims: dict[str, DimLike]
    shapes: Shapes | None
    sizes: tuple[Sizes, ...]
    timed: tuple[Sizes, ...]
    data: Callable[[Mapping[str, tuple[int, ...]]], dict[str, np.ndarray]] | None = None
    judge: Callable[[Outputs, Outputs], str] | None = None
    axes: Mapping[str, Mapping[int, str]] | None = None


def grid(**choices: Iterable[int]) -> tuple[Sizes, ...]:
    """All combinations of sizes."""
    return tuple(dict(zip(choices, sizes, strict=True)) for sizes in itertools.product(*choices.values()))


def same_text(got: Outputs, expected: Outputs) -> str:
    """For recognition with CTC, where the last axis has scores of characters: the best of every place."""
    (ours,), (theirs,) = (list(outputs.values()) for outputs in (got, expected))
    different = int((ours.argmax(-1) != theirs.argmax(-1)).sum())
    return f"{different} of {ours[..., 0].size} characters differ" if different else ""


def same_probabilities(got: Outputs, expected: Outputs) -> str:
    """For maps of probabilities: those of the engines differ by at most 1e-4. Relative to the largest one
    nothing could be said where an image has no text and all are near zero."""
    (ours,), (theirs,) = (list(outputs.values()) for outputs in (got, expected))
    worst = float(np.abs(ours - theirs).max())
    return f"probabilities differ by {worst:.2g}" if not worst <= 1e-4 else ""


def page(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """White pages with lines of dark strokes, as detectors of text see them (normalised)."""
    rng = np.random.default_rng(3)
    feeds = {}
    for name, shape in shapes.items():
        images = np.full(shape, 2.2, np.float32)
        for top in range(8, shape[2] - 14, 28):
            strokes = rng.random((shape[0], 1, 12, shape[3])) < 0.4
            images[:, :, top : top + 12] -= 4 * strokes
        feeds[name] = images
    return feeds


def speech(samples: int) -> np.ndarray:
    """Something like speech at 16 kHz: voiced bursts with moving harmonics between noise, seeded."""
    rng = np.random.default_rng(7)
    seconds = np.arange(samples) / 16000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * seconds)
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    voice = sum(np.sin(n * phase) / n for n in range(1, 12)) * (np.sin(2 * np.pi * 1.3 * seconds) > 0)
    return (0.2 * voice + 0.01 * rng.standard_normal(samples)).astype(np.float32)


def _windows(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Consecutive windows of speech for the inputs of silero-vad's models."""
    feeds = {}
    for name, shape in shapes.items():
        if name == "input":
            rows, width = shape
            feeds[name] = speech(rows * width).reshape(shape)
        elif name == "sr":
            feeds[name] = np.array(16000, np.int64)
        else:
            feeds[name] = np.zeros(shape, np.float32)
    return feeds


def _zoo(
    key: str,
    shapes: Shapes | None,
    dims: dict[str, DimLike],
    sizes: Sequence[Sizes],
    timed: Sequence[Sizes],
    model: str = "",
    data: Callable[[Mapping[str, tuple[int, ...]]], dict[str, np.ndarray]] | None = None,
    judge: Callable[[Outputs, Outputs], str] | None = None,
) -> Sweep:
    return Sweep(key, lambda: zoo.fetch(model or key), dims, shapes, tuple(sizes), tuple(timed), data, judge)


_WIDTHS = (48, 64, 320, 333, 960, 1280)
_PAGES = grid(h=(32, 96, 320, 512, 640), w=(32, 352, 736))

ZOO: tuple[Sweep, ...] = (
    # Users pad pages to multiples of 32: 500x333 becomes 512x352.
    _zoo(
        "det",
        {"x": (1, 3, "h", "w")},
        {
            "h": tw.Dim(32, 960, multiple_of=32, typical=640),
            "w": tw.Dim(32, 1280, multiple_of=32, typical=640),
        },
        _PAGES,
        grid(h=(640,), w=(640,)) + grid(h=(512,), w=(352,)),
        data=page,
        judge=same_probabilities,
    ),
    _zoo(
        "rec",
        {"x": (1, 3, 48, "w")},
        {"w": (48, 1280)},
        grid(w=(*range(48, 1281, 16), 49, 333, 1279)),
        grid(w=(320, 333, 1280)),
    ),
    _zoo(
        "rec-batch",
        {"x": ("b", 3, 48, "w")},
        {"b": (1, 6), "w": (48, 640)},
        grid(b=range(1, 7), w=(48, 160, 333, 640)),
        grid(b=(1, 6), w=(320,)),
        "rec",
    ),
    _zoo(
        "cls",
        {"x": ("b", 3, 48, "w")},
        {"b": (1, 6), "w": (32, 384)},
        grid(b=(1, 2, 6), w=(32, 100, 192, 333, 384)),
        grid(b=(1, 6), w=(192,)),
    ),
    _zoo("magika", {"bytes": ("b", 2048)}, {"b": (1, 32)}, grid(b=range(1, 33)), grid(b=(1, 7, 32))),
    _zoo(
        "nsfw",
        {"input:0": ("b", 224, 224, 3)},
        {"b": (1, 8)},
        grid(b=(1, 2, 3, 8)),
        grid(b=(1, 4)),
    ),
    _zoo(
        "pitch",
        {"serving_default_input_2:0": ("b", 43844, 1)},
        {"b": (1, 4)},
        grid(b=(1, 2, 3, 4)),
        grid(b=(1, 3)),
    ),
    _zoo(
        "captcha",
        {"input1": (1, 1, 64, "w")},
        {"w": (32, 640)},
        grid(w=(32, 47, 64, 100, 160, 161, 256, 333, 640)),
        grid(w=(160, 333)),
    ),
    _zoo(
        "captcha_int8",
        {"input1": (1, 1, 64, "w")},
        {"w": (32, 640)},
        grid(w=(32, 47, 64, 100, 160, 161, 256, 333, 640)),
        grid(w=(160, 333)),
        judge=same_text,
    ),
    _zoo("captcha_det", None, {}, ({},), ({},)),
    _zoo(
        "vad",
        {"input": ("b", 576), "state": (2, "b", 128)},
        {"b": (1, 8)},
        grid(b=(1, 2, 5, 8)),
        grid(b=(1, 8)),
        data=_windows,
    ),
    _zoo(
        "vad_op15",
        {"input": ("b", 576), "state": (2, "b", 128)},
        {"b": (1, 8)},
        grid(b=(1, 2, 5, 8)),
        grid(b=(1, 8)),
        data=_windows,
    ),
    _zoo(
        "vad_half",
        {"input": ("b", 576), "state": (2, "b", 128)},
        {"b": (1, 8)},
        grid(b=(1, 2, 5, 8)),
        grid(b=(1, 8)),
        data=_windows,
    ),
    _zoo(
        "vad_ifless",
        {"input": ("b", 576), "state": (2, "b", 128)},
        {"b": (1, 8)},
        grid(b=(1, 2, 5, 8)),
        grid(b=(1, 8)),
        data=_windows,
    ),
    _zoo("vad_fixed", None, {}, ({},), ({},), data=_windows),
    _zoo(
        "vad_sequence",
        {"input": ("n", 576)},
        {"n": (1, 400)},
        grid(n=(1, 2, 31, 100, 333, 400)),
        grid(n=(100, 333)),
        data=_windows,
    ),
)  # fmt: skip


def _export(
    key: str,
    dims: dict[str, DimLike],
    sizes: Sequence[Sizes],
    exporters: Sequence[str] = exports.EXPORTERS,
) -> tuple[Sweep, ...]:
    """An exported model, once for each exporter."""
    axes = exports.MODELS[key].axes
    return tuple(
        Sweep(
            f"{key}-{exporter}",
            functools.partial(exports.path_of, key, exporter),
            dims,
            None,
            tuple(sizes),
            tuple(sizes),
            axes=axes,
        )
        for exporter in exporters
    )


_IMAGE: dict[str, DimLike] = {
    "batch": (1, 4),
    "h": tw.Dim(64, 384, typical=224),
    "w": tw.Dim(64, 384, typical=224),
}
_IMAGES = (
    {"batch": 1, "h": 224, "w": 224},
    {"batch": 2, "h": 97, "w": 131},
    {"batch": 1, "h": 320, "w": 384},
)
_TEXT: dict[str, DimLike] = {"batch": (1, 8), "seq": tw.Dim(1, 256, typical=128)}
_TEXTS = ({"batch": 1, "seq": 128}, {"batch": 3, "seq": 37}, {"batch": 1, "seq": 1}, {"batch": 8, "seq": 256})
_CACHE: dict[str, DimLike] = {
    "batch": (1, 4),
    "seq": tw.Dim(1, 128, typical=32),
    "before": tw.Dim(0, 512, typical=128),
}
_CACHES = (
    {"batch": 1, "seq": 64, "before": 0},
    {"batch": 1, "seq": 1, "before": 200},
    {"batch": 3, "seq": 5, "before": 77},
)


def export_sweeps() -> tuple[Sweep, ...]:
    """Every exported model by both exporters."""
    return (
        *(
            sweep
            for key in ("resnet50", "mobilenet", "efficientnet", "convnext", "unet")
            for sweep in _export(key, _IMAGE, _IMAGES)
        ),
        *(
            sweep
            for key in ("vit", "swin")
            for sweep in _export(key, {"batch": (1, 8)}, grid(batch=(1, 3, 8)))
        ),
        *(sweep for key in ("lstm", "bert") for sweep in _export(key, _TEXT, _TEXTS)),
        *(sweep for key in ("gpt2", "llama") for sweep in _export(key, _CACHE, _CACHES)),
        *_export(
            "whisper_encoder",
            {"batch": (1, 4), "frames": tw.Dim(8, 3000, typical=600)},
            ({"batch": 1, "frames": 600}, {"batch": 3, "frames": 77}, {"batch": 1, "frames": 3000}),
            ("dynamo",),  # the older one writes the example's length into reshapes, here and below
        ),
        *_export(
            "whisper_decoder",
            {"batch": (1, 4), "seq": tw.Dim(1, 200, typical=32), "positions": tw.Dim(4, 1500, typical=300)},
            (
                {"batch": 1, "seq": 32, "positions": 300},
                {"batch": 3, "seq": 7, "positions": 77},
                {"batch": 1, "seq": 1, "positions": 1500},
            ),
            ("dynamo",),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds at one size of the kernels for a range, those for the size alone, and onnxruntime."""

    sizes: Sizes
    ranged: float
    fixed: float
    peer: float
    compile_fixed: float


def warm_up() -> None:
    """Start the processes that compile, so that the first model's time is not theirs."""
    b = GraphBuilder("warm")
    tw.compile(b.build([b.op("relu", b.input("x", (64, 64), "float32"))], ["y"]), cache=False)


class Compiled:
    """A sweep's model, compiled for its ranges.

    Attributes:
        seconds: what compiling took, without the cache.
    """

    def __init__(self, sweep: Sweep, threads: int = 1) -> None:
        self.sweep, self.source, self.threads = sweep, sweep.path(), threads
        self._raw = read(self.source)
        shapes = sweep.shapes
        if sweep.axes is not None:
            shapes = {
                spec.name: [
                    sweep.axes.get(spec.name, {}).get(n, d if isinstance(d, int) else None)
                    for n, d in enumerate(spec.shape)
                ]
                for spec in model_inputs(self._raw)
            }
        start = time.perf_counter()
        self.model = tw.compile(self.source, shapes=shapes, dims=sweep.dims, threads=threads, cache=False)
        self.seconds = time.perf_counter() - start

    def feeds(self, sizes: Sizes) -> dict[str, np.ndarray]:
        """Inputs of these sizes."""
        shapes = {
            spec.name: tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)
            for spec in self.model.inputs
        }
        given = self.sweep.data(shapes) if self.sweep.data else None
        if given is not None:
            return {name: given[name] for name in shapes}
        feeds = complete_inputs(model_inputs(self._raw), None, shapes, 0, integer_bounds(self._raw))
        return {name: np.ones_like(x) if name == "mask" else x for name, x in feeds.items()}

    def differences(self, sizes: Sizes) -> list[str]:
        """What is wrong at these sizes beside onnxruntime."""
        feeds = self.feeds(sizes)
        got = self.model.run(feeds)
        expected = open_peer("onnxruntime", self.source.read_bytes(), feeds, threads=self.threads).run()
        if self.sweep.judge:
            found = self.sweep.judge(got, expected)
            return [found] if found else []
        outputs = (compare(name, got[name], expected[name]) for name in expected)
        return [f"{output.name}: {output.describe()}" for output in outputs if not output.ok]

    def time(self, sizes: Sizes) -> Timing:
        """The model beside one compiled for these sizes and onnxruntime, in turns."""
        feeds = self.feeds(sizes)
        start = time.perf_counter()
        fixed = tw.compile(
            self.source,
            shapes={name: array.shape for name, array in feeds.items()},
            threads=self.threads,
            cache=False,
        )
        seconds = time.perf_counter() - start
        peer = open_peer("onnxruntime", self.source.read_bytes(), feeds, threads=self.threads)
        calls: tuple[Callable[[], object], ...] = (
            lambda: self.model.run(feeds),
            lambda: fixed.run(feeds),
            peer.run,
        )
        times: list[list[float]] = [[], [], []]
        for number in range(ROUNDS + 2):
            for call, found in zip(calls, times, strict=True):
                begin = time.perf_counter()
                call()
                if number >= 2:
                    found.append(time.perf_counter() - begin)
        ranged, alone, theirs = (statistics.median(found) for found in times)
        return Timing(sizes, ranged, alone, theirs, seconds)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, or time, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="keys, or 'exports' for all exports; the zoo when left out")
    parser.add_argument("--list", action="store_true", help="print the keys")
    parser.add_argument("--time", action="store_true", help="also time at some of the sizes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    known = {sweep.key: sweep for sweep in (*ZOO, *export_sweeps())}
    if options.list:
        print("\n".join(known))
        return
    keys = options.models or [sweep.key for sweep in ZOO]
    if keys == ["exports"]:
        keys = [sweep.key for sweep in export_sweeps()]
    if unknown := [key for key in keys if key not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; --list shows all")
    warm_up()
    rows: list[list[str]] = []
    bad = 0
    for key in keys:
        sweep = known[key]
        try:
            compiled = Compiled(sweep, options.threads)
            wrong = [(sizes, found) for sizes in sweep.sizes if (found := compiled.differences(sizes))]
        except (TilewrightError, exports.ExportError, zoo.FetchError) as error:
            print(f"{key}: {type(error).__name__}: {error}", flush=True)
            bad += 1
            continue
        print(f"{key}: {len(sweep.sizes) - len(wrong)} of {len(sweep.sizes)} sizes agree; "
              f"compiled in {compiled.seconds:.1f} s", flush=True)  # fmt: skip
        for sizes, found in wrong:
            print(f"  {sizes}: {'; '.join(found)}", flush=True)
        bad += bool(wrong)
        for sizes in sweep.timed if options.time else ():
            timing = compiled.time(sizes)
            label = ", ".join(f"{name} {size}" for name, size in sizes.items())
            rows.append(
                [key, label, f"{timing.ranged * 1e3:.2f}", f"{timing.ranged / timing.fixed:.2f}"]
                + [f"{timing.ranged / timing.peer:.2f}", f"{compiled.seconds / timing.compile_fixed:.2f}"]
            )
            print("  " + "  ".join(rows[-1][1:]), flush=True)
    if rows:
        columns = ["model", "sizes", "ms", "/ fixed", "/ onnxruntime", "compile / fixed"]
        table("One artifact for all sizes", columns, rows)
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
