"""Who sees what, for the settings that were used."""

from __future__ import annotations

from dataclasses import dataclass

from privet.simulations.report.formatting import bound
from privet.simulations.report.read import Run
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
    return (_network(), _server(run), _other_silo(run), _model_user(run), _reader())


def _network() -> Observer:
    return Observer(
        "The network",
        "Nothing here: the silos were simulated on one machine. Between real silos, TLS hides "
        "content but not who talks, when, and how much.",
        "nothing seen",
        "Traffic patterns are not covered by any epsilon.",
    )


def _server(run: Run) -> Observer:
    known = "Who takes part in each round, how many records each silo holds, and "
    if run.encryption:
        return Observer(
            "The server",
            known + "ciphertexts that it can add up but not read.",
            "yes",
            "It holds no key. Participation and sizes are not hidden.",
        )
    if finite_guarantee(run) is None:
        return Observer(
            "The server",
            known + "every silo’s exact update and training loss.",
            "no",
            "An update can be turned back into records.",
        )
    return Observer(
        "The server",
        known + "every silo’s noisy update, one by one.",
        "in part",
        f"Updates are covered by the silo’s epsilon{_at_most(run)}; counts and participation are "
        "not. Nobody has to trust the server for this.",
    )


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


def _reader() -> Observer:
    return Observer(
        "A reader of this page",
        "Exact record counts by silo and label, accuracy on held-out records, reasons of failures.",
        "no",
        "It is made for the person who runs the simulation.",
    )


def _at_most(run: Run) -> str:
    promise = finite_guarantee(run)
    return f" (≤\N{NO-BREAK SPACE}{bound(promise.epsilon)})" if promise else ""
