"""Who took part in which round, who fell away, and who refused.

Why things that were asked of silos did not happen: failures, and refusals by their holders.

Rounds of an encrypted run that came to nothing, and silos that had no part in its keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from privet.charts.formatting import counted, in_rounds, listed, shortened
from privet.charts.lines import SIDE, hover
from privet.charts.scales import Tick, nice_ticks
from privet.record.run import DECRYPT_STAGE, KEYS_STAGE, RecordedFailure, RoundRecord, Run
from privet.reports.run.curves import in_order, natural

VOID_LENGTH = 200
REASONS = 3
"""At most this many reasons stand in the notice; every one is told with who took part."""


@dataclass(frozen=True)
class Void:
    """Rounds that are void for one reason; `silos` could not open the model that they were sent."""

    reason: str
    rounds: tuple[int, ...]
    silos: tuple[str, ...]

    @property
    def text(self) -> str:
        """Which rounds, why, and what became of the model."""
        told = (
            f"{_capital(in_rounds(self.rounds))} {'was' if len(self.rounds) == 1 else 'were'} void:"
            f" {self.reason}. What arrived then is not in the model."
        )
        if not self.silos:
            return told
        return (
            f"{told} The sum that could not be opened was given up, and with it the updates of the "
            f"round that made it. Who reported it: {listed(self.silos)}."
        )


def is_void(run: Run, entry: RoundRecord) -> bool:
    """Whether a round's sum could not be opened, or would not have been."""
    return run.sealing is not None and entry.skipped is not None


def voids(run: Run) -> tuple[Void, ...]:
    """One for each reason, in the order of their first rounds."""
    found: dict[str, list[RoundRecord]] = defaultdict(list)
    for entry in run.trained:
        if is_void(run, entry):
            found[shortened(entry.skipped or "", VOID_LENGTH)].append(entry)
    return tuple(
        Void(reason, tuple(each.number for each in rounds), _could_not_open(run, rounds))
        for reason, rounds in found.items()
    )


def notices(run: Run) -> Iterator[str]:
    """What of it must be known before anything else on the page is read."""
    found = voids(run)
    if found:
        yield _void_notice(run, found)
    without = _keyless(run)
    if without:
        named = listed([f"{shortened(s, 60)} in {in_rounds(n)}" for s, n in without.items()])
        yield f"A step with keys or masks failed at {counted(len(without), 'silo')}: {named}."
    clipped = run.sealing.outcome.clipped if run.sealing and run.sealing.outcome else 0
    if clipped:
        yield (
            f"Encryption cut off {counted(clipped, 'value')} that its encoding has no room for, so "
            "sums are not those of the updates."
        )


def _void_notice(run: Run, found: Sequence[Void]) -> str:
    numbers = [number for each in found for number in each.rounds]
    verb = "was" if len(numbers) == 1 else "were"
    why = "; ".join(each.reason for each in found[:REASONS])
    more = f"; and {counted(len(found) - REASONS, 'more reason')}" if len(found) > REASONS else ""
    paid = (
        " Silos whose update arrived were charged all the same." if run.section("privacy") else ""
    )
    return (
        f"{len(numbers):,} of {counted(len(run.trained), 'round')} {verb} void, because a sum "
        f"could not be opened ({in_rounds(numbers)}): {why}{more}.{paid}"
    )


def _could_not_open(run: Run, rounds: Sequence[RoundRecord]) -> tuple[str, ...]:
    failures = (failure for entry in rounds for failure in entry.failures)
    return tuple(in_order(run, (f.silo for f in failures if f.stage == DECRYPT_STAGE)))


def _keyless(run: Run) -> dict[str, list[int]]:
    """By silo, the rounds in which a step with keys or masks failed at it."""
    found: dict[str, list[int]] = defaultdict(list)
    for entry in run.trained:
        for failure in entry.failures:
            if failure.stage == KEYS_STAGE:
                found[failure.silo].append(entry.number)
    return {silo: found[silo] for silo in in_order(run, found)}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


ROWS = 30
"""Up to this many silos get a row each; more are counted by round."""

STATES = (
    "took part",
    "sent in vain",
    "failed",
    "refused",
    "dropped out",
    "not drawn",
    "did not enrol",
)
_TOOK, _VOID, _FAILED, _REFUSED, _DROPPED, _NOT_DRAWN, _NOT_ENROLLED = range(len(STATES))
_CLASSES = ("took", "void", "failed", "refused", "dropped", "absent", "out")
# (top, height) within a row. Together with the style sheet, which draws "refused" and "did not
# enrol" as frames, the states differ in shape as well as in colour.
_SHAPES = (
    (0.08, 0.84),
    (0.08, 0.3),
    (0.08, 0.84),
    (0.14, 0.72),
    (0.54, 0.38),
    (0.46, 0.08),
    (0.24, 0.52),
)
_ASKED = (_TOOK, _VOID, _FAILED, _REFUSED, _DROPPED)


@dataclass(frozen=True)
class StatePath:
    """All cells of one state, as one path."""

    state: str
    style: str
    path: str


