"""Do ledgers and history tell of the same rounds, and the summary of the same history?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from privet.audits.claims import Claim, judged, unknown
from privet.audits.evidence import Evidence, JobLedger
from privet.audits.ledgers import SIMULATION, files_named
from privet.privacy.ledger import Charge
from privet.privacy.ledger.history import CLOCK_TOLERANCE, moment
from privet.record.folder import digests_of
from privet.record.history import RoundRecord
from privet.record.summary import ClaimedEpsilon, RunSummary, chosen_model, last_evaluation
from privet.server.choosing import best_of

_ROUNDING = 1e-9


def claims(run: Evidence) -> Iterator[Claim]:
    """That the record of a run is whole and of one piece."""
    yield by_ledgers(
        run,
        "record.complete",
        "Every round in which a silo took part is in its ledger, and every entry of the job has "
        "its round.",
        complete,
    )
    yield by_ledgers(
        run,
        "record.times",
        "Entries of a job follow its rounds, and none took longer than its round.",
        times,
    )
    yield _of_summary(run)
    yield _of_files(run)


Findings = Iterator[tuple[bool, str]]
"""Whether it is a fault, and in words."""


def by_ledgers(
    run: Evidence,
    id_: str,
    statement: str,
    check: Callable[[Evidence, str, JobLedger], Findings],
) -> Claim:
    """The claim that `check` finds no fault at any silo; unknown where a ledger is missing."""
    faults: list[str] = []
    notes: list[str] = []
    for silo in run.silos:
        ledger = run.ledger(silo)
        for is_fault, text in check(run, silo, ledger) if ledger else ():
            (faults if is_fault else notes).append(text)
    missing = [silo for silo in run.silos if run.ledger(silo) is None]
    if missing and not faults:
        why = f"no ledger that can be relied on was given for {', '.join(missing[:5])}"
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return unknown(id_, run.subject, statement, why + more)
    return judged(id_, run.subject, statement, faults=faults, notes=notes)


def used_records(line: RoundRecord, silo: str, use: str) -> bool:
    """Whether the history says that the silo used its records in this round, at a cost."""
    if use == "training":
        return silo in line.participants or silo in (line.events or {})
    return line.evaluation is not None and silo in line.evaluation.events


def complete(run: Evidence, silo: str, ledger: JobLedger) -> Findings:
    """In both directions, round by round."""
    for line in run.lines:
        for use in ("training", "evaluation"):
            if used_records(line, silo, use) and not ledger.of(use, line.round):
                yield (
                    True,
                    f"{silo}, round {line.round}: took part in {use}, and has no entry of it",
                )
    for charge in ledger.charges:
        yield from _of_charge(run, silo, charge)
    for line in run.lines:
        found = len(ledger.of("training", line.round))
        if found > 1:
            yield False, f"{silo}, round {line.round}: charged {found} times, it was run again"


def _of_charge(run: Evidence, silo: str, charge: Charge) -> Findings:
    number, use = charge.reserve.round or 0, charge.use
    place = f"{silo}, round {number}: entry {charge.reserve.sequence} ({use})"
    line = _line(run, charge)
    if charge.open:
        yield False, f"{place} was reserved and never committed: interrupted, charged in full"
    elif line is not None and used_records(line, silo, use):
        return
    elif line is None and run.summary is None and number >= len(run.lines):
        yield False, f"{place} is of a round that the run was interrupted in"
    elif line is not None and _lost(line, silo, use):
        yield False, f"{place}: the reply did not arrive, or could not be used"
    else:
        yield True, f"{place} is committed, and the history knows nothing of it"


def _lost(line: RoundRecord, silo: str, use: str) -> bool:
    failures = line.failures
    if use == "evaluation":
        failures = line.evaluation.failures if line.evaluation else []
    return any(failure.silo == silo for failure in failures)


def times(run: Evidence, silo: str, ledger: JobLedger) -> Findings:
    """Entries in the order of rounds, and reservations that end within their round."""
    before: Charge | None = None
    for charge in ledger.charges:
        number = charge.reserve.round or 0
        place = f"{silo}, round {number}: entry {charge.reserve.sequence}"
        if before is not None and number < (before.reserve.round or 0):
            yield True, f"{place} comes behind one of round {before.reserve.round}"
        elif before is not None and _apart(before, charge) > _longest(run, before, charge):
            yield False, f"{place} comes late: the run was interrupted, or a clock jumped"
        before = charge
        end = ledger.ends.get(charge.reserve.sequence)
        line = _line(run, charge)
        if end is None or line is None or not used_records(line, silo, charge.use):
            continue
        took = moment(end) - moment(charge.reserve.time)
        if not -CLOCK_TOLERANCE <= took <= _longest(run, charge, charge):
            yield True, f"{place} took {took.total_seconds():.0f} s, longer than its round"


def _line(run: Evidence, charge: Charge) -> RoundRecord | None:
    number = charge.reserve.round or 0
    return run.lines[number] if 0 < number < len(run.lines) else None


def _apart(one: Charge, other: Charge) -> timedelta:
    return moment(other.reserve.time) - moment(one.reserve.time)


def _longest(run: Evidence, first: Charge, last: Charge) -> timedelta:
    """What may lie between two entries of these rounds: the rounds' time, by the history."""
    lines = run.lines[first.reserve.round or 0 : (last.reserve.round or 0) + 1]
    return timedelta(seconds=min(1e9, sum(map(_round_seconds, lines)))) + CLOCK_TOLERANCE


