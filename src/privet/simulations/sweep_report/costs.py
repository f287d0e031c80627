"""What a setting costs: rounds to a target, time, bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privet.simulations.pages.formatting import NOTHING, duration, size
from privet.simulations.sweep.results import Cell
from privet.simulations.sweep.words import title
from privet.simulations.sweep_report.heights import Quantity
from privet.simulations.sweep_report.marks import Setting


@dataclass(frozen=True)
class Cost:
    """A row, for one seed, the mean over seeds; of silos alone, of all of them together."""

    name: str
    rounds: tuple[str, ...]
    """To each target."""
    seconds: str
    up: str
    down: str


def costs(settings: Sequence[Setting], targets: Sequence[Quantity]) -> tuple[Cost, ...]:
    """A row for each setting; `targets` are the quantities of rounds, of all marks."""
    return tuple(
        Cost(
            title(setting.estimate),
            tuple(quantity.points[place].text for quantity in targets),
            _written(setting, lambda cell: cell.seconds, duration),
            _written(setting, lambda cell: cell.bytes_up, size),
            _written(setting, lambda cell: cell.bytes_down, size),
        )
        for place, setting in enumerate(settings)
    )


def _written(
    setting: Setting, of: Callable[[Cell], float | None], write: Callable[[float], str]
) -> str:
    seeds = [[of(cell) for cell in cells] for cells in setting.by_seed().values()]
    sums = [
        sum(value or 0 for value in values) for values in seeds if values and None not in values
    ]
    return write(sum(sums) / len(sums)) if sums else NOTHING
