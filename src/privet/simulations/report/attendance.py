"""Who took part in which round, who fell away, and who refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privet.simulations.pages.charts import SIDE, hover
from privet.simulations.pages.formatting import counted, listed, shortened
from privet.simulations.pages.scales import Tick, nice_ticks
from privet.simulations.report.curves import natural
from privet.simulations.report.run import Round, Run
from privet.simulations.report.void import is_void

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
class Mark:
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
    marks: tuple[Mark, ...]
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


def _ends(rounds: Sequence[Round]) -> tuple[Tick, ...]:
    """The first and the last round, below the middle of their columns."""
    half = 50 / len(rounds)
    ends = {rounds[0].number: half, rounds[-1].number: 100 - half}
    return tuple(Tick(at, str(number)) for number, at in ends.items())


def _names(run: Run) -> list[str]:
    """Every silo that is known or was heard of."""
    heard = {name for entry in run.trained for name in _heard(entry)}
    known = [silo.name for silo in run.silos]
    return known + sorted(heard - set(known), key=natural)


def _heard(entry: Round) -> frozenset[str]:
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


def _states(entry: Round, silos: Sequence[str], missing: frozenset[str], *, sent: int) -> list[int]:
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


def _grid(states: Sequence[Sequence[int]]) -> tuple[Mark, ...]:
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


def _stacks(states: Sequence[Sequence[int]], *, top: float) -> tuple[Mark, ...]:
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


def _marks(paths: Sequence[str]) -> tuple[Mark, ...]:
    named = zip(STATES, _CLASSES, paths, strict=True)
    return tuple(Mark(state, style, path) for state, style, path in named if path)


def _box(left: float, top: float, width: float, height: float) -> str:
    return f"M{left:.5g} {top:.5g}h{width:.4g}v{height:.4g}h-{width:.4g}z"


def _hover(rounds: Sequence[Round], silos: Sequence[str], states: Sequence[Sequence[int]]) -> str:
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
