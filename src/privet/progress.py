"""What a person sees while rounds go by: a bar, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

Mode = Literal["bar", "lines", "json", "quiet"]
Watch = Callable[[Mapping[str, Any]], None]


@contextmanager
def progress(mode: Mode, *, rounds: int) -> Iterator[Watch]:
    """A callback for every entry of the history while the context is open."""
    if mode == "bar":
        with _bar(rounds) as watch:
            yield watch
    elif mode == "lines":
        yield _Lines(rounds)
    elif mode == "json":
        yield lambda entry: print(json.dumps(entry), flush=True)
    else:
        yield lambda _: None


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


def describe(entry: Mapping[str, Any]) -> str:
    """Loss, accuracy and epsilon of a round, as far as there are such."""
    parts = []
    if entry["loss"] is not None:
        parts.append(f"loss {entry['loss']:.4f}")
    if entry["accuracy"] is not None:
        parts.append(f"accuracy {entry['accuracy']:.4f}")
    measured = (entry["evaluation"] or {}).get("metrics", {}).get("accuracy")
    if measured is not None:
        parts.append(f"on silos' records {measured:.4f}")
    if entry["epsilon"] is not None and entry["epsilon"]["max"] is not None:
        parts.append(f"epsilon {entry['epsilon']['max']:.3f}")
    if entry["refused"]:
        parts.append(f"{len(entry['refused'])} refused")
    missing = len(entry["failures"]) + len(entry["dropped"])
    if missing:
        parts.append(f"{missing} silo{'s' if missing > 1 else ''} missing")
    return "  ".join(parts)


class _Lines:
    """Plain lines with an estimate of the time left, from the rounds since the first line."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._first: tuple[int, float] | None = None

    def __call__(self, entry: Mapping[str, Any]) -> None:
        done, now = entry["round"], time.monotonic()
        left = ""
        if self._first is None:
            self._first = done, now
        elif done < self._rounds:
            pace = (now - self._first[1]) / (done - self._first[0])
            left = f"  {duration(pace * (self._rounds - done))} left"
        number = f"{done:>{len(str(self._rounds))}}/{self._rounds}"
        print(f"round {number}  {describe(entry)}{left}", flush=True)


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
        yield lambda entry: bar.update(task, completed=entry["round"], description=describe(entry))