def _round_seconds(line: RoundRecord) -> float:
    total = line.seconds.total
    return total if total is not None and 0 <= total < 1e9 else 1e9


def _of_summary(run: Evidence) -> Claim:
    statement = "The summary says what the history says."
    if run.summary is None:
        last = run.lines[-1].round if run.lines else 0
        why = f"there is no summary: the run was interrupted after round {last}"
        return unknown("record.summary", run.subject, statement, why)
    claimed = run.summary.model_dump()
    faults = [
        f"{key}: it does not follow from the history"
        for key, expected in _expected(run, run.summary).items()
        if not _same(claimed[key], expected)
    ]
    faults += _epsilon_faults(run, run.summary.epsilon)
    return judged("record.summary", run.subject, statement, faults=faults)


def _of_files(run: Evidence) -> Claim:
    """Against the digests behind the last charge: an edited file, one more, or one less."""
    statement = "The files of the run are those that its ledger names at its end."
    signed = _signed_files(run) if run.summary is not None else None
    if signed is None:
        why = "its ledger names no files: of a job, an interrupted run, or an earlier version"
        return unknown("record.files", run.subject, statement, why, decisive=False)
    found = digests_of(run.folder)
    faults = [
        f"{name}: {'it is not there' if name not in found else 'it is another file'}"
        for name, digest in signed.items()
        if found.get(name) != digest
    ]
    faults += [f"{name}: it was not there" for name in found if name not in signed]
    return judged("record.files", run.subject, statement, faults=faults)


def _signed_files(run: Evidence) -> dict[str, str] | None:
    for ledger in (run.ledgers or {}).values():
        if ledger.job == SIMULATION:
            return files_named(ledger.account.entries)
    return None


def _expected(run: Evidence, summary: RunSummary) -> dict[str, Any]:
    """What a summary takes over from settings and history."""
    last, settings = run.lines[-1], run.settings
    evaluation = last_evaluation(run.lines)
    reason = summary.stopped.reason if summary.stopped else ""
    measured = {"accuracy": last.accuracy, "loss": last.loss, "metrics": last.metrics}
    if settings.validation is not None and summary.validation is not None:
        # The lines are of validation; test records were looked at afterwards, and once.
        best = chosen_model(best_of(run.lines), records=summary.validation.records)
        measured = {"validation": best.model_dump()}
    return {
        "task": settings.task,
        "rounds": settings.rounds,
        "seed": settings.seed,
        **measured,
        "evaluation": evaluation.model_dump() if evaluation else None,
        "start": settings.start.model_dump(exclude={"file"}) if settings.start else None,
        "stopped": {"round": last.round, "reason": reason}
        if last.round < settings.rounds
        else None,
        "client_updates": sum(len(line.participants) for line in run.lines),
    }


def _epsilon_faults(run: Evidence, claimed: ClaimedEpsilon | None) -> Iterator[str]:
    """Epsilon of the summary is the last round's, but where silos keep their accounts."""
    spent = run.lines[-1].epsilon
    if spent is None or claimed is None:
        if claimed is not None or spent is not None:
            yield "epsilon: it does not follow from the history"
        return
    for silo, known in spent.per_silo.items():
        if known is not None and not _same(claimed.per_silo.get(silo), known):
            yield f"epsilon of {silo}: it does not follow from the history"
    if claimed.per_silo.keys() != spent.per_silo.keys():
        yield "epsilon: it is of other silos than the history"
    if spent.max is not None and not _same(claimed.max, spent.max):
        yield "epsilon: the largest is not that of the history"
    if not _same(claimed.delta, run.delta) or claimed.unit != "record":
        yield "epsilon: its delta or its unit is not that of the settings"


def _same(found: object, expected: object) -> bool:
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(_same(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, float) and isinstance(found, int | float):
        both_nan = math.isnan(found) and math.isnan(expected)
        return both_nan or math.isclose(found, expected, rel_tol=_ROUNDING)
    return type(found) is type(expected) and found == expected
