"""Who took part in which round, who fell away, and what failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privet.simulations.report.charts import SIDE, Tick, hover, nice_ticks
from privet.simulations.report.curves import natural
from privet.simulations.report.formatting import counted, spans
from privet.simulations.report.read import Round, Run, arrived

ROWS = 30
"""Up to this many silos get a row each; more are counted by round."""
REASONS = 50
"""At most this many different reasons are listed."""
REASON_LENGTH = 400
NAME_LENGTH = 60
NAMED = 6
"""At most this many silos are named for one reason."""

STATES = ("took part", "failed", "dropped out", "not drawn")
_CLASSES = ("took", "failed", "dropped", "absent")
# (top, height) within a row: the states differ in shape as well as in colour.
_SHAPES = ((0.08, 0.84), (0.08, 0.84), (0.54, 0.38), (0.46, 0.08))


@dataclass(frozen=True)
class Mark:
    """All cells of one state, as one path."""

    state: str
    style: str
    path: str


@dataclass(frozen=True)
class FailureRow:
    """One reason, `times` in all; `where` names silos and rounds."""

    reason: str
    stage: str
    times: int
    where: str


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
    failures: tuple[FailureRow, ...]
    failures_left_out: int


def attendance(run: Run) -> Attendance | None:
    """Who took part, round by round; None before the first round of training."""
    rounds = run.trained
    if not rounds:
        return None
    silos = _names(run)
    states = [_states(entry, silos) for entry in rounds]
    few = len(silos) <= ROWS
    asked = max(sum(state < 3 for state in column) for column in states)
    levels = nice_ticks([0.0, float(max(asked, 1))], wanted=4)
    failures = _grouped(rounds)
    return Attendance(
        summary=_summary(states),
        complete=all(set(column) <= {0} for column in states),
        rows=tuple(silos) if few else (),
        marks=_grid(states) if few else _stacks(states, top=levels[-1]),
        x_ticks=_ends(rounds),
        y_ticks=() if few else tuple(Tick(100 * n / levels[-1], f"{n:,.0f}") for n in levels),
        hover=_hover(rounds, silos, states),
        failures=tuple(failures[:REASONS]),
        failures_left_out=max(0, len(failures) - REASONS),
    )


def _ends(rounds: Sequence[Round]) -> tuple[Tick, ...]:
    """The first and the last round, below the middle of their columns."""
    half = 50 / len(rounds)
    ends = {rounds[0].number: half, rounds[-1].number: 100 - half}
    return tuple(Tick(at, str(number)) for number, at in ends.items())


def _names(run: Run) -> list[str]:
    """Every silo that is known or was heard of."""
    heard = {name for e in run.trained for name in (*e.participants, *e.dropped, *_failed(e))}
    known = [silo.name for silo in run.silos]
    return known + sorted(heard - set(known), key=natural)


def _failed(entry: Round) -> frozenset[str]:
    return frozenset(failure.silo for failure in entry.failures)


def _states(entry: Round, silos: Sequence[str]) -> list[int]:
    """The index into STATES of each silo."""
    took, failed = arrived(entry), _failed(entry)
    return [
        1 if silo in failed else 2 if silo in entry.dropped else 0 if silo in took else 3
        for silo in silos
    ]


def _summary(states: Sequence[Sequence[int]]) -> str:
    rounds, silos = len(states), len(states[0])
    counts = [sum(column.count(state) for column in states) for state in range(len(STATES))]
    if counts[0] == rounds * silos:
        who = "The silo" if silos == 1 else f"All {silos:,} silos"
        return f"{who} took part in every one of {counted(rounds, 'round')}."
    told = f"{counted(counts[0], 'update')} arrived in {counted(rounds, 'round')}"
    told += f"; {counts[1]:,} failed, {counts[2]:,} dropped out"
    told += f", and {counts[3]:,} times a silo was not drawn" if counts[3] else ""
    empty = sum(0 not in column for column in states)
    return f"{told}." + (f" In {counted(empty, 'round')} nobody's update arrived." if empty else "")


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
    """A column for each round: those who took part below, failures and dropouts above them."""
    width, unit = SIDE / len(states), SIDE / top
    gap = 0.12 if len(states) <= 120 else 0.0
    paths = [""] * len(STATES)
    for x, column in enumerate(states):
        edge = float(SIDE)
        for state in range(3):
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


def _grouped(rounds: Sequence[Round]) -> list[FailureRow]:
    """A row for each reason and stage, the most frequent first."""
    found: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for entry in rounds:
        for failure in entry.failures:
            found[failure.reason, failure.stage][failure.silo].append(entry.number)
    rows = [
        FailureRow(
            _short(reason, REASON_LENGTH), stage, sum(map(len, silos.values())), _where(silos)
        )
        for (reason, stage), silos in found.items()
    ]
    return sorted(rows, key=lambda row: -row.times)


def _where(silos: Mapping[str, Sequence[int]]) -> str:
    ordered = sorted(silos, key=lambda silo: (-len(silos[silo]), natural(silo)))
    named = [f"{_short(silo, NAME_LENGTH)} in {_when(silos[silo])}" for silo in ordered[:NAMED]]
    more = len(ordered) - NAMED
    return "; ".join(named) + (f"; and {counted(more, 'silo')} more" if more > 0 else "")


def _when(rounds: Sequence[int]) -> str:
    return f"{'round' if len(rounds) == 1 else 'rounds'} {spans(rounds, most=8)}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} …"
