"""Is the epsilon that was claimed the one that the ledgers' entries give?

It is computed anew from the entries, and once more without privet: by ten lines over dp-accounting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from privet.audits.claims import Claim, judged, unknown
from privet.audits.compliance import exceeded
from privet.audits.evidence import Evidence, JobLedger
from privet.audits.record import Findings, by_ledgers, used_records
from privet.privacy.accounting import CrossChecks, cross_check, dp_sgd_event
from privet.privacy.accounting.events import Segment
from privet.privacy.ledger import Charge, Limit
from privet.privacy.ledger.costs import epsilon_of, parts_of
from privet.record.history import RoundRecord, event_text

_SNIPPET = """\
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

segments = {segments}  # noise multiplier, sampling rate, steps
accountant = PLDAccountant(value_discretization_interval=1e-4)  # add or remove one record
for noise_multiplier, sampling_rate, steps in segments:
    gaussian = GaussianDpEvent(noise_multiplier)
    step = PoissonSampledDpEvent(sampling_rate, gaussian) if sampling_rate < 1 else gaussian
    accountant.compose(SelfComposedDpEvent(step, steps))
print(accountant.get_epsilon({delta!r}))
"""


def segments_of(parts: Iterable[Segment]) -> tuple[Segment, ...]:
    """Each mechanism once, with all its steps; sorted."""
    steps: dict[tuple[float, float], int] = {}
    for part in parts:
        place = part.noise_multiplier, part.sampling_rate
        steps[place] = steps.get(place, 0) + part.steps
    return tuple(Segment(*place, count) for place, count in sorted(steps.items()))


def snippet(segments: Sequence[Segment], *, delta: float) -> str:
    """A program that prints the epsilon of `segments`, on a grid finer than privet's."""
    rows = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in segments]
    return _SNIPPET.format(segments=rows, delta=delta)


ROUNDING = 1e-6
"""Relative: how far figures may differ that were composed in another order."""

_MOST_FIGURES = 2000
"""Epsilons of silos and rounds that are computed anew; of more, evenly chosen rounds."""
_MOST_CROSS_CHECKS = 5


def claims(run: Evidence) -> Iterator[Claim]:
    """That the claimed epsilon follows from the entries, at every moment."""
    yield by_ledgers(
        run,
        "sum.events",
        "The mechanism that the history reports is the one that the ledger charges.",
        _events,
    )
    if run.settings.privacy is None:
        return
    yield by_ledgers(
        run,
        "sum.recomputed",
        f"The epsilon that was claimed, {_where(run)}, is that of the ledger's entries.",
        _recomputed,
    )
    yield _accountants(run)
    if run.settings.privacy.epsilon is not None:
        yield _target(run, run.settings.privacy.epsilon)


def parts_of_charges(charges: Sequence[Charge]) -> list[Segment]:
    """The mechanisms of all charges together."""
    return [part for charge in charges for part in charge.parts]


def _events(run: Evidence, silo: str, ledger: JobLedger) -> Findings:
    for line in run.lines:
        for use in ("training", "evaluation"):
            event = _reported(line, silo, use)
            charges = ledger.of(use, line.round)
            if event and charges and all(charge.event != event for charge in charges):
                ran = "; ".join(_described(charge.event or "") for charge in charges)
                yield (
                    True,
                    f"{silo}, round {line.round} ({use}): the history reports {_described(event)}, "
                    f"the ledger charges {ran}",
                )


def _reported(line: RoundRecord, silo: str, use: str) -> str | None:
    """The event in the ledger's spelling; None where none is reported."""
    found = line.events or {}
    if use == "evaluation":
        found = line.evaluation.events if line.evaluation else {}
    return event_text(found.get(silo))


def _described(event: str) -> str:
    try:
        parts = segments_of(parts_of(event))
    except Exception:
        return "an event that cannot be read"
    return " and ".join(
        f"noise multiplier {part.noise_multiplier:g}, sampling rate {part.sampling_rate:.6g}, "
        f"steps {part.steps}"
        for part in parts
    )


def _recomputed(run: Evidence, silo: str, ledger: JobLedger) -> Findings:
    chosen = _chosen(run)
    charged: list[Charge] = []
    for line in run.lines:
        for use in ("training", "evaluation"):
            if used_records(line, silo, use):
                charged += _matching(ledger.of(use, line.round), _reported(line, silo, use))
        claimed = line.epsilon.per_silo.get(silo) if line.epsilon else None
        if claimed is None or line.round not in chosen:
            continue
        yield from _compared(run, silo, f"round {line.round}", claimed, charged)
    summary = run.summary.epsilon if run.summary else None
    claimed = summary.per_silo.get(silo) if summary else None
    kept = any(line.epsilon and line.epsilon.per_silo.get(silo, 0.0) is None for line in run.lines)
    if claimed is not None:
        yield from _compared(run, silo, "summary", claimed, ledger.charges if kept else charged)
    if open_charges := [charge for charge in ledger.charges if charge.open]:
        whole = epsilon_of(parts_of_charges(ledger.charges), delta=run.delta or 0.0)
        yield False, f"{silo}: with {len(open_charges)} interrupted rounds epsilon {whole:.4f}"