@dataclass(frozen=True)
class Attendance:
    """`rows` names the silos of the grid, top to bottom; empty when rounds are only counted."""

    summary: str
    complete: bool
    rows: tuple[str, ...]
    marks: tuple[StatePath, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    hover: str
    budgets: str | None
    """Whose budget had no room for all rounds, if any silo said so before the first."""


def attendance(run: Run) -> Attendance | None:
    """Who took part, round by round; None before the first round of training."""
    rounds = run.trained
    if not rounds:
        return None
    silos = _names(run)
    missing = _not_enrolled(run, silos)
    states = [
        _states(entry, silos, missing, sent=_VOID if is_void(run, entry) else _TOOK)
        for entry in rounds
    ]
    few = len(silos) <= ROWS
    asked = max(sum(state in _ASKED for state in column) for column in states)
    levels = nice_ticks([0.0, float(max(asked, 1))], wanted=4)
    return Attendance(
        summary=_summary(states),
        complete=all(set(column) <= {0} for column in states),
        rows=tuple(silos) if few else (),
        marks=_grid(states) if few else _stacks(states, top=levels[-1]),
        x_ticks=_ends(rounds),
        y_ticks=() if few else tuple(Tick(100 * n / levels[-1], f"{n:,.0f}") for n in levels),
        hover=_hover(rounds, silos, states),
        budgets=_budgets(run),
    )


def _ends(rounds: Sequence[RoundRecord]) -> tuple[Tick, ...]:
    """The first and the last round, below the middle of their columns."""
    half = 50 / len(rounds)
    ends = {rounds[0].number: half, rounds[-1].number: 100 - half}
    return tuple(Tick(at, str(number)) for number, at in ends.items())


def _names(run: Run) -> list[str]:
    """Every silo that is known or was heard of."""
    heard = {name for entry in run.trained for name in _heard(entry)}
    known = [silo.name for silo in run.silos]
    return known + sorted(heard - set(known), key=natural)


def _heard(entry: RoundRecord) -> frozenset[str]:
    """Every silo that this entry names as one of the run."""
    failed = frozenset(failure.silo for failure in entry.failures)
    return failed.union(entry.participants, entry.dropped, entry.refused)


def _not_enrolled(run: Run, silos: Sequence[str]) -> frozenset[str]:
    """The silos that were turned away or fell away before the first round.

    The server knows only their nodes: they are those that no round names, if the numbers agree.
    """
    heard = {name for entry in run.trained for name in _heard(entry)}
    heard |= {name for entry in run.rounds for name in (*entry.silo_epsilon, *entry.kept)}
    unheard = frozenset(silos) - heard
    lost = [len(e.refused) + len(e.failures) for e in run.rounds if e.number == 0]
    return unheard if lost == [len(unheard)] else frozenset()


def _states(
    entry: RoundRecord, silos: Sequence[str], missing: frozenset[str], *, sent: int
) -> list[int]:
    """The index into STATES of each silo; `sent` is that of those whose update arrived."""
    groups = {
        _NOT_ENROLLED: missing,
        sent: entry.arrived,
        _DROPPED: entry.dropped,
        _REFUSED: entry.refused,
        _FAILED: {failure.silo for failure in entry.failures} - entry.arrived,
    }
    found = {silo: state for state, names in groups.items() for silo in names}
    return [found.get(silo, _NOT_DRAWN) for silo in silos]


def _summary(states: Sequence[Sequence[int]]) -> str:
    rounds, silos = len(states), len(states[0])
    counts = [sum(column.count(state) for column in states) for state in range(len(STATES))]
    if counts[_TOOK] == rounds * silos:
        who = "The silo" if silos == 1 else f"All {silos:,} silos"
        return f"{who} took part in every one of {counted(rounds, 'round')}."
    sent = counts[_TOOK] + counts[_VOID]
    told = f"{counted(sent, 'update')} arrived in {counted(rounds, 'round')}"
    told += f", {counts[_VOID]:,} of them in vain" if counts[_VOID] else ""
    told += f"; {counts[_FAILED]:,} failed, {counts[_DROPPED]:,} dropped out"
    if counts[_REFUSED]:
        verb = "was" if counts[_REFUSED] == 1 else "were"
        told += f", {counts[_REFUSED]:,} {verb} refused by a silo’s own policy or budget"
    if counts[_NOT_DRAWN]:
        told += f", and {counts[_NOT_DRAWN]:,} times a silo was not drawn"
    empty = sum({_TOOK, _VOID}.isdisjoint(column) for column in states)
    nobody = f" In {counted(empty, 'round')} nobody's update arrived." if empty else ""
    missing = counts[_NOT_ENROLLED] // rounds
    before = f" {counted(missing, 'silo')} fell away before the first round." if missing else ""
    return f"{told}.{nobody}{before}"


def _budgets(run: Run) -> str | None:
    """In one sentence, the silos that said beforehand that their budget is too small."""
    room = {silo: n for entry in run.rounds for silo, n in entry.affordable.items()}
    planned = run.planned or 0
    small = sorted((s for s in room if room[s] < planned), key=lambda s: (room[s], natural(s)))
    if not small:
        return None
    named = listed([f"{shortened(silo, 60)} for {room[silo]:,}" for silo in small])
    return (
        f"Before the first round, the budgets of {len(small):,} of {counted(len(room), 'silo')} "
        f"had room for fewer than the {planned:,} rounds of the run: {named}."
    )


def _grid(states: Sequence[Sequence[int]]) -> tuple[StatePath, ...]:
    """A cell for each silo (row) and round (column)."""
    width, height = SIDE / len(states), SIDE / max(len(states[0]), 1)
    gap = 0.12 if len(states) <= 120 else 0.0
    paths = [""] * len(STATES)
    for x, column in enumerate(states):
        for y, state in enumerate(column):
            top, tall = _SHAPES[state]
            paths[state] += _box(
                (x + gap / 2) * width, (y + top) * height, width * (1 - gap), height * tall
            )
    return _marks(paths)


def _stacks(states: Sequence[Sequence[int]], *, top: float) -> tuple[StatePath, ...]:
    """A column for each round: of those who were asked, who took part lies lowest."""
    width, unit = SIDE / len(states), SIDE / top
    gap = 0.12 if len(states) <= 120 else 0.0
    paths = [""] * len(STATES)
    for x, column in enumerate(states):
        edge = float(SIDE)
        for state in _ASKED:
            tall = column.count(state) * unit
            edge -= tall
            if tall:
                paths[state] += _box((x + gap / 2) * width, edge, width * (1 - gap), tall)
    return _marks(paths)


def _marks(paths: Sequence[str]) -> tuple[StatePath, ...]:
    named = zip(STATES, _CLASSES, paths, strict=True)
    return tuple(StatePath(state, style, path) for state, style, path in named if path)


def _box(left: float, top: float, width: float, height: float) -> str:
    return f"M{left:.5g} {top:.5g}h{width:.4g}v{height:.4g}h-{width:.4g}z"


def _hover(
    rounds: Sequence[RoundRecord], silos: Sequence[str], states: Sequence[Sequence[int]]
) -> str:
    return hover(
        at=[100 * (index + 0.5) / len(rounds) for index in range(len(rounds))],
        heads=[f"Round {entry.number}" for entry in rounds],
        names=STATES,
        styles=_CLASSES,
        texts=[[_who(column, silos, state) for column in states] for state in range(len(STATES))],
    )


def _who(column: Sequence[int], silos: Sequence[str], state: int) -> str | None:
    """How many, and their names where that helps."""
    names = [name for name, found in zip(silos, column, strict=True) if found == state]
    if not names:
        return None
    return str(len(names)) if state == 0 or len(names) > 3 else ", ".join(names)


MOST = 50
"""At most this many different reasons are listed."""
REASON_LENGTH = 400
NAME_LENGTH = 60
NAMED = 6
"""At most this many silos are named for one reason."""

_BY_THE_GUARD = "guard"
"""The stage at which a silo fails when its holder's rules do not allow what was asked."""


@dataclass(frozen=True)
class CountedReason:
    """One reason, `times` in all; `where` names silos and rounds."""

    text: str
    stage: str
    times: int
    where: str


@dataclass(frozen=True)
class Reasons:
    """The most frequent first; `left_out` more are in the history only."""

    listed: tuple[CountedReason, ...]
    left_out: int


def failures(run: Run) -> Reasons:
    """What went wrong, in training and elsewhere."""
    return _grouped(
        (number, failure)
        for number, failure in _all_failures(run)
        if failure.stage != _BY_THE_GUARD
    )


def refusals(run: Run) -> Reasons:
    """What policies and budgets did not allow."""
    return _grouped((number, _general(refusal)) for number, refusal in _all_refusals(run))


def _all_failures(run: Run) -> Iterator[tuple[int, RecordedFailure]]:
    for entry in run.rounds:
        for failure in (*entry.failures, *(entry.measured.failures if entry.measured else ())):
            yield entry.number, failure


def _all_refusals(run: Run) -> Iterator[tuple[int, RecordedFailure]]:
    for entry in run.rounds:
        stage = "training" if entry.number else "enrolment"
        for silo, reason in entry.refused.items():
            yield entry.number, RecordedFailure(silo, stage, reason)
        for failure in entry.measured.failures if entry.measured else ():
            if failure.stage == _BY_THE_GUARD:
                yield entry.number, RecordedFailure(failure.silo, "evaluation", failure.reason)


def _general(refusal: RecordedFailure) -> RecordedFailure:
    """Without the figures of this silo and round, which would make every reason another one."""
    rule, spent, _ = refusal.reason.partition("; spent so far")
    return RecordedFailure(refusal.silo, refusal.stage, rule if spent else refusal.reason)


def _grouped(found: Iterable[tuple[int, RecordedFailure]]) -> Reasons:
    """A row for each reason and stage."""
    groups: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, failure in found:
        groups[failure.reason, failure.stage][failure.silo].append(number)
    rows = [
        CountedReason(
            shortened(text, REASON_LENGTH), stage, sum(map(len, silos.values())), _where(silos)
        )
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
