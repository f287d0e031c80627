"""What an auditor was given, read in: runs, and the ledgers and exports of their silos."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from privet.audits import ledgers
from privet.audits.ledgers import SIMULATION, Account
from privet.errors import DataError, PrivetError
from privet.experiment import Experiment
from privet.files import demand_file, read_file
from privet.privacy.ledger import Charge
from privet.privacy.mechanisms.canaries import CANARIES
from privet.privacy.policy import Policy
from privet.record.folder import CHECKPOINT, MODEL, SETTINGS
from privet.record.history import HISTORY, RoundRecord, read_rounds
from privet.record.summary import SUMMARY, RunSummary, read_summary

POLICY, LEDGER, PLANS, JOB = "policy.toml", "ledger.sqlite", "silos.json", "job.json"


@dataclass(frozen=True)
class JobLedger:
    """A silo's ledger as far as one run is concerned: what it charges for the run's job."""

    account: Account
    dataset: str
    job: str

    @cached_property
    def charges(self) -> tuple[Charge, ...]:
        """Of this job, without what was released."""
        return tuple(self.account.charges(self.dataset, self.job))

    @cached_property
    def ends(self) -> dict[int | None, str]:
        """By the number of its reservation: when a charge was committed or released."""
        own = (entry for entry in self.account.entries if entry.dataset == self.dataset)
        return {e.reservation: e.time for e in own if e.kind in ("commit", "release")}

    def of(self, use: str, round_: int) -> list[Charge]:
        """The charges for one use of the records in one round."""
        return self._by_round.get((use, round_), [])

    @cached_property
    def _by_round(self) -> dict[tuple[str, int | None], list[Charge]]:
        found: dict[tuple[str, int | None], list[Charge]] = defaultdict(list)
        for charge in self.charges:
            found[charge.use, charge.reserve.round].append(charge)
        return found


@dataclass(frozen=True)
class Evidence:
    """One run. `fault` says why its files cannot be relied on; the rest is then not there."""

    subject: str
    folder: Path
    experiment: Experiment | None = None
    lines: tuple[RoundRecord, ...] = ()
    summary: RunSummary | None = None
    plans: Mapping[str, Mapping[str, Any]] | None = None
    """By silo, what a simulation's host knows: records, sampling rate, steps, noise multiplier."""
    policy: Policy | None = None
    job: str | None = None
    ledgers: Mapping[str, JobLedger] | None = None
    fault: str | None = None
    shared: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What checks have found out for all runs of one audit."""

    @property
    def settings(self) -> Experiment:
        """The experiment; only of a run without a fault."""
        assert self.experiment is not None
        return self.experiment

    @property
    def delta(self) -> float | None:
        """At which the run claims its epsilon; None without differential privacy."""
        return self.settings.privacy.delta if self.settings.privacy else None

    @cached_property
    def silos(self) -> tuple[str, ...]:
        """Every silo of the run, as far as the history names it."""
        found: dict[str, None] = {}
        for line in self.lines:
            found |= dict.fromkeys(line.epsilon.per_silo if line.epsilon else ())
            found |= dict.fromkeys(sorted(line.silos))
        return tuple(found)

    def ledger(self, silo: str) -> JobLedger | None:
        """The silo's ledger, for this run's job; None where no sound ledger is known."""
        return (self.ledgers or {}).get(silo)


def run_folders(path: Path) -> list[Path]:
    """The run folders at and below a folder, such as those of a sweep."""
    return [
        each.parent for each in sorted(path.rglob(SETTINGS)) if (each.parent / HISTORY).exists()
    ]


def ledger_files(path: Path) -> list[Path]:
    """The ledgers and exports in a folder that is no run, and below it but for runs."""
    runs = set(run_folders(path))
    files = (each for each in sorted(path.rglob("*")) if each.suffix in (".sqlite", ".json"))
    return [
        each
        for each in files
        if each.is_file() and not runs.intersection(each.parents) and ledgers.is_ledger(each)
    ]


def files_of(folder: Path) -> list[Path]:
    """The files of a run that an audit rests on, as far as they are there."""
    names = (SETTINGS, HISTORY, SUMMARY, PLANS, POLICY, JOB, CHECKPOINT, MODEL)
    found = [demand_file(folder / name) for name in names if (folder / name).exists()]
    found += map(demand_file, sorted((folder / CANARIES).rglob("*.jsonl")))
    ledger = folder / LEDGER
    return [*found, *ledgers.files_of(ledger)] if ledger.exists() else found


def read_run(
    folder: Path,
    *,
    subject: str,
    others: Sequence[Account],
    own: Account | None,
    policy: Policy | None,
    shared: dict[str, Any] | None = None,
) -> Evidence:
    """The run in `folder`; `own` is its own ledger, `others` are those of its silos, perhaps.

    `policy` takes the place of the run's own one; `shared` is that of all runs of the audit. Damage
    becomes the evidence's `fault`.
    """
    try:
        experiment = Experiment.from_file(demand_file(folder / SETTINGS))
        summary = read_summary(folder)
        lines = read_rounds(folder, finished=summary is not None)
        if policy is None and (folder / POLICY).exists():
            policy = Policy.from_file(demand_file(folder / POLICY))
        plans, job = _plans(folder), _job(folder)
    except (PrivetError, OSError, ValueError) as error:
        return Evidence(subject, folder, fault=str(error).replace(f"{folder}/", ""))
    found = Evidence(
        subject,
        folder,
        experiment,
        lines,
        summary,
        plans,
        policy.for_everyone() if policy else None,
        job,
        shared={} if shared is None else shared,
    )
    by_silo = {silo: _job_ledger(silo, found, others, own) for silo in found.silos}
    known = {silo: ledger for silo, ledger in by_silo.items() if ledger is not None}
    return replace(found, ledgers=known)


def _job_ledger(
    silo: str, run: Evidence, others: Sequence[Account], own: Account | None
) -> JobLedger | None:
    """In the run's own ledger a data set is named as its silo, and the job is a simulation's.

    Where a key is known it comes before a ledger that only lies in the folder.
    """
    if own is not None and (own.keyless or own.vouches_for(silo)):
        return JobLedger(own, silo, SIMULATION) if own.sound else None
    for account in others:
        if not account.vouches_for(silo):
            continue
        for dataset, job in _jobs(account, silo):
            if run.job in (None, job):
                return JobLedger(account, dataset, job)
        if account.silo == silo or silo in account.history.datasets:
            return JobLedger(account, silo, run.job or SIMULATION)
    return None


def _jobs(account: Account, silo: str) -> list[tuple[str, str]]:
    """Data set and job of everything that was charged, by a ledger that may be the silo's."""
    pairs = dict.fromkeys(
        (str(charge.reserve.dataset), str(charge.reserve.job))
        for charge in account.history.charges.values()
    )
    return [pair for pair in pairs if account.silo == silo or pair[0] == silo]


def _plans(folder: Path) -> dict[str, Mapping[str, Any]] | None:
    found = _json(folder / PLANS)
    if found is None:
        return None
    silos = found.get("silos")
    if not isinstance(silos, list):
        raise DataError(f"{PLANS}: it has no silos")
    return {str(each.get("name")): each for each in silos if isinstance(each, dict)}


def _job(folder: Path) -> str | None:
    found = _json(folder / JOB)
    return str(found["id"]) if found and "id" in found else None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError):
        raise DataError(f"{path.name}: it is not JSON") from None
    if not isinstance(found, dict):
        raise DataError(f"{path.name}: it is no JSON object")
    return found


def read_own(folder: Path, *, subject: str, keys: Mapping[str, str]) -> Account | None:
    """The ledger in a run folder; None where there is none."""
    path = folder / LEDGER
    if not path.exists():
        return None
    return ledgers.read_account(path, subject=f"{subject}/{LEDGER}", keys=keys)
