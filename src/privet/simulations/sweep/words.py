"""Settings, estimates and findings as a person would say them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from privet.simulations.sweep.results import Cell, Estimate, Selection, Settings, Sweep, Value


def described(settings: Settings) -> str:
    """The settings in a few words.

    >>> described({"privacy.epsilon": 4, "strategy.name": "fedprox", "training.lr": 0.1})
    'epsilon 4, strategy fedprox, lr 0.1'
    >>> described({"privacy.epsilon": math.inf})
    'no DP'
    """
    return ", ".join(_said(key, value) for key, value in settings.items())


def title(of: Estimate | Cell) -> str:
    """What an estimate or a cell is of, without its seed."""
    kinds = {"federated": "federated", "alone": "silos alone", "pooled": "pooled data"}
    if isinstance(of, Cell) and of.silo is not None:
        kinds["alone"] = f"{of.silo} alone"
    said = described(of.settings)
    if of.kind == "federated" and said:
        return said
    return f"{kinds[of.kind]}, {said}" if said else kinds[of.kind]


def accuracy_text(estimate: Estimate) -> str:
    """Mean and interval; of silos alone also the worst and the best of them."""
    interval = "" if estimate.half_width is None else f" +- {estimate.half_width:.4f}"
    spread = ""
    if estimate.lowest is not None and estimate.highest is not None:
        spread = f" (silos from {estimate.lowest:.4f} to {estimate.highest:.4f})"
    return f"{estimate.mean:.4f}{interval}{spread}"


def sentences(sweep: Sweep) -> Iterator[str]:
    """Everything that the sweep shows."""
    for each in sweep.estimates:
        spent = "" if each.epsilon is None else f", epsilon {each.epsilon:.3f} by the ledger"
        yield f"{title(each)}: accuracy {accuracy_text(each)}{spent}"
    yield from findings(sweep)


def findings(sweep: Sweep) -> Iterator[str]:
    """What stands beside the estimates: how to read them, comparisons, what went wrong."""
    counts = sorted({len(each.seeds) for each in sweep.estimates})
    if counts == [1]:
        yield "One seed: accuracies have no interval, and differences between them show nothing."
    elif counts:
        seeds = " or ".join(map(str, counts))
        yield f"+-: 95 % confidence interval of the mean over {seeds} seeds, by Student's t."
    yield from (each.words for each in sweep.comparisons)
    if sweep.selection:
        yield from _released(sweep.selection)
    elif len(sweep.tried) > 1:
        yield (
            f"{len(sweep.tried)} settings were tried on these data. Each epsilon is that of one "
            "run: who picks the best of them by these results has spent more."
        )
    for cell in sweep.failed:
        yield f"failed: {title(cell)}, seed {cell.seed}: {cell.reason}"


def _released(selection: Selection) -> Iterator[str]:
    yield (
        f"Private tuning: {selection.runs} run{'' if selection.runs == 1 else 's'} (a "
        f"{selection.law} number with mean {selection.expected_runs:g}), each with settings drawn "
        "at random; scored on the test records, which count as public."
    )
    if selection.chosen is None:
        yield "There is no release: no run is done, or some are still missing."
        return
    chosen = described(selection.settings or {}) or "the experiment"
    yield f"The release is {chosen} (cells/{selection.chosen}): accuracy {selection.accuracy:.4f}."
    yield (
        f"It costs epsilon {selection.epsilon:.3f} at delta = {selection.delta:g} with the choice "
        f"included (a single run: {selection.run_epsilon:.3f}; both by Renyi DP), if neither other "
        "results nor their number are told."
    )


def _said(key: str, value: Value) -> str:
    table, _, last = key.rpartition(".")
    if key == "privacy.epsilon" and value == math.inf:
        return "no DP"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{table if last == 'name' and table else last} {text}"
