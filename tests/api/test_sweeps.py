"""Real models, each compiled once for ranges of sizes and compared with onnxruntime at many (slow), and what
judges them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import exports, sweeps


@pytest.mark.slow
@pytest.mark.parametrize("sweep", sweeps.ZOO, ids=lambda sweep: sweep.key)
def test_zoo_at_all_sizes(sweep: sweeps.Sweep) -> None:
    compiled = sweeps.Compiled(sweep)
    assert len(compiled.model.artifact.variants) == 1
    wrong = {str(sizes): found for sizes in sweep.sizes if (found := compiled.differences(sizes))}
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("sweep", sweeps.export_sweeps(), ids=lambda sweep: sweep.key)
def test_exports_at_all_sizes(sweep: sweeps.Sweep) -> None:
    try:
        sweep.path()
    except exports.ExportError as error:
        pytest.skip(str(error))
    compiled = sweeps.Compiled(sweep)
    wrong = {str(sizes): found for sizes in sweep.sizes if (found := compiled.differences(sizes))}
    assert not wrong


def test_sizes_lie_within_the_ranges() -> None:
    for sweep in (*sweeps.ZOO, *sweeps.export_sweeps()):
        for sizes in (*sweep.sizes, *sweep.timed):
            assert set(sizes) == set(sweep.dims), sweep.key
            for name, size in sizes.items():
                dim = sweeps.tw.Dim.of(sweep.dims[name])
                assert dim.lo <= size <= dim.hi, f"{sweep.key}: {name}"
                assert size % dim.multiple_of == 0, f"{sweep.key}: {name}"


def test_judges_see_what_the_task_sees() -> None:
    scores = np.zeros((1, 2, 3), np.float32)
    scores[0, :, 1] = 1
    other = scores.copy()
    other[0, 1] = (2, 1, 0)
    assert not sweeps.same_text({"y": scores}, {"y": 1.1 * scores})
    assert "1 of 2" in sweeps.same_text({"y": scores}, {"y": other})
    assert not sweeps.same_probabilities({"p": scores}, {"p": scores + np.float32(1e-5)})
    assert "differ" in sweeps.same_probabilities({"p": scores}, {"p": scores * np.nan})


def test_an_export_that_is_not_there_is_explained() -> None:
    with pytest.raises(exports.ExportError, match=r"python -m benchmarks\.exports nothing"):
        exports.path_of("nothing", "dynamo")
