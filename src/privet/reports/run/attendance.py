"""Who took part in which round, who fell away, and who refused.

Why things that were asked of silos did not happen: failures, and refusals by their holders.

Rounds of an encrypted run that came to nothing, and silos that had no part in its keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from privet.charts.chart import Chart, ChartRow, Key, Point, Shape, box, hover, stacked
from privet.charts.formatting import counted, in_rounds, listed, shortened
from privet.charts.scales import Tick, nice_ticks
from privet.record.history import DECRYPT_STAGE, KEYS_STAGE, RecordedFailure, RoundRecord
from privet.record.run import Run
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
        Void(reason, tuple(each.round for each in rounds), _could_not_open(run, rounds))
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
                found[failure.silo].append(entry.round)
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
_STYLES = ("took", "void", "failed", "refused", "dropped", "absent", "out")
# (top, height) in per cent of a row. "refused" and "did not enrol" are hollow besides, so that the
# states differ in shape as well as in colour.
_SHAPES = ((8, 84), (8, 30), (8, 84), (14, 72), (54, 38), (46, 8), (24, 52))
# Without those who were not drawn: of a thousand silos they would be nearly all of the chart.
_ASKED = (_TOOK, _VOID, _FAILED, _REFUSED, _DROPPED)


@dataclass(frozen=True)
class Attendance:
    """`chart` has a row for each of few silos; of many, rounds are only counted."""

    summary: str
    complete: bool
    chart: Chart
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
    found = Chart(
        title="Silos",
        description=(summary := _summary(states)),
        shapes=(),
        x_ticks=_ends(rounds),
        unit="by round",
        x_name="round",
        legend=tuple(
            Key(state, style, "area", reach=(100 - sum(_SHAPES[index]), 100 - _SHAPES[index][0]))
            for index, (state, style) in enumerate(zip(STATES, _STYLES, strict=True))
            if any(index in column for column in states)
        ),
        hover=_hover(rounds, silos, states),
    )
    return Attendance(
        summary=summary,
        complete=all(set(column) <= {0} for column in states),
        chart=_grid(states, silos, found) if len(silos) <= ROWS else _stacks(states, found),
        budgets=_budgets(run),
    )


def _ends(rounds: Sequence[RoundRecord]) -> tuple[Tick, ...]:
    """The first and the last round, below the middle of their columns."""
    half = 50 / len(rounds)
    ends = {rounds[0].round: half, rounds[-1].round: 100 - half}
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
    lost = [len(e.refused) + len(e.failures) for e in run.rounds if e.round == 0]
    # Otherwise some of them were simply never drawn, and nobody can say which.
    return unheard if lost == [len(unheard)] else frozenset()


def _states(
    entry: RoundRecord, silos: Sequence[str], missing: frozenset[str], *, sent: int
) -> list[int]:
    """The index into STATES of each silo; `sent` is that of those whose update arrived."""
    groups = {
        _NOT_ENROLLED: missing,
        sent: entry.updated,
        _DROPPED: entry.dropped,
        _REFUSED: entry.refused,
        # An update that arrived counts, whatever failed at its silo besides; of two groups the
        # later wins.
        _FAILED: {failure.silo for failure in entry.failures} - entry.updated,
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
    room = {silo: n for entry in run.rounds for silo, n in (entry.affordable or {}).items()}
    planned = run.planned_at_first or 0
    small = sorted((s for s in room if room[s] < planned), key=lambda s: (room[s], natural(s)))
    if not small:
        return None
    named = listed([f"{shortened(silo, 60)} for {room[silo]:,}" for silo in small])
    return (
        f"Before the first round, the budgets of {len(small):,} of {counted(len(room), 'silo')} "
        f"had room for fewer than the {planned:,} rounds of the run: {named}."
    )


def _grid(states: Sequence[Sequence[int]], silos: Sequence[str], of: Chart) -> Chart:
    """A cell for each silo (row) and round (column)."""
    found = []
    for number, silo in enumerate(silos):
        row = [column[number] for column in states]
        boxes: dict[int, list[list[Point]]] = {state: [] for state in sorted(set(row))}
        for x, state in enumerate(row):
            top, tall = _SHAPES[state]
            boxes[state].append(_column(x, len(row), bottom=100 - top - tall, tall=tall))
        found.append(ChartRow(silo, replace(of, shapes=_shapes(boxes)), ""))
    return replace(stacked(found, of), grid="")


def _stacks(states: Sequence[Sequence[int]], of: Chart) -> Chart:
    """A column for each round: of those who were asked, who took part lies lowest."""
    asked = max(sum(state in _ASKED for state in column) for column in states)
    levels = nice_ticks([0.0, float(max(asked, 1))], wanted=4)
    unit = 100 / levels[-1]
    boxes: dict[int, list[list[Point]]] = {state: [] for state in _ASKED}
    for x, column in enumerate(states):
        bottom = 0.0
        for state in _ASKED:
            tall = column.count(state) * unit
            if tall:
                boxes[state].append(_column(x, len(states), bottom=bottom, tall=tall))
            bottom += tall
    ticks = tuple(Tick(n * unit, f"{n:,.0f}") for n in levels)
    return replace(of, shapes=_shapes(boxes), y_ticks=ticks)


def _column(place: int, count: int, *, bottom: float, tall: float) -> list[Point]:
    """A box in the column of a round, with gaps as long as there is room for them."""
    # With more columns a gap would be less than a pixel, and the rows look striped at random.
    width, gap = 100 / count, 0.12 if count <= 120 else 0.0
    return box((place + gap / 2) * width, bottom, width * (1 - gap), tall)


def _shapes(boxes: Mapping[int, list[list[Point]]]) -> tuple[Shape, ...]:
    return tuple(
        Shape("area", _STYLES[state], parts, STATES[state])
        for state, parts in boxes.items()
        if parts
    )


def _hover(
    rounds: Sequence[RoundRecord], silos: Sequence[str], states: Sequence[Sequence[int]]
) -> str:
    return hover(
        at=[100 * (index + 0.5) / len(rounds) for index in range(len(rounds))],
        heads=[f"Round {entry.round}" for entry in rounds],
        names=STATES,
        styles=_STYLES,
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
        for failure in (*entry.failures, *(entry.evaluation.failures if entry.evaluation else ())):
            yield entry.round, failure


def _all_refusals(run: Run) -> Iterator[tuple[int, RecordedFailure]]:
    for entry in run.rounds:
        stage = "training" if entry.round else "enrolment"
        for silo, reason in entry.refused.items():
            yield entry.round, RecordedFailure(silo=silo, stage=stage, reason=reason)
        for failure in entry.evaluation.failures if entry.evaluation else ():
            if failure.stage == _BY_THE_GUARD:
                yield entry.round, failure.model_copy(update={"stage": "evaluation"})


def _general(refusal: RecordedFailure) -> RecordedFailure:
    """Without the figures of this silo and round, which would make every reason another one."""
    rule, spent, _ = refusal.reason.partition("; spent so far")
    return refusal.model_copy(update={"reason": rule}) if spent else refusal


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
