"""The first thing on the page: how good the model is, what was promised, and what to beware of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privet.charts.formatting import bound, counted, decimal, listed, scientific, shortened
from privet.metrics import Metric
from privet.record.run import Run
from privet.record.summary import ClaimedEpsilon, problems_in
from privet.reports.run.attendance import notices
from privet.reports.run.curves import target_epsilon
from privet.reports.run.ledger import LedgerSection

_LARGE = 10.0
_MILLION = math.log(1e6)


@dataclass(frozen=True)
class Alarm:
    """`grave`: numbers on the page do not mean what they seem to."""

    text: str
    grave: bool = False


def verdict(run: Run) -> tuple[str, ...]:
    """One or two sentences: the quality that was reached, and the guarantee or its absence."""
    return _quality(run), _protection(run)


def meaning(run: Run) -> str | None:
    """What the epsilon says to someone who has never met one; None without a finite epsilon."""
    promise = finite_guarantee(run)
    if promise is None or promise.max is None or promise.max == 0:
        return None
    epsilon = promise.max
    # Bayes: odds of one to one become at most e to the epsilon to one.
    sure = 100 / (1 + math.exp(-epsilon))
    return (
        f"Whoever sees every update of every round can shift the odds that a given {promise.unit} "
        f"was among the data by a factor of at most {_factor(epsilon)}: from an even guess to at "
        f"most {_percent(sure)} sure. Outside delta, nothing they know or compute later changes "
        "that." + _comment(epsilon)
    )


def begun_with(run: Run) -> str | None:
    """The weights that the run began with, and what no number here says of them; None for weights
    that follow from the seed."""
    start = run.section("start")
    if not start:
        return None
    seen = start.get("seen")
    told = (
        f"are said to have seen: {shortened(str(seen), 500)}" if seen else "may have seen anything"
    )
    covered = " Epsilon says nothing of the records that they have seen." if is_private(run) else ""
    digest = shortened(str(start.get("sha256", "unknown")), 64)
    return f"It began from weights (SHA-256 {digest}) that {told}.{covered}"


def alarms(run: Run, ledger: LedgerSection | None) -> tuple[Alarm, ...]:
    """What must be read before any number on the page is used; worst first, often none."""
    grave = [_unprotected(run), *(ledger.alarms if ledger else ())]
    found = [
        *_disagreement(run.guarantee),
        _overspent(run),
        ledger.beyond if ledger else None,
        _interrupted(run),
        _stopped(run),
        _given_more_rounds(run),
        *map(_as_sentence, problems_in(run.rounds)),
        *notices(run),
        _diverged(run),
        _delta_too_large(run),
        _no_policy(run),
    ]
    return (
        *(Alarm(text, grave=True) for text in grave if text),
        *(Alarm(text) for text in found if text),
    )


def finite_guarantee(run: Run) -> ClaimedEpsilon | None:
    """The guarantee if it promises anything at all."""
    found = run.guarantee
    known = found is not None and found.max is not None and math.isfinite(found.max)
    return found if known else None


def is_private(run: Run) -> bool:
    """Whether the experiment asked for privacy, whatever came of it."""
    return run.guarantee is not None or bool(run.section("privacy"))


def _quality(run: Run) -> str:
    end = _end(run)
    on = f" on {counted(run.test_records, 'held-out record')}" if run.test_records else ""
    if run.chosen is not None:
        end = (
            f"with the model of round {run.chosen.round:,}, the best one on "
            f"{counted(run.chosen.records, 'record')} for validation, {end}"
        )
    elif run.section("validation"):
        on = " on records for validation"
    metric = run.metric
    if run.value is not None:
        return f"{metric.title} {with_unit(metric, run.value)}{on} {end}."
    if run.loss is not None:
        return f"Loss {decimal(run.loss)}{on} {end}."
    if (own := run.own_value) is not None:
        told = with_unit(metric, own)
        return f"{metric.title} {told} on the silos’ own held-out records {end}."
    return f"No measured quality {end}."


def with_unit(metric: Metric, value: float | None) -> str:
    """A figure as the page says it."""
    return f"{decimal(value)} {metric.unit}".rstrip()


def _end(run: Run) -> str:
    """After how many rounds, and why not after more."""
    end = f"after {counted(run.last_round, 'round')}"
    if run.finished and run.stopped is None:
        return end
    end += f" of {run.settings.get('rounds', 'an unknown number')}, then "
    if run.stopped is None:
        return f"{end}interrupted"
    # The whole reason stands among the alarms.
    return f"{end}stopped: {shortened(run.stopped.partition(';')[0], 120)}"


def _protection(run: Run) -> str:
    if not is_private(run):
        return "No privacy guarantee."
    promise = finite_guarantee(run)
    if promise is None and run.kept:
        return "No epsilon for the whole run: some silos keep their account to themselves."
    if promise is None:
        return "No privacy guarantee: no finite epsilon was computed."
    if promise.max == 0:
        return "Nothing was trained on, so nothing was spent: epsilon 0."
    at_most = f"≤\N{NO-BREAK SPACE}{bound(promise.max)}"
    return (
        f"Each silo’s {promise.unit}s are protected with epsilon {at_most} "
        f"at delta {scientific(promise.delta)}."
    )


def _unprotected(run: Run) -> str | None:
    if not is_private(run):
        return (
            "The experiment has no [privacy] section: no noise was added, and "
            f"{_revealing(run)} can reveal the records they were made from."
        )
    if finite_guarantee(run) is None and run.kept:
        return (
            f"{counted(len(run.kept), 'silo')} told nobody what the run has cost "
            f"({listed(sorted(run.kept))}), and this folder has no ledger that says it. Only their "
            "holders know an epsilon."
        )
    if finite_guarantee(run) is None:
        return (
            "The experiment has a [privacy] section, but this folder holds no "
            "finite epsilon for what ran. Treat the model as unprotected."
        )
    return None


def _revealing(run: Run) -> str:
    """What tells about records where there is no noise."""
    if run.sealing is None:
        return "updates, the model and every checkpoint"
    return "although the server reads no update, sums and the model, which every silo has,"


def _disagreement(promise: ClaimedEpsilon | None) -> list[str]:
    if promise is None or promise.cross_checks is None or promise.cross_checks.agree:
        return []
    problems = "; ".join(promise.cross_checks.problems) or "no reason was recorded"
    return [f"The accountants do not agree, so do not rely on this epsilon: {problems}."]


def _overspent(run: Run) -> str | None:
    target, promise = target_epsilon(run), finite_guarantee(run)
    if target is None or promise is None or promise.max is None:
        return None
    # The accountant's own error moves epsilon by about so much.
    if promise.max <= target * (1 + 1e-6):
        return None
    besides = any(entry.evaluation and entry.evaluation.events for entry in run.rounds)
    return f"Epsilon {bound(promise.max)} is above the target of {target:g}" + (
        ": the noise is set for training alone, and evaluations with noise are counted on top."
        if besides
        else "."
    )


def _interrupted(run: Run) -> str | None:
    if run.finished:
        return None
    planned = run.settings.get("rounds")
    return (
        f"Interrupted after round {run.last_round}" + (f" of {planned}" if planned else "") + ". "
        "Everything below describes the rounds up to there; the accountants are cross-checked "
        "only when a run ends."
    )


def _as_sentence(problem: str) -> str:
    return f"{problem[:1].upper()}{shortened(problem[1:], 400)}."


def _stopped(run: Run) -> str | None:
    if run.stopped is None:
        return None
    of = f" of {run.planned:,}" if run.planned else ""
    return f"Stopped after round {run.last_round}{of}: {shortened(run.stopped, 400)}."


def _given_more_rounds(run: Run) -> str | None:
    first, planned = run.planned_at_first, run.planned
    if first is None or planned is None or first >= planned:
        return None
    return f"Begun with {counted(first, 'round')} and given more at its end: {planned:,} in all" + (
        ", which epsilon counts." if finite_guarantee(run) else "."
    )


def _no_policy(run: Run) -> str | None:
    """A policy that cannot be read is not shown, and who keeps what is then unknown."""
    if run.rules is None or run.rules.problem is None:
        return None
    return f"The policy of this run cannot be read: {run.rules.problem}."


def _diverged(run: Run) -> str | None:
    losses = [run.loss, *(entry.loss for entry in run.rounds[-1:])]
    if all(loss is None or math.isfinite(loss) for loss in losses):
        return None
    return (
        "The loss is no longer a finite number: training diverged. A smaller training.lr may help."
    )


def _delta_too_large(run: Run) -> str | None:
    """From one over a silo's records on, publishing one of them at random would be allowed."""
    promise = finite_guarantee(run)
    if promise is None or promise.delta is None:
        return None
    bad = [silo for silo in run.silos if silo.records * promise.delta >= 1]
    if not bad:
        return None
    largest = max(bad, key=lambda silo: silo.records)
    return (
        f"Delta {scientific(promise.delta)} is not below one over the number of records of "
        f"{counted(len(bad), 'silo')} ({largest.name} holds {counted(largest.records, 'record')}): "
        "such a delta would allow a record to be published whole. Choose a smaller privacy.delta."
    )


def _factor(epsilon: float) -> str:
    if epsilon > _MILLION:
        return "more than a million"
    factor = math.exp(epsilon)
    # Rounded up, for it is a bound.
    return f"{math.ceil(factor):,}" if factor >= 10 else f"{math.ceil(factor * 10) / 10:g}"


def _percent(sure: float) -> str:
    """Rounded up, for it is a bound."""
    if sure > 99.9:
        return "more than 99.9 %" if sure > 99.99 else "99.99 %"
    return f"{math.ceil(sure * 10) / 10:g} %"


def _comment(epsilon: float) -> str:
    if epsilon <= _LARGE:
        return ""
    return " That is a weak promise: above an epsilon of ten, the proof rules out little."
