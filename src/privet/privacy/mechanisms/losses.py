"""A task's loss, taken example by example.

DP-SGD clips what each example does to the model, so an example's loss may depend on no other. That
is not hoped for: under differential privacy a loss is only ever evaluated on one example at a time,
and a loss whose batches are not the mean of their examples' losses is refused beforehand, as its
author means something else (class weights with reduction="mean", sums, pairs, ranks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from privet.errors import ModelError, words_of
from privet.privacy.mechanisms.examples import ExampleType
from privet.pytrees import Tree, leaves, mapped, one_by_one, scores, with_leaves

Loss = Callable[[Any, Any], Tensor]
"""What a model put out for n examples and their targets to the mean loss of the n examples; both
are tensors (n, ...) or hold such (`privet.pytrees`)."""


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

    def __call__(self, outputs: Any, targets: Tree) -> Tensor:
        """The mean over a batch, a scalar: for training without differential privacy."""
        if self.class_weights is None:
            value = self.loss(outputs, targets)
            return value.mean() if value.dim() else value
        values: Tensor = _each(self._own, outputs, targets)
        return values.mean()

    def gradients(self, outputs: Any, targets: Tree, *, times: float) -> Any:
        """Each example's own loss, differentiated by its own output, `times` 1 / n; as `outputs`.

        Guarantee: row i is a function of outputs[i], targets[i], n and `times` alone.
        """
        values = mapped(Tensor.detach, outputs)
        count = len(leaves(values)[0])
        if not count:
            return mapped(torch.zeros_like, values)
        # Cross entropy leaves negative targets out (ignore_index), and its mean is then of fewer.
        if not (self.separable and isinstance(values, Tensor) and bool(targets.min() >= 0)):
            found = _one_by_one(self._own, values, targets)
            return mapped(lambda leaf: leaf * (times / count), found)
        leaf = values.requires_grad_()
        with torch.enable_grad():
            (gradients,) = torch.autograd.grad(self.loss(leaf, targets) * times, [leaf])
        if self.class_weights is None:
            return gradients
        weights = self._weight_of(leaf, targets)
        return gradients * weights.view(-1, *(1,) * (gradients.dim() - 1))

    def check(self, outputs: Any, like: ExampleType) -> None:
        """Raise ModelError unless a batch's loss is the mean of its examples' own losses.

        `outputs` (n, ...) is something that the model gave. Values and gradients are compared on
        made-up scores and targets, in batches of several sizes and mixes of classes.
        """
        self._check_weights(outputs, like)
        generator = torch.Generator().manual_seed(1)
        for rows in (2, 3, min(max(2 * _width(outputs), 7), 4096)):
            made_up = mapped(partial(_made_up, rows=rows, generator=generator), outputs)
            # A loss may want probabilities, and fail or not be finite on other numbers.
            tried = made_up, mapped(_sigmoid, made_up)
            unfit = [_unfit(self.loss, each, like) for each in tried]
            if all(unfit):
                raise ModelError(
                    f"the loss fails, or is not finite, on made-up outputs and targets: {unfit[0]}"
                )

    def _own(self, output: Any, target: Tree) -> Tensor:
        """One example's loss, a scalar."""
        value = self.loss(
            *(mapped(lambda leaf: leaf.unsqueeze(0), each) for each in (output, target))
        )
        if value.numel() != 1:
            raise ModelError(f"the loss of one example has shape {tuple(value.shape)}: one number")
        value = value.reshape(())
        if self.class_weights is None:
            return value
        return value * self._weight_of(output, target)

    def _weight_of(self, outputs: Any, targets: Tensor) -> Tensor:
        like = leaves(outputs)[0] if (found := scores(outputs)) is None else found
        return torch.tensor(self.class_weights, dtype=like.dtype, device=like.device)[targets]

    def _check_weights(self, outputs: Any, like: ExampleType) -> None:
        if self.class_weights is None:
            return
        given = f"training.class_weights has {len(self.class_weights)} numbers"
        classes = (
            isinstance(like.target_type, torch.dtype) and not like.target_type.is_floating_point
        )
        if not classes or like.targets:
            raise ModelError(f"{given}, but the targets are not class numbers")
        found = scores(outputs)
        if found is None:
            raise ModelError(f"{given}, but the model puts out several tensors, none named logits")
        if found.dim() != 2 or found.shape[1] != len(self.class_weights):
            raise ModelError(f"{given}, but the model puts out {tuple(found.shape[1:])}")


