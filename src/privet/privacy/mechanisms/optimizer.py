"""One optimizer step of DP-SGD: clip each example, sum, add noise, divide, step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer

from privet.errors import PrivacyError
from privet.privacy.mechanisms.canaries import CanaryBlock
from privet.privacy.mechanisms.gradients import Gradients, Sums, clip_factors
from privet.privacy.mechanisms.noise import NoiseSource
from privet.privacy.mechanisms.per_example import DPOptimizer, PerExampleModule
from privet.privacy.mechanisms.plan import DpSgd


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Steps the wrapped optimizer on clipped and noisy gradients (Abadi et al. 2016, Algorithm 1).

    Each example's gradient over all parameters is scaled to an L2 norm of at most `plan.clip`; one
    that is not finite counts as zero. The gradient is (sum + noise) / plan.batch_size, where the
    noise has standard deviation plan.noise_multiplier * plan.clip and the divisor does not depend
    on who took part. An empty batch is a step of noise alone.

    `ran` counts the steps whose noise was drawn, before anything is released. A step beyond
    `plan.steps`, after closing, with a closure, or twice on the same gradients: PrivacyError.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        model: PerExampleModule,
        plan: DpSgd,
        noise: NoiseSource,
        block: CanaryBlock | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.batch_size,
        )
        self.ran = 0
        self.nonfinite = 0
        self._plan = plan
        self._noise = noise
        self._model = model
        self._block = block
        self._closed = False
        self._stepping = False

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Clip, add noise and step; see the class."""
        self.pre_step(closure)
        self._stepping = True
        try:
            return self.original_optimizer.step()
        finally:
            self._stepping = False

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Replace every `grad` by its private version; counts as a step of the plan."""
        if closure is not None:
            raise PrivacyError("optimizer.step(closure): a closure could look at the data again")
        self._refuse_what_is_not_planned()
        gradients = self._collect()
        total = self._drawn_noise()
        sums = self._by_parameter(total)
        self.ran += 1
        self._add_clipped(gradients, sums)
        total.div_(self._plan.batch_size)
        for parameter, gradient in sums.items():
            parameter.grad = gradient
        self._model.forget()
        if self.step_hook:
            self.step_hook(self)
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002 - Opacus' signature
        """Forget the last batch and its gradients."""
        self._model.forget()
        for parameter in self.params:
            parameter.grad_sample = None
        self.original_optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Refuse all further steps."""
        self._closed = True

    def guard(self, *_: Any) -> None:
        """Step-pre-hook of the wrapped optimizer: it may only move as part of a private step."""
        if not self._stepping:
            raise PrivacyError(
                "the original optimizer was stepped without noise: step the private one instead"
            )

    def signal_skip_step(self, do_skip: bool = True) -> NoReturn:  # noqa: ARG002 - as above
        """Not offered: gradients gathered over several passes would outlive their step."""
        raise PrivacyError("a private step cannot be skipped")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PrivateOptimizer cannot be copied or pickled; privatise again instead")

    def _refuse_what_is_not_planned(self) -> None:
        if self._closed:
            raise PrivacyError("step after the private training was closed")
        if self.ran >= self._plan.steps:
            raise PrivacyError(f"step {self.ran + 1} of a plan of {self._plan.steps}")

    def _collect(self) -> list[list[Gradients]]:
        """The gradients of the batch's records and those of its canaries, if there are any."""
        canaries = self._block.gradients(clip=self._plan.clip) if self._block else []
        return [group for group in (self._model.collect(), canaries) if group]

    def _drawn_noise(self) -> Tensor:
        """Noise for all parameters in one vector, float32."""
        count = sum(parameter.numel() for parameter in self.params)
        std = self._plan.noise_multiplier * self._plan.clip
        return self._noise.normal((count,), std) if std else torch.zeros(count)

    def _by_parameter(self, total: Tensor) -> Sums:
        parts = torch.split(total, [parameter.numel() for parameter in self.params])
        return {p: part.view_as(p) for p, part in zip(self.params, parts, strict=True)}

    def _add_clipped(self, groups: list[list[Gradients]], sums: Sums) -> None:
        """Each group is of other examples; all examples are clipped in one call."""
        if not groups:
            return
        sizes = [len(group[0]) for group in groups]
        with torch.no_grad():
            norms = torch.cat([_norms(group) for group in groups])
            lost = ~norms.isfinite()
            if lost.any():
                self.nonfinite += int(lost.sum())
                for group, examples in zip(groups, torch.split(lost, sizes), strict=True):
                    for part in group:
                        part.drop(examples)
                norms = torch.where(lost, 0.0, norms)
            factors = clip_factors(norms, self._plan.clip)
            for group, weights in zip(groups, torch.split(factors, sizes), strict=True):
                for part in group:
                    part.add_weighted(weights, sums)


def _norms(parts: list[Gradients]) -> Tensor:
    return torch.stack([part.squared_norms() for part in parts]).sum(0).sqrt_()
