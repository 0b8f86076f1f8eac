"""Random programs through the whole kernel path. ``make fuzz`` goes on without end."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.harness import check
from tests.kernels.programs import Case
from tests.kernels.strategies import cases
from tilewright.target import Target

HOST = Target.host()
PRESETS = ("x86-64-v3", "x86-64-v4")
TARGETS = [n for n in PRESETS if HOST.arch == "x86_64" and Target.parse(n).vector_bits <= HOST.vector_bits]


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from([*TARGETS, "native"]))
def test_native_code_computes_the_same(case: Case, target: str) -> None:
    check(case, [target], [target])


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from(PRESETS))
def test_schedules_and_lowering_keep_meaning(case: Case, target: str) -> None:
    check(case, [target], [])
