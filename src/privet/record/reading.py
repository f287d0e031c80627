"""A run folder, read into frozen records.

The files may have been written by a process that was killed, and names and reasons come from silos:
numbers may be missing, NaN or infinite, and text may hold anything.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privet.errors import DataError
from privet.files import read_file
from privet.privacy.ledger.entries import canonical
from privet.record.run import (
    CrossCheckFigures,
    Guarantee,
    LedgerReading,
    RecordedFailure,
    RoundRecord,
    Run,
    SiloEvaluation,
    SiloRecord,
    clean,
    count,
    counts,
    dicts,
    names,
    number,
    numbers,
    read_books,
    read_rules,
    read_sealing,
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
        silos=tuple(_silo(entry) for entry in dicts(held.get("silos"))),
        labels=tuple(clean(label) for label in held.get("labels") or ()),
        test_records=count(held.get("test_records")),
        notes=tuple(str(note) for note in held.get("notes") or ()),
        rounds=rounds,
        finished=bool(summary),
        stopped=_stopped(summary.get("stopped")),
        accuracy=number(outcome.get("accuracy")),
        loss=number(outcome.get("loss")),
        guarantee=_guarantee(spent, settings),
        sealing=read_sealing(settings, outcome.get("encryption")),
        seconds=numbers(outcome.get("seconds")),
        client_updates=count(outcome.get("client_updates")) or 0,
        client_updates_per_second=number(outcome.get("client_updates_per_second")),
        books=books,
        rules=read_rules(folder),
        job=_job(_parse_json(folder, "job.json")),
    )


def _job(told: Mapping[str, Any]) -> str | None:
    """The job that the folder was fetched from, in words."""
    if not told:
        return None
    return (
        f"job {clean(told.get('id'))} of project {clean(told.get('project'))}, asked for by "
        + str(clean(told.get("requester")))
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


def _read_history(folder: Path) -> tuple[RoundRecord, ...]:
    """The rounds in order; of a round that was run twice (after a resume) the later line counts."""
    lines = (_file(folder, "history.jsonl") or "").split("\n")
    found: dict[int, RoundRecord] = {}
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


def _round(line: Mapping[str, Any]) -> RoundRecord:
    spent, moved = line.get("epsilon") or {}, line.get("bytes") or {}
    accuracies = {
        name: scores.get("accuracy") for name, scores in (line.get("per_silo") or {}).items()
    }
    return RoundRecord(
        number=int(line["round"]),
        loss=number(line.get("loss")),
        accuracy=number(line.get("accuracy")),
        silo_accuracy=numbers(accuracies),
        participants=names(line.get("participants")),
        dropped=names(line.get("dropped")),
        failures=tuple(_failure(entry) for entry in dicts(line.get("failures"))),
        refused={clean(k): clean(v) for k, v in (line.get("refused") or {}).items()},
        affordable=counts(line.get("affordable")),
        events=None if line.get("events") is None else _events(line["events"]),
        measured=_measured(line["evaluation"]) if line.get("evaluation") else None,
        epsilon=number(spent.get("max")),
        silo_epsilon=numbers(spent.get("per_silo")),
        kept=frozenset(clean(k) for k, v in (spent.get("per_silo") or {}).items() if v is None),
        bytes_down=count(moved.get("down")) or 0,
        bytes_up=count(moved.get("up")) or 0,
        seconds=numbers(line.get("seconds")),
        skipped=clean(line["skipped"]) if line.get("skipped") else None,
    )


def _measured(found: Mapping[str, Any]) -> SiloEvaluation:
    return SiloEvaluation(
        means=numbers(found.get("metrics")),
        per_silo={clean(k): numbers(v) for k, v in (found.get("per_silo") or {}).items()},
        released={
            clean(silo): {clean(name): clean(how) for name, how in (ways or {}).items()}
            for silo, ways in (found.get("released") or {}).items()
        },
        events=_events(found.get("events") or {}),
        failures=tuple(_failure(entry) for entry in dicts(found.get("failures"))),
    )


def _events(found: Mapping[str, Any]) -> dict[str, str | None]:
    """By silo, in the one spelling that the ledger uses; None stays None."""
    return {
        clean(silo): None if event is None else canonical(event).decode()
        for silo, event in found.items()
    }


def _failure(entry: Mapping[str, Any]) -> RecordedFailure:
    silo, stage, reason = (clean(entry.get(key, "unknown")) for key in ("silo", "stage", "reason"))
    return RecordedFailure(silo=silo, stage=stage, reason=reason)


def _silo(entry: Mapping[str, Any]) -> SiloRecord:
    labels = entry.get("labels")
    return SiloRecord(
        name=clean(entry.get("name")),
        records=count(entry.get("records")) or 0,
        labels=None if labels is None else {clean(k): count(v) or 0 for k, v in labels.items()},
        sampling_rate=number(entry.get("sampling_rate")),
        steps_per_round=count(entry.get("steps_per_round")),
        noise_multiplier=number(entry.get("noise_multiplier")),
    )


def _outcome_so_far(rounds: tuple[RoundRecord, ...]) -> dict[str, Any]:
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
    rounds: tuple[RoundRecord, ...], settings: Mapping[str, Any], books: LedgerReading | None
) -> dict[str, Any] | None:
    """Epsilon by the last round that has one; what a silo keeps to itself, its ledger knows."""
    last = next((entry for entry in reversed(rounds) if entry.silo_epsilon or entry.kept), None)
    if last is None:
        return None
    delta = number((settings.get("privacy") or {}).get("delta"))
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
        epsilon=number(found.get("max")),
        per_silo=numbers(found.get("per_silo")),
        delta=number(found.get("delta", privacy.get("delta"))),
        accountant=clean(found.get("accountant") or "pld"),
        checks=_checks(found.get("cross_checks")),
    )


def _checks(found: Mapping[str, Any] | None) -> CrossCheckFigures | None:
    if not found:
        return None
    return CrossCheckFigures(
        rdp=number(found.get("rdp")),
        prv=number(found.get("prv")),
        agree=found.get("agree") is True,
        problems=tuple(clean(problem) for problem in found.get("problems") or ()),
        notes=tuple(clean(note) for note in found.get("notes") or ()),
    )
