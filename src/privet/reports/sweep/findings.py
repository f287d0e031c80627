"""What the sweep shows, in a sentence or two.

The comparisons of a sweep, by what came of them.

What a setting costs: rounds to a target, time, bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from privet.charts.formatting import NOTHING, bound, counted, duration, plus_minus, scientific, size
from privet.metrics import Metric
from privet.reports.sweep.axes import Quantity
from privet.reports.sweep.marks import Setting, asked_text
from privet.sweeps.results import (
    Cell,
    Estimate,
    PairedComparison,
    Selection,
    Settings,
    Sweep,
    described,
    findings,
    title,
)
from privet.sweeps.statistics import LEVEL

Outcome = Literal["shown", "not shown", "not tested"]
"""Whether a difference is claimed."""


@dataclass(frozen=True)
class Compared:
    """A comparison and its sentence."""

    of: PairedComparison
    words: str
    outcome: Outcome


def compared(sweep: Sweep) -> tuple[Compared, ...]:
    """In the order of the sweep."""
    return tuple(Compared(c, plus_minus(c.words), _outcome(c)) for c in sweep.comparisons)


def _outcome(comparison: PairedComparison) -> Outcome:
    if comparison.p_holm is None:
        return "not tested"
    return "shown" if comparison.p_holm < LEVEL else "not shown"


@dataclass(frozen=True)
class Verdict:
    """The sentence above all, and what becomes of the metric with the budget."""

    text: str
    promise: str
    private: bool


def verdict(sweep: Sweep) -> Verdict:
    """How many differences are real, and the metric at the ends of the budgets."""
    private = any(_is_private(each) for each in sweep.estimates) or any(
        map(_is_private, sweep.cells)
    )
    if not sweep.estimates:
        return Verdict(_nothing(sweep), "", private)
    if sweep.selection:
        return Verdict(*_release(sweep.selection, sweep.metric), private=True)
    promise = _course(sweep) if private else "Nothing here is private: no setting has a budget."
    return Verdict(_differences(sweep), promise, private)


def advice(sweep: Sweep) -> tuple[str, ...]:
    """What picking the best costs: of private tuning the outcome, else a warning."""
    # What is left are the sentences about the choice; those about results stand elsewhere on the
    # page.
    alone = replace(sweep, estimates=(), comparisons=(), cells=())
    return tuple(plus_minus(line) for line in findings(alone))


def _is_private(of: Estimate | Cell) -> bool:
    return of.asked_epsilon is not None or of.epsilon is not None


def _release(selection: Selection, metric: Metric) -> tuple[str, str]:
    text = f"Private tuning in {counted(selection.runs, 'run')}."
    if selection.chosen is None or selection.accuracy is None:
        return text, "There is no release."
    chosen = described(selection.settings or {}) or "the experiment"
    cost = f"epsilon ≤ {bound(selection.epsilon)} at delta {scientific(selection.delta)}"
    return text, (
        f"The release is {chosen}, {metric.label} {metric.text(selection.accuracy, digits=3)}; "
        f"it costs {cost} with the choice included."
    )


def _nothing(sweep: Sweep) -> str:
    if any(cell.status == "done" for cell in sweep.cells):
        if not sweep.metrics:
            return "Nothing was measured: there are no test records, or no figure is a number."
        return "Nothing to compare: of no setting is a seed whole."
    return "Nothing was measured: no cell is done."


def _differences(sweep: Sweep) -> str:
    tested = [each for each in compared(sweep) if each.outcome != "not tested"]
    if not tested:
        means = counted(len(sweep.estimates), "setting")
        return f"{sweep.metric.title} of {means}; no difference can be tested."
    real = sum(each.outcome == "shown" for each in tested)
    rest = len(tested) - real
    over = f"over {counted(max(each.of.seeds for each in tested), 'seed')}"
    if len(tested) == 1:
        return f"The one difference is {'real,' if real else 'not shown'} {over}."
    if not rest:
        return f"All {real} differences are real, {over}."
    if not real:
        return f"None of {rest} differences is shown {over}."
    said = f"{real} of {len(tested)} differences {_be(real)} real"
    return f"{said}, {rest} {_be(rest)} not shown {over}."


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _course(sweep: Sweep) -> str:
    """The metric at the smallest budget, at the largest, and without, all else being the same."""
    private = [each for each in sweep.estimates if each.asked_epsilon is not None]
    if not private:
        return ""
    rest = _rest(private[0])
    same = sorted(
        (each for each in private if _rest(each) == rest), key=lambda each: each.asked_epsilon or 0
    )
    plain = [
        each
        for each in sweep.estimates
        if each.kind == "federated" and each.asked_epsilon is None and _rest(each) == rest
    ]
    # One budget is told once, though it is both ends.
    ends, metric = same[:1] + same[1:][-1:], sweep.metric
    said = [f"{_mean(each, metric)} at epsilon {asked_text(each)}" for each in ends]
    said += [f"{_mean(plain[0], metric)} without privacy"] if plain else []
    beside = f" ({described(rest)})" if rest else ""
    return f"Mean {metric.label}{beside}: {', '.join(said)}."


def _rest(of: Estimate) -> Settings:
    return {key: value for key, value in of.settings.items() if not key.startswith("privacy.")}


def _mean(of: Estimate, metric: Metric) -> str:
    half = "" if of.half_width is None else f" ± {metric.number(of.half_width, digits=3)}"
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.number(of.mean, digits=3)}{half}{unit}"


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
