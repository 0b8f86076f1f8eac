"""What a person sees of a session: one screen that is kept up to date, or plain lines where there is none."""

from __future__ import annotations

import collections
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

from tilewright.tune.budget import duration
from tilewright.tune.events import Baseline, Began, Ended, Event, Measured, Noted, Raced, Visited

if TYPE_CHECKING:
    from rich.console import Group

#: Tasks on the screen, those with the largest share of the model's time.
ROWS: Final = 16
#: Seconds between plain lines about progress.
EVERY: Final = 5.0
#: Messages that stay on the screen.
NOTES: Final = 3


class Summary:
    """The state of a session, put together from its events."""

    def __init__(self) -> None:
        self.began: Began | None = None
        self.tasks: dict[str, Baseline] = {}
        self.seconds: dict[str, float] = {}
        self.trials: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.last: Visited | None = None
        self.active = ""
        self.at = 0.0
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        self.at = event.at
        if isinstance(event, Began):
            self.began = event
        elif isinstance(event, Baseline):
            self.tasks[event.task] = event
            if event.seconds is not None:
                self.seconds[event.task] = event.seconds
        elif isinstance(event, Measured):
            self.active = event.task
            self.trials[event.task] += event.trial
            self.failures[event.status] += event.status != "ok"
        elif isinstance(event, Raced):
            self.seconds[event.task] = event.seconds
        elif isinstance(event, Visited):
            self.last = event
        elif isinstance(event, Noted):
            self.notes.append(event.message)

    @property
    def projected(self) -> tuple[float, float]:
        """Seconds of all kernels one after the other: now, and at the beginning."""
        known = [t for t in self.tasks.values() if t.seconds is not None]
        now = sum(t.occurrences * self.seconds[t.task] for t in known)
        return now, sum(t.occurrences * t.seconds for t in known if t.seconds is not None)

    def line(self) -> str:
        """The state in one line."""
        now, before = self.projected
        gain = f", {before / now:.3f}x of the beginning's speed" if now else ""
        count = sum(self.trials.values())
        failed = ", ".join(f"{n} {status}" for status, n in sorted(self.failures.items()) if n)
        parts = [
            f"{duration(self.at)}: {len(self.tasks)}/{self.began.tasks if self.began else 0} tasks known",
            f"{count} measured ({count / max(self.at, 1e-9):.1f}/s)",
            f"kernels {now * 1e3:.3f} ms{gain}",
        ]
        if failed:
            parts.append(f"failed: {failed}")
        if self.left is not None:
            parts.append(f"{duration(self.left)} left")
        return "; ".join(parts)

    @property
    def left(self) -> float | None:
        """Seconds that are left of the budget, by how it was used up so far; None: not known."""
        if self.began is None:
            return None
        if self.began.budget is not None:
            return max(self.began.budget - self.at, 0.0)
        used = None if self.last is None else self.last.spent_budget
        return self.at * (1 - used) / used if used else None


class PlainView:
    """Lines of text: the beginning, progress now and then, notes, the end. A listener; use it in ``with``."""

    def __init__(self, out: TextIO | None = None, every: float = EVERY) -> None:
        self._out, self._every, self._next = out or sys.stderr, every, 0.0
        self.summary = Summary()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, event: Event) -> None:
        self.summary(event)
        if isinstance(event, Began):
            self._say(f"tuning {event.model or 'a model'}: {event.tasks} tasks, records go to {event.store}")
        elif isinstance(event, Noted):
            self._say(event.message)
        elif isinstance(event, Baseline) and event.error:
            self._say(f"{event.label} is not tuned: {event.error}")
        elif isinstance(event, Ended) or event.at >= self._next:
            self._say(self.summary.line())
            self._next = event.at + self._every

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class LiveView:
    """One screen by rich, drawn a few times a second. A listener; use it in ``with``."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.summary = Summary()
        console = Console(stderr=True, highlight=False)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        self.summary(event)

    def _render(self) -> Group:
        return render(self.summary)


def render(summary: Summary) -> Group:
    """The screen: tasks with the largest shares, the whole, the budget."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="ellipsis", no_wrap=True, max_width=44)
    for title in ("runs", "share", "best ms", "speed-up", "measured"):
        table.add_column(title, justify="right")
    now, _ = summary.projected
    known = [t for t in summary.tasks.values() if t.seconds is not None]
    known.sort(key=lambda t: -t.occurrences * summary.seconds[t.task])
    for task in known[:ROWS]:
        seconds = summary.seconds[task.task]
        gain = (task.seconds or seconds) / seconds
        share = task.occurrences * seconds / now if now else 0.0
        style = "bold" if task.task == summary.active else ""
        row = [task.label, str(task.occurrences), f"{share:.1%}", f"{seconds * 1e3:.4f}", f"{gain:.2f}x"]
        table.add_row(*row, str(summary.trials[task.task]), style=style)
    parts: list[Any] = [table]
    if len(known) > ROWS:
        parts.append(Text(f"… and {len(known) - ROWS} smaller ones"))
    parts.append(Text(summary.line(), style="green"))
    if summary.began is not None and summary.began.budget is not None:
        parts.append(ProgressBar(total=summary.began.budget, completed=min(summary.at, summary.began.budget)))
    parts += [Text(note) for note in summary.notes[-NOTES:]]
    return Group(*parts)
