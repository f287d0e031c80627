"""What leaves silos in the clear beside their updates, and what of it no epsilon covers."""

from __future__ import annotations

from privet.simulations.pages.formatting import counted
from privet.simulations.report.measured import left_the_silos
from privet.simulations.report.run import Run
from privet.simulations.report.verdict import is_private

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
    by_weight = "told at enrolment, for weights" if run.sealing.by_records else ""
    return f" ({by_weight or 'by its sampling rate'})"
