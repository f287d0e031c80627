"""What would tell how many records a silo has, for data holders who keep that to themselves."""

from __future__ import annotations

from collections.abc import Iterator

from privet.client.plan import LocalPlan
from privet.experiment import Experiment
from privet.privacy.policy import Refusal
from privet.strategies import load_strategy

_RULE = "sending.records_public"


def telling(experiment: Experiment, plan: LocalPlan) -> Iterator[Refusal]:
    """Settings under which the update itself, or what must come with it, tells the number.

    An update's noise is as large as its steps and its noise multiplier make it, so both must come
    from the job and not from the number of records; the batch must not be cut to it; and the
    average must not weigh silos by it.
    """
    privacy, training = experiment.privacy, experiment.training
    if load_strategy(experiment.strategy.name, experiment.strategy.options).counts_records:
        yield Refusal(_RULE, "weights by number of records", 'strategy.weighting = "uniform"')
    if training.steps is None:
        yield Refusal(_RULE, "steps that follow from the number of records", "training.steps")
    if privacy is not None and privacy.noise_multiplier is None:
        yield Refusal(
            _RULE, "noise fitted to the number of records", "privacy.noise_multiplier, not epsilon"
        )
    if plan.batch_size != training.batch_size:
        yield Refusal(_RULE, f"batches of {training.batch_size}", "smaller batches")
