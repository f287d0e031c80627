"""What is built on Opacus: gradients example by example, and the optimizer step that clips them.

All of Opacus that is used is imported here; whoever needs it imports this module late, because that
takes seconds. Importing Opacus sets up the root logger, which is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from privet.devices import exact_place, full
from privet.errors import ModelError, PrivacyError
from privet.privacy.library_logging import untouched_root_logger
from privet.privacy.mechanisms.attention import Attention
from privet.privacy.mechanisms.by_hand import Tap, Use, run, tap_of
from privet.privacy.mechanisms.canaries import CanaryBlock
from privet.privacy.mechanisms.gradients import (
    DenseGradients,
    Gradients,
    Sums,
    averaged,
    clip_factors,
)
from privet.privacy.mechanisms.grid import Grid, release
from privet.privacy.mechanisms.noise import NoiseSource
from privet.privacy.mechanisms.plan import DpSgd
from privet.privacy.mechanisms.recurrent import StandIn, restore, stand_ins
from privet.pytrees import leaves, mapped

with untouched_root_logger():
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import prepare_layer
    from opacus.layers import DPGRU, DPLSTM, DPRNN
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator

RECURRENT = (DPRNN, DPLSTM, DPGRU)
"""Layers that consist of others which Opacus knows."""

__all__ = ["RECURRENT", "ModuleValidator", "PerExampleModule", "PrivateOptimizer"]


def _layer_norm(
    layer: nn.LayerNorm, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Opacus' rule, which fails without a bias."""
    if layer.bias is not None:
        found: dict[nn.Parameter, Tensor] = _OPACUS_LAYER_NORM(layer, activations, backprops)
        return found
    normal = nn.functional.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps)
    summed = tuple(range(1, backprops.dim() - layer.weight.dim()))
    weighted = normal * backprops
    return {layer.weight: weighted.sum(summed) if summed else weighted}


_OPACUS_LAYER_NORM = GradSampleModule.GRAD_SAMPLERS[nn.LayerNorm]


