"""Models exported from PyTorch with open sizes, by both of its exporters, which emit quite different graphs.

    python -m benchmarks.exports                       list the models
    python -m benchmarks.exports bert llama            export them

Needs torch, onnxscript, timm, torchvision, and transformers.

The weights are random and seeded; widths are those of the published models, and where a model is a stack of
equal layers only some of them are kept, since the others add nothing but time. Files go to ``exports`` in the
user's cache folder; everything that reads them (:mod:`benchmarks.sweeps`) needs no torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tilewright.config import options

#: ``dynamo``: torch.export and its translation; ``script``: the older one, by tracing.
EXPORTERS = ("dynamo", "script")


@dataclasses.dataclass(frozen=True)
class Export:
    """One model to export.

    Attributes:
        key: short name.
        what: what it is.
        build: makes the module and example inputs by name; imports torch.
        axes: the open axes of each input, with their dimensions' names.
        outputs: names of the outputs.
        opset: of the exported file.
    """

    key: str
    what: str
    build: Callable[[], tuple[Any, dict[str, Any]]]
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    opset: int = 18


class ExportError(Exception):
    """A model is not exported yet, or cannot be."""


def path_of(key: str, exporter: str) -> Path:
    """The path of an exported model. Raises ExportError when it is not there yet."""
    path = options().cache_dir / "exports" / f"{key}-{exporter}.onnx"
    if not path.exists():
        raise ExportError(
            f"no {path.name}: run `python -m benchmarks.exports {key}` where torch is installed"
        )
    return path


def export(key: str, exporter: str) -> Path:
    """Write one model with one exporter; the path of its file. Raises what torch raises."""
    import onnx
    import torch

    spec = MODELS[key]
    folder = options().cache_dir / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # fused layers that the older exporter has no operator for
    module, inputs = spec.build()
    settings: dict[str, Any] = {"dynamo": exporter == "dynamo", "opset_version": spec.opset}
    if exporter == "dynamo":
        settings["dynamic_shapes"] = {name: spec.axes.get(name) for name in inputs}
        settings["external_data"] = False
    else:
        settings["dynamic_axes"] = spec.axes
    scratch = folder / f".{key}-{exporter}.{os.getpid()}"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (),
            os.fspath(scratch),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(spec.outputs),
            verbose=False,
            **settings,
        )
    onnx.checker.check_model(os.fspath(scratch))
    path = folder / f"{key}-{exporter}.onnx"
    scratch.replace(path)
    return path


def _timm(name: str, size: int = 224, **settings: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """An image classifier of timm."""

    def build() -> tuple[Any, dict[str, Any]]:
        import timm
        import torch

        return timm.create_model(name, pretrained=False, **settings), {"x": torch.randn(2, 3, size, size)}

    return build


def _bert() -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import BertConfig, BertModel

    class Bert(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = BertModel(BertConfig(num_hidden_layers=4))

        def forward(self, ids: Any, mask: Any) -> Any:
            found = self.inner(input_ids=ids, attention_mask=mask, return_dict=True)
            return found.last_hidden_state, found.pooler_output

    ids = torch.randint(0, 1000, (2, 12))
    return Bert(), {"ids": ids, "mask": torch.ones_like(ids)}


def _gpt2() -> tuple[Any, dict[str, Any]]:
    import torch

    from benchmarks.torch_models import Decoder

    model = Decoder(vocabulary=50257, width=768, heads=12, layers=3, hidden=3072)
    past = torch.randn(3, 2, 2, 12, 7, 64)
    return model, {"ids": torch.randint(0, 1000, (2, 5)), "past": past}


def _llama() -> tuple[Any, dict[str, Any]]:
    import torch

    from benchmarks.torch_models import Decoder

    model = Decoder(vocabulary=8000, width=512, heads=8, layers=4, hidden=1408, groups=2, rotary=True)
    past = torch.randn(4, 2, 2, 2, 7, 64)
    return model, {"ids": torch.randint(0, 1000, (2, 5)), "past": past}


def _whisper_encoder() -> tuple[Any, dict[str, Any]]:
    import torch

    from benchmarks.torch_models import SpeechEncoder

    return SpeechEncoder(mels=80, width=384, heads=6, layers=4), {"mels": torch.randn(2, 80, 120)}


def _whisper_decoder() -> tuple[Any, dict[str, Any]]:
    import torch

    from benchmarks.torch_models import SpeechDecoder

    model = SpeechDecoder(vocabulary=51865, width=384, heads=6, layers=4)
    return model, {"ids": torch.randint(0, 1000, (2, 5)), "audio": torch.randn(2, 60, 384)}


def _unet() -> tuple[Any, dict[str, Any]]:
    import torch

    from benchmarks.torch_models import UNet

    return UNet(3, 32, 2), {"x": torch.randn(2, 3, 96, 64)}


def _lstm() -> tuple[Any, dict[str, Any]]:
    import torch

    from benchmarks.torch_models import Tagger

    return Tagger(1000, 128, 256, 20), {"ids": torch.randint(0, 1000, (2, 9))}


_BATCH = {"x": {0: "batch"}}
_IMAGE = {"x": {0: "batch", 2: "h", 3: "w"}}
_DECODER = {"ids": {0: "batch", 1: "seq"}, "past": {2: "batch", 4: "before"}}

MODELS: dict[str, Export] = {
    spec.key: spec
    for spec in (
        Export("resnet50", "ResNet-50 (timm)", _timm("resnet50"), _IMAGE, ("y",)),
        Export("mobilenet", "MobileNet-v3 large (timm)", _timm("mobilenetv3_large_100"), _IMAGE, ("y",)),
        Export("efficientnet", "EfficientNet-b0 (timm)", _timm("efficientnet_b0"), _IMAGE, ("y",)),
        Export("convnext", "ConvNeXt-tiny (timm)", _timm("convnext_tiny"), _IMAGE, ("y",)),
        Export(
            "vit",
            "ViT-B/16, 4 of 12 layers (timm)",
            _timm("vit_base_patch16_224", depth=4),
            _BATCH,
            ("y",),
        ),
        Export("swin", "Swin-T (timm)", _timm("swin_tiny_patch4_window7_224"), _BATCH, ("y",)),
        Export("unet", "U-Net, 32 to 256 channels", _unet, _IMAGE, ("y",)),
        Export("lstm", "two bidirectional LSTM layers", _lstm, {"ids": {0: "batch", 1: "seq"}}, ("y",)),
        Export(
            "bert",
            "BERT-base (transformers), 4 of 12 layers",
            _bert,
            {"ids": {0: "batch", 1: "seq"}, "mask": {0: "batch", 1: "seq"}},
            ("hidden", "pooled"),
        ),
        Export(
            "gpt2",
            "GPT-2 small with key-value cache, 3 of 12 layers",
            _gpt2,
            _DECODER,
            ("logits", "present"),
        ),
        Export(
            "llama",
            "decoder with RMSNorm, rotary positions, grouped queries, key-value cache",
            _llama,
            _DECODER,
            ("logits", "present"),
        ),
        Export(
            "whisper_encoder",
            "Whisper-tiny's encoder",
            _whisper_encoder,
            {"mels": {0: "batch", 2: "frames"}},
            ("audio",),
        ),
        Export(
            "whisper_decoder",
            "Whisper-tiny's decoder",
            _whisper_decoder,
            {"ids": {0: "batch", 1: "seq"}, "audio": {0: "batch", 1: "positions"}},
            ("logits",),
        ),
    )
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """List the models, or export those named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"which to export, or all: {', '.join(MODELS)}")
    parser.add_argument("--exporter", choices=EXPORTERS, help="by default both")
    arguments = parser.parse_args(argv)
    if not arguments.models:
        for spec in MODELS.values():
            print(f"{spec.key:16} {spec.what}")
        return
    failed = False
    for key in MODELS if arguments.models == ["all"] else arguments.models:
        if key not in MODELS:
            sys.exit(f"error: unknown model '{key}'; known: {', '.join(MODELS)}")
        for exporter in (arguments.exporter,) if arguments.exporter else EXPORTERS:
            try:
                print(os.fspath(export(key, exporter)), flush=True)
            except Exception as error:  # an exporter may not take a model: say so, go on with the others
                failed = True
                print(f"{key}, {exporter}: {type(error).__name__}: {str(error)[:400]}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
