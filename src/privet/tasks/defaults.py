"""What a private experiment leaves unsaid of its training, by a rule that looks at no record.

An experiment with `privacy.epsilon` and without settings in [training] gets

    training.steps = 1, training.batch_size = 1024    one step a round, of the whole silo if it is
                                                      smaller: many records share the noise of each
    rounds = 40, or 100 of many records               unless the experiment says others,
    privacy.clip = 0.5                                and so
    training.lr = way / (max(rounds, 20) * clip)      with way = 0.8 * epsilon * sqrt(records)

A step moves a model by about lr * clip, so the rule says how far all rounds can take it. Noise
along that way grows as the way does, and falls as epsilon and the number of records rise; a longest
way is enough for any fit. `records` is the number in all silos together as far as it is public:
what `federation.records` says, else that of a public data set (`TaskEntry.records`), else 1,500. It
is never counted: a silo may keep its number to itself, and an experiment is completed alike where
it is simulated and where it is submitted.

Whoever simulates, sweeps or submits fills them in. They are then settings like others: in the
order that silos hold against their policies, and in the run folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from privet.experiment import Experiment
from privet.tasks.registry import TASKS

BATCH, CLIP = 1024, 0.5
_ROUNDS, _ROUNDS_OF_MANY, _MANY = 40, 100, 20_000
_RECORDS = 1500
_WAY, _LONGEST_WAY = 0.8, 600.0
_FEWEST_ROUNDS = 20
_CHOSEN_APART = {"class_weights"}
"""Of [training], what is about the records and does not say how to train."""
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Completed:
    """An experiment with nothing left unsaid, and what the rule said, by dotted keys."""

    experiment: Experiment
    by_rule: dict[str, Any]

    @property
    def line(self) -> str:
        """For people; empty where the rule had nothing to say."""
        if not self.by_rule:
            return ""
        said = ", ".join(f"{key} = {value:g}" for key, value in self.by_rule.items())
        epsilon, records = _epsilon(self.experiment), _records(self.experiment)
        return f"By rule, for epsilon = {epsilon:g} and some {records:,} records: {said}"


def completed(experiment: Experiment) -> Completed:
    """The experiment with what the rule says of it; one that says how to train stays as it is."""
    privacy = experiment.privacy
    said = experiment.training.model_fields_set - _CHOSEN_APART
    if privacy is None or privacy.epsilon is None or said:
        return Completed(experiment, {})
    rule: dict[str, Any] = {}
    if "rounds" not in experiment.model_fields_set:
        rule["rounds"] = _ROUNDS if _records(experiment) < _MANY else _ROUNDS_OF_MANY
    rule |= {"training.steps": 1, "training.batch_size": BATCH}
    if "clip" not in privacy.model_fields_set:
        rule["privacy.clip"] = CLIP
    clip = rule.get("privacy.clip", privacy.clip)
    rounds = max(rule.get("rounds", experiment.rounds), _FEWEST_ROUNDS)
    rule["training.lr"] = float(f"{_way(experiment) / (rounds * clip):.2g}")
    return Completed(experiment.with_settings(rule), rule)


def _way(experiment: Experiment) -> float:
    """How far the steps of all rounds may take the model, as its silos see it."""
    way = _WAY * _epsilon(experiment) * math.sqrt(_records(experiment))
    # A server's momentum takes the model 1 / (1 - momentum) times as far.
    strategy = experiment.strategy
    momentum = strategy.options.get("server_momentum", _MOMENTUM)
    return min(way, _LONGEST_WAY) * ((1 - momentum) if strategy.name == "fedavgm" else 1.0)


def _records(experiment: Experiment) -> int:
    """Of all silos together, as far as it is public."""
    public = TASKS[experiment.task].records if experiment.task in TASKS else None
    return experiment.federation.records or public or _RECORDS


def _epsilon(experiment: Experiment) -> float:
    assert experiment.privacy is not None
    assert experiment.privacy.epsilon is not None
    return experiment.privacy.epsilon
