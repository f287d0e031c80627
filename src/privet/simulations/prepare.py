"""Everything that can be found wrong before a run writes its first byte."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from privet.client.silo import LocalData, load_local_data
from privet.client.training import LocalPlan, demand_transform, loss_of, plan_round
from privet.experiment import Experiment
from privet.metrics import declared_by
from privet.privacy.mechanisms import ExampleLoss
from privet.privacy.policy import Policy
from privet.server.app import check, initial_model
from privet.server.start import with_digest
from privet.tasks.defaults import completed
from privet.tasks.files import data_folder


@dataclass(frozen=True)
class Prepared:
    """An experiment that can run: its data are loaded and every silo has a plan."""

    experiment: Experiment
    place: LocalData
    plans: tuple[LocalPlan, ...]
    data_dir: Path | None
    run_id: int
    policy: Path | None = None
    requester: str = "simulation"
    by_rule: str = ""
    """What of the settings the experiment did not say, in a line; see `privet.tasks.defaults`."""

    @property
    def loss(self) -> ExampleLoss:
        """The task's loss as training takes it."""
        return loss_of(self.place.task, self.experiment.training)

    @property
    def warnings(self) -> list[str]:
        """What a person should know before trusting the outcome."""
        privacy = self.experiment.privacy
        sizes = self.place.sizes
        warnings = []
        if privacy is not None and privacy.delta >= 1 / max(sizes):
            warnings.append(
                f"privacy.delta = {privacy.delta:g} is not below 1/{max(sizes)}, one over the "
                "records of the largest silo: such a delta allows a record to be published whole"
            )
        if privacy is not None and (unreached := self.place.unreached(self.loss)):
            warnings.append(
                f"{', '.join(unreached)}: no gradient reaches them on made-up examples, so they "
                "will get noise and learn nothing; freeze them (requires_grad_(False))"
            )
        batch_size = self.experiment.training.batch_size
        small = sum(size < batch_size for size in sizes)
        if small and not self.by_rule:
            warnings.append(
                f"{small} of {len(sizes)} silos have fewer records than training.batch_size = "
                f"{batch_size}: their batch is the whole silo"
            )
        return warnings


def prepare(
    experiment: Experiment,
    *,
    data_dir: Path | None = None,
    policy: Path | None = None,
    requester: str = "simulation",
) -> Prepared:
    """Complete the settings (`privet.tasks.defaults`), load the data and plan every silo; any
    PrivetError comes before anything is written.

    `policy`: a data holder's policy that every silo keeps to, under its own name or "*", or under
    the only one that the policy names; `requester`: who asks, in its eyes.
    """
    whole = completed(experiment)
    experiment, strategy = whole.experiment, check(whole.experiment)
    if policy is not None:
        # Worker processes may be in another folder, and silos read the policy themselves; it is
        # read here to find mistakes early.
        policy = policy.absolute()
        Policy.from_file(policy)
    # Not from the seed: under this number data are kept (`load_local_data`), and a run reads its
    # own anew.
    run_id = secrets.randbits(62) + 1
    data_dir = data_folder(data_dir)
    experiment = with_digest(experiment, data_dir=data_dir)
    place = load_local_data(experiment, data_dir=data_dir, run_id=run_id, divided=True)
    declared_by(place.task)  # what says nothing is found before anything is written
    strategy.check_silos(len(place.silos))
    demand_transform(place.silos[0], experiment.training)
    if experiment.privacy is not None:
        place.check(loss_of(place.task, experiment.training), experiment.privacy)
    if experiment.start is not None:  # what does not fit is found before anything is written
        initial_model(place.task, experiment, data_dir=data_dir)
    plans = tuple(plan_round(experiment, n_records=size) for size in place.sizes)
    return Prepared(experiment, place, plans, data_dir, run_id, policy, requester, whole.line)
