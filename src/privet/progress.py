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
        started = time.monotonic()
        yield lambda entry: print(_line(entry, rounds, started), flush=True)
    elif mode == "json":
        yield lambda entry: print(json.dumps(entry), flush=True)
    else:
        yield lambda _: None


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
    if entry["epsilon"] is not None:
        parts.append(f"epsilon {entry['epsilon']['max']:.3f}")
    missing = len(entry["failures"]) + len(entry["dropped"])
    if missing:
        parts.append(f"{missing} silo{'s' if missing > 1 else ''} missing")
    return "  ".join(parts)


def _line(entry: Mapping[str, Any], rounds: int, started: float) -> str:
    done = entry["round"]
    left = ""
    if 0 < done < rounds:
        seconds = (time.monotonic() - started) / done * (rounds - done)
        left = f"  {_duration(seconds)} left"
    return f"round {done:>{len(str(rounds))}}/{rounds}  {describe(entry)}{left}"


def _duration(seconds: float) -> str:
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
