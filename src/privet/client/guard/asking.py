"""What a job asks of a silo, in the words of the policy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.machinery import PathFinder
from pathlib import Path

from privet.client.plan import LocalPlan
from privet.experiment import Experiment
from privet.privacy.policy import Request


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Who asks for which data set, and for which job; named by the silo's own configuration."""

    dataset: str
    requester: str
    job: str

    def opening(self, experiment: Experiment) -> Request:
        """Before the task's code is loaded: may it run here at all, and now?"""
        return Request(
            dataset=self.dataset,
            task=experiment.task,
            code_hash=code_hash(experiment.task),
            requester=self.requester,
            job=self.job,
            kind="open",
            at=datetime.now(UTC),
            encrypted=experiment.encryption is not None,
            silos_in_sum=experiment.encryption.smallest_sum if experiment.encryption else None,
        )

    def training(self, experiment: Experiment, plan: LocalPlan) -> Request:
        """A round of `plan`."""
        request = replace(self.opening(experiment), kind="train")
        if plan.mechanism is None or experiment.privacy is None:
            return request
        return replace(
            request,
            unit=experiment.privacy.unit,
            mechanism="dp-sgd",
            noise_multiplier=plan.mechanism.noise_multiplier,
            sampling_rate=plan.mechanism.sampling_rate,
            clip=plan.mechanism.clip,
        )

    def evaluation(self, experiment: Experiment, metrics: tuple[str, ...]) -> Request:
        """An evaluation that would like to send `metrics`."""
        return replace(self.opening(experiment), kind="evaluate", metrics=metrics)


def code_hash(task: str) -> str | None:
    """SHA-256 over the code of a task "module:Class", found without running any of it.

    It covers every Python file of the top-level package that the task lies in, or the one file of a
    module outside packages; not what these import from elsewhere. None for a built-in task, and for
    a module that cannot be found.
    """
    module, colon, _ = task.partition(":")
    spec = PathFinder.find_spec(module.partition(".")[0]) if colon else None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return "sha256:" + hashlib.sha256(origin.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for file in sorted(origin.parent.rglob("*.py")):
        name = file.relative_to(origin.parent).as_posix()
        whole.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return "sha256:" + whole.hexdigest()