def _where(run: Evidence) -> str:
    chosen = len(_chosen(run))
    return "round by round" if chosen == len(run.lines) else f"in {chosen} rounds, chosen evenly"


def _chosen(run: Evidence) -> set[int]:
    step = max(1, math.ceil(len(run.lines) * len(run.silos) / _MOST_FIGURES))
    return {*range(0, len(run.lines), step), len(run.lines) - 1}


def _matching(charges: Sequence[Charge], event: str | None) -> list[Charge]:
    """The charge that the history speaks of: of a round that was run again there are several."""
    equal = [charge for charge in charges if charge.event == event]
    return (equal or list(charges))[-1:]


def _compared(
    run: Evidence, silo: str, where: str, claimed: float, charges: Sequence[Charge]
) -> Findings:
    found = epsilon_of(parts_of_charges(charges), delta=run.delta or 0.0)
    if not _close(claimed, found):
        yield (
            True,
            f"{silo}, {where}: epsilon {claimed:.6g} was claimed, its entries give {found:.6g}",
        )


def _accountants(run: Evidence) -> Claim:
    """PLD, RDP and PRV on the entries of the silos that spent most, and what the summary quotes."""
    statement = "PLD, RDP and PRV agree on the ledger's entries."
    delta = run.delta or 0.0
    spent: dict[tuple[Segment, ...], str] = {}
    for silo in run.silos:
        if ledger := run.ledger(silo):
            spent.setdefault(segments_of(parts_of_charges(ledger.charges)), silo)
    if not spent:
        return unknown("sum.accountants", run.subject, statement, "no ledger was given")
    by_epsilon = sorted(spent, key=lambda parts: epsilon_of(parts, delta=delta), reverse=True)
    faults, notes = [], []
    for parts in by_epsilon[:_MOST_CROSS_CHECKS]:
        checks = _checked(parts, delta)
        faults += [f"{spent[parts]}: {problem}" for problem in checks.problems]
        figures = {"PLD": checks.pld, "RDP": checks.rdp, "PRV": checks.prv}
        text = ", ".join(f"{k} {v:.4f}" for k, v in figures.items() if v is not None)
        notes += [f"{spent[parts]}: {'; '.join([text, *checks.notes])}"]
    faults += _misquoted(run, _checked(by_epsilon[0], delta))
    return judged("sum.accountants", run.subject, statement, faults=faults, notes=notes)


def _checked(parts: tuple[Segment, ...], delta: float) -> CrossChecks:
    events = [
        dp_sgd_event(
            noise_multiplier=part.noise_multiplier,
            sampling_rate=part.sampling_rate,
            steps=part.steps,
        )
        for part in parts
    ]
    return cross_check(events, delta=delta)


def _misquoted(run: Evidence, checks: CrossChecks) -> Iterator[str]:
    """What the summary says of the silo that spent most; interrupted rounds are not in that."""
    ledgers = [run.ledger(silo) for silo in run.silos]
    whole = all(
        ledger is not None and not any(c.open for c in ledger.charges) for ledger in ledgers
    )
    claimed = run.summary.epsilon if run.summary else None
    quoted = claimed.cross_checks if claimed else None
    if not whole or quoted is None:
        return
    for name, said, found in (
        ("PLD", quoted.pld, checks.pld),
        ("RDP", quoted.rdp, checks.rdp),
        ("PRV", quoted.prv, checks.prv),
    ):
        if (said is None) != (found is None) or not _close(said or 0.0, found or 0.0):
            yield f"the summary's {name} is not what the entries give"
    if quoted.agree is not checks.agree:
        yield "the summary says otherwise whether the accountants agree"


def _close(one: float, other: float) -> bool:
    return one == other or math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-9)


def _target(run: Evidence, target: float) -> Claim:
    """Training alone, as far as it ended: that is what the noise is set for."""
    limit = Limit(target, run.delta or 0.0, "job")
    faults: list[str] = []
    notes: list[str] = []
    missing = False
    for silo in run.silos:
        ledger = run.ledger(silo)
        if ledger is None:
            missing = True
            continue
        ended = [charge for charge in ledger.charges if not charge.open]
        training = {charge.reserve.sequence for charge in ended if charge.use == "training"}
        entries = [
            entry
            for entry in ledger.account.entries
            if entry.sequence in training or entry.reservation in training
        ]
        faults += exceeded(entries, [limit])
        whole = epsilon_of(parts_of_charges(ledger.charges), delta=limit.delta)
        if whole > target * (1 + ROUNDING):
            notes.append(f"{silo}: with evaluations and interrupted rounds epsilon {whole:.4f}")
    statement = f"Training alone stayed within the target of epsilon {target:g} at every moment."
    if missing and not faults:
        why = "some silos' ledgers were not given"
        return unknown("budget.target", run.subject, statement, why)
    return judged("budget.target", run.subject, statement, faults=faults, notes=notes)
