"""Budgets as people write them."""

from __future__ import annotations

import pytest

from tilewright.errors import OptionError
from tilewright.tune.budget import duration, parse_budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("90s", 90),
        ("1h30m", 5400),
        ("0.5m", 30),
        ("45", 45),
        (12, 12),
        (1.5, 1.5),
        ("2 min", 120),
    ],
)
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "five", "5x", "-3s", "0", "0s", 0, -1, float("nan"), float("inf"), "1m30"]
)
def test_what_is_no_time(text):
    with pytest.raises(OptionError, match="is no time") as caught:
        parse_budget(text)
    assert "5m" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2s"), (42, "42s"), (75.2, "1m15s"), (3660, "1h01m"), (59.96, "60s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
