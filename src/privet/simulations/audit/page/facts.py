"""What the audited files say of a run that the report does not repeat: data, records, promise."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.privacy.audit.canary_files import CANARIES, read_sightings
from privet.privacy.audit.sightings import Sighting
from privet.privacy.policy import Policy
from privet.simulations.audit.evidence import JOB, PLANS, POLICY, SETTINGS
from privet.simulations.audit.report import Report


@dataclass(frozen=True)
class Run:
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
        """By silo that lets its number of training records be known."""
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
    def runs(self) -> dict[str, Run]:
        """Every run of the report, by subject."""
        found = [claim.subject for claim in self.report.claims if claim.id == "record.readable"]
        return {subject: self._run(subject) for subject in found}

    @cached_property
    def policy(self) -> Policy | None:
        """The policy that was given in place of the runs' own."""
        given = self.report.options.policy
        return self._policy(given) if given else None

    def sightings(self, subject: str) -> list[Sighting]:
        """What was seen of a run's canaries; nothing where a file has changed since."""
        folder = PurePosixPath(subject, CANARIES)
        audited = {name for name in self._digests if PurePosixPath(name).parent == folder}
        there = {str(folder / path.name) for path in (self.base / folder).glob("*.jsonl")}
        if audited != there or any(self._content(name) is None for name in audited):
            return []
        try:
            return read_sightings(self.base / folder)
        except PrivetError:
            return []

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {file.path: file.sha256 for file in self.report.files}

    def _content(self, name: str) -> bytes | None:
        try:
            content = (self.base / name).read_bytes() if name in self._digests else None
        except (OSError, ValueError):
            return None
        same = content and hashlib.sha256(content).hexdigest() == self._digests[name]
        return content if same else None

    def _run(self, subject: str) -> Run:
        def beside(name: str) -> str:
            return str(PurePosixPath(subject, name))

        plans = self._json(beside(PLANS)).get("silos")
        return Run(
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
