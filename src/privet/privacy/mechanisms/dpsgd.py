"""DP-SGD around an ordinary model and an ordinary optimizer, for as long as a with block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from privet.base import Base
from privet.errors import ModelError, PrivacyError
from privet.privacy.mechanisms.canaries import CanaryBlock
from privet.privacy.mechanisms.losses import ExampleLoss
from privet.privacy.mechanisms.noise import NoiseSource
from privet.privacy.mechanisms.plan import DpSgd
from privet.privacy.mechanisms.soundness import STATE_MOVED, changed, check_model, reachable
from privet.pytrees import Tree, leaves

if TYPE_CHECKING:
    from privet.privacy.mechanisms.per_example import PerExampleModule, PrivateOptimizer


@dataclass(frozen=True)
class PrivateStep:
    """What a training loop uses instead of its model and its optimizer.

    for batch in plan.batches(n, rng): zero_grad, backward(loss, model(x), y), step. Empty batches
    need no special case. A batch that is too large for the memory goes in parts: model, backward
    and optimizer.gather for each but the last, which step takes.
    """

    model: PerExampleModule
    optimizer: PrivateOptimizer

    def backward(self, loss: ExampleLoss, outputs: Any, targets: Tree) -> None:
        """Gather each example's gradient of its own loss; no other example can weigh on it."""
        count = len(leaves(outputs)[0])
        if count:
            # The sum, not the mean: dividing by n and multiplying again would leave n in low bits.
            self.model.loss_reduction = "sum"
            own = loss.gradients(outputs, targets, times=float(count))
            pairs = zip(leaves(outputs), leaves(own), strict=True)
            sums = [(each * gradient).sum() for each, gradient in pairs if each.requires_grad]
            torch.autograd.backward(sums)

    @property
    def ran(self) -> int:
        """Steps whose noise was drawn: what the event to account is made of."""
        return int(self.optimizer.ran)

    @property
    def nonfinite(self) -> int:
        """Gradients that were infinite or NaN and counted as zero.

        It comes from the data without noise: for the silo's own log, not for anyone else.
        """
        return int(self.optimizer.nonfinite)


@contextmanager
def privatise(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    plan: DpSgd,
    noise: NoiseSource,
    block: CanaryBlock | None = None,
    base: Base | None = None,
    copies: int = 1,
) -> Iterator[PrivateStep]:
    """Train `model` with DP-SGD as `plan` says while the block lasts.

    Guarantee: all that the block does to the parameters is `plan.event(private.ran)`, under
    add-or-remove adjacency of one record, if batches come from `plan.batches`, gradients from
    `PrivateStep.backward`, and the model treats the examples of a batch apart (`check_training`).
    Corrections that do not depend on data belong into step-pre-hooks
    of `optimizer`: they then act on the noisy gradient. While the block lasts `optimizer` itself
    refuses to step; afterwards model and optimizer are as before, without hooks.

    With `block` its canaries take part, those of each batch as `block.apart` says. Frozen parts are
    held in evaluation mode meanwhile; `base` is the model's, with what its task declares constant.
    Of `copies` rows of a batch that follow each other the mean gradient is clipped: augmentations
    of one record.

    Raises ModelError for a model that cannot be trained so (see check_model), an optimizer over
    other parameters, and, at the end, state that training changed; PrivacyError for a model that
    is already private.
    """
    # Imported late: Opacus takes 4 to 5 s of processor time, and not every run is private.
    from privet.privacy.mechanisms.per_example import PerExampleModule, PrivateOptimizer

    base = base or Base.of(model)
    check_model(model, base)
    _check_belong_together(model, optimizer)
    before, digest = reachable(model, trained=False, but=base.ids), base.digest
    wrapped = PerExampleModule(model)
    wrapped.copies = copies
    with _stepped(optimizer, block), _held(base):
        private = PrivateOptimizer(optimizer, model=wrapped, plan=plan, noise=noise, block=block)
        # The caller still holds the bare optimizer: its step() would release gradients unprotected.
        hook = optimizer.register_step_pre_hook(private.guard)
        try:
            yield PrivateStep(wrapped, private)
        finally:
            private.close()
            hook.remove()
            wrapped.close()
            optimizer.zero_grad(set_to_none=True)
    # Only now: check_model looks at the layers and sees nothing of what a pass on records changes.
    after = reachable(model, trained=False, but=base.ids)
    if path := changed(before, {path: after.get(path) for path in before}):
        raise ModelError(STATE_MOVED.format(path))
    if digest is not None:
        base.check()


@contextmanager
def _held(base: Base) -> Iterator[None]:
    modes = [(module, module.training) for part in base.held for module in part.modules()]
    base.hold()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _stepped(optimizer: Optimizer, block: CanaryBlock | None) -> Iterator[None]:
    """Let `optimizer` step the canaries' block as well, and the block see every step."""
    if block is None:
        yield
        return
    # In the same optimizer: one call then clips, sums and adds noise to model and block alike.
    optimizer.add_param_group({"params": [block.parameter]})
    hook = optimizer.register_step_pre_hook(lambda *_: block.look())
    try:
        yield
    finally:
        hook.remove()
        optimizer.param_groups.pop()
        optimizer.state.pop(block.parameter, None)


def _check_belong_together(model: nn.Module, optimizer: Optimizer) -> None:
    if hasattr(model, "autograd_grad_sample_hooks"):
        raise PrivacyError("the model is already being trained privately; close that block first")
    if not model.training:
        raise ModelError("the model is in evaluation mode: call model.train() first")
    stepped = {
        id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in stepped:
            raise ModelError(
                f"parameter {name!r} is not in the optimizer: add it, or freeze it with "
                "requires_grad_(False)"
            )
    if len(stepped) != sum(p.requires_grad for p in model.parameters()):
        raise ModelError("the optimizer has parameters that are not the model's: they get no noise")
