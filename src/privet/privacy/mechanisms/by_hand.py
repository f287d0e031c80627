"""Layers whose examples' gradients are worked out here, from what went in and came back.

While a model is trained privately such a layer runs as a `_Tapped` function: torch gets the
gradient at its input, of its parameters none at all. That of the batch, which nobody may use, is
then never computed: a third of a plain step's arithmetic, and what pays for the examples' own.
A layer that is used several times in a pass has the sum of what each use gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from privet.errors import ModelError
from privet.privacy.mechanisms.attention import InProjection
from privet.privacy.mechanisms.gradients import (
    DenseGradients,
    Gradients,
    OuterGradients,
    RowGradients,
)
from privet.privacy.mechanisms.recurrent import Gates

Use = tuple[Tensor, ...]
"""A layer's input in one call, and what the gradient at its output gives; examples first."""
Record = Callable[["Tap[Any]", Use], None]
_Layer = TypeVar("_Layer", bound=nn.Module)


class Tap(Generic[_Layer]):
    """A layer by hand."""

    def __init__(self, layer: _Layer) -> None:
        self.layer = layer

    def takes(self, inputs: Tensor) -> bool:
        """Whether these are examples in rows."""
        return inputs.dim() > 1

    def prepare(self, inputs: Tensor, batch: int) -> Tensor:  # noqa: ARG002
        """What torch may differentiate before the layer, in a batch of so many examples."""
        return inputs

    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What the layer puts out, and what `back` needs besides its input."""
        raise NotImplementedError

    def back(
        self, inputs: Tensor, kept: Use, at_output: Tensor, *, further: bool
    ) -> tuple[Tensor | None, Use]:
        """The gradient at the input, if it goes further, and what to remember of this use."""
        del kept
        return self.at_input(inputs, at_output) if further else None, (inputs, at_output)

    def at_input(self, inputs: Tensor, at_output: Tensor) -> Tensor:
        """The gradient at the input."""
        raise NotImplementedError

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        """Each example's, of all uses together, of the parameters that train."""
        raise NotImplementedError


def tap_of(layer: nn.Module) -> Tap[Any] | None:
    """How to take gradients of `layer` by hand; None for others, and where nothing of it trains."""
    tap = _TAPS.get(type(layer))
    parameters = dict(layer.named_parameters(recurse=False))
    # One that keeps its weight elsewhere, as with torch's old weight norm, is left to Opacus.
    known = "weight" in parameters and parameters.keys() <= {"weight", "bias"}
    trains = any(parameter.requires_grad for parameter in parameters.values())
    changed = "forward" in vars(layer)
    if tap and trains and not changed and (known or isinstance(layer, Gates)):
        return tap(layer)
    return None


def run(tap: Tap[Any], inputs: Tensor, batch: int, record: Record) -> Tensor:
    """The layer's output in a batch of so many; on the way back `record` is told of it."""
    # The first layer's input needs no gradient; without one torch would not come back to it.
    anchor = torch.zeros((), requires_grad=True, device=inputs.device)
    output: Tensor = _Tapped.apply(tap.prepare(inputs, batch), anchor, tap, record)  # type: ignore[no-untyped-call]
    return output


