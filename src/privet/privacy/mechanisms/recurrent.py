"""torch's recurrent layers, with others in their place that show each example's gradients.

torch runs nn.LSTM, nn.GRU and nn.RNN in one piece, in which no hook sees a step of the sequence.
While a model is trained privately a `StandIn` does the same step by step, on the very same
parameters: their names, their order and what is written to files stay torch's, and so does
everything outside of private training.

A step's gates are a sum of what the input and what the last hidden state put in, so the gradient at
the one is the gradient at the other: one look at (n, T, gates) numbers gives each example's
gradient of both matrices, without an outer product for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privet.devices import full
from privet.errors import ModelError
from privet.privacy.mechanisms.attention import Attention

Replaced = list[tuple[nn.Module, str, nn.Module]]
"""Who holds a layer that was replaced, under which name, and the layer."""


def stand_ins(model: nn.Module) -> Replaced:
    """Put a stand-in into the place of each recurrent or attention layer of `model` that trains.

    Raises ModelError for one with hooks, or with options that stand-ins do not have.
    """
    made: dict[nn.Module, nn.Module] = {}
    replaced: Replaced = []
    for holder in list(model.modules()):
        for name, layer in list(holder._modules.items()):
            if layer is not None and (kind := _KINDS.get(type(layer))) and _trains(layer):
                made[layer] = made.get(layer) or kind(layer)
                holder._modules[name] = made[layer]
                replaced.append((holder, name, layer))
    return replaced


def _trains(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def restore(replaced: Replaced) -> None:
    """Put the layers back."""
    for holder, name, layer in replaced:
        holder._modules[name] = layer


class Gates(nn.Module):
    """One layer's parameters in one direction, on torch's names without their suffix.

    Puts out what the input gives to the gates of every step, biases included: (n, T, gates).
    """

    def __init__(self, layer: nn.RNNBase, suffix: str) -> None:
        super().__init__()
        self.weight_ih: nn.Parameter = getattr(layer, f"weight_ih{suffix}")
        self.weight_hh: nn.Parameter = getattr(layer, f"weight_hh{suffix}")
        self.bias_ih: nn.Parameter | None = getattr(layer, f"bias_ih{suffix}", None)
        self.bias_hh: nn.Parameter | None = getattr(layer, f"bias_hh{suffix}", None)
        self.resets = isinstance(layer, nn.GRU)
        self.hidden: Tensor | None = None
        """(n, T, h): the state that each step began with."""
        self.reset: Tensor | None = None
        """(n, T, h) of a GRU: what of the state's part of the new value each step let through."""

    def forward(self, inputs: Tensor) -> Tensor:
        bias: Tensor | None = self.bias_ih
        if self.bias_ih is not None and self.bias_hh is not None and not self.resets:
            bias = self.bias_ih + self.bias_hh
        return F.linear(inputs, self.weight_ih, bias)

    def from_hidden(self, hidden: Tensor) -> Tensor:
        """What the state, (n, h), puts in; its gradient reaches the parameters by `gradients`."""
        bias = None if self.bias_hh is None or not self.resets else self.bias_hh.detach()
        return F.linear(hidden, self.weight_hh.detach(), bias)

    def gradients(self, inputs: Tensor, at_gates: Tensor) -> dict[nn.Parameter, Tensor]:
        """Each example's, (n, ...), from the gradient at the output."""
        assert self.hidden is not None
        at_hidden = at_gates
        if self.resets:
            assert self.reset is not None
            first, second, new = at_gates.chunk(3, dim=-1)
            at_hidden = torch.cat([first, second, new * full(self.reset)], dim=-1)
        found: dict[nn.Parameter, Tensor] = {
            self.weight_ih: at_gates.transpose(1, 2) @ inputs,
            self.weight_hh: at_hidden.transpose(1, 2) @ full(self.hidden),
        }
        if self.bias_ih is not None and self.bias_hh is not None:
            found |= {self.bias_ih: at_gates.sum(1), self.bias_hh: at_hidden.sum(1)}
        return {p: values for p, values in found.items() if p.requires_grad}


