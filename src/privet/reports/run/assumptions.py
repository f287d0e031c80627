"""What the number rests on, in plain language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privet.charts.formatting import bound, counted, listed, scientific
from privet.record.run import Run
from privet.record.summary import ClaimedEpsilon, CrossCheckFigures
from privet.reports.run.observers import left_the_silos


@dataclass(frozen=True)
class Statement:
    """`caution` marks what can make the number mean less than a reader would think."""

    term: str
    text: str
    caution: bool = False


def assumptions(run: Run) -> tuple[Statement, ...]:
    """Every assumption behind epsilon; empty for a run without a guarantee."""
    promise = run.guarantee
    if promise is None:
        return ()
    return (*_definitions(run, promise), *_mechanism(run, promise), *_limits(run, promise))


def checks_sentence(run: Run, promise: ClaimedEpsilon) -> str:
    """What the cross-checks say, with their figures."""
    checks = promise.cross_checks
    if checks is None and run.kept and run.finished:
        return (
            "Not cross-checked: that needs the events, and the silos keep theirs to themselves. "
            "The figures are those of their ledgers."
        )
    if checks is None:
        return "Not cross-checked: that happens when a run ends and something was spent."
    others = f"RDP gives {bound(checks.rdp)}, {_prv(checks)}"
    whom = "the silo that spent most" + (" of those that tell their account" if run.kept else "")
    if checks.agree:
        return (
            f"Cross-checked on {whom}: {others}. They agree with the figure: RDP "
            "is a looser analysis and may lie somewhat above it, never below."
        )
    return f"Cross-checked on {whom}: {others}. They do not agree."


def _accountant(promise: ClaimedEpsilon) -> str:
    full = "PLD, privacy loss distributions"
    return full if promise.accountant.lower() == "pld" else promise.accountant


def _prv(checks: CrossCheckFigures) -> str:
    if checks.prv is not None:
        return f"PRV {bound(checks.prv)}"
    return checks.notes[0] if checks.notes else "PRV was not computed"


def _definitions(run: Run, promise: ClaimedEpsilon) -> tuple[Statement, ...]:
    unit = promise.unit
    return (
        Statement(
            f"The unit is one {unit}",
            f"The number protects one {unit} of one silo, not all that a silo holds about a "
            "person. Someone with g records in a silo is protected less: up to g times this "
            "epsilon, with a larger delta.",
        ),
        Statement(
            "Add or remove one",
            f"Two data sets are neighbours when one holds a single {unit} more than the other. "
            "Exchanging a record for another is two such steps.",
        ),
        Statement("Delta", _delta(run, promise), caution=_largest(run) * (promise.delta or 0) >= 1),
        Statement(
            "Several silos",
            "Each silo has its own epsilon, and the headline is the largest. That holds for people "
            "who are in one silo only. For a person in several, the epsilons add up (and the "
            "deltas too).",
        ),
    )


def _delta(run: Run, promise: ClaimedEpsilon) -> str:
    largest = _largest(run)
    text = (
        f"With probability {scientific(promise.delta)} the bound may not hold at all. It must lie "
        "well below one over the number of records of a silo"
    )
    here = f"; here that is {scientific(1 / largest)} for the largest" if largest else ""
    return f"{text}{here}."


def _largest(run: Run) -> int:
    return max((silo.records for silo in run.silos), default=0)


def _mechanism(run: Run, promise: ClaimedEpsilon) -> tuple[Statement, ...]:
    clip = run.section("privacy").get("clip", "the clip norm")
    return (
        Statement(
            "Clipping and noise",
            f"Before records’ gradients are added up, each is scaled to an L2 norm of at most "
            f"{clip}; Gaussian noise, the silo’s noise multiplier times that norm, is added to "
            "every sum.",
        ),
        Statement(
            "Batches by coin",
            "Every record enters every batch by its own independent coin (Poisson sampling), at "
            "the silo’s sampling rate. An empty batch still gets its noise and still counts. "
            "Which records were drawn stays in the silo.",
        ),
        Statement(
            "All rounds together",
            f"All {counted(len(run.trained), 'round')} are composed into one figure. Accountant: "
            f"{_accountant(promise)}. {checks_sentence(run, promise)}",
            caution=promise.cross_checks is not None and not promise.cross_checks.agree,
        ),
        Statement(
            "Being drawn is no protection",
            "A silo pays in full for each round in which its update arrived. That silos take part "
            "by chance is not counted as amplification, since the server sees who does.",
        ),
    )


def _noise(run: Run) -> Statement:
    if run.job:
        return Statement(
            "Noise comes from the silos’ systems",
            "Each silo draws its noise from the entropy of its operating system; no seed gives it "
            "back. The events were reported by the silos: their own ledgers are the record.",
        )
    seed = run.settings.get("seed", "of the experiment")
    return Statement(
        "The noise is simulated",
        f"In a simulation, noise is drawn from the seed ({seed}). Whoever knows the seed can "
        "draw it again and take it off. The number says what these settings would cost on "
        "real silos, where noise comes from the system’s own entropy; this model is not for "
        "release.",
        caution=True,
    )


def _limits(run: Run, promise: ClaimedEpsilon) -> tuple[Statement, ...]:
    return (
        _noise(run),
        _counts(run),
        Statement(
            "Choosing settings is not counted",
            "If the model, the learning rate or the clip norm were chosen by looking at these "
            "data, or if this is the best of several runs, that choice has a cost which is not in "
            "the number.",
            caution=True,
        ),
        Statement(
            "Held-out records and this page",
            f"{_measured(run)} measured without noise, and this page shows exact counts by "
            "silo. Both are outside the guarantee, which is about training records and updates.",
        ),
        *_own_records(run),
        Statement(
            "Floating point",
            "The proof speaks of real numbers; the computer rounds. What the rounding of noise "
            f"could reveal about a {promise.unit} is not in the number.",
        ),
        *_start(run),
        *_local(run),
        *_validation(run),
        *(Statement("About these data", note, caution=True) for note in run.notes),
    )


def _measured(run: Run) -> str:
    loss = run.metric.name == "loss"
    return "Loss is" if loss else f"{run.metric.title} and loss are"


def _validation(run: Run) -> Iterator[Statement]:
    if run.section("validation"):
        yield Statement(
            "Records for validation",
            "They chose the model and are outside the guarantee, as test records are: the "
            "coordinator measured on them without noise after every round.",
        )


def _local(run: Run) -> Iterator[Statement]:
    if run.model and run.model.local:
        yield Statement(
            "Parts that stay in their silo",
            f"Each silo trains its own {listed(run.model.local, most=8)} and never sends it. Its "
            "gradients are clipped with all others and its steps have the same noise, since what "
            "is sent afterwards depends on it: the number covers the updates, and what stays as "
            "well, whoever may come to see it.",
        )


def _start(run: Run) -> Iterator[Statement]:
    if run.section("start"):
        yield Statement(
            "Weights to begin with",
            "The run began from weights that somebody trained before. The number is about this "
            "run’s use of the silos’ records. What the weights tell of the records that they have "
            "seen, which may be the same ones, has a cost of its own that is not in it.",
            caution=True,
        )


def _counts(run: Run) -> Statement:
    """Who learns how many records a silo holds."""
    # Of those alone: who never sent anything told nobody how much it holds.
    took_part = {name for entry in run.rounds for name in entry.participants}
    kept, silos = len(run.counts_kept & took_part), len(took_part)
    public = (
        f"How many records a silo holds is treated as known. {_sent(run)} and sets its sampling "
        "rate. Epsilon does not cover it."
    )
    if not kept:
        return Statement("Record counts are public", public)
    hidden = (
        "the policy keeps the number of records in the silo: updates weigh the same, noise and "
        "steps come from the experiment, and the account is not sent. The sampling rate still "
        "follows from the number, which epsilon takes as given."
    )
    if kept == silos:
        return Statement("Record counts stay in the silos", f"{hidden[0].upper()}{hidden[1:]}")
    return Statement(
        "Some record counts are public",
        f"For {kept:,} of {silos:,} silos {hidden} For the others: {public[0].lower()}{public[1:]}",
    )


def _sent(run: Run) -> str:
    """How the server learns the number of records where it does."""
    if run.sealing is None:
        return "It is sent to the server as the silo’s weight"
    if run.sealing.by_records:
        return "It is told through the server before each round, for encrypted weights,"
    return "All silos weigh the same, but the number follows from the account that they send"


def _own_records(run: Run) -> tuple[Statement, ...]:
    """What evaluations on the silos' own records add."""
    ways = left_the_silos(run)
    exact = sorted(name for name in ways if "exact" in ways[name])
    if not ways:
        return ()
    text = (
        "Records that a silo keeps out of training are used for evaluation alone. Metrics that "
        "leave with noise are counted in the silo’s epsilon, each time."
    )
    if exact:
        text += (
            f" What leaves exactly ({', '.join(exact)}) is neither protected nor counted: it can "
            "tell whether a record is among those that are measured on."
        )
    return (Statement("Evaluation on the silos’ own records", text, caution=bool(exact)),)