class _Tapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, _anchor: Tensor, tap: Tap[Any], record: Record) -> Tensor:
        ctx.tap, ctx.record = tap, record
        output, *kept = tap.output(inputs)
        ctx.save_for_backward(inputs, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *at_outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        inputs, *kept = ctx.saved_tensors
        further = ctx.needs_input_grad[0]
        at_input, use = ctx.tap.back(inputs, tuple(kept), *at_outputs, further=further)
        ctx.record(ctx.tap, use)
        return at_input, None, None, None


def _dense(parameter: Tensor | None, values: Callable[[], Tensor]) -> list[Gradients]:
    """If it is there and trains."""
    if parameter is None or not parameter.requires_grad:
        return []
    return [DenseGradients(parameter, values())]


def _total(of_use: Callable[..., Tensor], uses: Sequence[Use]) -> Tensor:
    return reduce(torch.add, (of_use(*use) for use in uses))


def _joined(uses: Sequence[Use], side: int) -> Tensor:
    """Rows (n, ..., d) of all uses, their places behind each other: (n, places, d)."""
    rows = [use[side].reshape(len(use[side]), -1, use[side].shape[-1]) for use in uses]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


class _Linear(Tap[nn.Linear]):
    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        one = self.layer
        if inputs.dim() == 2 or torch.is_autocast_enabled(inputs.device.type):
            output = F.linear(inputs, one.weight, one.bias)
            return (output.clone() if inputs.dim() > 2 else output,)
        # Otherwise torch puts out a view, which no layer behind a function may overwrite.
        output = inputs.new_empty(*inputs.shape[:-1], one.out_features)
        rows = output.view(-1, one.out_features)
        torch.mm(inputs.reshape(-1, one.in_features), one.weight.t(), out=rows)
        if one.bias is not None:
            rows += one.bias
        return (output,)

    def at_input(self, inputs: Tensor, at_output: Tensor) -> Tensor:  # noqa: ARG002
        return at_output @ self.layer.weight.to(at_output.dtype)

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        inputs, at_output = _joined(uses, 0), _joined(uses, 1)
        if inputs.shape[1] == 1:
            return [OuterGradients(self.layer, inputs.squeeze(1), at_output.squeeze(1))]
        found = _dense(self.layer.weight, lambda: at_output.mT @ inputs)
        return found + _dense(self.layer.bias, lambda: at_output.sum(1))


_FEW_CHANNELS = 8


class _Convolution(Tap[nn.Conv1d | nn.Conv2d]):
    """nn.Conv1d and nn.Conv2d that pad with zeros."""

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__(layer)
        self._dims = len(layer.kernel_size)
        padding = layer.padding
        self._padding = (0,) * self._dims if isinstance(padding, str) else padding

    def takes(self, inputs: Tensor) -> bool:
        return inputs.dim() == self._dims + 2

    def prepare(self, inputs: Tensor, batch: int) -> Tensor:  # noqa: ARG002
        around = self.layer._reversed_padding_repeated_twice
        return F.pad(inputs, around) if self.layer.padding == "same" else inputs

    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        one, convolve = self.layer, F.conv1d if self._dims == 1 else F.conv2d
        settings = one.stride, self._padding, one.dilation, one.groups
        return (convolve(inputs, one.weight, one.bias, *settings),)

    def at_input(self, inputs: Tensor, at_output: Tensor) -> Tensor:
        return self._back(inputs, at_output, self.layer.weight, self.layer.groups, of_input=True)

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        found = _dense(self.layer.weight, lambda: _total(self._of_weight, uses))
        bias = self.layer.bias
        return found + _dense(bias, lambda: _total(lambda _, back: back.flatten(2).sum(2), uses))

    def _of_weight(self, inputs: Tensor, at_output: Tensor) -> Tensor:
        """(n, *weight.shape)."""
        # On the CPU one kernel in which each example is a group of its own; with few channels it
        # has too little to do in a group, and other devices have no such kernel.
        few = self.layer.weight.shape[1] < _FEW_CHANNELS or inputs.device.type != "cpu"
        return (self._by_windows if few else self._by_groups)(inputs, at_output)

    def _by_windows(self, inputs: Tensor, at_output: Tensor) -> Tensor:
        one, n, places = self.layer, len(inputs), at_output.shape[2:]
        padded = F.pad(inputs, [size for size in reversed(self._padding) for _ in range(2)])
        outer, steps = padded.stride()[:2], padded.stride()[2:]
        within = [step * by for step, by in zip(steps, one.dilation, strict=True)]
        between = [step * by for step, by in zip(steps, one.stride, strict=True)]
        shape = (n, padded.shape[1], *one.kernel_size, *places)
        windows = padded.as_strided(shape, (*outer, *within, *between))
        windows = windows.reshape(n * one.groups, -1, places.numel())
        rows = at_output.reshape(n * one.groups, -1, places.numel())
        return (windows @ rows.mT).mT.reshape(n, *one.weight.shape)

    def _by_groups(self, inputs: Tensor, at_output: Tensor) -> Tensor:
        n, weight = len(inputs), self.layer.weight
        one = inputs.reshape(1, -1, *inputs.shape[2:])
        back = at_output.reshape(1, -1, *at_output.shape[2:])
        like = weight.new_empty(n * len(weight), *weight.shape[1:])
        found = self._back(one, back, like, n * self.layer.groups, of_input=False)
        return found.view(n, *weight.shape)

    def _back(
        self, inputs: Tensor, at_output: Tensor, weight: Tensor, groups: int, *, of_input: bool
    ) -> Tensor:
        one, wanted = self.layer, [of_input, not of_input, False]
        shape = one.stride, self._padding, one.dilation, False, one.output_padding
        kind = at_output.dtype  # as the pass was
        found = torch.ops.aten.convolution_backward(
            at_output, inputs.to(kind), weight.to(kind), None, *shape, groups, wanted
        )
        return found[0 if of_input else 1]  # type: ignore[no-any-return]


class _Embedding(Tap[nn.Embedding]):
    """Of each example the rows that it looks up, and no others."""

    def takes(self, inputs: Tensor) -> bool:
        return inputs.dim() > 0

    def prepare(self, inputs: Tensor, batch: int) -> Tensor:
        # One row for all, such as positions: looked up by each, or none would have its gradient.
        alike = len(inputs) == 1 and inputs.dim() > 1
        return inputs.expand(batch, *inputs.shape[1:]) if alike else inputs

    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (F.embedding(inputs, self.layer.weight),)

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        looked_up = torch.cat([inputs.reshape(len(inputs), -1) for inputs, _ in uses], 1)
        return [RowGradients.of(self.layer, looked_up, _joined(uses, 1))]


class _GroupNorm(Tap[nn.GroupNorm]):
    def prepare(self, inputs: Tensor, batch: int) -> Tensor:  # noqa: ARG002
        return inputs.float().contiguous()

    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        one, (n, channels, *places) = self.layer, inputs.shape
        size = math.prod(places)
        return torch.native_group_norm(
            inputs, one.weight, one.bias, n, channels, size, one.num_groups, one.eps
        )

    def back(
        self, inputs: Tensor, kept: Use, at_output: Tensor, *, further: bool
    ) -> tuple[Tensor | None, Use]:
        # All channels of all examples as those of one: what torch then gives for each channel is
        # one example's gradient.
        n, channels, *places = inputs.shape
        mean, deviation = (each.reshape(1, -1) for each in kept)
        at_input, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            at_output.reshape(1, -1, *places).contiguous(),
            inputs.reshape(1, -1, *places),
            mean,
            deviation,
            self.layer.weight.detach().repeat(n),
            1,
            n * channels,
            math.prod(places),
            n * self.layer.num_groups,
            [further, True, True],
        )
        further_back = at_input.view_as(inputs) if further else None
        return further_back, (inputs, of_weight.view(n, -1), of_bias.view(n, -1))

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        found = _dense(self.layer.weight, lambda: _total(lambda *use: use[1], uses))
        return found + _dense(self.layer.bias, lambda: _total(lambda *use: use[2], uses))


