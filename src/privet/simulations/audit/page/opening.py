"""The first page in plain words: who, which data, which promise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.privacy.policy.rules import Budget
from privet.simulations.audit.page.facts import Files, Run
from privet.simulations.pages.formatting import bound, counted, listed, scientific

FAR = 50.0
"""An epsilon beyond which a factor of odds says nothing to anybody."""


@dataclass(frozen=True)
class Fact:
    """An answer to a question of the first page."""

    term: str
    text: str


def facts(files: Files) -> tuple[Fact, ...]:
    """Who was audited, over which data, and what was promised of them."""
    return (
        Fact("Who", _who(files)),
        Fact("Data", _data(files)),
        Fact("Promise", _promise(files)),
        Fact("Meaning", _meaning(files)),
    )


def _silos(files: Files) -> tuple[str, ...]:
    """Every silo that a sum or a run names."""
    planned = (str(p.get("name")) for run in files.runs.values() for p in run.plans)
    return tuple(dict.fromkeys([*(each.silo for each in files.report.sums), *planned]))


def _who(files: Files) -> str:
    runs, silos = list(files.runs.values()), _silos(files)
    whose = f"{counted(len(silos), 'silo')}: {listed(silos, most=8)}. " if silos else ""
    if not runs:
        books = [c.subject for c in files.report.claims if c.id == "record.chain"]
        return f"{whose}Given were {counted(len(books), 'ledger')}: {listed(books)}; no run."
    jobs = [run for run in runs if run.job]
    said = [*map(_job, jobs[:2])]
    if len(jobs) > 2:
        said.append(f"{counted(len(jobs) - 2, 'further job')} on real silos")
    if simulated := [run.subject for run in runs if not run.job]:
        those = "Simulation" if len(simulated) == 1 else counted(len(simulated), "simulation")
        said.append(f"{those} ({listed(simulated, most=3)}): silos and server were one process")
    return f"{whose}{'; '.join(said)}."


def _job(run: Run) -> str:
    told = run.job or {}
    return (
        f"Job {told.get('id')} of project {told.get('project')}, asked for by "
        f"{told.get('requester')}; the server wrote {run.subject}"
    )


def _data(files: Files) -> str:
    runs = list(files.runs.values())
    tasks = list(dict.fromkeys(run.experiment.task for run in runs if run.experiment))
    said = [f"Data set of the task: {listed(tasks)}."] if tasks else []
    said += [_records(runs)] if runs else []
    return " ".join([*said, "Unit of privacy: one record of one silo."])


def _records(runs: Sequence[Run]) -> str:
    held = {tuple(sorted(run.records.items())) for run in runs}
    if len(held) != 1 or not (records := dict(held.pop())):
        each = [sum(run.records.values()) for run in runs if run.records]
        if not each:
            return "How many records the silos hold was not told."
        low, high = min(each), max(each)
        return f"Training records of a run: {f'{low:,} to ' if low < high else ''}{high:,}."
    kept = len(runs[0].plans) - len(records)
    but = f", but for {counted(kept, 'silo')} that keep{'s' if kept == 1 else ''} the number"
    return f"{sum(records.values()):,} training records{but if kept else ''}."


def _promise(files: Files) -> str:
    """What experiments and policies set, and between which data sets."""
    targets = [*dict.fromkeys(_targets(files))]
    budgets = [*dict.fromkeys(map(_budget, _budgets(files)))]
    said = [f"Training: {listed(targets, most=6)}."] if targets else []
    said += [f"Policy of the data's holder: {listed(budgets, most=3)}."] if budgets else []
    if not said:
        said = ["No run sets an epsilon, and no policy was given."]
    return " ".join([*said, "Neighbours: data sets that differ by one record, added or removed."])


def _targets(files: Files) -> Iterator[str]:
    for run in files.runs.values():
        privacy = run.experiment.privacy if run.experiment else None
        if privacy is None:
            yield "none, without differential privacy" if run.experiment else "not known"
        elif privacy.epsilon is None:
            yield f"noise {privacy.noise_multiplier:g} and no target"
        else:
            yield f"epsilon ≤ {privacy.epsilon:g} at delta {scientific(privacy.delta)}"


def _budgets(files: Files) -> Iterator[Budget]:
    policies = [run.policy for run in files.runs.values()] or [files.policy]
    for policy in policies:
        yield from (rules.budget for rules in policy.data.values()) if policy else ()


def _budget(found: Budget) -> str:
    """Every limit, in words."""
    limits = {
        "over the life of the data set": found.epsilon,
        "a job": found.epsilon_per_job,
        "a month": found.epsilon_per_month,
        "a requester": found.epsilon_per_requester,
    }
    said = [
        f"epsilon ≤ {limit:g} {per}"
        for per, limit in limits.items()
        if limit is not None and math.isfinite(limit)
    ]
    if not said:
        return "no limit"
    return f"{', '.join(said)} at delta {scientific(found.delta)}"


def _meaning(files: Files) -> str:
    """What the largest epsilon of one record lets somebody tell."""
    if not files.report.sums:
        return "Nothing was charged that could be added up."
    most = max(files.report.sums, key=lambda each: each.epsilon)
    if not most.epsilon <= FAR:
        return (
            f"{most.silo} was charged epsilon {bound(most.epsilon)}: of its records nothing is "
            "promised that would mean anything."
        )
    held = "Whether" if files.report.verdict != "FAIL" else "If what fails did hold, whether"
    return (
        f"{held} any one record was used changes the odds of whatever anybody can conclude from "
        f"what left a silo by a factor of {bound(math.exp(most.epsilon))} at most, but for a "
        f"chance of about {scientific(most.delta)}: epsilon {bound(most.epsilon)}, of {most.silo} "
        f"in {most.subject}, which spent most."
    )
