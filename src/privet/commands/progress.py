"""What a person sees while rounds go by: a bar, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from privet.record.history import RoundRecord, Watch, look_away

Mode = Literal["bar", "lines", "json", "quiet"]


@contextmanager
def progress(mode: Mode, *, rounds: int) -> Iterator[Watch]:
    """A callback for every entry of the history while the context is open."""
    if mode == "bar":
        with _bar(rounds) as watch:
            yield watch
    elif mode == "lines":
        yield _Lines(rounds)
    elif mode == "json":
        yield lambda entry: print(entry.line(), flush=True)
    else:
        yield look_away


@contextmanager
def spinner(mode: Mode, what: str) -> Iterator[None]:
    """On a terminal, `what` is being done while the context is open; nothing stays behind."""
    if mode != "bar":
        yield
        return
    from rich.console import Console

    with Console().status(what):
        yield


def choose_mode(*, quiet: bool, as_json: bool) -> Mode:
    """A bar on a terminal and plain lines elsewhere, unless something else was asked for."""
    if quiet:
        return "quiet"
    if as_json:
        return "json"
    return "bar" if sys.stdout.isatty() else "lines"


class _Lines:
    """Plain lines with an estimate of the time left, from the rounds since the first line."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._first: tuple[int, float] | None = None

    def __call__(self, entry: RoundRecord) -> None:
        done, now = entry.round, time.monotonic()
        left = ""
        # The first one tells no pace: it is of the enrolment, or a round that an earlier start ran.
        if self._first is None:
            self._first = done, now
        elif done < self._rounds:
            pace = (now - self._first[1]) / (done - self._first[0])
            left = f"  {duration(pace * (self._rounds - done))} left"
        number = f"{done:>{len(str(self._rounds))}}/{self._rounds}"
        print(f"round {number}  {entry.describe()}{left}", flush=True)


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds.

    >>> duration(75)
    '1m15s'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


@contextmanager
def _bar(rounds: int) -> Iterator[Watch]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        expand=True,
    ) as bar:
        task = bar.add_task("starting", total=rounds)
        yield lambda entry: bar.update(task, completed=entry.round, description=entry.describe())
