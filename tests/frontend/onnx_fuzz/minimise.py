"""A smaller model that fails in the same way, and a file that repeats it."""

from __future__ import annotations

import base64
import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from tests.frontend.onnx_fuzz.campaign import Finding, Settings, try_cases

_TEMPLATE = '''"""{signature}

Found by python -m tests.frontend.fuzz_onnx (case {number}). From the root of the repository: python {file}
"""

import base64
import tempfile
from pathlib import Path

from tests.frontend.onnx_fuzz.attempt import attempt, compare_with_peer
from tests.frontend.onnx_fuzz.hostile import make_folder

DATA = base64.b64decode("""
{data}
""")

with tempfile.TemporaryDirectory() as root:
    path = make_folder(Path(root)) / "model.onnx"
    path.write_bytes(DATA)
    outcome = attempt({source}, run={run}, seconds=60)
    found = compare_with_peer(DATA, outcome) if outcome.kind == "ran" else None
    print((found or outcome).kind, (found or outcome).signature, (found or outcome).detail, sep="\\n")
'''


def minimise(finding: Finding, settings: Settings, seconds: float = 60) -> Finding:
    """The smallest found within ``seconds`` by leaving out parts; as given when it does not parse."""
    wanted = finding.outcome.signature
    if wanted.startswith("wrong"):
        return finding
    end = time.monotonic() + seconds
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(finding.case.data)
    except DecodeError:
        return finding
    best = finding
    shrinking = True
    while shrinking and time.monotonic() < end:
        shrinking = False
        for smaller in _smaller(proto):
            case = dataclasses.replace(best.case, data=smaller.SerializeToString())
            ((_, outcome),) = try_cases([case], settings)
            if outcome.kind == "finding" and outcome.signature == wanted:
                best, proto, shrinking = Finding(case, outcome), smaller, True
                break
            if time.monotonic() > end:
                break
    return best


def _smaller(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Copies of the model that lack one item of a list or one field, large ones first."""
    places = list(_places(proto, ()))
    for path, name, index in sorted(places, key=lambda place: len(place[0])):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        message: Any = copy
        for field, item in path:
            message = getattr(message, field) if item is None else getattr(message, field)[item]
        if index is None:
            message.ClearField(name)
        else:
            del getattr(message, name)[index]
        yield copy


def _places(message: Message, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str, int | None]]:
    for field, value in message.ListFields():
        inner = isinstance(value, Message)
        if inner or not hasattr(value, "__len__") or isinstance(value, str | bytes):
            yield path, field.name, None
            if inner:
                yield from _places(value, (*path, (field.name, None)))
            continue
        for index, item in enumerate(value):
            yield path, field.name, index
            if isinstance(item, Message):
                yield from _places(item, (*path, (field.name, index)))


def write_repro(finding: Finding, folder: Path) -> Path:
    """A Python file that repeats the finding; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "_", finding.outcome.signature).strip("_")[:60]
    path = folder / f"onnx_{name}_{finding.case.number}.py"
    text = base64.encodebytes(finding.case.data).decode().strip()
    source = "path" if finding.case.kind == "external" else "DATA"
    path.write_text(
        _TEMPLATE.format(
            signature=finding.outcome.signature.replace("\\", "/"),
            number=finding.case.number,
            file=path,
            data=text,
            source=source,
            run=finding.case.run,
        )
    )
    return path
