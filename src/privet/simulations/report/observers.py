"""Who sees what, for the settings that were used."""

from __future__ import annotations

from dataclasses import dataclass

from privet.simulations.pages.formatting import bound, counted
from privet.simulations.report.leaks import besides, counts, sends_loss, uncovered
from privet.simulations.report.run import Run
from privet.simulations.report.sealing import Sealing
from privet.simulations.report.verdict import finite_guarantee, is_private


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
        f"Who takes part in each round{counts(run)}, when, and who fails at what; the scale of the "
        "model (a power of two); and ciphertexts that it can add up but not read."
        f"{besides(run)}",
        "in part" if figures else "yes",
        "It holds no key: it reads no update and no model. Not protected: "
        f"{_and([*figures, 'participation'])}.",
    )


def _colluders(run: Run, sealing: Sealing) -> Observer:
    """The server and silos that tell it all they know, the key included."""
    if sealing.masks:
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
        if run.sealing and (run.accuracy is not None or run.loss is not None)
        else ""
    )
    return Observer(
        "A reader of this page",
        f"Exact record counts by silo and label{ledger}, accuracy on held-out records, reasons of "
        f"failures.{opened}",
        "no",
        "It is made for the person who runs the simulation.",
    )


def _at_most(run: Run) -> str:
    promise = finite_guarantee(run)
    return f" (≤\N{NO-BREAK SPACE}{bound(promise.epsilon)})" if promise else ""


def _are_not(parts: list[str]) -> str:
    return f"{_and(parts)} {'are' if len(parts) > 1 else 'is'} not"


def _and(parts: list[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if parts[:-1] else []), parts[-1]])
