"""Local training: one loop, with differential privacy or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from privet.client.plan import LocalPlan
from privet.experiment import Training
from privet.privacy.mechanisms import NoiseSource, privatise
from privet.tasks import Examples, Task
from privet.vectors import FlatModel, Vector

Correction = Callable[[list[nn.Parameter]], None]


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


def train(
    flat: FlatModel,
    task: Task,
    examples: Examples,
    weights: Vector,
    *,
    plan: LocalPlan,
    training: Training,
    lr: float,
    noise: Callable[[], NoiseSource],
    batches: np.random.Generator,
    correction: Correction | None = None,
) -> Trained:
    """Train a model of the task's from `weights` on a silo's records as `plan` says.

    `correction` adds data-independent terms (FedProx, SCAFFOLD) to the gradients after clipping
    and noise, right before each step, so it is not clipped away and costs no privacy.
    """
    flat.load(weights)
    model = flat.module.train()
    optimizer = _optimizer(model, training, lr=lr)
    if correction is not None:
        parameters = list(model.parameters())
        optimizer.register_step_pre_hook(lambda *_: correction(parameters))
    if plan.mechanism is None:
        indices = _epochs(len(examples), plan, batches)
        losses = _descend(model, optimizer, task, examples, indices)
        return Trained(flat.vector() - weights, plan.steps, loss=float(np.mean(losses)))
    with privatise(model, optimizer, plan=plan.mechanism, noise=noise()) as private:
        indices = plan.mechanism.batches(len(examples), batches)
        _descend(private.model, private.optimizer, task, examples, indices)
    update = flat.vector() - weights
    return Trained(update, private.ran, nonfinite=private.nonfinite)


def _descend(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    examples: Examples,
    batches: Iterator[np.ndarray],
) -> list[float]:
    losses = []
    for batch in batches:
        indices = torch.from_numpy(batch)
        optimizer.zero_grad()
        outputs = model(examples.inputs[indices])
        loss = task.loss(outputs, examples.targets[indices])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def _epochs(n_records: int, plan: LocalPlan, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`plan.steps` batches of shuffled passes over the records; a pass ends with a short batch."""
    left = plan.steps
    while left > 0:
        order = rng.permutation(n_records)
        for start in range(0, n_records, plan.batch_size)[:left]:
            yield order[start : start + plan.batch_size]
            left -= 1


def _optimizer(model: nn.Module, training: Training, *, lr: float) -> torch.optim.Optimizer:
    if training.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
