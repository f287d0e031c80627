"""What the chart shows as marks: the estimates of a sweep and, after them, their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privet.charts.formatting import NOTHING, bound, duration, scientific
from privet.sweeps.results import Cell, Estimate, Kind, Settings, Sweep, title

_Row = tuple[str, str]


@dataclass(frozen=True)
class Setting:
    """An estimate and the cells that are done, of all seeds; of kind "alone", of all silos."""

    estimate: Estimate
    cells: tuple[Cell, ...]

    def by_seed(self) -> Mapping[int, list[Cell]]:
        """The cells of each seed that the estimate counts."""
        seeds = self.estimate.seeds
        return {seed: [cell for cell in self.cells if cell.seed == seed] for seed in seeds}


@dataclass(frozen=True)
class Mark:
    """A point of the chart: the `setting`-th estimate, or one of its cells."""

    setting: int
    of: Estimate | Cell

    @property
    def cell(self) -> Cell | None:
        """None: it is the estimate."""
        return self.of if isinstance(self.of, Cell) else None

    @property
    def name(self) -> str:
        """The setting, and of a cell its seed."""
        return title(self.of) + (f", seed {self.cell.seed}" if self.cell else "")

    def rows(self) -> list[_Row]:
        """What is read beside the mark's height."""
        return _of_cell(self.of) if isinstance(self.of, Cell) else _of_estimate(self.of)


def settings(sweep: Sweep) -> tuple[Setting, ...]:
    """In the order of the estimates."""
    found: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        if cell.status == "done":
            found.setdefault(_key(cell.kind, cell.settings), []).append(cell)
    return tuple(
        Setting(each, tuple(found.get(_key(each.kind, each.settings), ())))
        for each in sweep.estimates
    )


def marks(found: tuple[Setting, ...]) -> tuple[Mark, ...]:
    """All estimates, then the cells that have a value, setting by setting."""
    estimates = (Mark(place, each.estimate) for place, each in enumerate(found))
    cells = (
        Mark(place, cell)
        for place, each in enumerate(found)
        for cell in each.cells
        if cell.value is not None
    )
    return (*estimates, *cells)


def asked_text(of: Estimate | Cell) -> str:
    """The budget that was asked for."""
    return NOTHING if of.asked_epsilon is None else f"{of.asked_epsilon:g}"


def spent_text(of: Estimate | Cell) -> str:
    """The largest epsilon by the ledger, rounded up."""
    return NOTHING if of.epsilon is None else f"≤ {bound(of.epsilon)}"


def _key(kind: Kind, values: Settings) -> str:
    return repr((kind, sorted(values.items())))


def _of_estimate(of: Estimate) -> list[_Row]:
    rows = [("seeds", ", ".join(map(str, of.seeds)) or NOTHING), *_privacy(of)]
    if of.lowest is not None and of.highest is not None:
        rows.append(("worst and best silo", f"{of.lowest:.4f}, {of.highest:.4f}"))
    return rows


def _of_cell(of: Cell) -> list[_Row]:
    delta = [("delta", scientific(of.delta))] if of.delta is not None else []
    return [*_privacy(of), *delta, ("time", duration(of.seconds))]


def _privacy(of: Estimate | Cell) -> list[_Row]:
    if of.asked_epsilon is None and of.epsilon is None:
        return [("privacy", "none")]
    return [("epsilon asked", asked_text(of)), ("epsilon by the ledger", spent_text(of))]
