"""A run folder, read into frozen records.

The files may have been written by a process that was killed, and names and reasons come from silos:
numbers may be missing, NaN or infinite, and text may hold anything.
"""

from __future__ import annotations

import json
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from privet.errors import DataError
from privet.privacy.ledger.entries import canonical
from privet.simulations.report.books import Books, read_books
from privet.simulations.report.rules import read_rules
from privet.simulations.report.run import (
    CrossChecks,
    Failure,
    Guarantee,
    Measured,
    Round,
    Run,
    Silo,
)


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
    held = _parse_json(folder, "silos.json")
    summary = _parse_json(folder, "summary.json")
    rounds = _read_history(folder)
    books = read_books(folder)
    outcome = summary or _outcome_so_far(rounds)
    spent = outcome.get("epsilon") if summary else _spent_so_far(rounds, settings, books)
    return Run(
        settings=settings,
        settings_text=text,
        silos=tuple(_silo(entry) for entry in _dicts(held.get("silos"))),
        labels=tuple(clean(label) for label in held.get("labels") or ()),
        test_records=_count(held.get("test_records")),
        notes=tuple(str(note) for note in held.get("notes") or ()),
        rounds=rounds,
        finished=bool(summary),
        stopped=_stopped(summary.get("stopped")),
        accuracy=_number(outcome.get("accuracy")),
        loss=_number(outcome.get("loss")),
        guarantee=_guarantee(spent, settings),
        encryption=outcome.get("encryption"),
        seconds=_numbers(outcome.get("seconds")),
        client_updates=_count(outcome.get("client_updates")) or 0,
        client_updates_per_second=_number(outcome.get("client_updates_per_second")),
        books=books,
        rules=read_rules(folder),
    )


def clean(value: object) -> str:
    """`value` as text that can be shown and encoded: no control characters, no lone surrogates."""
    text = str(value).replace("\n", " ").replace("\t", " ")
    bad = {character for character in set(text) if unicodedata.category(character) in ("Cc", "Cs")}
    return text.translate({ord(character): "\N{REPLACEMENT CHARACTER}" for character in bad})


def _file(folder: Path, name: str) -> str | None:
    try:
        return (folder / name).read_text(encoding="utf-8", errors="replace")
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


