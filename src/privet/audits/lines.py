"""A run's history and summary, read without leniency.

An auditor cannot vouch for what he does not know, so an unknown key, a missing one, a key that is
there twice and a number of another kind are faults here, where the report would go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from privet.errors import DataError
from privet.files import read_file

HISTORY, SUMMARY = "history.jsonl", "summary.json"

Name = str
Count = Annotated[int, Field(ge=0)]
Figures = dict[Name, float]
Events = dict[Name, dict[str, Any] | None]
Fields = dict[Name, dict[str, Count]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Failed(_Strict):
    """Why something that was asked of a silo did not happen."""

    silo: str
    stage: str
    reason: str


class Spent(_Strict):
    """Epsilon so far, as it was claimed; None where the silo keeps its account."""

    max: float | None
    per_silo: dict[Name, float | None]


class EvaluationLine(_Strict):
    """An evaluation on the silos' own records."""

    metrics: Figures
    per_silo: dict[Name, Figures]
    released: dict[Name, dict[str, str]]
    events: Events
    failures: list[Failed]
    arrived: Fields | None = None


class HistoryLine(_Strict):
    """One round, as the server wrote it down."""

    round: Count
    loss: float | None
    accuracy: float | None
    metrics: Figures
    per_silo: dict[Name, Figures] | None
    participants: list[Name]
    failures: list[Failed]
    refused: dict[Name, str]
    dropped: list[Name]
    arrived: Fields | None = None
    """None: written by a version that did not count what arrived."""
    evaluation: EvaluationLine | None
    events: Events | None
    bytes: dict[str, Count]
    seconds: Figures
    epsilon: Spent | None
    affordable: dict[Name, Count] | None = None
    skipped: str | None = None

    @property
    def silos(self) -> set[str]:
        """Every silo that the line names as one that used its records."""
        measured = self.evaluation.events if self.evaluation else {}
        return {*self.participants, *(self.events or {}), *measured}


_LINE = TypeAdapter(HistoryLine)


def read_lines(folder: Path, *, finished: bool) -> tuple[HistoryLine, ...]:
    """The rounds of a run, from round 0 on.

    DataError, with the line, for what the server would not write. A last line without its end is
    left out where the run is not `finished`: it was interrupted there.
    """
    text = _text(folder / HISTORY)
    lines = text.split("\n")
    torn = lines.pop()  # nothing, after a whole line
    if finished and (torn or not lines):
        raise DataError(f"{HISTORY}: its last line has no end, and the run is said to be finished")
    found = tuple(_line(line, number) for number, line in enumerate(lines, start=1))
    for expected, line in enumerate(found):
        if line.round != expected:
            raise DataError(f"{HISTORY}, line {expected + 1}: round {line.round}, not {expected}")
    return found


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What `summary.json` says; None where there is none. DataError when it is no JSON object."""
    if not (folder / SUMMARY).exists():
        return None
    found = _parsed(_text(folder / SUMMARY), SUMMARY)
    if not isinstance(found, dict):
        raise DataError(f"{SUMMARY}: it is no JSON object")
    return found


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8")
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path.name}: it is not UTF-8") from None


def _line(text: str, number: int) -> HistoryLine:
    where = f"{HISTORY}, line {number}"
    try:
        return _LINE.validate_python(_parsed(text, where))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {key}: {first['msg']}") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}") from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        found[key] = value
    return found
