"""Quantized models against their float originals and against onnxruntime, in turns.

onnxruntime's quantizer makes the variants of a model of the zoo, calibrated with seeded images; they are
kept in the cache folder. Each row is one form of the model: the times of both engines, measured in turns with
all others, and how far results are from the float model's.

    python -m benchmarks.quantized
    python -m benchmarks.quantized --threads 1 --runs 40 --json quantized.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from filelock import FileLock
from onnx import version_converter

import tilewright as tw
from benchmarks import zoo
from tilewright.benching import machine, time_in_turns
from tilewright.cli.common import milliseconds, table
from tilewright.config import options
from tilewright.peers import open_peer

#: The classifier of the zoo that is quantized, its input, and the opset that onnxruntime's quantizer wants.
MODEL: Final = "nsfw"
OPSET: Final = 17
#: Forms of the quantized model: format, type of data, type of weights, scales for each output channel.
FORMS: Final = {
    "qdq u8 s8": ("QDQ", "QUInt8", "QInt8", True),
    "qdq s8 s8": ("QDQ", "QInt8", "QInt8", False),
    "qoperator u8 s8": ("QOperator", "QUInt8", "QInt8", True),
    "qoperator u8 u8": ("QOperator", "QUInt8", "QUInt8", False),
}
#: What the original subtracts from images' channels.
_MEAN: Final = (104.0, 117.0, 123.0)


def images(count: int, seed: int) -> Iterator[np.ndarray]:
    """Images as the model takes them, ``[1, 224, 224, 3]`` float32: blocks of colour under noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size = int(rng.choice([7, 14, 28, 56]))
        blocks = rng.uniform(0, 255, (1, size, size, 3))
        whole = np.kron(blocks, np.ones((1, 224 // size, 224 // size, 1)))
        whole += rng.normal(0, rng.uniform(0, 25), whole.shape)
        yield (np.clip(whole, 0, 255) - _MEAN).astype(np.float32)


def variant(form: str) -> Path:
    """The file of a quantized form of the model, or (``float``) of the original in the same opset."""
    source = zoo.fetch(MODEL)
    folder = options().cache_dir / "zoo" / "quantized"
    path = folder / f"{MODEL}-{form.replace(' ', '-')}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{path.name}.lock"):
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.onnx")
            if form == "float":
                onnx.save(version_converter.convert_version(onnx.load(source), OPSET), temporary)
            else:
                _quantize(variant("float"), temporary, *FORMS[form])
            temporary.replace(path)
    return path


def _quantize(source: Path, target: Path, form: str, data: str, weights: str, channels: bool) -> None:
    """Static quantization of ``source`` with onnxruntime's quantizer, calibrated by the extremes of eight
    images."""
    from onnxruntime import quantization as q

    logging.getLogger().setLevel(logging.ERROR)  # it advises to run its own preprocessing at every call
    name = onnx.load(source, load_external_data=False).graph.input[0].name

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = images(8, seed=0)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {name: image}

    q.quantize_static(
        source,
        target,
        Reader(),
        quant_format=q.QuantFormat[form],
        activation_type=q.QuantType[data],
        weight_type=q.QuantType[weights],
        per_channel=channels,
    )


def measure(forms: Sequence[str], threads: int, runs: int) -> list[dict[str, Any]]:
    """One record a form: seconds (median and least) of both engines and the largest difference of results
    to the float model's."""
    (image,) = images(1, seed=1)
    calls: dict[tuple[str, str], Callable[[], Mapping[str, Any]]] = {}
    for form in forms:
        path = variant(form)
        name = onnx.load(path).graph.input[0].name
        model = tw.compile(path, shapes={name: image.shape}, threads=threads)
        peer = open_peer("onnxruntime", path.read_bytes(), {name: image}, threads)
        calls[form, "tilewright"] = partial(model.run, {name: image})
        calls[form, "onnxruntime"] = peer.run
    results = {key: np.concatenate([v.reshape(-1) for v in call().values()]) for key, call in calls.items()}
    rounds = time_in_turns(list(calls.values()), runs)
    seconds = {key: [t for part in parts for t in part] for key, parts in zip(calls, rounds, strict=True)}
    records = []
    for form in forms:
        record: dict[str, Any] = {"form": form}
        for engine in ("tilewright", "onnxruntime"):
            times = seconds[form, engine]
            difference = np.abs(results[form, engine] - results[forms[0], engine]).max()
            record[engine] = {
                "median": statistics.median(times),
                "least": min(times),
                "difference": float(difference),
            }
        records.append(record)
    return records


def report(records: Sequence[dict[str, Any]]) -> None:
    """A table: medians, ratios of medians, differences."""
    rows = []
    base = records[0]["tilewright"]["median"]
    for record in records:
        ours, theirs = record["tilewright"], record["onnxruntime"]
        rows.append([
            record["form"],
            milliseconds(ours["median"]),
            milliseconds(ours["least"]),
            milliseconds(theirs["median"]),
            milliseconds(theirs["least"]),
            f"{base / ours['median']:.2f}x",
            f"{theirs['median'] / ours['median']:.2f}x",
            f"{ours['difference']:.4f}",
            f"{theirs['difference']:.4f}",
        ])  # fmt: skip
    heads = ["form", "median", "least", "ort median", "ort least", "to float", "to ort", "differs", "ort's"]
    table("quantized models (ms)", heads, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantized", description="Quantized models.")
    parser.add_argument("forms", nargs="*", help=f"which: {', '.join(FORMS)} (all by default)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write all numbers to a file")
    arguments = parser.parse_args(argv)
    unknown = [form for form in arguments.forms if form not in FORMS]
    if unknown:
        parser.error(f"there is no form {', '.join(unknown)}; known: {', '.join(FORMS)}")
    forms = ["float", *(arguments.forms or FORMS)]
    records = measure(forms, arguments.threads, arguments.runs)
    report(records)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine(), "models": records}, indent=1))


if __name__ == "__main__":
    main()
