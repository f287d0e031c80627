"""A task's loss, taken example by example.

DP-SGD clips what each example does to the model, so an example's loss may depend on no other. That
is not hoped for: under differential privacy a loss is only ever evaluated on one example at a time,
and a loss whose batches are not the mean of their examples' losses is refused beforehand, as its
author means something else (class weights with reduction="mean", sums, pairs, ranks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.errors import ModelError
from privet.privacy.mechanisms.examples import ExampleType

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs (n, ...) and targets (n, ...) to the mean loss of the n examples."""


@dataclass(frozen=True)
class ExampleLoss:
    """The loss of a task, with a weight for each class where the experiment declares them.

    A weight multiplies the loss of its class's examples one by one, before anything is clipped: the
    clip norm bounds a rare class's examples like all others. `separable` is for torch's own cross
    entropy, which is known to be a mean over examples: a batch's gradients then take one call,
    which is several times as quick, and they are the same.
    """

    loss: Loss
    class_weights: tuple[float, ...] | None = None
    separable: bool = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over a batch, a scalar: for training without differential privacy."""
        if self.class_weights is None:
            value = self.loss(outputs, targets)
            return value.mean() if value.dim() else value
        values = torch.func.vmap(self._own)(outputs, targets)
        return values.mean()

    def gradients(self, outputs: Tensor, targets: Tensor, *, times: float) -> Tensor:
        """Each example's own loss, differentiated by its own output, `times` 1 / n; (n, ...).

        Guarantee: row i is a function of outputs[i], targets[i], n and `times` alone.
        """
        values = outputs.detach()
        if not len(values):
            return torch.zeros_like(values)
        # Cross entropy leaves negative targets out (ignore_index), and its mean is then of fewer.
        if not (self.separable and bool(targets.min() >= 0)):
            return _one_by_one(self._own, values, targets) * (times / len(values))
        leaf = values.requires_grad_()
        with torch.enable_grad():
            (gradients,) = torch.autograd.grad(self.loss(leaf, targets) * times, [leaf])
        if self.class_weights is None:
            return gradients
        weights = self._weight_of(leaf, targets)
        return gradients * weights.view(-1, *(1,) * (gradients.dim() - 1))

    def check(self, outputs: Tensor, like: ExampleType) -> None:
        """Raise ModelError unless a batch's loss is the mean of its examples' own losses.

        `outputs` (n, ...) is something that the model gave. Values and gradients are compared on
        made-up scores and targets, in batches of several sizes and mixes of classes.
        """
        width = outputs.shape[1] if outputs.dim() > 1 else 2
        self._check_weights(outputs, like)
        generator = torch.Generator().manual_seed(1)
        for rows in (2, 3, min(max(2 * width, 7), 4096)):
            shape = (rows, *outputs.shape[1:])
            scores = torch.randn(shape, generator=generator).to(outputs.dtype)
            # A loss may want probabilities, and fail or not be finite on other numbers.
            if not any(_is_mean(self.loss, each, like) for each in (scores, scores.sigmoid())):
                raise ModelError("the loss fails, or is not finite, on made-up outputs and targets")

    def _own(self, output: Tensor, target: Tensor) -> Tensor:
        """One example's loss, a scalar."""
        value = self.loss(output.unsqueeze(0), target.unsqueeze(0))
        if value.numel() != 1:
            raise ModelError(f"the loss of one example has shape {tuple(value.shape)}: one number")
        value = value.reshape(())
        if self.class_weights is None:
            return value
        return value * self._weight_of(output, target)

    def _weight_of(self, like: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor(self.class_weights, dtype=like.dtype, device=like.device)[targets]

    def _check_weights(self, outputs: Tensor, like: ExampleType) -> None:
        if self.class_weights is None:
            return
        given = f"training.class_weights has {len(self.class_weights)} numbers"
        if like.target_type.is_floating_point or like.targets:
            raise ModelError(f"{given}, but the targets are not class numbers")
        if outputs.dim() != 2 or outputs.shape[1] != len(self.class_weights):
            raise ModelError(f"{given}, but the model puts out {tuple(outputs.shape[1:])}")


def _one_by_one(
    own: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor
) -> Tensor:
    one = torch.func.grad(own)
    try:
        return torch.func.vmap(one)(outputs, targets)  # type: ignore[no-any-return]
    except (RuntimeError, ValueError, TypeError):  # code that torch cannot batch, such as `if`
        pairs = zip(outputs.unbind(), targets.unbind(), strict=True)
        return torch.stack([one(*pair) for pair in pairs])


def _is_mean(loss: Loss, outputs: Tensor, like: ExampleType) -> bool:
    """Whether the loss takes these numbers; ModelError where examples weigh on each other."""
    targets = like.made_up_targets(outputs)
    try:
        _demand_outputs_alone(loss(outputs.detach(), targets))
        batch, gradient = _value_and_gradient(loss, outputs, targets)
        pairs = zip(torch.split(outputs, 1), torch.split(targets, 1), strict=True)
        alone = [_value_and_gradient(loss, *pair) for pair in pairs]
    except ModelError:
        raise
    except Exception:  # a task's own code
        return False
    values = torch.stack([value for value, _ in alone])
    # Of nothing but NaN nothing can be said; a NaN of some examples alone differs from any mean.
    if not (batch.isfinite() and values.isfinite().any()):
        return False
    own = torch.cat([part for _, part in alone]) / len(outputs)
    if not (
        torch.allclose(batch, values.mean(), rtol=1e-4, atol=1e-6)
        and torch.allclose(gradient, own, rtol=1e-3, atol=1e-6)
    ):
        raise ModelError(
            "the loss of a batch is not the mean of its examples' own losses (class weights with "
            'reduction="mean", reduction="sum", targets left out, or terms over several examples): '
            "with differential privacy each example's loss stands alone; for rare classes there is "
            "training.class_weights"
        )
    return True


def _demand_outputs_alone(value: Tensor) -> None:
    """`value` is the loss of outputs that have no history: what it can still move is no output."""
    if value.requires_grad:
        raise ModelError(
            "the loss has a gradient that does not come through the model's outputs (a penalty on "
            "parameters): with differential privacy it would be left out; decay of weights is "
            "training.weight_decay"
        )


def _value_and_gradient(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = outputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf, targets)
        value = value.mean() if value.dim() else value
        (gradient,) = torch.autograd.grad(value, [leaf])
    return value.detach(), gradient
