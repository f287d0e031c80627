"""Which parameters a loss reaches, found on made-up examples: no record is read.

Under differential privacy noise moves every number, and what the gradient was without it is not to
be told: a model that learns nothing looks as one that learns. So it is looked at beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from privet.base import Base
from privet.privacy.mechanisms.examples import ExampleType
from privet.privacy.mechanisms.losses import ExampleLoss
from privet.privacy.mechanisms.soundness import elsewhere
from privet.pytrees import called, one_by_one


def unreached(base: Base, loss: ExampleLoss, like: ExampleType) -> tuple[str, ...]:
    """Names of trained parameters to which no made-up example gives a gradient; usually none.

    At the model's weights and at others of usual size, since what begins at zero hides what lies
    before it. Nothing is said of a model or a loss that fails on examples `like` these. The model
    and torch's random state stay as they are.
    """
    silent = {name for name, each in base.module.named_parameters() if each.requires_grad}
    looked = False
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), suppress(Exception):
        for model in _places(base):
            for gradients in _gradients(model, loss, like):
                looked = True
                silent -= {name for name, each in gradients.items() if bool((each != 0).any())}
    trained = (name for name, _ in base.module.named_parameters() if name in silent)
    return tuple(trained) if looked else ()


def _places(base: Base) -> Iterator[nn.Module]:
    for model in (base.twin(), elsewhere(base, base.module)):
        yield Base.of(model, base.constant).train()


def _gradients(
    model: nn.Module, loss: ExampleLoss, like: ExampleType
) -> Iterator[dict[str, Tensor]]:
    """Of each example's own loss, by parameter; in a mean those of several could cancel."""
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    for inputs in like.made_up():
        with suppress(Exception):  # a task's own model and loss
            outputs = called(model, inputs)
            targets = like.made_up_targets(outputs)
            for output, target in zip(one_by_one(outputs), one_by_one(targets), strict=True):
                value = loss(output, target)
                yield _of(value, named)


def _of(value: Tensor, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    if not value.requires_grad:
        return {}
    found = torch.autograd.grad(value, [*named.values()], retain_graph=True, allow_unused=True)
    return {
        name: each.to_dense() if each.is_sparse else each
        for name, each in zip(named, found, strict=True)
        if each is not None
    }