def _read_history(folder: Path) -> tuple[Round, ...]:
    """The rounds in order; of a round that was run twice (after a resume) the later line counts."""
    lines = (_file(folder, "history.jsonl") or "").split("\n")
    found: dict[int, Round] = {}
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            entry = _round(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if index == len(lines) - 1:  # killed while writing: only an unended line can be torn
                break
            where = f"{folder / 'history.jsonl'}, line {index + 1}"
            raise DataError(f"{where}, is not a round: {error}") from error
        found[entry.number] = entry
    return tuple(found[number] for number in sorted(found))


def _round(line: Mapping[str, Any]) -> Round:
    spent, moved = line.get("epsilon") or {}, line.get("bytes") or {}
    accuracies = {
        name: scores.get("accuracy") for name, scores in (line.get("per_silo") or {}).items()
    }
    return Round(
        number=int(line["round"]),
        loss=_number(line.get("loss")),
        accuracy=_number(line.get("accuracy")),
        silo_accuracy=_numbers(accuracies),
        participants=_names(line.get("participants")),
        dropped=_names(line.get("dropped")),
        failures=tuple(_failure(entry) for entry in _dicts(line.get("failures"))),
        refused={clean(k): clean(v) for k, v in (line.get("refused") or {}).items()},
        affordable=_counts(line.get("affordable")),
        events=None if line.get("events") is None else _events(line["events"]),
        measured=_measured(line["evaluation"]) if line.get("evaluation") else None,
        epsilon=_number(spent.get("max")),
        silo_epsilon=_numbers(spent.get("per_silo")),
        kept=frozenset(clean(k) for k, v in (spent.get("per_silo") or {}).items() if v is None),
        bytes_down=_count(moved.get("down")) or 0,
        bytes_up=_count(moved.get("up")) or 0,
        seconds=_numbers(line.get("seconds")),
        skipped=clean(line["skipped"]) if line.get("skipped") else None,
    )


def _measured(found: Mapping[str, Any]) -> Measured:
    return Measured(
        means=_numbers(found.get("metrics")),
        per_silo={clean(k): _numbers(v) for k, v in (found.get("per_silo") or {}).items()},
        released={
            clean(silo): {clean(name): clean(how) for name, how in (ways or {}).items()}
            for silo, ways in (found.get("released") or {}).items()
        },
        events=_events(found.get("events") or {}),
        failures=tuple(_failure(entry) for entry in _dicts(found.get("failures"))),
    )


def _events(found: Mapping[str, Any]) -> dict[str, str | None]:
    """By silo, in the one spelling that the ledger uses; None stays None."""
    return {
        clean(silo): None if event is None else canonical(event).decode()
        for silo, event in found.items()
    }


def _failure(entry: Mapping[str, Any]) -> Failure:
    silo, stage, reason = (clean(entry.get(key, "unknown")) for key in ("silo", "stage", "reason"))
    return Failure(silo=silo, stage=stage, reason=reason)


def _silo(entry: Mapping[str, Any]) -> Silo:
    labels = entry.get("labels")
    return Silo(
        name=clean(entry.get("name")),
        records=_count(entry.get("records")) or 0,
        labels=None if labels is None else {clean(k): _count(v) or 0 for k, v in labels.items()},
        sampling_rate=_number(entry.get("sampling_rate")),
        steps_per_round=_count(entry.get("steps_per_round")),
        noise_multiplier=_number(entry.get("noise_multiplier")),
    )


def _outcome_so_far(rounds: tuple[Round, ...]) -> dict[str, Any]:
    """What `summary.json` would have said had the run ended with its last whole round."""
    if not rounds:
        return {}
    stages = {stage for entry in rounds for stage in entry.seconds}
    return {
        "accuracy": rounds[-1].accuracy,
        "loss": rounds[-1].loss,
        "seconds": {key: sum(entry.seconds.get(key, 0) for entry in rounds) for key in stages},
        "client_updates": sum(len(entry.arrived) for entry in rounds),
    }


def _spent_so_far(
    rounds: tuple[Round, ...], settings: Mapping[str, Any], books: Books | None
) -> dict[str, Any] | None:
    """Epsilon by the last round that has one; what a silo keeps to itself, its ledger knows."""
    last = next((entry for entry in reversed(rounds) if entry.silo_epsilon or entry.kept), None)
    if last is None:
        return None
    delta = _number((settings.get("privacy") or {}).get("delta"))
    known = {silo: books.spent(silo, delta=delta) if books else None for silo in last.kept}
    per_silo = {**last.silo_epsilon, **{k: v for k, v in known.items() if v is not None}}
    whole = last.kept <= per_silo.keys()
    largest = max(per_silo.values()) if last.kept and whole else last.epsilon
    return {"max": largest, "per_silo": per_silo}


def _stopped(found: object) -> str | None:
    if not isinstance(found, Mapping):
        return None
    return clean(found.get("reason") or "no reason was recorded")


def _guarantee(found: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Guarantee | None:
    if not found:
        return None
    privacy = settings.get("privacy") or {}
    return Guarantee(
        unit=clean(found.get("unit") or privacy.get("unit") or "record"),
        epsilon=_number(found.get("max")),
        per_silo=_numbers(found.get("per_silo")),
        delta=_number(found.get("delta", privacy.get("delta"))),
        accountant=clean(found.get("accountant") or "pld"),
        checks=_checks(found.get("cross_checks")),
    )


def _checks(found: Mapping[str, Any] | None) -> CrossChecks | None:
    if not found:
        return None
    return CrossChecks(
        rdp=_number(found.get("rdp")),
        prv=_number(found.get("prv")),
        agree=found.get("agree") is True,
        problems=tuple(clean(problem) for problem in found.get("problems") or ()),
        notes=tuple(clean(note) for note in found.get("notes") or ()),
    )


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _numbers(found: Mapping[str, object] | None) -> dict[str, float]:
    read = {clean(name): _number(value) for name, value in (found or {}).items()}
    return {name: value for name, value in read.items() if value is not None}


def _counts(found: Mapping[str, object] | None) -> dict[str, int]:
    read = {clean(name): _count(value) for name, value in (found or {}).items()}
    return {name: value for name, value in read.items() if value is not None}


def _names(found: Iterable[object] | None) -> frozenset[str]:
    return frozenset(clean(name) for name in found or ())


def _dicts(found: object) -> list[dict[str, Any]]:
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
