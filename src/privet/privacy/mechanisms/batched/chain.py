"""Which models can be trained as one batch over silos, and such a model as a chain of layers.

Layers work on K silos at once: activations (K, B, features), parameters (K, *shape). Each knows its
examples' gradients by two factors: what `prepare` made of its input and the gradient of its output,
`backprops`, shape (K, B, outputs).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privet.devices import CPU, Device, full
from privet.errors import PrivetError
from privet.privacy.mechanisms.losses import ExampleLoss


class Layer(Protocol):
    """A layer with parameters."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one silo's parameters, in the order in which the module names them."""

    def prepare(self, inputs: Tensor) -> Tensor:
        """The factor of the gradients that is known after the forward pass."""

    def apply(self, prepared: Tensor, *parameters: Tensor) -> Tensor:
        """The layer's output."""

    def squared_norms(self, prepared: Tensor, backprops: Tensor) -> Tensor:
        """Squared L2 norm of each example's gradient over the layer, float64 (K, B)."""

    def add_sums(self, prepared: Tensor, weighted: Tensor, *into: Tensor) -> None:
        """Add the sum of the gradients over B, `weighted` being backprops times weights.

        It is computed in the type of `weighted`, which that of `into` is, too.
        """


@dataclass(frozen=True)
class Linear:
    """nn.Linear on matrices of one row per example."""

    inputs: int
    outputs: int
    bias: bool

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        weight = (self.outputs, self.inputs)
        return (weight, (self.outputs,)) if self.bias else (weight,)

    def prepare(self, inputs: Tensor) -> Tensor:
        return inputs

    def apply(self, prepared: Tensor, *parameters: Tensor) -> Tensor:
        weight, *bias = parameters
        if not bias:
            return torch.bmm(prepared, weight.mT)
        return torch.baddbmm(bias[0].unsqueeze(1), prepared, weight.mT)

    def squared_norms(self, prepared: Tensor, backprops: Tensor) -> Tensor:
        inputs = _squared(prepared) + float(self.bias)
        return _squared(backprops) * inputs

    def add_sums(self, prepared: Tensor, weighted: Tensor, *into: Tensor) -> None:
        weight, *bias = into
        size = max(1, _AT_ONCE // (len(prepared) * self.inputs))
        parts = torch.split(weighted, size, 1), torch.split(prepared, size, 1)
        for some, inputs in zip(*parts, strict=True):
            weight.baddbmm_(some.mT, inputs.to(some.dtype))
        for sums in bias:
            sums.add_(weighted.sum(1))


@dataclass(frozen=True)
class LayerNorm:
    """nn.LayerNorm with weights and bias, over all features of rows."""

    features: int
    eps: float

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.features,),) * 2

    def prepare(self, inputs: Tensor) -> Tensor:
        return F.layer_norm(inputs, (self.features,), eps=self.eps)

    def apply(self, prepared: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias = parameters
        return prepared * weight.unsqueeze(1) + bias.unsqueeze(1)

    def squared_norms(self, prepared: Tensor, backprops: Tensor) -> Tensor:
        return _squared(backprops.double() * prepared) + _squared(backprops)

    def add_sums(self, prepared: Tensor, weighted: Tensor, *into: Tensor) -> None:
        weight, bias = into
        weight.add_((weighted * prepared).sum(1))
        bias.add_(weighted.sum(1))


_AT_ONCE = 2**20
"""Numbers that are turned into another type together."""


def _squared(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=2, dtype=torch.float64)
    return norms.square_()


_ELEMENTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NotBatchable(PrivetError):  # noqa: N818 - an answer, not a fault
    """The model has to be trained silo by silo; says why."""


@dataclass
class LayerPass:
    """A layer in one pass: the two factors of its examples' gradients."""

    layer: Layer
    prepared: Tensor
    backprops: Tensor
    """The layer's output until its gradient is known."""


@dataclass(frozen=True)
class Chain:
    """Layers one after the other; a link without parameters is a plain function."""

    links: tuple[Layer | Callable[[Tensor], Tensor], ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of one silo's parameters, in the order of the flat vector."""
        return [shape for link in self.links if not callable(link) for shape in link.shapes]

    def run(
        self,
        inputs: Tensor,
        targets: Tensor,
        parameters: Sequence[Tensor],
        loss: ExampleLoss,
        device: Device = CPU,
    ) -> tuple[Tensor, list[LayerPass]]:
        """Outputs (K, B, ...), and for each layer the gradients of every example's own loss.

        inputs (K, B, ...), targets (K, B), parameters (K, *shape) in the order of `shapes`, all of
        them on `device`, whose precision the pass has; what it gives is in float32.
        """
        with torch.enable_grad(), device.passes():
            outputs, layers = self._forward(inputs, parameters)
        with torch.enable_grad():
            outputs = device.told(outputs)
        every = outputs.flatten(0, 1)
        own = loss.gradients(every, targets.flatten(0, 1), times=float(len(every))).view_as(outputs)
        with torch.enable_grad():
            # Not torch's own way to pass gradients in, which imports sympy: half a second of a run.
            total = (outputs * own).sum()
        gradients = torch.autograd.grad(total, [seen.backprops for seen in layers])
        for seen, gradient in zip(layers, gradients, strict=True):
            seen.prepared, seen.backprops = full((seen.prepared, gradient))
        return outputs.detach(), layers

    def _forward(
        self, inputs: Tensor, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, list[LayerPass]]:
        left, layers, values = iter(parameters), [], inputs
        for link in self.links:
            if callable(link):
                values = link(values)
                continue
            prepared = link.prepare(values)
            values = link.apply(prepared, *(next(left) for _ in link.shapes))
            if not values.requires_grad:
                values.requires_grad_()  # of the first layer: its inputs need no gradient
            layers.append(LayerPass(link, prepared.detach(), backprops=values))
        return values, layers


def chain_of(model: nn.Module, inputs: Tensor) -> Chain:
    """`model` as a chain, if it is one on `inputs`, some examples (n, ...); else NotBatchable.

    It has to be nn.Linear, nn.Flatten, nn.LayerNorm and functions of single numbers, one after the
    other, with rows of numbers between them; every parameter trained, none shared, and no hooks.
    """
    if inputs.dtype != torch.float32:
        raise NotBatchable(f"its inputs are {inputs.dtype}")
    links: list[Layer | Callable[[Tensor], Tensor]] = []
    shape = tuple(inputs.shape[1:])
    for path, module in _sequence("", model):
        link, shape = _link(module, shape, f"{path!r} ({type(module).__name__})")
        links.append(link)
    chain = Chain(tuple(links))
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise NotBatchable("a part of it is frozen")
    if chain.shapes != [tuple(t.shape) for t in (*model.parameters(), *model.buffers())]:
        raise NotBatchable("its layers share parameters or have buffers")
    return chain


def _sequence(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers in the order in which they run."""
    if any(getattr(module, hooks) for hooks in _HOOKS):
        raise NotBatchable(f"layer {path!r} has hooks")
    if type(module) is not nn.Sequential:
        yield path, module
        return
    for name, child in module._modules.items():  # unlike named_children, repeats and all
        assert child is not None
        yield from _sequence(f"{path}.{name}" if path else name, child)


def _link(
    module: nn.Module, shape: tuple[int, ...], place: str
) -> tuple[Layer | Callable[[Tensor], Tensor], tuple[int, ...]]:
    """The layer over K silos, and the shape of what it gives for one example."""
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return _flat, (math.prod(shape),)
    if type(module) in _ELEMENTWISE:
        return _not_in_place(module), shape
    if type(module) is nn.Linear and shape == (module.in_features,):
        layer = Linear(module.in_features, module.out_features, bias=module.bias is not None)
        return layer, (module.out_features,)
    if type(module) is nn.LayerNorm and shape == tuple(module.normalized_shape):
        if not module.elementwise_affine:
            return module, shape
        if len(shape) == 1 and module.bias is not None:
            return LayerNorm(*shape, module.eps), shape
    raise NotBatchable(f"layer {place}, on inputs of shape {shape}, is none that it knows")


def _flat(values: Tensor) -> Tensor:
    return values.flatten(2)


def _not_in_place(module: nn.Module) -> nn.Module:
    """A copy that leaves its input alone, which is needed once more."""
    twin = copy.copy(module)
    if hasattr(twin, "inplace"):
        twin.inplace = False  # type: ignore[assignment]
    return twin
