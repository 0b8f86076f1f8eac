"""What a person sees of a session."""

from __future__ import annotations

import io

from rich.console import Console

from tilewright.tune.events import Baseline, Began, Ended, Event, EventLog, Measured, Noted, Raced, Visited
from tilewright.tune.view import LiveView, PlainView, Summary, render

EVENTS: list[Event] = [
    Began(0.0, "m.onnx", "/store", "cpu", "e" * 32, "1", 2, "evolutionary", "draft", 60.0, None, 2, ()),
    Baseline(1.0, "a", "conv2d", "conv2d (first, …)", 3, 2e-3, 2e-3, 0, ""),
    Baseline(2.0, "b", "softmax", "softmax (last)", 1, None, None, 0, "its default schedule fails"),
    Measured(2.5, "a", "r", "default", "ok", 2e-3, 1.0, "", 0.1, trial=False),
    Measured(3.0, "a", "s", "search", "ok", 1e-3, 0.5, "", 0.1),
    Measured(4.0, "a", "t", "search", "crash", None, None, "it died", 0.1),
    Raced(5.0, "a", ("r", "s"), "s", 0.5, 0.01, 0.01, 0.0, 1e-3),
    Visited(6.0, "a", 3.0, 1e-3, 3e-3, 6e-3, 2, 0.1, False),
    Noted(7.0, "[a note]"),
    Ended(8.0, "budget", 2, {"crash": 1}, 3e-3, 6e-3),
]


def test_plain_lines_tell_the_beginning_progress_failures_and_the_end():
    out = io.StringIO()
    with PlainView(out, every=100) as view:
        for event in EVENTS:
            view(event)
    lines = out.getvalue().splitlines()
    assert lines[0] == "tuning m.onnx: 2 tasks, records go to /store"
    assert "softmax (last) is not tuned: its default schedule fails" in lines
    assert "[a note]" in lines
    assert "2 measured" in lines[-1]
    assert "kernels 3.000 ms, 2.000x of the beginning's speed" in lines[-1]
    assert "failed: 1 crash" in lines[-1]
    assert "52s left" in lines[-1]


def test_the_screen_has_each_task_the_whole_and_notes():
    summary = Summary()
    for event in EVENTS:
        summary(event)
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(render(summary))
    text = console.export_text()
    assert "conv2d (first, …)" in text
    assert "2.00x" in text
    assert "100.0%" in text
    assert "[a note]" in text


def test_what_is_left_of_trials_is_estimated():
    summary = Summary()
    for event in (Began(0.0, "m", "s", "d", "e", "1", 1, "r", "n", None, 20, 1, ()),
                  Visited(6.0, "a", 3.0, 1.0, 1.0, 1.0, 5, 0.25, False)):  # fmt: skip
        summary(event)
    assert summary.left == 18.0


def test_the_live_view_takes_all_events():
    with LiveView() as view:
        for event in EVENTS:
            view(event)
    assert view.summary.projected == (3e-3, 6e-3)


def test_a_log_that_cannot_be_opened(tmp_path):
    import pytest

    from tilewright.errors import OptionError

    with pytest.raises(OptionError, match="the log of events cannot be written"):
        EventLog(tmp_path / "no" / "such" / "folder.jsonl")
