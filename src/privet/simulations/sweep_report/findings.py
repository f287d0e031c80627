"""What the sweep shows, in a sentence or two."""

from __future__ import annotations

from dataclasses import dataclass, replace

from privet.simulations.pages.formatting import bound, counted, plus_minus, scientific
from privet.simulations.sweep.results import Cell, Estimate, Selection, Settings, Sweep
from privet.simulations.sweep.words import described, findings
from privet.simulations.sweep_report.comparisons import compared
from privet.simulations.sweep_report.marks import asked_text


@dataclass(frozen=True)
class Verdict:
    """The sentence above all, and what becomes of accuracy with the budget."""

    text: str
    promise: str
    private: bool


def verdict(sweep: Sweep) -> Verdict:
    """How many differences are real, and accuracy at the ends of the budgets."""
    private = any(_is_private(each) for each in sweep.estimates) or any(
        map(_is_private, sweep.cells)
    )
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


def _is_private(of: Estimate | Cell) -> bool:
    return of.asked_epsilon is not None or of.epsilon is not None


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
    tested = [each for each in compared(sweep) if each.outcome != "not tested"]
    if not tested:
        means = counted(len(sweep.estimates), "setting")
        return f"Accuracy of {means}; no difference can be tested."
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