class StandIn(nn.Module):
    """What torch's layer does, step by step."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ModelError("a recurrent layer has hooks, which would not run: remove them")
        if layer.proj_size:
            raise ModelError("a recurrent layer has proj_size, which has no stand-in")
        self._kind = type(layer)
        self._relu = getattr(layer, "nonlinearity", "tanh") == "relu"
        self._size, self._dropout = layer.hidden_size, layer.dropout
        self._directions = 2 if layer.bidirectional else 1
        suffixes = [f"_l{n}{d}" for n in range(layer.num_layers) for d in self._reverse()]
        # For models that look at them; registered they are once, in torch's order, with the gates.
        self.__dict__.update(layer.named_parameters())
        self.__dict__.update({name: getattr(layer, name) for name in layer.__constants__})
        self.gates = nn.ModuleList(Gates(layer, suffix) for suffix in suffixes)
        self.train(layer.training)

    def forward(
        self, inputs: Tensor, start: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise ModelError("a recurrent layer takes a tensor of three dimensions here")
        values = inputs if self.batch_first else inputs.transpose(0, 1)
        starts, ends = list(self._starts(values, start)), []
        for first in range(0, len(self.gates), self._directions):
            if first:
                values = F.dropout(values, self._dropout, self.training)
            parts = []
            for place in range(first, first + self._directions):
                backwards = place > first
                given = values.flip(1) if backwards else values
                gates = cast(Gates, self.gates[place])
                outputs, end = self._run(gates, given, starts[place])
                parts.append(outputs.flip(1) if backwards else outputs)
                ends.append(end)
            values = torch.cat(parts, dim=2)
        hidden = torch.stack([end[0] for end in ends])
        values = values if self.batch_first else values.transpose(0, 1)
        if self._kind is nn.LSTM:
            return values, (hidden, torch.stack([end[1] for end in ends]))
        return values, hidden

    def _reverse(self) -> tuple[str, ...]:
        return ("", "_reverse")[: self._directions]

    def _starts(
        self, values: Tensor, start: Tensor | tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        zeros = values.new_zeros(len(self.gates), len(values), self._size)
        hidden, cell = start if isinstance(start, tuple) else (start, None)
        yield from zip(
            zeros if hidden is None else hidden, zeros if cell is None else cell, strict=True
        )

    def _run(
        self, gates: Gates, inputs: Tensor, start: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The states after each step, (n, T, h), and the last one."""
        if self._kind is nn.LSTM:
            # In float32, whatever the rest of the pass is in: a state is a sum of many steps.
            given = (gates(inputs).float(), gates.weight_hh, *(each.float() for each in start))
            states, cell = _Lstm.apply(*given)  # type: ignore[no-untyped-call]
            before = torch.cat([start[0].unsqueeze(1), states[:, :-1]], dim=1)
            gates.hidden = before.detach()
            return states, (states[:, -1], cell)
        (hidden, cell), begun, resets = start, [], []
        states = []
        for step in gates(inputs).unbind(1):
            begun.append(hidden)
            put = gates.from_hidden(hidden)
            if self._kind is nn.GRU:
                hidden, reset = _gru(step, put, hidden)
                resets.append(reset)
            else:
                hidden = torch.relu(step + put) if self._relu else torch.tanh(step + put)
            states.append(hidden)
        gates.hidden = torch.stack(begun, dim=1).detach()
        gates.reset = torch.stack(resets, dim=1).detach() if resets else None
        return torch.stack(states, dim=1), (hidden, cell)


class _Lstm(torch.autograd.Function):
    """All steps of an LSTM in one function: autograd would keep a dozen small ones for each.

    From what the input gives to the gates, (n, T, 4 h), the matrix of the state, whose gradient is
    not taken here, and the state before, (n, h) twice, to all states, (n, T, h), and the last cell.
    """

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = hidden.shape[1]
        # By steps from here on, and in any case a copy: it is overwritten.
        gates = given.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        states, cells = (gates.new_empty(len(gates), len(hidden), size) for _ in range(2))
        first = cell
        for step, gate in enumerate(gates):
            gate.addmm_(hidden, weight.t())
            enter, forget, new, leave = gate.split(size, dim=1)
            gate[:, : 2 * size].sigmoid_()
            new.tanh_()
            leave.sigmoid_()
            cell = torch.mul(forget, cell, out=cells[step]).addcmul_(enter, new)
            hidden = torch.tanh(cell, out=states[step]).mul_(leave)
        ctx.save_for_backward(gates, cells, weight, first)
        states = states.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        return states, cell.clone()

    @staticmethod
    def backward(ctx: Any, *back: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        gates, cells, weight, first = ctx.saved_tensors
        at_states, at_cell = back[0].transpose(0, 1), back[1].clone()
        enter, forget, new, leave = gates.chunk(4, dim=2)
        thin = cells.tanh()
        # What a gradient at a step's cell, or at its state, is worth at gates and cell.
        before = torch.cat([first.unsqueeze(0), cells[:-1]])
        worth = torch.cat(
            [
                new * enter * (1 - enter),
                before * forget * (1 - forget),
                enter * (1 - new.square()),
                thin * leave * (1 - leave),
            ],
            dim=2,
        )
        through = leave * (1 - thin.square())
        at_hidden = torch.zeros_like(at_cell)
        size = at_cell.shape[1]
        for step in range(len(gates) - 1, -1, -1):
            at_hidden += at_states[step]
            at_cell.addcmul_(at_hidden, through[step])
            at_gates = worth[step]
            at_gates[:, : 3 * size].view(-1, 3, size).mul_(at_cell.unsqueeze(1))
            at_gates[:, 3 * size :].mul_(at_hidden)
            at_cell *= forget[step]
            at_hidden = at_gates @ weight
        return worth.transpose(0, 1), None, at_hidden, at_cell


def _gru(given: Tensor, put: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    (r, z, n), (r_put, z_put, n_put) = given.chunk(3, dim=1), put.chunk(3, dim=1)
    reset, keep = torch.sigmoid(r + r_put), torch.sigmoid(z + z_put)
    new = torch.tanh(n + reset * n_put)
    return new + keep * (hidden - new), reset


_KINDS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.LSTM: StandIn,
    nn.GRU: StandIn,
    nn.RNN: StandIn,
    nn.MultiheadAttention: Attention,
}
