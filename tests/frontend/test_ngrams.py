from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import tilewright as tw
from tests.frontend.models import INT64, model, value
from tilewright.errors import GraphError, UnsupportedError

rng = np.random.default_rng(4)

#: Four single numbers, three pairs, two triples.
POOL: dict[str, Any] = {
    "pool_int64s": [1, 2, 3, 7, 1, 2, 2, 2, 3, 1, 1, 2, 3, 2, 2, 2],
    "ngram_counts": [0, 4, 10],
    "ngram_indexes": list(range(9)),
    "min_gram_length": 1,
    "max_gram_length": 3,
    "max_skip_count": 0,
    "mode": "TF",
}


def counting(shape: list[int | str], kind: int = INT64, **attrs: Any) -> onnx.ModelProto:
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **{**POOL, **attrs})
    return model([node], [value("x", shape, kind)], [value("y", None)], opset=9)


def agree(x: np.ndarray, kind: int = INT64, **attrs: Any) -> np.ndarray:
    proto = counting(list(x.shape), kind, **attrs)
    want = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    with tw.compile(proto, threads=1) as compiled:
        got = compiled.run({"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    return np.asarray(got)


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 3), (2, 3)])
def test_lengths_and_skips(shortest: int, longest: int, skip: int) -> None:
    x = rng.integers(0, 4, (3, 11))
    lengths = {"min_gram_length": shortest, "max_gram_length": longest, "max_skip_count": skip}
    assert agree(x, **lengths).any()


def test_one_row_of_narrow_integers() -> None:
    x = rng.integers(0, 4, 11).astype(np.int32)
    assert agree(x, TensorProto.INT32, max_skip_count=1).shape == (9,)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("places", [[8, 0, 1, 7, 2, 6, 3, 5, 4], [0, 0, 3, 3, 3, 1, 8, 1, 6]])
def test_modes_weights_and_places(mode: str, weighted: bool, places: list[int]) -> None:
    weights = {"weights": [0.5 + n / 4 for n in range(9)]} if weighted else {}
    if mode == "IDF" and weighted and len(set(places)) < len(places):
        with pytest.raises(UnsupportedError, match="different weights in one place"):
            tw.compile(counting([2, 9], mode=mode, ngram_indexes=places, **weights), threads=1)
        return
    agree(rng.integers(0, 4, (2, 9)), mode=mode, ngram_indexes=places, max_skip_count=2, **weights)


def test_rows_shorter_than_n_grams() -> None:
    assert not agree(np.array([[2], [1]]), min_gram_length=2).any()


def test_a_batch_of_open_size() -> None:
    with tw.compile(counting(["n", 6]), threads=1, dims={"n": (1, 5)}) as compiled:
        for n in (1, 5):
            x = rng.integers(0, 4, (n, 6))
            with tw.compile(counting([n, 6]), threads=1) as fixed:
                np.testing.assert_array_equal(compiled.run({"x": x})["y"], fixed.run({"x": x})["y"])


@pytest.mark.parametrize(
    ("attrs", "error", "message"),
    [
        ({"mode": "LOG"}, GraphError, "mode 'LOG' is not defined"),
        ({"ngram_indexes": [0, 1]}, GraphError, "2 places for 9 n-grams"),
        ({"ngram_indexes": [-1] * 9}, GraphError, "must hold places"),
        ({"ngram_counts": [0, 4, 9]}, GraphError, "do not fit a pool of 16 elements"),
        ({"min_gram_length": 4, "max_gram_length": 4}, GraphError, "n-grams of 4 to 4 elements"),
        ({"mode": "IDF", "weights": [1.0]}, GraphError, "1 weights for 9 n-grams"),
        ({"pool_int64s": None, "pool_strings": ["a"]}, UnsupportedError, "n-grams of texts"),
    ],
)
def test_what_does_not_fit(attrs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tw.compile(counting([2, 6], **attrs), threads=1)


def test_inputs_that_are_no_rows() -> None:
    with pytest.raises(GraphError, match="a row or a batch of rows"):
        tw.compile(counting([2, 2, 2]), threads=1)
    with pytest.raises(UnsupportedError, match="rows of open length"):
        tw.compile(counting([2, "n"]), threads=1, dims={"n": (1, 5)})
