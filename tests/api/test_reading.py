"""Text read from images by two models in turn, detection and recognition, each compiled once for ranges of
sizes: the same text as with onnxruntime, and the one that is there (slow)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime
import pytest

import tilewright as tw
from benchmarks import zoo

Run = Callable[[np.ndarray], np.ndarray]

#: Rows of 5x7 dots, the leftmost one the highest bit.
GLYPHS = {
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14), "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12), "A": (14, 17, 17, 31, 17, 17, 17), "E": (31, 16, 16, 30, 16, 16, 31),
    "H": (17, 17, 17, 31, 17, 17, 17), "L": (16, 16, 16, 16, 16, 16, 31), "N": (17, 25, 25, 21, 19, 19, 17),
    "T": (31, 4, 4, 4, 4, 4, 4),
}  # fmt: skip


def line(text: str, scale: int) -> np.ndarray:
    """Dark characters on white, ``[7 * scale, 6 * scale * len(text)]``, softened as print is."""
    dots = np.zeros((7, 6 * len(text)))
    for n, character in enumerate(text):
        rows = np.array(GLYPHS[character])
        dots[:, 6 * n : 6 * n + 5] = rows[:, None] >> np.arange(4, -1, -1) & 1
    ink = np.kron(dots, np.ones((scale, scale)))
    for _ in range(scale // 2):
        padded = np.pad(ink, 1, mode="edge")
        shifted = [padded[i : i + ink.shape[0], j : j + ink.shape[1]] for i in range(3) for j in range(3)]
        ink = np.mean(shifted, axis=0)
    return np.asarray(255 * (1 - ink))


def page(height: int, width: int, lines: list[tuple[str, int]]) -> np.ndarray:
    """A white page with lines of characters below each other, float64[height, width] from 0 to 255."""
    image, top = np.full((height, width), 255.0), 24
    for text, scale in lines:
        drawn = line(text, scale)
        image[top : top + drawn.shape[0], 24 : 24 + drawn.shape[1]] = drawn
        top += drawn.shape[0] + 36
    return image


def runs(there: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where a vector of flags is True: starts and ends."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], there.astype(np.int8), [0]])))
    yield from zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)


def stretched(image: np.ndarray, height: int) -> np.ndarray:
    """The image in another height and the same proportions, linear between pixels."""
    width = round(image.shape[1] * height / image.shape[0])
    rows = np.linspace(0, image.shape[0] - 1, height)
    columns = np.linspace(0, image.shape[1] - 1, width)
    across = np.array([np.interp(columns, np.arange(image.shape[1]), row) for row in image])
    return np.array([np.interp(rows, np.arange(image.shape[0]), column) for column in across.T]).T


def normalised(image: np.ndarray) -> np.ndarray:
    """Three equal channels from -1 to 1, ``[1, 3, height, width]`` float32."""
    return np.repeat(image[None, None] / 127.5 - 1, 3, axis=1).astype(np.float32)


def read(image: np.ndarray, detect: Run, recognise: Run) -> list[list[int]]:
    """The lines of a page from top to bottom, each as indices of characters."""
    found = detect(normalised(image))[0, 0] > 0.3
    texts = []
    for top, bottom in runs(found.any(1)):
        columns = np.flatnonzero(found[top:bottom].any(0))
        margin = (bottom - top) // 2  # the detector marks the core of a line
        rows = slice(max(top - margin, 0), bottom + margin)
        box = image[rows, max(columns[0] - margin, 0) : columns[-1] + 1 + margin]
        best = recognise(normalised(stretched(box, 48)))[0].argmax(-1)
        kept = np.concatenate([[True], best[1:] != best[:-1]]) & (best > 0)
        texts.append(best[kept].tolist())
    return texts


@pytest.mark.slow
def test_text_is_read_from_pages_of_any_size() -> None:
    sizes = {"h": tw.Dim(32, 640, multiple_of=32), "w": tw.Dim(32, 640, multiple_of=32)}
    paths = [zoo.fetch(key) for key in ("det", "rec")]
    models = [
        tw.compile(paths[0], shapes={"x": (1, 3, "h", "w")}, dims=sizes),
        tw.compile(paths[1], shapes={"x": (1, 3, 48, "w")}, dims={"w": (16, 1280)}),
    ]
    sessions = [onnxruntime.InferenceSession(path) for path in paths]
    characters = sessions[1].get_modelmeta().custom_metadata_map["character"].splitlines()
    pages = [
        (192, 352, [("2026", 5), ("31415", 4)]),
        (256, 512, [("TEETH", 6), ("90210", 5)]),
        (320, 640, [("TALENT", 7), ("123456789", 6)]),
        (96, 256, [("LATE", 5)]),
    ]
    for height, width, lines in pages:
        image = page(height, width, lines)
        ours = read(image, *((lambda x, m=m: m(x)[0]) for m in models))
        theirs = read(image, *((lambda x, s=s: s.run(None, {"x": x})[0]) for s in sessions))
        assert ours == theirs
        texts = ["".join(characters[n - 1] for n in text) for text in ours]
        assert texts == [text for text, _ in lines]
    assert all(len(model.artifact.variants) == 1 and not model.compilations for model in models)
