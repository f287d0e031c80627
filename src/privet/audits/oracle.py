"""DP-SGD once more, slowly: what a step on made-up examples should come to, but for its noise.

Nothing of the code that trains is used: each example alone goes through the model, its loss is
differentiated by autograd, its gradient is clipped over all parameters, and clipped gradients are
added up, in float64. Optimizers are written down again as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from privet.audits.code import TrainingCode
from privet.client.watching import dry_examples, dry_model, trained_sizes
from privet.errors import ModelError
from privet.experiment import TrainingSettings
from privet.privacy.mechanisms.canaries import Floats
from privet.privacy.mechanisms.traces import StepTrace, dry_places
from privet.pytrees import Tree, called, one_by_one

_SAME = 1e-3
"""Relative: how far float32 may take a step from the one in float64."""


@dataclass(frozen=True)
class Oracle:
    """The gradients of the examples of a dry run, each by itself."""

    gradients: Floats
    """At the coordinates that a dry run keeps, shape (n, k)."""
    norms: Floats
    """Over all that is trained, shape (n,)."""
    tensors: dict[str, slice]
    """Of each tensor that is trained, where its coordinates lie among the k."""

    @classmethod
    def of(cls, code: TrainingCode, class_weights: tuple[float, ...] | None) -> Oracle:
        """ModelError where the model's gradients cannot be known, as it draws random numbers."""
        dry = dry_model(code.base)
        examples, model = dry_examples(dry, code.like), dry.module
        places = dry_places(tuple(trained_sizes(model)))
        rows, norms = [], []
        pairs = zip(one_by_one(examples.inputs), one_by_one(examples.targets), strict=True)
        for inputs, target in pairs:
            gradient = _gradient(code, model, inputs, target, class_weights)
            if not np.array_equal(
                gradient, _gradient(code, model, inputs, target, class_weights), equal_nan=True
            ):
                raise ModelError("the model draws random numbers: its gradients cannot be known")
            rows.append(gradient[places])
            norms.append(np.linalg.norm(gradient))
        return cls(np.stack(rows), np.array(norms), _slices(model, places))

    def clipped(self, clip: float) -> Floats:
        """Each example's part of a sum, shape (n, k); one that is not finite counts as zero."""
        finite = np.isfinite(self.norms)
        norms = np.where(finite, self.norms, 1.0)
        factors = np.minimum(1.0, clip / np.maximum(norms, 1e-30))
        return np.where(finite[:, None], self.gradients, 0.0) * factors[:, None]

    def residuals(self, trace: StepTrace) -> Floats:
        """Of a dry run's steps what is not explained, in deviations of the noise, (steps, k)."""
        plan, parts = trace.plan, self.clipped(trace.plan.clip)
        sums = np.stack([parts[list(batch)].sum(axis=0) for batch in trace.batches])
        found = trace.gradients.astype(np.float64) * plan.batch_size
        return np.asarray((found - sums) / (plan.noise_multiplier * plan.clip))


def _gradient(
    code: TrainingCode,
    model: nn.Module,
    inputs: Tree,
    target: Tree,
    class_weights: tuple[float, ...] | None,
) -> Floats:
    """Of one example's own loss, over all that is trained, shape (d,)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = code.task.loss(called(model, inputs), target)
        weight = 1.0 if class_weights is None else class_weights[int(target)]
        parts = torch.autograd.grad(loss.sum() * weight, trained, allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, parts, strict=True)]
    dense = [(g.to_dense() if g.is_sparse else g).reshape(-1) for g in whole]
    return np.asarray(torch.cat(dense).double().numpy())


def _slices(model: nn.Module, places: np.ndarray) -> dict[str, slice]:
    named = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    ends = np.searchsorted(places, np.cumsum([size for _, size in named]))
    starts = [0, *ends[:-1]]
    return {
        name: slice(int(a), int(b)) for (name, _), a, b in zip(named, starts, ends, strict=True)
    }


def unexplained(trace: StepTrace, settings: TrainingSettings, lr: float) -> Iterator[str]:
    """Where weights moved otherwise than the optimizer moves them by the noisy gradients."""
    if not len(trace.gradients):
        return
    weights = [*trace.weights.astype(np.float64), trace.end.astype(np.float64)]
    steps = _moves(trace, settings, lr)
    for number, (before, after, step) in enumerate(
        zip(weights[:-1], weights[1:], steps, strict=True), start=1
    ):
        size = max(float(np.abs(step).max(initial=0.0)), 1e-12)
        room = _SAME * size + 1e-6 * np.abs(before) + 1e-12
        missed = np.abs(after - before - step) - room
        if not (missed <= 0).all():
            most = float(np.abs(after - before - step).max())
            yield (
                f"{trace.silo}, round {trace.round}: behind step {number} of {len(weights) - 1} a "
                f"weight lies {most:.3g} from where its noisy gradient takes it"
            )


def _moves(trace: StepTrace, settings: TrainingSettings, lr: float) -> Iterator[Floats]:
    """What torch documents of SGD with momentum, of Adam and of AdamW, shape (k,) each."""
    decoupled = settings.optimizer == "adamw"
    first = second = np.zeros(trace.gradients.shape[1])
    pairs = zip(trace.gradients.astype(np.float64), trace.weights.astype(np.float64), strict=True)
    for number, (raw, weights) in enumerate(pairs, start=1):
        decay = settings.weight_decay * weights
        gradient = raw if decoupled else raw + decay
        if settings.optimizer in ("adam", "adamw"):
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * np.square(gradient)
            spread = np.sqrt(second / (1 - 0.999**number)) + 1e-8
            yield -lr * (first / (1 - 0.9**number) / spread + decoupled * decay)
        else:
            first = settings.momentum * first + gradient
            yield -lr * first
