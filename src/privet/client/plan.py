"""What a silo will do in one round, decided before a record is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from privet.errors import DataError
from privet.experiment import Experiment, PrivacySettings
from privet.privacy.accounting import noise_multiplier_for, plain_event
from privet.privacy.dp_events import DpEvent
from privet.privacy.mechanisms import DpSgd, local_steps, sampling_rate


@dataclass(frozen=True)
class LocalPlan:
    """Local training of one round; `mechanism` is None without differential privacy."""

    steps: int
    batch_size: int
    mechanism: DpSgd | None

    def event(self, steps: int | None = None) -> DpEvent:
        """What `steps` steps cost (those that ran), or all that are planned."""
        return self.mechanism.event(steps) if self.mechanism else plain_event()


def plan_round(
    experiment: Experiment, *, n_records: int, noise_floor: float | None = None
) -> LocalPlan:
    """The plan of a silo with `n_records` training records.

    `noise_floor` can only raise the noise multiplier: a server cannot ask for less noise than the
    silo's own calibration gives. Fewer records than a batch make the batch the whole silo.
    """
    if n_records < 1:
        raise DataError("the silo has no training records")
    training = experiment.training
    batch_size = min(training.batch_size, n_records)
    steps = training.steps or local_steps(
        n_records=n_records, batch_size=batch_size, epochs=training.epochs
    )
    if experiment.privacy is None:
        return LocalPlan(steps=steps, batch_size=batch_size, mechanism=None)
    rate = sampling_rate(n_records=n_records, batch_size=batch_size)
    needed = needed_noise(
        experiment.privacy, sampling_rate=rate, total_steps=steps * experiment.rounds
    )
    mechanism = DpSgd(
        noise_multiplier=max(needed, noise_floor or 0.0),
        clip=experiment.privacy.clip,
        sampling_rate=rate,
        steps=steps,
        batch_size=batch_size,
    )
    return LocalPlan(steps=steps, batch_size=batch_size, mechanism=mechanism)


def needed_noise(privacy: PrivacySettings, *, sampling_rate: float, total_steps: int) -> float:
    """The noise multiplier that was set, or the one that meets the target over `total_steps`.

    A silo's coins are not counted as amplification: it is calibrated for being asked every round.
    """
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    assert privacy.epsilon is not None
    return _calibrated(privacy.epsilon, privacy.delta, sampling_rate, total_steps)


@lru_cache(maxsize=4096)
def _calibrated(epsilon: float, delta: float, rate: float, steps: int) -> float:
    return noise_multiplier_for(epsilon=epsilon, delta=delta, sampling_rate=rate, steps=steps)
