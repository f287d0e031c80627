"""A run folder as a page reads it, whole or interrupted, whatever is in it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privet.errors import DataError
from privet.files import read_file
from privet.record.history import RoundRecord, headline_of, mended_rounds
from privet.record.run import (
    HeldRecords,
    LedgerReading,
    Run,
    read_books,
    read_rules,
    read_sealing,
)
from privet.record.schema import clean
from privet.record.summary import SUMMARY, ClaimedEpsilon, RunSummary, SpentSeconds, seconds_in


def read_run(folder: Path) -> Run:
    """Read a run folder, whole or interrupted.

    Raises:
        DataError: `experiment.toml` is missing, or a file other than the last line of
            `history.jsonl` cannot be parsed.
    """
    text = _file(folder, "experiment.toml")
    if text is None:
        raise DataError(f"{folder} is not a run folder: experiment.toml is missing")
    settings = _parse_toml(folder, text)
    held = HeldRecords.mended(_parse_json(folder, "silos.json"))
    told = _parse_json(folder, SUMMARY)
    rounds, books = mended_rounds(folder), read_books(folder)
    summary = RunSummary.mended(told) if told else None
    last = summary or (rounds[-1] if rounds else None)
    return Run(
        settings=settings,
        settings_text=text,
        silos=tuple(held.silos),
        labels=tuple(held.labels or ()),
        test_records=held.test_records,
        notes=tuple(held.notes),
        rounds=rounds,
        finished=summary is not None,
        stopped=summary.stopped.reason if summary and summary.stopped else None,
        accuracy=last.accuracy if last else None,
        loss=last.loss if last else None,
        guarantee=_of_known(summary.epsilon) if summary else _spent_so_far(rounds, settings, books),
        sealing=read_sealing(settings, told.get("encryption")),
        seconds=summary.seconds if summary else _seconds_so_far(rounds),
        client_updates=summary.client_updates
        if summary
        else sum(len(entry.updated) for entry in rounds),
        client_updates_per_second=summary.client_updates_per_second if summary else None,
        books=books,
        rules=read_rules(folder),
        job=_job(_parse_json(folder, "job.json")),
        first_rounds=held.first_rounds,
        chosen=summary.validation if summary else None,
        model=summary.model if summary else None,
        computed=summary.computed if summary else None,
        metric=headline_of(rounds),
        metrics=last.metrics if last else {},
        declared=tuple(each.metric for each in summary.declared) if summary else (),
        baselines=summary.baselines if summary else {},
        pictures=summary.pictures if summary else None,
    )


def _job(told: Mapping[str, Any]) -> str | None:
    """The job that the folder was fetched from, in words."""
    if not told:
        return None
    return (
        f"job {clean(told.get('id'))} of project {clean(told.get('project'))}, asked for by "
        + clean(told.get("requester"))
    )


def _file(folder: Path, name: str) -> str | None:
    try:
        return read_file(folder / name).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{folder / name} cannot be read: {error.strerror}") from error


def _parse_toml(folder: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{folder / 'experiment.toml'} is not TOML: {error}") from error


def _parse_json(folder: Path, name: str) -> dict[str, Any]:
    text = _file(folder, name)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{folder / name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{folder / name} holds {type(found).__name__}; an object is expected")
    return found


def _seconds_so_far(rounds: tuple[RoundRecord, ...]) -> SpentSeconds:
    """What `summary.json` would have said had the run ended with its last whole round."""
    parts = SpentSeconds.model_fields
    return SpentSeconds.model_validate({part: seconds_in(part, rounds) for part in parts})


def _spent_so_far(
    rounds: tuple[RoundRecord, ...], settings: Mapping[str, Any], books: LedgerReading | None
) -> ClaimedEpsilon | None:
    """Epsilon by the last round that has one; what a silo keeps to itself, its ledger knows."""
    last = next((entry for entry in reversed(rounds) if entry.silo_epsilon or entry.kept), None)
    if last is None or last.epsilon is None:
        return None
    found = ClaimedEpsilon.mended({**_privacy(settings), "accountant": "pld"})
    known = {s: books.spent(s, delta=found.delta) if books else None for s in last.kept}
    per_silo = {**last.silo_epsilon, **{k: v for k, v in known.items() if v is not None}}
    whole = last.kept <= per_silo.keys()
    largest = max(per_silo.values()) if last.kept and whole else last.epsilon.max
    return found.model_copy(update={"max": largest, "per_silo": per_silo})


def _of_known(found: ClaimedEpsilon | None) -> ClaimedEpsilon | None:
    """Of the silos whose epsilon is known."""
    if found is None:
        return None
    known = {silo: value for silo, value in found.per_silo.items() if value is not None}
    return found.model_copy(update={"per_silo": known})


def _privacy(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    found = settings.get("privacy")
    return {"unit": "record", **(found if isinstance(found, Mapping) else {})}
