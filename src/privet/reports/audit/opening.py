"""The first page in plain words: who, which data, which promise.

What the audited files say of a run that the report does not repeat: data, records, promise.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from privet.audits.claims import SIGNER
from privet.audits.evidence import JOB, PLANS, POLICY
from privet.audits.report import Report
from privet.charts.formatting import bound, counted, listed, scientific
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.files import read_file
from privet.privacy.mechanisms.canaries import CANARIES, CanaryObservation, read_observations
from privet.privacy.policy import Policy
from privet.privacy.policy.rules import Budget
from privet.record.folder import SETTINGS


@dataclass(frozen=True)
class AuditedRun:
    """One run of a report. What cannot be read, or is not as it was audited, is not there."""

    subject: str
    experiment: Experiment | None
    plans: tuple[Mapping[str, Any], ...]
    """What a simulation's host knows of each silo."""
    policy: Policy | None
    job: Mapping[str, Any] | None
    """The job on real silos; None for a simulation."""

    @property
    def target(self) -> float | None:
        """The epsilon that the experiment set for training."""
        privacy = self.experiment.privacy if self.experiment else None
        return privacy.epsilon if privacy else None

    @cached_property
    def records(self) -> dict[str, int]:
        """By silo that lets its number of records be known."""
        found = {str(plan.get("name")): plan.get("records") for plan in self.plans}
        return {
            silo: count
            for silo, count in found.items()
            if isinstance(count, int) and self._public(silo)
        }

    def _public(self, silo: str) -> bool:
        if self.policy is None:
            return True
        rules = self.policy.rules(silo)
        return rules is not None and rules.sending.records_public


@dataclass(frozen=True)
class Files:
    """The audited files, as they were when their digests were taken."""

    report: Report
    base: Path
    """The folder of `audit.json`, to which its paths are relative."""

    @cached_property
    def runs(self) -> dict[str, AuditedRun]:
        """Every run of the report, by subject."""
        found = [claim.subject for claim in self.report.claims if claim.id == "record.readable"]
        return {subject: self._run(subject) for subject in found}

    @cached_property
    def policy(self) -> Policy | None:
        """The policy that was given in place of the runs' own."""
        given = self.report.options.policy
        return self._policy(given) if given else None

    def sightings(self, subject: str) -> list[CanaryObservation]:
        """What was seen of a run's canaries; nothing where a file has changed since."""
        folder = PurePosixPath(subject, CANARIES)
        audited = {name for name in self._digests if PurePosixPath(name).parent == folder}
        there = {str(folder / path.name) for path in (self.base / folder).glob("*.jsonl")}
        # A file more or less would be read along with the others: all are as they were, or none is.
        if audited != there or any(self._content(name) is None for name in audited):
            return []
        try:
            return read_observations(self.base / folder)
        except PrivetError:
            return []

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {file.path: file.sha256 for file in self.report.files}

    def _content(self, name: str) -> bytes | None:
        try:
            content = read_file(self.base / name) if name in self._digests else None
        except (OSError, ValueError):
            return None
        # The page says under its verdict what is read here: it must be what the verdict was about.
        same = content and hashlib.sha256(content).hexdigest() == self._digests[name]
        return content if same else None

    def _run(self, subject: str) -> AuditedRun:
        def beside(name: str) -> str:
            return str(PurePosixPath(subject, name))

        plans = self._json(beside(PLANS)).get("silos")
        return AuditedRun(
            subject,
            self._experiment(beside(SETTINGS)),
            tuple(_dicts(plans)),
            self.policy or self._policy(beside(POLICY)),
            self._json(beside(JOB)) or None,
        )

    def _experiment(self, name: str) -> Experiment | None:
        try:
            return Experiment.from_mapping(tomllib.loads((self._content(name) or b"").decode()))
        except (PrivetError, ValueError):
            return None

    def _policy(self, name: str) -> Policy | None:
        try:
            known = self._content(name) is not None
            # Simulated silos have names of their own, which a policy of one data set does not know.
            return Policy.from_file(self.base / name).for_everyone() if known else None
        except PrivetError:
            return None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._content(name) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def _dicts(found: object) -> Iterator[Mapping[str, Any]]:
    yield from (each for each in found if isinstance(each, dict)) if isinstance(found, list) else ()


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
        Fact("Keys", _keys(files.report)),
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


def _keys(report: Report) -> str:
    """Whose word the signatures are, and where the auditor has the keys from."""
    given = report.options
    said = [f"Given as the project's: {key}." for key in given.anchors]
    said += [f"Signed by {line}." for line in _signers(report)]
    if not (given.anchors or given.public_keys):
        said.append("None was given: the keys that the files themselves name were believed.")
    return " ".join(said)


def _signers(report: Report) -> Iterator[str]:
    signed = (c for c in report.claims if c.id == SIGNER and c.verdict == "PASS")
    yield from dict.fromkeys(line for claim in signed for line in claim.evidence)


def _job(run: AuditedRun) -> str:
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


def _records(runs: Sequence[AuditedRun]) -> str:
    held = {tuple(sorted(run.records.items())) for run in runs}
    if len(held) != 1 or not (records := dict(held.pop())):
        each = [sum(run.records.values()) for run in runs if run.records]
        if not each:
            return "How many records the silos hold was not told."
        low, high = min(each), max(each)
        return f"Records of a run: {f'{low:,} to ' if low < high else ''}{high:,}."
    kept = len(runs[0].plans) - len(records)
    but = f", but for {counted(kept, 'silo')} that keep{'s' if kept == 1 else ''} the number"
    return f"{sum(records.values()):,} records{but if kept else ''}."


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
    # Asked this way round, so that an epsilon of NaN promises nothing.
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