def _width(outputs: Any) -> int:
    found = scores(outputs)
    return found.shape[1] if found is not None and found.dim() > 1 else 2


def _made_up(like: Tensor, *, rows: int, generator: torch.Generator) -> Tensor:
    shape = rows, *like.shape[1:]
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    return torch.randn(shape, generator=generator).to(like.dtype)


def _sigmoid(leaf: Tensor) -> Tensor:
    return leaf.sigmoid() if leaf.is_floating_point() else leaf


def _each(one: Callable[..., Any], outputs: Any, targets: Tree) -> Any:
    """`one` of each example's output and target, batched: they are without a first axis."""
    given, wanted = leaves(outputs), leaves(targets)

    def of_leaves(values: list[Tensor], others: list[Tensor]) -> Any:
        return one(with_leaves(outputs, values), with_leaves(targets, others))

    return torch.func.vmap(of_leaves)(given, wanted)


def _one_by_one(own: Callable[[Any, Tree], Tensor], outputs: Any, targets: Tree) -> Any:
    """Of each example's own loss the gradient by its output; zeros of what has none."""
    floats = [leaf.is_floating_point() for leaf in leaves(outputs)]

    def gradients(output: Any, target: Tree) -> list[Tensor]:
        whole = leaves(output)

        def of_floats(numbers: list[Tensor]) -> Tensor:
            left = iter(numbers)
            pairs = zip(whole, floats, strict=True)
            return own(with_leaves(output, [next(left) if f else w for w, f in pairs]), target)

        numbers = [each for each, is_float in zip(whole, floats, strict=True) if is_float]
        found: list[Tensor] = torch.func.grad(of_floats)(numbers)
        return found

    try:
        found = _each(gradients, outputs, targets)
    except (RuntimeError, ValueError, TypeError):  # code that torch cannot batch, such as `if`
        found = _in_turn(gradients, outputs, targets)
    left = iter(found)
    every = zip(leaves(outputs), floats, strict=True)
    return with_leaves(outputs, [next(left) if f else torch.zeros_like(w) for w, f in every])


def _in_turn(one: Callable[..., list[Tensor]], outputs: Any, targets: Tree) -> list[Tensor]:
    given = [mapped(lambda leaf: leaf[0], each) for each in one_by_one(outputs)]
    wanted = [mapped(lambda leaf: leaf[0], each) for each in one_by_one(targets)]
    found = [one(*pair) for pair in zip(given, wanted, strict=True)]
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def _unfit(loss: Loss, outputs: Any, like: ExampleType) -> str | None:
    """Why the loss does not take these numbers, if so; ModelError where examples weigh on each
    other."""
    targets = like.made_up_targets(outputs)
    try:
        _demand_outputs_alone(loss(mapped(Tensor.detach, outputs), targets))
        batch, gradient = _value_and_gradient(loss, outputs, targets)
        pairs = zip(one_by_one(outputs), one_by_one(targets), strict=True)
        alone = [_value_and_gradient(loss, *pair) for pair in pairs]
    except ModelError:
        raise
    except Exception as error:  # a task's own code
        return words_of(error)
    values = torch.stack([value for value, _ in alone])
    # Of nothing but NaN nothing can be said; a NaN of some examples alone differs from any mean.
    if not (batch.isfinite() and values.isfinite().any()):
        return f"it is {float(batch):g}"
    own = torch.cat([part for _, part in alone]) / len(alone)
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
    return None


def _demand_outputs_alone(value: Tensor) -> None:
    """`value` is the loss of outputs that have no history: what it can still move is no output."""
    if value.requires_grad:
        raise ModelError(
            "the loss has a gradient that does not come through the model's outputs (a penalty on "
            "parameters): with differential privacy it would be left out; decay of weights is "
            "training.weight_decay"
        )


def _value_and_gradient(loss: Loss, outputs: Any, targets: Tree) -> tuple[Tensor, Tensor]:
    """The mean loss, and its gradient by all outputs, a row for each example."""
    every = [leaf.detach().clone() for leaf in leaves(outputs)]
    floats = [leaf.requires_grad_() for leaf in every if leaf.is_floating_point()]
    with torch.enable_grad():
        value = loss(with_leaves(outputs, every), targets)
        value = value.mean() if value.dim() else value
        found = torch.autograd.grad(value, floats, materialize_grads=True, allow_unused=True)
    return value.detach(), torch.cat(
        [part.flatten(1) if part.dim() > 1 else part[:, None] for part in found], dim=1
    )