class _InProjection(Tap[InProjection]):
    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (InProjection.forward(self.layer, inputs),)

    def at_input(self, inputs: Tensor, at_output: Tensor) -> Tensor:  # noqa: ARG002
        return at_output @ self.layer.weight[self.layer.weight_rows].to(at_output.dtype)

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        inputs, at_output = _joined(uses, 0), _joined(uses, 1)
        one, found = self.layer, list[Gradients]()
        if one.weight.requires_grad:
            found.append(DenseGradients(one.weight, at_output.mT @ inputs, one.weight_rows))
        if one.bias is not None and one.bias.requires_grad:
            found.append(DenseGradients(one.bias, at_output.sum(1), one.rows))
        return found


class _Recurrent(Tap[Gates]):
    """What the steps of a recurrent layer get from input and state."""

    def takes(self, inputs: Tensor) -> bool:
        return inputs.dim() == 3

    def output(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (Gates.forward(self.layer, inputs),)

    def at_input(self, inputs: Tensor, at_output: Tensor) -> Tensor:  # noqa: ARG002
        return at_output @ self.layer.weight_ih.to(at_output.dtype)

    def gradients(self, uses: Sequence[Use]) -> list[Gradients]:
        if len(uses) > 1:  # the states of the first are gone
            raise ModelError("a recurrent layer runs twice in a pass: give each use its own layer")
        found = self.layer.gradients(*uses[0])
        return [DenseGradients(parameter, values) for parameter, values in found.items()]


_TAPS: dict[type[nn.Module], Callable[[Any], Tap[Any]]] = {
    nn.Linear: _Linear,
    nn.Conv1d: _Convolution,
    nn.Conv2d: _Convolution,
    nn.Embedding: _Embedding,
    nn.GroupNorm: _GroupNorm,
    Gates: _Recurrent,
    NonDynamicallyQuantizableLinear: _Linear,
    InProjection: _InProjection,
}
