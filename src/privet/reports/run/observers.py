"""Who sees what, for the settings that were used.

What leaves silos in the clear beside their updates, and what of it no epsilon covers.

How good the model is on records of the silos' own, and how each figure left its silo.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from privet.charts.formatting import NOTHING, bound, counted, decimal, listed
from privet.metrics import Metric, metric_named, names_in_order
from privet.record.history import PooledScores, SiloEvaluation
from privet.record.run import Run, Sealing
from privet.reports.run.curves import in_order
from privet.reports.run.verdict import finite_guarantee, is_private
from privet.wire.answers import SCORES

_HOW_EVALUATED = {
    "exact": "exactly, unprotected and not counted, from",
    "noised": "with noise, counted in epsilon, from",
    "withheld": "was withheld by",
}


@dataclass(frozen=True)
class ReleasedMetric:
    """What one silo lets out of one metric; `how` is "exact", "noised" or "withheld"."""

    value: str
    how: str


@dataclass(frozen=True)
class ScoreTable:
    """What follows from counts of scores by class, and those counts' noise in words."""

    text: str
    rows: tuple[tuple[str, str, str], ...]
    """A figure, its value, and its interval."""
    confusion: tuple[tuple[str, str, str], ...]
    """By true class, how many were taken for each."""


@dataclass(frozen=True)
class EvaluationTable:
    """The last evaluation: a row of figures for each silo, one for each of `metrics`.

    Without rows when every silo withheld everything.
    """

    round: int
    metrics: tuple[str, ...]
    means: tuple[str, ...]
    ways: tuple[str, ...]
    """For each metric, how it left the silos."""
    rows: tuple[tuple[str, tuple[ReleasedMetric, ...]], ...]
    missing: str | None
    """Which silos did not answer, if any."""
    scored: ScoreTable | None = None
    """Of counts of scores, if any were let out."""


def evaluation(run: Run) -> EvaluationTable | None:
    """The last evaluation on the silos' own records; None for a run without one."""
    if run.measured is None:
        return None
    number, found = run.measured
    metrics = metric_names(found, run.metric)
    silos = in_order(run, found.released) if any(found.per_silo.values()) else []
    failed = in_order(run, (failure.silo for failure in found.failures))
    return EvaluationTable(
        round=number,
        metrics=metrics,
        means=tuple(decimal(found.metrics.get(name)) for name in metrics),
        ways=tuple(f"{name} {_ways(found, name)}" for name in metrics),
        rows=tuple((silo, tuple(_figure(found, silo, name) for name in metrics)) for silo in silos),
        missing=f"No answer from {listed(failed)}; the reasons stand below." if failed else None,
        scored=_scored(found.scored) if found.scored else None,
    )


def _scored(found: PooledScores) -> ScoreTable:
    bins, half = len(found.of_class), len(found.of_class) // 2
    noise = f"noise of standard deviation {found.noise:.3g} in each" if found.noise else "exact"
    rows = [
        (metric_named(name).title, decimal(each[0]), f"{decimal(each[1])} to {decimal(each[2])}")
        for name, each in found.figures.items()
        if len(each) == 3
    ]
    pairs = (("others", found.of_others), ("the class", found.of_class))
    return ScoreTable(
        f"From counts of scores in {counted(bins, 'bin')} for each class, of "
        f"{counted(len(found.silos), 'silo')} together, {noise}. Intervals are 95 % and include "
        "the noise; they are for the records that were counted.",
        tuple(rows),
        tuple(
            (name, f"{max(0.0, sum(c[:half])):,.0f}", f"{max(0.0, sum(c[half:])):,.0f}")
            for name, c in pairs
        ),
    )


def metric_names(found: SiloEvaluation, first: Metric) -> tuple[str, ...]:
    """Every metric that was asked for, the headline first and loss last."""
    names = {name for ways in found.released.values() for name in ways}
    # Counts of scores have a table of their own where they were let out.
    return tuple(names_in_order(names - ({SCORES} if found.scored else set()), first))


def left_the_silos(run: Run) -> dict[str, set[str]]:
    """By metric, the ways in which it left any silo in any evaluation: "exact", "noised"."""
    found: dict[str, set[str]] = {}
    for entry in run.rounds:
        for ways in entry.evaluation.released.values() if entry.evaluation else ():
            for name, how in ways.items():
                found.setdefault(name, set()).add(how)
    return {name: ways - {"withheld"} for name, ways in found.items() if ways - {"withheld"}}


def _ways(found: SiloEvaluation, metric: str) -> str:
    """How a metric left, with the numbers of silos where they differ."""
    counts = Counter(ways[metric] for ways in found.released.values() if metric in ways)
    told = [
        f"{_HOW_EVALUATED.get(how, how)} {_silos(n, counts)}" for how, n in sorted(counts.items())
    ]
    leaves = any(how != "withheld" for how in counts)
    return ("left " if leaves else "") + "; ".join(told)


