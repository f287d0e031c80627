"""How good the global model is on a silo's own records, and what of it may be released.

Also a silo's canaries, and the file with the audit's observations of them: the node's own
configuration asks for them (`canaries`, how many coordinates, and `canaries-dir`), a job cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context

from privet.client.guard import EvaluationPermit
from privet.client.silo import Silo
from privet.privacy.accounting import encode_event
from privet.privacy.mechanisms import (
    Canaries,
    CanaryTrace,
    DpSgd,
    ExampleLoss,
    NoisyCounts,
    NoisyShare,
)
from privet.privacy.mechanisms.canaries import CanaryObservation, add_observation
from privet.privacy.policy import MetricRule
from privet.pytrees import Tree, called, one_by_one
from privet.randomness import numpy_generator, stream
from privet.tasks import Examples, Task
from privet.tasks.task import evaluated
from privet.vectors import Vector
from privet.wire import EvaluateReply
from privet.wire.answers import KNOWN_METRICS, SCORES
from privet.wire.rounds import ScoreReply

# Records at a time: what the layers make of all of a silo's need not fit into memory at once.
_BATCH = 1024
_LOSS = "loss"


def metric_names(silo: Silo, *, score_bins: int | None = None) -> tuple[str, ...]:
    """What the task can measure, found on a made-up record: none of the silo's is used.

    With `score_bins` the scores of a model of two classes are among it.
    """
    module, like = silo.model().module.eval(), silo.local.example_type
    # Not made like the first record: maybe all are held out, and there is none.
    inputs, targets = like.zeros(1)
    with torch.no_grad():
        outputs = called(module, inputs)
    found = (_LOSS, *silo.task.metrics(outputs, targets))
    two = isinstance(outputs, torch.Tensor) and outputs.shape == (1, 2)
    classes = isinstance(targets, torch.Tensor) and targets.shape == (1,)
    whole = classes and targets.dtype == torch.int64
    return (*found, SCORES) if score_bins and two and whole else found


def measure(
    silo: Silo,
    round_: int,
    weights: Vector,
    permit: EvaluationPermit,
    *,
    bins: int | None = None,
) -> EvaluateReply:
    """The metrics of the model on the records that `permit` opens, each as its rule says.

    Nothing is computed where every metric is withheld.
    """
    # Of a metric that stays here not even the name leaves, which is a word of the task's choosing.
    released = {
        rule.name: rule.release
        for rule in permit.rules
        if rule.release != "withheld" or rule.name in KNOWN_METRICS
    }
    sent = [rule for rule in permit.rules if rule.release != "withheld"]
    if not sent:
        return EvaluateReply({}, released)
    if any(rule.noise_multiplier is not None for rule in sent):
        silo.local.check_evaluation()
    measured = _Measured.of(silo, round_, weights, permit.records())
    public, event = permit.records_public, permit.event
    scores = next((rule for rule in sent if rule.name == SCORES), None)
    return EvaluateReply(
        metrics={rule.name: measured.figure(rule) for rule in sent if rule is not scores},
        scores=measured.scores(scores, bins or 2) if scores else None,
        released=released,
        # All records, though some were measured: how many are held out is told to nobody.
        weight=float(silo.n_records) if public else None,
        event=encode_event(event) if public and event else None,
    )


@dataclass(frozen=True)
class _Measured:
    """The model's outputs on the records, tensors (n, ...), beside their targets."""

    silo: Silo
    round: int
    outputs: Any
    targets: Tree

    @classmethod
    def of(cls, silo: Silo, round_: int, weights: Vector, examples: Examples) -> _Measured:
        model, device = silo.device_model(), silo.device
        model.load(weights)
        module = model.module.eval()
        outputs, targets = evaluated(module, examples, at_once=_BATCH, device=device)
        return cls(silo, round_, outputs, targets)

    def scores(self, rule: MetricRule, bins: int) -> ScoreReply:
        """Counts of records by class and bin of the second class's probability."""
        # Of outputs, and not by the task's code: a record is then in one cell whatever that says.
        shares = torch.softmax(self.outputs.double(), dim=1)[:, 1] if len(self.targets) else None
        cells = torch.zeros(0, dtype=torch.int64)
        if shares is not None:
            known = torch.isfinite(shares) & (self.targets >= 0) & (self.targets <= 1)
            place = torch.nan_to_num(shares).mul(bins).long().clamp(0, bins - 1)
            cells = (self.targets * bins + place)[known]
        if rule.noise_multiplier is None:
            counts = torch.bincount(cells, minlength=2 * bins).tolist()
            return ScoreReply(tuple(map(float, counts)), 0.0)
        noise = self.silo.noise(self.round, use=f"evaluation {rule.name}")
        released = NoisyCounts(rule.noise_multiplier).release(cells, 2 * bins, noise)
        return ScoreReply(tuple(released), rule.noise_multiplier)

    def figure(self, rule: MetricRule) -> float:
        task = self.silo.task
        if rule.noise_multiplier is None:
            return _value(task, rule.name, self.outputs, self.targets)
        # The metric of each record alone: whatever a task calls accuracy, a record moves it by 1/n.
        alone = self._losses if rule.name == _LOSS else self._alone_by(rule.name)
        noise = self.silo.noise(self.round, use=f"evaluation {rule.name}")
        return NoisyShare(rule.noise_multiplier).release(torch.tensor(alone), noise)

    def _alone_by(self, name: str) -> list[float]:
        return [float(each[name]) for each in self._metrics]

    @cached_property
    def _losses(self) -> list[float]:
        return [_value(self.silo.task, _LOSS, *each) for each in self._alone()]

    @cached_property
    def _metrics(self) -> list[dict[str, float]]:
        return [self.silo.task.metrics(*each) for each in self._alone()]

    def _alone(self) -> Iterator[tuple[Any, Tree]]:
        """Each record's outputs and target, with a first axis of length one."""
        return zip(one_by_one(self.outputs), one_by_one(self.targets), strict=True)


def _value(task: Task, name: str, outputs: Any, targets: Tree) -> float:
    if name == _LOSS:
        return float(ExampleLoss(task.loss)(outputs, targets))
    # Numbers of numpy and torch are numbers, too.
    return float(task.metrics(outputs, targets)[name])


def canaries_of(silo: Silo, context: Context) -> Canaries | None:
    """The silo's canaries, each in or out by a fair coin, the same in all rounds of a job.

    Coins follow from the seed, and on a real silo from the job and its name: the block never leaves
    the silo, so there is nobody to be kept from guessing them.
    """
    count = int(context.node_config.get("canaries", 0))
    if count == 0:
        return None
    own = stream(0, "canaries", str(context.node_config.get("job")), silo.name)
    belongs_to = own if silo.seed is None else stream(silo.seed, "canaries", silo.index)
    return Canaries(numpy_generator(belongs_to).random(count) < 0.5)


def keep_trace(
    silo: Silo, context: Context, round_: int, plan: DpSgd, canaries: Canaries, trace: CanaryTrace
) -> None:
    """Write down what a round's training made of the canaries."""
    folder = Path(str(context.node_config["canaries-dir"]))
    sighting = CanaryObservation(
        silo.name, round_, plan, canaries.inserted, trace.sampled, trace.gradients
    )
    # By number in a simulation: natural silos have names of any kind, which need not be a file's.
    name = silo.name if silo.seed is None else f"silo-{silo.index}"
    add_observation(folder / f"{name}.jsonl", sighting)
