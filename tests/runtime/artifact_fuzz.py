"""Hostile artifacts: ``python -m tests.runtime.artifact_fuzz``.

A good file with bits flipped, cut off, padded, its parts moved, the numbers of its zip directory replaced, or
the manifest edited and signed anew. Loading it, linking its code and running it with the arrays that its
signature asks for may only end in success or in one clear error. Code and references to memory are not
forged where a checksum could not tell: an artifact is native code, and who may write it may do anything.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.runtime.programs import model
from tilewright.errors import TilewrightError
from tilewright.runtime.artifact import MANIFEST, WEIGHTS, Artifact, _add
from tilewright.runtime.model import Executable

#: Longest message that counts as clear.
MAX_MESSAGE: Final = 1500
_NUMBERS: Final = (
    0,
    1,
    -1,
    2,
    7,
    63,
    64,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
)
_VALUES: Final = (*_NUMBERS, 10**30, 0.5, "", "x", "n", "../x", "\0", None, True, [], {}, [[]], {"a": 1})


def damaged(rng: random.Random, good: bytes) -> bytes:
    """A hostile file made from a good one."""
    return rng.choice(_DAMAGES)(rng, bytearray(good))


def attempt(path: Path) -> str:
    """What becomes of the file: ``ran``, or the class of a clear error. Raises whatever else happens."""
    try:
        artifact = Artifact.load(path, verify_weights=True)
        with Executable(artifact) as executable:
            sizes = {name: max(limits.lo, 1) for name, limits in artifact.signature.dims.items()}
            for variant in artifact.variants:
                sizes.update(variant.binding)
            executable.run(
                {s.name: np.ones(_shape(s.shape, sizes), s.dtype) for s in artifact.signature.inputs}
            )
    except TilewrightError as error:
        text = str(error)
        if not error.message or len(text) > MAX_MESSAGE or not text.replace("\n", "").isprintable():
            raise RuntimeError(f"a message that is not clear: {text!r}") from error
        return type(error).__name__
    return "ran"


def _shape(shape: Sequence[int | str], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(min(sizes.get(d, 1) if isinstance(d, str) else d, 1 << 10) for d in shape)


def _flip(rng: random.Random, data: bytearray) -> bytes:
    """A few bits: anywhere, or in the directory at the end."""
    low = rng.choice((0, len(data) - 600))
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(low, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(rng: random.Random, data: bytearray) -> bytes:
    """The beginning, the end, or all but a piece of it."""
    at, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return bytes(rng.choice((data[:at], data[at:], data[:at] + data[end:])))


def _pad(rng: random.Random, data: bytearray) -> bytes:
    """Something before, behind, or instead of a piece."""
    piece = rng.choice((bytes(64), rng.randbytes(100), bytes(data[-300:]), bytes(data)))
    at = rng.choice((0, len(data), rng.randrange(len(data))))
    return bytes(data[:at] + piece + data[at + rng.choice((0, len(piece))) :])


def _number(rng: random.Random, data: bytearray) -> bytes:
    """A field of two, four or eight bytes becomes an interesting number, near a header of the archive."""
    places = [i for i in range(len(data) - 3) if data[i : i + 2] == b"PK"]
    at, width = rng.choice(places) + rng.randrange(4, 50), rng.choice((2, 4, 8))
    if at + width > len(data):
        return bytes(data)
    data[at : at + width] = (rng.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(data)


def _members(rng: random.Random, data: bytearray) -> bytes:
    """The archive written again: members gone, doubled, compressed, empty, under other names, misaligned."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(written, "w") as target:
        names = source.namelist()
        victim, kind = rng.choice(names), rng.randrange(6)
        for name in names:
            content = source.read(name)
            if name != victim or kind == 5:
                _add(target, name, content, rng.choice((64, 4096)) if kind == 5 else 64)
            elif kind == 1:
                target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            elif kind == 2:
                _add(target, name, b"", 64)
            elif kind == 3:
                _add(
                    target,
                    rng.choice(("../" + name, name.upper(), "", name + "\n", rng.choice(names))),
                    content,
                    64,
                )
            elif kind == 4:
                _add(target, name, content, 1)
                target.writestr(zipfile.ZipInfo(name), rng.choice((content, b"", b"{}")))
    return written.getvalue()


def _manifest(rng: random.Random, data: bytearray) -> bytes:
    """Values of the manifest replaced, and everything signed anew; what code takes for granted stays."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(written, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == MANIFEST:
                manifest = json.loads(content)
                for _ in range(rng.choice((1, 1, 3))):
                    _edit(rng, manifest)
                content = rng.choice((json.dumps(manifest), "[" * 3000, "9" * 5000, "{")).encode()
            _add(target, name, content, 4096 if name == WEIGHTS else 64)
    return written.getvalue()


#: What forged numbers could make good code do wrong, which no reader can see.
_TRUSTED: Final = (
    "arena_bytes",
    "operands",
    "workspace",
    "bytes",
    "size",
    "defines",
    "input_shapes",
    "entry",
)


def _edit(rng: random.Random, manifest: dict[str, Any]) -> None:
    node: Any = manifest
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        keys = [k for k in keys if k not in _TRUSTED and k != "shape"]
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.75:
            node = node[key]
            continue
        if rng.random() < 0.15:
            del node[key]
        else:
            node[key] = rng.choice(_VALUES)
        return


_DAMAGES: Final[tuple[Callable[[random.Random, bytearray], bytes], ...]] = (
    _flip, _flip, _cut, _pad, _number, _number, _members, _manifest, _manifest,
)  # fmt: skip


def run(numbers: Sequence[int], folder: Path) -> tuple[Counter[str], list[str]]:
    """Try files; returns how often which outcome came, and what must not happen, in words."""
    good = folder / "good.tw"
    model().save(good)
    data, path = good.read_bytes(), folder / "bad.tw"
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    for number in numbers:
        path.unlink(missing_ok=True)  # what is mapped must not change
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's, about members of one name
            path.write_bytes(damaged(random.Random(number), data))
        try:
            outcomes[attempt(path)] += 1
        except Exception:
            findings.append(f"file {number}: {traceback.format_exc()}")
    return outcomes, findings


def main(argv: Sequence[str] | None = None) -> int:
    """Try files until there are enough; 1 when there were findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.runtime.artifact_fuzz", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, default=10_000, help="number of files")
    options = parser.parse_args(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, findings = run(range(options.first, options.first + options.count), Path(folder))
    for finding in findings:
        print(finding)
    seconds = time.monotonic() - began
    print(f"{options.count} files in {seconds:.0f} s: {dict(outcomes)}; {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