class PerExampleModule(GradSampleModule):  # type: ignore[misc]
    """Opacus' GradSampleModule for one batch at a time, and layers by hand (`by_hand`).

    A batch is what one training-mode forward pass got; its first dimension counts the examples. An
    empty batch (a valid Poisson sample) gives an output of no rows whatever the layers make of
    empty tensors. `collect` hands out the gradients of the batch, `forget` makes room for the next.
    """

    GRAD_SAMPLERS = {  # noqa: RUF012 - Opacus' registry, a class attribute there
        **GradSampleModule.GRAD_SAMPLERS,
        nn.LayerNorm: _layer_norm,
    }

    def __init__(self, model: nn.Module) -> None:
        self._replaced = stand_ins(model)
        self._taps = {layer: tap for layer in model.modules() if (tap := tap_of(layer))}
        self._uses: dict[Tap[Any], list[Use]] = {}
        try:
            super().__init__(model, batch_first=True, loss_reduction="mean", strict=False)
        except Exception:
            restore(self._replaced)
            raise
        # A record in two accumulated batches would be clipped in each and count twice in one step.
        self.forbid_grad_accumulation()
        self.batch: int | None = None
        self.copies = 1
        """So many rows that follow each other are of one example: their mean gradient is its."""
        for layer, tap in self._taps.items():
            layer.forward = partial(self._tapped, tap)
        self._overwritten = any(getattr(each, "inplace", False) for each in model.modules())
        # Walking through a model takes longer than a small one's step: once, then.
        self._parts = list(model.modules())
        self._trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._padding = _padding_rows(model)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            self._begin(inputs, options)
        # Skipping an empty batch would reveal that it was empty: it is a step of noise alone.
        if _is_empty((inputs, options)):
            return self._output_of_nothing(inputs, options)
        return self._module(*inputs, **options)

    def collect(self) -> list[Gradients]:
        """The gradients of the current batch, none when it was empty.

        Raises PrivacyError before any batch was seen, ModelError for a parameter without gradients
        and for a layer that saw another number of examples than the batch has.
        """
        if self.batch is None:
            raise PrivacyError("optimizer.step() without a forward and backward pass before it")
        if self.batch == 0:
            return []
        gradients = [part for tap, uses in self._uses.items() for part in self._of(tap, uses)]
        covered = {p for tap in self._uses for p in tap.layer.parameters()}
        gradients += [_dense(name, p) for name, p in self._trained if p not in covered]
        for part in gradients:
            self._check_rows(part)
            if isinstance(part, DenseGradients) and part.parameter in self._padding:
                # torch gives the padding row no gradient, Opacus does.
                part.values[:, self._padding[part.parameter]] = 0.0
        if self.copies == 1:
            return gradients
        return [mean for part in gradients for mean in averaged(part, self.copies)]

    @property
    def records(self) -> int:
        """How many examples the current batch has, whatever copies of each."""
        return (self.batch or 0) // self.copies

    def forget(self) -> None:
        """Drop the batch and all that was kept of it."""
        self.batch = None
        self._uses.clear()
        for module in self._parts:
            module.__dict__.pop("activations", None)
            module.__dict__.pop("max_batch_len", None)

    def close(self) -> None:
        """Take every hook and attribute off the model; it can be wrapped again."""
        self.forget()
        for layer in self._taps:
            layer.__dict__.pop("forward", None)
        self.cleanup()
        for parameter in self._module.parameters():
            parameter.__dict__.pop("summed_grad", None)
        restore(self._replaced)

    def add_hooks(
        self,
        *,
        loss_reduction: str = "mean",  # noqa: ARG002 - Opacus' signature
        batch_first: bool = True,
        force_functorch: bool = False,  # noqa: ARG002
    ) -> None:
        """Opacus' forward hooks only; `capture_activations_hook` asks outputs for their gradients.

        Opacus' backward hooks wrap every layer in two more functions, forbid in-place activations
        and make torch warn about first layers, whose input needs no gradient.
        """
        if hasattr(self._module, "autograd_grad_sample_hooks"):
            raise PrivacyError("the model already collects per-example gradients")
        self._module.autograd_grad_sample_hooks = self.autograd_grad_sample_hooks = []
        for module in self.iterate_submodules(self._module):
            if isinstance(module, (*RECURRENT, StandIn, Attention)) or module in self._taps:
                continue
            # No rule by hand for this layer: Opacus differentiates it by vmap (slower, as exact).
            if type(module) not in self.GRAD_SAMPLERS:
                prepare_layer(module, batch_first=batch_first)
            hook = module.register_forward_hook(self.capture_activations_hook)
            self.autograd_grad_sample_hooks.append(hook)
        self.enable_hooks()

    def capture_activations_hook(
        self, module: nn.Module, forward_input: Any, forward_output: Any
    ) -> Tensor | None:
        """Keep the layer's input, and its output's gradient when that is known."""
        super().capture_activations_hook(module, forward_input, forward_output)
        output = forward_output if isinstance(forward_output, Tensor) else forward_output[0]
        if not (self.hooks_enabled and module.training and output.requires_grad):
            return None
        # A view that a later layer overwrites loses its hooks; a copy keeps them.
        copied = self._overwritten and output is forward_output and output._is_view()
        output = output.clone() if copied else output
        output.register_hook(
            lambda gradient: self.capture_backprops_hook(
                module, None, (gradient,), self.loss_reduction, self.batch_first
            )
        )
        return output if copied else None

    def rearrange_grad_samples(
        self, *, module: nn.Module, backprops: Tensor, loss_reduction: str, batch_first: bool
    ) -> tuple[list[Tensor], Tensor]:
        """Opacus' two factors of the gradients, in float32 whatever the passes were in."""
        factors: tuple[list[Tensor], Tensor] = super().rearrange_grad_samples(
            module=module,
            backprops=backprops,
            loss_reduction=loss_reduction,
            batch_first=batch_first,
        )
        return full(factors)  # type: ignore[no-any-return]

    def _tapped(self, tap: Tap[Any], input: Tensor) -> Tensor:
        if not (tap.layer.training and torch.is_grad_enabled() and self.hooks_enabled):
            plain: Tensor = type(tap.layer).forward(tap.layer, input)
            return plain
        if not tap.takes(input):
            raise ModelError(
                f"a layer of type {type(tap.layer).__name__} gets a tensor of {input.dim()} "
                "dimensions: keep the first one for the examples throughout"
            )
        return run(tap, input, self.batch or len(input), self._record)

    def _record(self, tap: Tap[Any], use: Use) -> None:
        self._uses.setdefault(tap, []).append(full(tuple(each.detach() for each in use)))

    def _of(self, tap: Tap[Any], uses: list[Use]) -> list[Gradients]:
        for use in uses:
            self._check_rows(use[0])
        if self.loss_reduction == "mean":
            uses = [(inputs, *(each * len(each) for each in back)) for inputs, *back in uses]
        return tap.gradients(uses)

    def _begin(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self.batch is not None:
            raise PrivacyError(
                "a second batch before optimizer.zero_grad(): each step takes exactly one batch"
            )
        found = leaves((inputs, options))
        if not (found and found[0].dim() > 0):
            raise ModelError("the model's first input must be a tensor with the examples in rows")
        self.batch = len(found[0])
        if self.batch % self.copies:
            raise ModelError(f"a batch of {self.batch} rows, {self.copies} of each example")

    def _output_of_nothing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """No rows of what the model makes of an all-zero example."""
        given, named = mapped(_one_of_nothing, (inputs, options))
        with torch.no_grad():
            outputs = self._module(*given, **named)
        return mapped(_no_rows, outputs)

    def _check_rows(self, part: Gradients | Tensor) -> None:
        if len(part) != self.batch:
            raise ModelError(
                f"a layer sees {len(part)} rows for {self.batch} examples: keep the first "
                "dimension for the examples throughout, or one example would be clipped as many"
            )


def _padding_rows(model: nn.Module) -> dict[Tensor, int]:
    """By the weights of embeddings: the row that stands for padding."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    found: dict[Tensor, int] = {}
    for layer in model.modules():
        if isinstance(layer, kinds) and layer.padding_idx is not None:
            found[layer.weight] = layer.padding_idx
    return found


def _dense(name: str, parameter: nn.Parameter) -> DenseGradients:
    values = getattr(parameter, "grad_sample", None)
    if not isinstance(values, Tensor):
        raise ModelError(
            f"parameter {name!r} has no per-example gradient: it took no part in the loss (freeze "
            "it: requires_grad_(False)), the model was not in training mode, or what its layer put "
            "out was overwritten in place"
        )
    return DenseGradients(parameter, values)


def _is_empty(inputs: Any) -> bool:
    found = leaves(inputs)
    return bool(found) and found[0].dim() > 0 and len(found[0]) == 0


def _one_of_nothing(leaf: Tensor) -> Tensor:
    return leaf.new_zeros(1, *leaf.shape[1:]) if _is_empty(leaf) else leaf


def _no_rows(leaf: Tensor) -> Tensor:
    empty = leaf[:0].detach()
    return empty.requires_grad_() if empty.is_floating_point() else empty


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Steps the wrapped optimizer on clipped and noisy gradients (Abadi et al. 2016, Algorithm 1).

    Each example's gradient over all parameters is scaled to an L2 norm of at most `plan.clip`; one
    that is not finite counts as zero. The gradient is (sum + noise) / plan.batch_size, where the
    noise has standard deviation plan.noise_multiplier * plan.clip and the divisor does not depend
    on who took part. An empty batch is a step of noise alone. Sum and noise are integers of a grid.

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
        self._weights = [parameter.numel() for parameter in self.params]
        self._device = self.params[0].device
        # Of the model alone: no record moves the canaries' block, and it changes no record's step.
        self._grid = Grid.of(plan, sum(self._weights) - (block.parameter.numel() if block else 0))
        self._noise = noise
        self._model = model
        self._block = block
        self._closed = False
        self._stepping = False
        self._gathered: Tensor | None = None
        self._records = 0

    def gather(self) -> None:
        """Clip and add up the examples of one part of a batch, and make room for its next part.

        A batch may come in parts of other examples each; the last one is left to `step`.
        """
        self._refuse_what_is_not_planned()
        gradients = self._model.collect()
        self._records += self._model.records
        self._grid.check(self._records)
        if self._gathered is None:
            place = exact_place(self._device)
            self._gathered = torch.zeros(sum(self._weights), dtype=torch.float64, device=place)
        if gradients:
            self._add_clipped([gradients], self._by_parameter(self._gathered))
        self._drop()

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
        noise = self._grid.noise(self._noise, sum(self._weights)).to(exact_place(self._device))
        # Counted before the parameters move: a crash in between costs a step, never hides one.
        self.ran += 1
        total = torch.zeros_like(noise) if self._gathered is None else self._gathered
        self._gathered, self._records = None, 0
        self._add_clipped(gradients, self._by_parameter(total))
        # By the expected size: dividing by the drawn one would reveal how many took part.
        released = release(total, noise, self._grid.scale).float()
        mean = released.mul_(self._grid.step / self._plan.batch_size).to(self._device)
        for parameter, gradient in self._by_parameter(mean).items():
            parameter.grad = gradient
        self._model.forget()
        if self.step_hook:
            self.step_hook(self)
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002 - Opacus' signature
        """Forget the last batch and its gradients."""
        self._gathered, self._records = None, 0
        self._drop()

    def _drop(self) -> None:
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
        self._grid.check(self._records + self._model.records)
        canaries = self._block.gradients(clip=self._plan.clip) if self._block else []
        return [group for group in (self._model.collect(), canaries) if group]

    def _by_parameter(self, total: Tensor) -> Sums:
        parts = torch.split(total, self._weights)
        return {p: part.view_as(p) for p, part in zip(self.params, parts, strict=True)}

    def _add_clipped(self, groups: list[list[Gradients]], sums: Sums) -> None:
        """Each group is of other examples; all examples are clipped in one call."""
        if not groups:
            return
        sizes = [len(group[0]) for group in groups]
        with torch.no_grad():
            norms = torch.cat([_norms(group) for group in groups])
            # inf * 0 is NaN: what is not finite must become zero before it is weighted.
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
