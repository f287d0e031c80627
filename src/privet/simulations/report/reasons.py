"""Why things that were asked of silos did not happen: failures, and refusals by their holders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from privet.simulations.pages.formatting import counted, in_rounds, shortened
from privet.simulations.report.curves import natural
from privet.simulations.report.run import Failure, Run

MOST = 50
"""At most this many different reasons are listed."""
LENGTH = 400
NAME_LENGTH = 60
NAMED = 6
"""At most this many silos are named for one reason."""

_REFUSED = "guard"
"""The stage at which a silo fails when its holder's rules do not allow what was asked."""


@dataclass(frozen=True)
class Reason:
    """One reason, `times` in all; `where` names silos and rounds."""

    text: str
    stage: str
    times: int
    where: str


@dataclass(frozen=True)
class Reasons:
    """The most frequent first; `left_out` more are in the history only."""

    listed: tuple[Reason, ...]
    left_out: int


def failures(run: Run) -> Reasons:
    """What went wrong, in training and elsewhere."""
    return _grouped(
        (number, failure) for number, failure in _all_failures(run) if failure.stage != _REFUSED
    )


def refusals(run: Run) -> Reasons:
    """What policies and budgets did not allow."""
    return _grouped((number, _general(refusal)) for number, refusal in _all_refusals(run))


def _all_failures(run: Run) -> Iterator[tuple[int, Failure]]:
    for entry in run.rounds:
        for failure in (*entry.failures, *(entry.measured.failures if entry.measured else ())):
            yield entry.number, failure


def _all_refusals(run: Run) -> Iterator[tuple[int, Failure]]:
    for entry in run.rounds:
        stage = "training" if entry.number else "enrolment"
        for silo, reason in entry.refused.items():
            yield entry.number, Failure(silo, stage, reason)
        for failure in entry.measured.failures if entry.measured else ():
            if failure.stage == _REFUSED:
                yield entry.number, Failure(failure.silo, "evaluation", failure.reason)


def _general(refusal: Failure) -> Failure:
    """Without the figures of this silo and round, which would make every reason another one."""
    rule, spent, _ = refusal.reason.partition("; spent so far")
    return Failure(refusal.silo, refusal.stage, rule if spent else refusal.reason)


def _grouped(found: Iterable[tuple[int, Failure]]) -> Reasons:
    """A row for each reason and stage."""
    groups: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, failure in found:
        groups[failure.reason, failure.stage][failure.silo].append(number)
    rows = [
        Reason(shortened(text, LENGTH), stage, sum(map(len, silos.values())), _where(silos))
        for (text, stage), silos in groups.items()
    ]
    ordered = sorted(rows, key=lambda row: -row.times)
    return Reasons(tuple(ordered[:MOST]), max(0, len(ordered) - MOST))


def _where(silos: Mapping[str, Sequence[int]]) -> str:
    ordered = sorted(silos, key=lambda silo: (-len(silos[silo]), natural(silo)))
    named = [f"{shortened(silo, NAME_LENGTH)} {_when(silos[silo])}" for silo in ordered[:NAMED]]
    more = len(ordered) - NAMED
    return "; ".join(named) + (f"; and {counted(more, 'silo')} more" if more > 0 else "")


def _when(rounds: Sequence[int]) -> str:
    told = in_rounds(rounds)
    return told if told.startswith("before") else f"in {told}"
