"""How good the model is on records of the silos' own, and how each figure left its silo."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from privet.simulations.pages.formatting import NOTHING, counted, decimal, listed
from privet.simulations.report.curves import in_order
from privet.simulations.report.run import Measured, Run

_WAYS = {
    "exact": "exactly, unprotected and not counted, from",
    "noised": "with noise, counted in epsilon, from",
    "withheld": "was withheld by",
}


@dataclass(frozen=True)
class Figure:
    """What one silo lets out of one metric; `how` is "exact", "noised" or "withheld"."""

    value: str
    how: str


@dataclass(frozen=True)
class Evaluation:
    """The last evaluation: a row of figures for each silo, one for each of `metrics`.

    Without rows when every silo withheld everything.
    """

    round: int
    metrics: tuple[str, ...]
    means: tuple[str, ...]
    ways: tuple[str, ...]
    """For each metric, how it left the silos."""
    rows: tuple[tuple[str, tuple[Figure, ...]], ...]
    missing: str | None
    """Which silos did not answer, if any."""


def evaluation(run: Run) -> Evaluation | None:
    """The last evaluation on the silos' own records; None for a run without one."""
    if run.measured is None:
        return None
    number, found = run.measured
    metrics = metric_names(found)
    silos = in_order(run, found.released) if any(found.per_silo.values()) else []
    failed = in_order(run, (failure.silo for failure in found.failures))
    return Evaluation(
        round=number,
        metrics=metrics,
        means=tuple(decimal(found.means.get(name)) for name in metrics),
        ways=tuple(f"{name} {_ways(found, name)}" for name in metrics),
        rows=tuple((silo, tuple(_figure(found, silo, name) for name in metrics)) for silo in silos),
        missing=f"No answer from {listed(failed)}; the reasons stand below." if failed else None,
    )


def metric_names(found: Measured) -> tuple[str, ...]:
    """Every metric that was asked for, accuracy first and loss last."""
    names = {name for ways in found.released.values() for name in ways}
    return tuple(sorted(names, key=lambda name: (name != "accuracy", name == "loss", name)))


def left_the_silos(run: Run) -> dict[str, set[str]]:
    """By metric, the ways in which it left any silo in any evaluation: "exact", "noised"."""
    found: dict[str, set[str]] = {}
    for entry in run.rounds:
        for ways in entry.measured.released.values() if entry.measured else ():
            for name, how in ways.items():
                found.setdefault(name, set()).add(how)
    return {name: ways - {"withheld"} for name, ways in found.items() if ways - {"withheld"}}


def _ways(found: Measured, metric: str) -> str:
    """How a metric left, with the numbers of silos where they differ."""
    counts = Counter(ways[metric] for ways in found.released.values() if metric in ways)
    told = [f"{_WAYS.get(how, how)} {_silos(n, counts)}" for how, n in sorted(counts.items())]
    leaves = any(how != "withheld" for how in counts)
    return ("left " if leaves else "") + "; ".join(told)


def _silos(number: int, counts: Counter[str]) -> str:
    return counted(number, "silo") if len(counts) > 1 else _all(number)


def _all(number: int) -> str:
    return "the silo" if number == 1 else f"all {number:,} silos"


def _figure(found: Measured, silo: str, metric: str) -> Figure:
    how = found.released[silo].get(metric, "withheld")
    value = found.per_silo.get(silo, {}).get(metric)
    return Figure(NOTHING if value is None else decimal(value), how)
