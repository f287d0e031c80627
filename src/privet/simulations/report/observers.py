"""Who sees what, for the settings that were used."""

from __future__ import annotations

from dataclasses import dataclass

from privet.simulations.report.formatting import bound
from privet.simulations.report.measured import left_the_silos
from privet.simulations.report.run import Run
from privet.simulations.report.verdict import finite_guarantee


@dataclass(frozen=True)
class Observer:
    """`protected` is one of "yes", "no", "in part", "nothing seen"."""

    name: str
    sees: str
    protected: str
    why: str


def observers(run: Run) -> tuple[Observer, ...]:
    """From the outermost to the innermost: the network, the server, other silos, model users."""
    return (_network(), _server(run), _other_silo(run), _model_user(run), _reader(run))


def _network() -> Observer:
    return Observer(
        "The network",
        "Nothing here: the silos were simulated on one machine. Between real silos, TLS hides "
        "content but not who talks, when, and how much.",
        "nothing seen",
        "Traffic patterns are not covered by any epsilon.",
    )


def _server(run: Run) -> Observer:
    known, besides = f"Who takes part in each round{_counts(run)}, and ", _besides(run)
    if run.encryption:
        return Observer(
            "The server",
            f"{known}ciphertexts that it can add up but not read.{besides}",
            "yes",
            "It holds no key. Participation and sizes are not hidden.",
        )
    if finite_guarantee(run) is None:
        return Observer(
            "The server",
            f"{known}every silo’s exact update and training loss.{besides}",
            "no",
            "An update can be turned back into records.",
        )
    return Observer(
        "The server",
        f"{known}every silo’s noisy update, one by one.{besides}",
        "in part",
        f"Updates are covered by the silo’s epsilon{_at_most(run)}; {_uncovered(run)}. "
        "Nobody has to trust the server for this.",
    )


def _counts(run: Run) -> str:
    kept, silos = len(run.counts_kept), len(run.silos)
    if not kept:
        return ", how many records each silo holds"
    return f", how many records {silos - kept:,} of {silos:,} silos hold" if kept < silos else ""


def _besides(run: Run) -> str:
    """What leaves the silos besides the model."""
    figures = [
        f"{name} ({' or '.join(_WAYS.get(how, how) for how in sorted(ways))})"
        for name, ways in sorted(left_the_silos(run).items())
    ]
    told = f"on the silos’ own records {', '.join(figures)}" if figures else ""
    events = any(event for entry in run.rounds for event in (entry.events or {}).values())
    account = "with each update its sampling rate, steps and noise" if events else ""
    refused = "why a silo refused" if any(entry.refused for entry in run.rounds) else ""
    parts = [part for part in (account, told, refused) if part]
    return f" Besides: {'; '.join(parts)}." if parts else ""


_WAYS = {"exact": "exactly", "noised": "with noise"}


def _uncovered(run: Run) -> str:
    """What the server sees that no epsilon covers."""
    exact = any("exact" in ways for ways in left_the_silos(run).values())
    counts = len(run.counts_kept) < len(run.silos) or not run.silos
    parts = ["counts"] * counts + ["exact metrics"] * exact + ["participation"]
    if len(parts) == 1:
        return "participation is not"
    return f"{', '.join(parts[:-1])} and {parts[-1]} are not"


def _other_silo(run: Run) -> Observer:
    if finite_guarantee(run) is None:
        return Observer(
            "Another silo",
            "The global model of every round in which it takes part: the exact sum of updates.",
            "no",
            "With few silos, subtracting one’s own update nearly gives another’s.",
        )
    return Observer(
        "Another silo",
        "The global model of every round in which it takes part, made from noisy updates.",
        "yes",
        f"Computed from protected updates only: the same epsilon holds{_at_most(run)}.",
    )


def _model_user(run: Run) -> Observer:
    if finite_guarantee(run) is None:
        return Observer(
            "Anyone with the final model",
            "The weights, and every prediction.",
            "no",
            "Records can often be told apart as trained on or not, and some be rebuilt.",
        )
    return Observer(
        "Anyone with the final model",
        "The weights, and every prediction.",
        "yes",
        f"The same epsilon holds{_at_most(run)}, however the model is used: but not against "
        "someone who knows this simulation’s seed.",
    )


def _reader(run: Run) -> Observer:
    ledger = ", every silo’s account" if run.books else ""
    return Observer(
        "A reader of this page",
        f"Exact record counts by silo and label{ledger}, accuracy on held-out records, reasons of "
        "failures.",
        "no",
        "It is made for the person who runs the simulation.",
    )


def _at_most(run: Run) -> str:
    promise = finite_guarantee(run)
    return f" (≤\N{NO-BREAK SPACE}{bound(promise.epsilon)})" if promise else ""
