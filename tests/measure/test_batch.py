"""From traces to measurements, and what candidates are run on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.measure.test_builder import candidate
from tests.measure.test_runner import TARGET, product
from tilewright.errors import ShapeError, TilewrightError
from tilewright.ir import te
from tilewright.ir.expr import Var, call
from tilewright.ir.stmt import PrimFunc
from tilewright.measure import Measurer, Plan, batch, data, make_data, parameters, random_inputs
from tilewright.measure.verdict import Judge
from tilewright.records import Workload
from tilewright.target import Target


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    with Measurer(TARGET, jobs=2) as made:
        made.set_workload(Workload.of(product()))
        yield made


def test_traces_become_measurements(measurer: Measurer) -> None:
    traces = [candidate(n).trace for n in range(1, 2 * batch.GROUP)]
    traces.insert(3, traces[0].replace("split", "splat"))
    found = dict(measurer.measure(traces))
    assert sorted(found) == list(range(len(traces)))
    bad = found.pop(3)
    assert (bad.status, bad.samples) == ("compile_error", ())
    assert "splat" in bad.error
    for measurement in found.values():
        assert measurement.status == "ok", measurement.error
        assert measurement.build_seconds > 0
        assert measurement.samples
        assert all(s.reference is not None for s in measurement.samples)
    assert measurer.noise.reference is not None
    assert measurer.noise.reference > 0


def test_finalists_race(measurer: Measurer) -> None:
    traces = [candidate(4).trace, "{", candidate(8).trace]
    finals = measurer.final(traces, Plan(turn_seconds=1e-4, max_rounds=4))
    assert finals.runners == (0, 2)
    assert finals.leader in (0, 2)
    assert [m.status for m in finals.measurements] == ["ok", "compile_error", "ok"]
    assert finals.difference(0, 2).rounds >= 3
    assert finals.measurements[2].samples == finals.race.samples[1] if finals.race else False


def test_a_race_of_none(measurer: Measurer) -> None:
    finals = measurer.final(["{"])
    assert (finals.leader, finals.runners) == (None, ())
    with pytest.raises(ValueError, match="no race"):
        finals.difference(0, 0)


def test_a_measurer_needs_a_workload() -> None:
    with Measurer(TARGET, jobs=1) as own:
        with pytest.raises(ValueError, match="needs a workload"):
            next(own.measure(["{"]))
        with pytest.raises(ValueError, match="needs a workload"):
            own.final(["{"])


def test_a_default_schedule_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(func: object, target: object) -> data.Data:
        right = make_data(product(), TARGET)
        return data.Data(right.params, right.inputs, (right.expected[0] + 1,), "interpreter", 1e-4, 0.0)

    monkeypatch.setattr(batch, "make_data", wrong)
    with Measurer(TARGET, jobs=1) as own, pytest.raises(TilewrightError, match=r"default schedule .* off by"):
        own.set_workload(Workload.of(product()))


def test_both_oracles_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted = make_data(product(), TARGET)
    monkeypatch.setattr(data, "INTERPRETED", 0)
    native = make_data(product(), TARGET)
    assert (interpreted.oracle, native.oracle) == ("interpreter", "native")
    np.testing.assert_allclose(native.expected[0], interpreted.expected[0], rtol=1e-4, atol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(native.inputs, interpreted.inputs, strict=True))


def test_functions_that_have_no_value_at_negative_numbers() -> None:
    x = te.placeholder((8, 16), "float32", "x")
    y = te.compute((8,), lambda i: te.reduce("sum", (16,), lambda k: call("log", [x[i, k]])), "y")
    found = make_data(te.primfunc("logs", [x], [y]), TARGET)
    assert np.isfinite(found.expected[0]).all()
    assert float(found.inputs[0].min()) > 0


def test_inputs_by_type() -> None:
    shapes = {"float32": (64,), "int8": (4096,), "int64": (64,), "bool": (64,)}
    inputs = [te.placeholder(shape, dtype, f"x_{dtype}") for dtype, shape in shapes.items()]
    y = te.compute((64,), lambda i: inputs[0][i], "y")
    found = random_inputs(te.primfunc("f", inputs, [y]))
    assert [str(a.dtype) for a in found] == list(shapes)
    assert float(found[0].min()) < 0 < float(found[0].max())
    assert (found[1].min(), found[1].max()) == (-128, 127)
    assert set(found[2].tolist()) == {0, 1}


def test_symbolic_shapes_have_no_data() -> None:
    n = Var("n", lo=1, typical=8)
    x = te.placeholder((n,), "float32", "x")
    y = te.compute((n,), lambda i: x[i], "y")
    with pytest.raises(ShapeError, match="symbolic"):
        make_data(te.primfunc("f", [x], [y]), TARGET)


@pytest.mark.parametrize(
    ("got", "status"),
    [
        ([1.0, 2.0, np.inf, np.nan], None),
        ([1.0, 2.0001, np.inf, np.nan], None),
        ([1.0, 2.1, np.inf, np.nan], "wrong_result"),
        ([1.0, 2.0, -np.inf, np.nan], "wrong_result"),
        ([1.0, np.nan, np.inf, np.nan], "not_finite"),
        ([1.0, 2.0, 3.0, np.nan], "not_finite"),
    ],
)
def test_verdicts_on_floats(got: list[float], status: str | None) -> None:
    x = te.placeholder((4,), "float32", "x")
    param = parameters(te.primfunc("f", [x], [te.compute((4,), lambda i: x[i], "y")]))[1:]
    judge = Judge(param, [np.array([1.0, 2.0, np.inf, np.nan], np.float32)], 1e-4)
    found = judge([np.array(got, np.float32)])
    assert (None if found is None else found[0]) == status


def test_verdicts_on_integers() -> None:
    x = te.placeholder((1000,), "int8", "x")
    param = parameters(te.primfunc("f", [x], [te.compute((1000,), lambda i: x[i], "y")]))[1:]
    expected = np.zeros(1000, np.int8)
    once, twice, far = expected.copy(), expected.copy(), expected.copy()
    once[0], twice[:2], far[0] = 1, 1, 2
    exact, rounded = Judge(param, [expected], 1e-4), Judge(param, [expected], 1e-4, off_by_one=1e-3)
    assert exact([expected]) is None
    assert exact([once]) == ("wrong_result", "'y' is off by 1, its scale is 0")
    assert rounded([once]) is None
    assert rounded([twice]) is not None
    assert rounded([far]) is not None


def test_tolerances_follow_the_coarsest_type() -> None:
    def tolerance(dtype: str, to: str) -> tuple[float, float]:
        x = te.placeholder((4,), dtype, "x")
        return data.tolerance(te.primfunc("f", [x], [te.compute((4,), lambda i: x[i].astype(to), "y")]))

    assert tolerance("float32", "float32") == (1e-4, 1e-3)
    assert tolerance("float32", "float16")[0] == pytest.approx(8 * 2**-10)
    assert tolerance("bfloat16", "float32")[0] == pytest.approx(8 * 2**-7)
    assert tolerance("int32", "int8") == (1e-4, 0.0)


def test_coming_back_to_a_workload_makes_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(func: PrimFunc, target: Target) -> data.Data:
        made.append(func.name)
        return make_data(func, target)

    monkeypatch.setattr(batch, "make_data", make)
    x = te.placeholder((64,), "float32", "x")
    other = te.primfunc("copied", [x], [te.compute((64,), lambda i: x[i] + 1.0, "y")])
    with Measurer(TARGET, jobs=1) as measurer:
        for func in (product(), other, product(), other, product()):
            measurer.set_workload(Workload.of(func))
        assert len(made) == 2
        ((_, found),) = measurer.measure([candidate(4).trace])
        assert found.status == "ok", found.error
        monkeypatch.setattr(batch, "KEPT", 0)
        measurer.set_workload(Workload.of(other))
        measurer.set_workload(Workload.of(product()))
    assert len(made) == 3