def _silos(number: int, counts: Counter[str]) -> str:
    return counted(number, "silo") if len(counts) > 1 else _all(number)


def _all(number: int) -> str:
    return "the silo" if number == 1 else f"all {number:,} silos"


def _figure(found: SiloEvaluation, silo: str, metric: str) -> ReleasedMetric:
    how = found.released[silo].get(metric, "withheld")
    value = found.per_silo.get(silo, {}).get(metric)
    return ReleasedMetric(NOTHING if value is None else decimal(value), how)


_WAYS = {"exact": "exactly", "noised": "with noise"}


def counts_told(run: Run) -> frozenset[str]:
    """The silos whose number of records the server learns.

    Encrypted uploads say nothing of it, but weights by records need it at enrolment, and a sampling
    rate tells it too.
    """
    public = frozenset(silo.name for silo in run.silos) - run.counts_kept
    if run.sealing is None or run.sealing.by_records:
        return public
    rounds = (entry.events or {} for entry in run.rounds)
    return public & {silo for events in rounds for silo, event in events.items() if event}


def counts(run: Run) -> str:
    """Of how many silos the server learns the number of records, as part of a list."""
    told, silos = len(counts_told(run)), len(run.silos)
    if told == silos:
        return f", how many records each silo holds{_where_counts_come_from(run)}"
    if not told:
        return ""
    return f", how many records {told:,} of {counted(silos, 'silo')} hold"


def besides(run: Run) -> str:
    """What comes with the updates, or instead of them."""
    events = any(event for entry in run.rounds for event in (entry.events or {}).values())
    figures = [
        f"{name} ({' or '.join(_WAYS.get(how, how) for how in sorted(ways))})"
        for name, ways in sorted(left_the_silos(run).items())
    ]
    parts = {
        "with each update its sampling rate, steps and noise": events,
        f"on the silos’ own records {', '.join(figures)}": bool(figures),
        "why a silo refused": any(entry.refused for entry in run.rounds),
    }
    told = [text for text, leaves in parts.items() if leaves]
    return f" Besides: {'; '.join(told)}." if told else ""


def sends_loss(run: Run) -> bool:
    """Whether silos report their mean training loss: only beside an exact update in the clear."""
    return run.sealing is None and not is_private(run)


def uncovered(run: Run) -> list[str]:
    """Figures about records that leave silos, which neither noise nor encryption protects."""
    exact = any("exact" in ways for ways in left_the_silos(run).values())
    told = bool(counts_told(run)) or not run.silos
    parts = {"counts": told, "training losses": sends_loss(run), "exact metrics": exact}
    return [name for name, leaves in parts.items() if leaves]


def _where_counts_come_from(run: Run) -> str:
    if run.sealing is None:
        return ""
    by_weight = "told before each round, for weights" if run.sealing.by_records else ""
    return f" ({by_weight or 'by its sampling rate'})"


@dataclass(frozen=True)
class Observer:
    """`protected` is one of "yes", "no", "in part", "nothing seen"."""

    name: str
    sees: str
    protected: str
    why: str


def observers(run: Run) -> tuple[Observer, ...]:
    """From the outermost to the innermost: the network, the server, other silos, model users."""
    sealing = run.sealing
    servers = (_sealed_server(run), _colluders(run, sealing)) if sealing else (_server(run),)
    return (_network(run), *servers, _other_silo(run), _model_user(run), _reader(run))


def _network(run: Run) -> Observer:
    patterns = "Traffic patterns are covered neither by epsilon nor by encryption."
    if run.job:
        sees = "Who talks to the server, when, and how much. TLS hides what they say."
        return Observer("The network", sees, "in part", patterns)
    return Observer(
        "The network",
        "Nothing here: the silos were simulated on one machine. Between real silos, TLS hides "
        "content but not who talks, when, and how much.",
        "nothing seen",
        patterns,
    )


def _server(run: Run) -> Observer:
    sees = f"Who takes part in each round{counts(run)}, and every silo’s {_updates(run)}"
    if finite_guarantee(run) is None:
        return Observer(
            "The server",
            f"{sees}{' and training loss' * sends_loss(run)}.{besides(run)}",
            "no",
            "An update can be turned back into records.",
        )
    return Observer(
        "The server",
        f"{sees}, one by one.{besides(run)}",
        "in part",
        f"Updates are covered by the silo’s epsilon{_at_most(run)}; "
        f"{_are_not([*uncovered(run), 'participation'])}. Nobody has to trust the server for this.",
    )


