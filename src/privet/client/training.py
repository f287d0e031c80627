"""Local training: the plan of a round, decided before a record is read, and the loop that runs it.

One loop, with differential privacy or without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from privet.devices import CPU, Device
from privet.errors import DataError, ExperimentError, ModelError
from privet.experiment import Experiment, PrivacySettings, TrainingSettings
from privet.privacy.accounting import noise_multiplier_for, plain_event
from privet.privacy.dp_events import DpEvent
from privet.privacy.mechanisms import (
    Canaries,
    CanaryBlock,
    CanaryTrace,
    DpSgd,
    ExampleLoss,
    ExampleType,
    NoiseSource,
    local_steps,
    physical_batch,
    privatise,
    sampling_rate,
)
from privet.pytrees import Tree, called
from privet.tasks import Examples, Task
from privet.tasks.table import Table
from privet.tasks.task import Classification
from privet.vectors import FlatModel, Vector


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
    """The plan of a silo with `n_records` records, those held out included.

    `noise_floor` can only raise the noise multiplier: a server cannot ask for less noise than the
    silo's own calibration gives. Fewer records than a batch make the batch the whole silo.
    How many of them are held out is secret: with privacy they have their place in every batch and
    do not train, without it an epoch is a pass over as many records as are likely to be left.
    """
    if n_records < 1:
        raise DataError("the silo has no training records")
    training = experiment.training
    if experiment.privacy is None and experiment.evaluation:
        n_records = max(1, round(n_records * (1 - experiment.evaluation.holdout)))
    batch_size = min(training.batch_size, n_records)
    steps = training.steps or local_steps(
        n_records=n_records, batch_size=batch_size, epochs=training.epochs
    )
    if experiment.privacy is None:
        return LocalPlan(steps=steps, batch_size=batch_size, mechanism=None)
    rate = sampling_rate(n_records=n_records, batch_size=batch_size)
    # Over all rounds, whatever part of them this silo is drawn for: the target must hold anyway.
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


# Every message of every round asks for it, and every silo of the same size.
@lru_cache(maxsize=4096)
def _calibrated(epsilon: float, delta: float, rate: float, steps: int) -> float:
    return noise_multiplier_for(epsilon=epsilon, delta=delta, sampling_rate=rate, steps=steps)


Correction = Callable[[list[nn.Parameter]], None]


_physical: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@dataclass(frozen=True)
class LocalTraining:
    """One silo's training in one round, ready to run: by `train`, or together with others'."""

    model: Callable[[], FlatModel]
    """A model of the task's on `device`, as new but for its weights."""
    loss: ExampleLoss
    examples: Examples
    weights: Vector
    """To start from, shape (d,)."""
    plan: LocalPlan
    training: TrainingSettings
    lr: float
    noise: Callable[[], NoiseSource]
    draws: np.random.Generator
    """Decides the batches; a run uses it up."""
    chance: int = 0
    """Seeds what layers draw (dropout)."""
    correction: Correction | None = None
    """Adds data-independent terms (FedProx, SCAFFOLD) to the gradients after clipping and noise,
    right before each step, so that it is not clipped away and costs no privacy."""
    canaries: Canaries | None = None
    """Take part in private training, for the audit."""
    held_out: int = 0
    """The silo's records that are not among `examples`, though the plan counts them."""
    device: Device = CPU
    """Records may be there, too, or they follow batch by batch."""
    dry_runs: tuple[LocalTraining, ...] = ()
    """Run by whatever runs this; what they leave is with their corrections, for the audit."""

    @property
    def copies(self) -> int:
        """Of each record in a step."""
        return self.training.augmentations or 1

    def reading(self, batch: np.ndarray, step: int) -> tuple[Tree, Tree]:
        """Inputs and targets of a step's records, `copies` rows of each, on the device."""
        # Of the training's chance: repeatable, and another one for each silo, round and step.
        read = self.examples.readings(batch, copies=self.copies, chance=(self.chance, step))
        found: tuple[Tree, Tree] = self.device.moved(read)
        return found

    def at_once(self, flat: FlatModel) -> int:
        """How many records go through the model together, with differential privacy."""
        if self.training.physical_batch is not None:
            return self.training.physical_batch
        if flat.module not in _physical:
            like = ExampleType.of(*self.examples.batch(slice(0, 0)))
            _physical[flat.module] = physical_batch(flat.base, like)
        return max(1, _physical[flat.module] // self.copies)

    def batches(self) -> Iterator[np.ndarray]:
        """The indices of each step's records; Poisson samples with differential privacy.

        Canaries are numbered from the number of records on.
        """
        if self.plan.mechanism is None:
            return _epochs(len(self.examples), self.plan, self.draws)
        more = len(self.canaries.coordinates) if self.canaries else 0
        trained, everybody = len(self.examples), len(self.examples) + self.held_out
        drawn = self.plan.mechanism.batches(everybody, self.draws, canaries=more)
        # Drawn like the others and then left out: sampled from the training records alone, rate and
        # batch size would tell how many are held out.
        return (_without(batch, trained, everybody) for batch in drawn) if self.held_out else drawn


@dataclass(frozen=True)
class Trained:
    """What local training gave."""

    update: Vector
    """Local minus global weights, shape (d,)."""
    steps: int
    loss: float | None = None
    """Mean loss over the batches; None with differential privacy, which does not cover it."""
    nonfinite: int = 0
    """Examples whose gradient was infinite or NaN and counted as zero."""
    canaries: CanaryTrace | None = None
    """What the steps made of them, where some took part."""


def train(work: LocalTraining) -> Trained:
    """Train a model of the task's on a silo's records as the plan says."""
    trained = _train(work)
    for each in work.dry_runs:
        _train(each)
    return trained


def _train(work: LocalTraining) -> Trained:
    flat = work.model()
    flat.load(work.weights)
    flat.base.train()
    work.device.seed(work.chance)
    mechanism = work.plan.mechanism
    if mechanism is None and work.training.optimizer == "sgd":
        loss = _descend(flat.module, _Sgd(flat.parameters, work), work)
        return Trained(_moved(flat, work), work.plan.steps, loss=loss)
    optimizer = _optimizer(flat.parameters, work)
    if mechanism is None:
        loss = _descend(flat.module, optimizer, work)
        return Trained(_moved(flat, work), work.plan.steps, loss=loss)
    block = CanaryBlock(work.canaries, work.device.place) if work.canaries else None
    batches = block.apart(work.batches(), len(work.examples)) if block else work.batches()
    at_once = work.at_once(flat)
    with privatise(
        flat.module,
        optimizer,
        plan=mechanism,
        noise=work.noise(),
        block=block,
        base=flat.base,
        copies=work.copies,
    ) as private:
        for step, batch in enumerate(batches):
            private.optimizer.zero_grad()
            for part in _parts(batch, at_once):
                if part.start:
                    private.optimizer.gather()
                inputs, targets = work.reading(batch[part], step)
                private.backward(work.loss, _passed(private.model, inputs, work), targets)
            private.optimizer.step()
    trace = block.trace if block else None
    update = flat.vector() - work.weights  # `privatise` has looked at all else
    return Trained(update, private.ran, nonfinite=private.nonfinite, canaries=trace)


def demand_transform(examples: Examples, training: TrainingSettings) -> None:
    """ExperimentError where copies of a record are asked for that would all be the same."""
    copies = training.augmentations or 1
    if copies > 1 and examples.in_memory and examples.transform is None:
        raise ExperimentError(
            f"training.augmentations = {copies}, but the task's examples have no transform; "
            "allowed without is 1"
        )


def _moved(flat: FlatModel, work: LocalTraining) -> Vector:
    """Local minus first weights; ModelError where something else moved as well."""
    flat.check()
    return flat.vector() - work.weights


def loss_of(task: Task, training: TrainingSettings) -> ExampleLoss:
    """The task's loss as training takes it, with the experiment's class weights."""
    # Of torch's own cross entropy, and of a table's losses, it is known that a batch is the mean of
    # its examples; a task that overrides it may do anything.
    # By the function, not by the class: a task that keeps its data is another one's wrapper.
    known = getattr(task.loss, "__func__", None) in (Classification.loss, Table.loss)
    return ExampleLoss(task.loss, training.class_weights, separable=known)


def _descend(
    model: nn.Module, optimizer: torch.optim.Optimizer | _Sgd, work: LocalTraining
) -> float:
    """The mean loss over the batches; ModelError unless it is finite."""
    losses = []
    for step, batch in enumerate(work.batches()):
        inputs, targets = work.reading(batch, step)
        optimizer.zero_grad()
        loss = work.loss(_passed(model, inputs, work), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return mean_loss([float(loss) for loss in losses], work.training)


def mean_loss(losses: Sequence[float], training: TrainingSettings) -> float:
    """Of the batches of a round; ModelError where it is no finite number."""
    mean = float(np.mean(losses))
    if not np.isfinite(mean):
        raise ModelError(
            f"the training loss is {mean}: training.lr = {training.lr:g} may be too large, or "
            "inputs or the loss are no finite numbers"
        )
    return mean


def _parts(batch: np.ndarray, at_once: int) -> Iterator[slice]:
    """An empty batch is one part: leaving it out would tell that it was empty."""
    for start in range(0, max(1, len(batch)), at_once):
        yield slice(start, start + at_once)


def _passed(model: nn.Module, inputs: Tree, work: LocalTraining) -> Any:
    """What the model makes of a batch, in float32 whatever the passes are in."""
    with work.device.passes():
        outputs = called(model, inputs)
    return work.device.told(outputs)


def _without(batch: np.ndarray, start: int, stop: int) -> np.ndarray:
    """`batch`, sorted, without the numbers from `start` to `stop`; those behind move up."""
    first, last = np.searchsorted(batch, [start, stop])
    return np.concatenate([batch[:first], batch[last:] - (stop - start)])


def _epochs(n_records: int, plan: LocalPlan, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`plan.steps` batches of shuffled passes over the records; a pass ends with a short batch."""
    if n_records == 0:
        raise DataError("no record is left to train on: all are held out (evaluation.holdout)")
    left = plan.steps
    while left > 0:
        order = rng.permutation(n_records)
        for start in range(0, n_records, plan.batch_size)[:left]:
            yield order[start : start + plan.batch_size]
            left -= 1


def _optimizer(trained: Sequence[nn.Parameter], work: LocalTraining) -> torch.optim.Optimizer:
    parameters = list(trained)
    optimizer = _of_torch(parameters, work)
    if (correct := work.correction) is not None:
        # A hook, since `privatise` wraps this optimizer: it runs behind the noise, before the step.
        optimizer.register_step_pre_hook(lambda *_: correct(parameters))
    return optimizer


def _of_torch(parameters: list[nn.Parameter], work: LocalTraining) -> torch.optim.Optimizer:
    training, decay = work.training, work.training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=work.lr, weight_decay=decay)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=work.lr, weight_decay=decay)
    momentum = training.momentum
    return torch.optim.SGD(parameters, lr=work.lr, momentum=momentum, weight_decay=decay)


class _Sgd:
    """torch.optim.SGD by its functional half, to the last bit.

    The first optimizer object of a process imports torch.compile, 826 modules in 1.7 s of processor
    time, which is longer than a small run trains. The function imports nothing.
    """

    def __init__(self, trained: Sequence[nn.Parameter], work: LocalTraining) -> None:
        self._parameters = list(trained)
        self._velocities: list[Tensor | None] = [None] * len(self._parameters)
        self._work = work

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        if self._work.correction is not None:
            self._work.correction(self._parameters)
        moved = [at for at, each in enumerate(self._parameters) if each.grad is not None]
        velocities = [self._velocities[at] for at in moved]
        sgd(
            [self._parameters[at] for at in moved],
            [cast("Tensor", self._parameters[at].grad) for at in moved],
            velocities,
            lr=self._work.lr,
            momentum=self._work.training.momentum,
            weight_decay=self._work.training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            # What torch would choose on a CPU, after looking at every tensor.
            foreach=False,
        )
        for at, velocity in zip(moved, velocities, strict=True):
            self._velocities[at] = velocity
