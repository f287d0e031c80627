"""What the sweep shows, in words: the comparisons first, then how to read the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from privet.simulations.report.formatting import bound, counted, duration, listed, scientific
from privet.simulations.sweep.results import Cell, Comparison, Estimate, Selection, Settings, Sweep
from privet.simulations.sweep.statistics import LEVEL
from privet.simulations.sweep.words import described, findings, title
from privet.simulations.sweep_report.marks import asked_text


@dataclass(frozen=True)
class Verdict:
    """The sentence above all, and what becomes of accuracy with the budget."""

    text: str
    promise: str
    private: bool


@dataclass(frozen=True)
class Failures:
    """A reason and the cells that failed for it."""

    reason: str
    times: int
    where: str


@dataclass(frozen=True)
class Compared:
    """The comparisons by what came of them, as sentences."""

    shown: tuple[str, ...]
    not_shown: tuple[str, ...]
    not_tested: tuple[str, ...]


def compared(sweep: Sweep) -> Compared:
    """In the order of the sweep."""
    by: dict[str, list[str]] = {"shown": [], "not shown": [], "not tested": []}
    for each in sweep.comparisons:
        by[outcome(each)].append(plus_minus(each.words))
    return Compared(tuple(by["shown"]), tuple(by["not shown"]), tuple(by["not tested"]))


def is_private(of: Estimate | Cell) -> bool:
    """Whether it has a budget or spent one."""
    return of.asked_epsilon is not None or of.epsilon is not None


def outcome(comparison: Comparison) -> str:
    """Whether it claims a difference: "shown", "not shown" or "not tested"."""
    if comparison.p_holm is None:
        return "not tested"
    return "shown" if comparison.p_holm < LEVEL else "not shown"


def verdict(sweep: Sweep) -> Verdict:
    """How many differences are real, and accuracy at the ends of the budgets."""
    private = any(is_private(each) for each in sweep.estimates) or any(map(is_private, sweep.cells))
    if not sweep.estimates:
        return Verdict(_nothing(sweep), "", private)
    if sweep.selection:
        return Verdict(*_release(sweep.selection), private=True)
    promise = _course(sweep) if private else "Nothing here is private: no setting has a budget."
    return Verdict(_differences(sweep), promise, private)


def advice(sweep: Sweep) -> tuple[str, ...]:
    """What picking the best costs: of private tuning the outcome, else a warning."""
    alone = replace(sweep, estimates=(), comparisons=(), cells=())
    return tuple(plus_minus(line) for line in findings(alone))


def alarms(sweep: Sweep) -> Iterator[tuple[str, bool]]:
    """What spoils the picture, and whether that is grave."""
    waiting = sum(cell.status == "waiting" for cell in sweep.cells)
    if waiting:
        yield (
            f"Not finished: {counted(waiting, 'cell')} of {len(sweep.cells):,} "
            f"{'waits' if waiting == 1 else 'wait'}. Settings without a whole seed are left out.",
            False,
        )
    if sweep.failed:
        yield f"{counted(len(sweep.failed), 'cell')} of {len(sweep.cells):,} failed.", True
    if sweep.selection:
        yield "This page tells the other results too: it is not for release.", False
    if {len(each.seeds) for each in sweep.estimates} == {1} and sweep.selection is None:
        yield "One seed: no intervals, and differences between settings show nothing.", False


def failures(sweep: Sweep) -> tuple[Failures, ...]:
    """By reason, in the order in which they come first."""
    found: dict[str, list[str]] = {}
    for cell in sweep.failed:
        where = f"{title(cell)}, seed {cell.seed}"
        found.setdefault(cell.reason or "unknown", []).append(where)
    return tuple(
        Failures(reason, len(where), listed(where, most=8)) for reason, where in found.items()
    )


def headline(sweep: Sweep) -> Iterator[tuple[str, str, str]]:
    """Figures: name, value, note."""
    done = sum(cell.status == "done" for cell in sweep.cells)
    yield "Cells done", f"{done:,}", f"of {len(sweep.cells):,}"
    yield "Settings tried", f"{len(sweep.tried):,}", "on these data, in this folder"
    yield "Seeds", f"{len(sweep.seeds):,}", "" if len(sweep.seeds) > 1 else "no intervals"
    yield "Time", duration(sweep.seconds), f"{counted(sweep.workers, 'cell')} at a time"


def plus_minus(text: str) -> str:
    """The sign in place of what a terminal shows."""
    return text.replace("+-", "±")


def _release(selection: Selection) -> tuple[str, str]:
    text = f"Private tuning in {counted(selection.runs, 'run')}."
    if selection.chosen is None or selection.accuracy is None:
        return text, "There is no release."
    chosen = described(selection.settings or {}) or "the experiment"
    cost = f"epsilon ≤ {bound(selection.epsilon)} at delta {scientific(selection.delta)}"
    return text, (
        f"The release is {chosen}, accuracy {selection.accuracy:.3f}; "
        f"it costs {cost} with the choice included."
    )


def _nothing(sweep: Sweep) -> str:
    if any(cell.status == "done" for cell in sweep.cells):
        return "Nothing was measured: no seed is whole, or there are no test records."
    return "Nothing was measured: no cell is done."


def _differences(sweep: Sweep) -> str:
    tested = [each for each in sweep.comparisons if each.p_holm is not None]
    if not tested:
        means = counted(len(sweep.estimates), "setting")
        return f"Accuracy of {means}; no difference can be tested."
    real = sum(outcome(each) == "shown" for each in tested)
    seeds = max(each.seeds for each in tested)
    if real == len(tested):
        return (
            f"All {real} differences are real, over {counted(seeds, 'seed')}."
            if real > 1
            else (f"The one difference is real, over {counted(seeds, 'seed')}.")
        )
    verb = "is" if real == 1 else "are"
    start = (
        f"{real} of {counted(len(tested), 'difference')} {verb} real"
        if real
        else (f"None of {counted(len(tested), 'difference')} is real")
    )
    rest = len(tested) - real
    return (
        f"{start}, {rest} {'is' if rest == 1 else 'are'} not shown over {counted(seeds, 'seed')}."
    )


def _course(sweep: Sweep) -> str:
    """Accuracy at the smallest budget, at the largest, and without, all else being the same."""
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
    ends = same[:1] + same[1:][-1:]
    said = [f"{_mean(each)} at epsilon {asked_text(each)}" for each in ends]
    said += [f"{_mean(plain[0])} without privacy"] if plain else []
    beside = f" ({described(rest)})" if rest else ""
    return f"Mean accuracy{beside}: {', '.join(said)}."


def _rest(of: Estimate) -> Settings:
    return {key: value for key, value in of.settings.items() if not key.startswith("privacy.")}


def _mean(of: Estimate) -> str:
    return f"{of.mean:.3f}" + ("" if of.half_width is None else f" ± {of.half_width:.3f}")