def _sealed_server(run: Run) -> Observer:
    figures = uncovered(run)
    return Observer(
        "The server",
        f"Who takes part in each round{counts(run)}, when, and who fails at what; and ciphertexts "
        f"that it can add up but not read.{besides(run)}",
        "in part" if figures else "yes",
        "It holds no key: it reads no update and no model. Not protected: "
        f"{_and([*figures, 'participation'])}.",
    )


def _colluders(run: Run, sealing: Sealing) -> Observer:
    """The server and silos that tell it all they know, the key included."""
    if sealing.masks and sealing.colluding:
        return _colluders_against_masks(run, sealing)
    name, sees = "The server together with one silo", "Every update of the epochs that the silo"
    sees = f"{sees} takes part in, one by one: {_updates(run)}s."
    key = "All silos hold the same key, so encryption does not help here"
    if finite_guarantee(run) is None:
        return Observer(name, sees, "no", f"{key}, and an update can be turned back into records.")
    return Observer(name, sees, "in part", f"{key}: {_covered(run)}")


def _colluders_against_masks(run: Run, sealing: Sealing) -> Observer:
    silos = counted(sealing.colluding, "silo")
    many = silos if sealing.colluding == 1 else f"up to {silos}"
    name = "The server together with " + ("one silo" if sealing.colluding == 1 else many)
    sees = "Of each round one sum, less what these silos put in: of at least two others’ updates."
    more = f"With more than {silos} on its side, the server reads single updates"
    if finite_guarantee(run) is None:
        why = f"Masks hide single updates; nothing bounds what a sum tells. {more}."
    else:
        why = f"Masks hide single updates. {more}: {_covered(run)}"
    return Observer(name, sees, "in part", why)


def _covered(run: Run) -> str:
    return (
        f"noisy updates are covered by the silo’s epsilon{_at_most(run)}; "
        f"{_are_not([*uncovered(run), 'participation'])}."
    )


def _updates(run: Run) -> str:
    return "noisy update" if is_private(run) else "exact update"


def _other_silo(run: Run) -> Observer:
    sees = f"The global model of every round in which it takes part: {_made_of(run)}."
    if finite_guarantee(run) is None:
        return Observer("Another silo", sees, "no", _subtraction(run))
    return Observer(
        "Another silo",
        sees,
        "yes",
        f"Computed from protected updates only: the same epsilon holds{_at_most(run)}.",
    )


def _made_of(run: Run) -> str:
    noisy = is_private(run)
    if run.sealing is None:
        return "made from noisy updates" if noisy else "the exact sum of updates"
    kind = "mean of noisy updates" if noisy else "mean of exact updates"
    return f"the {kind}" + ("" if run.sealing.exact else ", rounded")


def _subtraction(run: Run) -> str:
    told = "With few silos, subtracting one’s own update nearly gives another’s"
    return f"{told}. Encryption does not change that." if run.sealing else f"{told}."


def _model_user(run: Run) -> Observer:
    sees = f"The weights, and every prediction.{_release(run)}"
    if finite_guarantee(run) is None:
        return Observer(
            "Anyone with the final model",
            sees,
            "no",
            "Records can often be told apart as trained on or not, and some be rebuilt."
            + (" Encryption ends where the model is used." if run.sealing else ""),
        )
    return Observer(
        "Anyone with the final model",
        sees,
        "yes",
        f"The same epsilon holds{_at_most(run)}, however the model is used"
        + ("." if run.job else ": but not against someone who knows this simulation’s seed."),
    )


def _release(run: Run) -> str:
    """What must not be given away with a model."""
    if run.sealing is None or run.sealing.exact:
        return ""
    return (
        " CKKS sums are opened rounded; the same sums at full precision would give away the key "
        "and must not be released."
    )


def _reader(run: Run) -> Observer:
    if run.job:
        return Observer(
            "A reader of this page",
            "What the silos’ policies let out, names, and reasons of failures.",
            "no",
            "It is made for the person who asked for the job.",
        )
    ledger = ", every silo’s account" if run.books else ""
    opened = (
        " The host of the simulation opened the models to measure them."
        if run.sealing and (run.value is not None or run.loss is not None)
        else ""
    )
    return Observer(
        "A reader of this page",
        f"Exact record counts by silo and label{ledger}, {run.metric.label} on held-out "
        f"records, reasons of failures.{opened}",
        "no",
        "It is made for the person who runs the simulation.",
    )


def _at_most(run: Run) -> str:
    promise = finite_guarantee(run)
    return f" (≤\N{NO-BREAK SPACE}{bound(promise.max)})" if promise else ""


def _are_not(parts: list[str]) -> str:
    return f"{_and(parts)} {'are' if len(parts) > 1 else 'is'} not"


def _and(parts: list[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if parts[:-1] else []), parts[-1]])
