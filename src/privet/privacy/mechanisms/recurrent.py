"""torch's recurrent layers, with others in their place that show each example's gradients.

torch runs nn.LSTM, nn.GRU and nn.RNN in one piece, in which no hook sees a step of the sequence.
Opacus' layers do the same step by step. While a model is trained privately one of them stands in
for each of torch's, on the very same parameters: their names, their order and what is written to
files stay torch's, and so does everything outside of private training.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from privet.errors import ModelError
from privet.privacy.library_logging import untouched_root_logger

with untouched_root_logger():
    from opacus.layers import DPGRU, DPLSTM, DPRNN

_KINDS: dict[type, Any] = {nn.LSTM: DPLSTM, nn.GRU: DPGRU, nn.RNN: DPRNN}
Replaced = list[tuple[nn.Module, str, nn.Module]]
"""Who holds a layer that was replaced, under which name, and the layer."""


def stand_ins(model: nn.Module) -> Replaced:
    """Put a stand-in into the place of each of torch's recurrent layers in `model` that trains.

    Raises ModelError for one with hooks. What stand-ins cannot do, `check_model` has refused:
    projections, and dropout between layers, which Opacus' apply at every step.
    """
    made: dict[nn.Module, nn.Module] = {}
    replaced: Replaced = []
    for holder in list(model.modules()):
        for name, layer in list(holder._modules.items()):
            if layer is not None and type(layer) in _KINDS and _trains(layer):
                made[layer] = made.get(layer) or _stand_in(layer)  # type: ignore[arg-type]
                holder._modules[name] = made[layer]
                replaced.append((holder, name, layer))
    return replaced


def _trains(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def restore(replaced: Replaced) -> None:
    """Put the layers back."""
    for holder, name, layer in replaced:
        holder._modules[name] = layer


def _stand_in(layer: nn.RNNBase) -> nn.Module:
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ModelError("a recurrent layer has hooks, which would not run: remove them")
    shape: dict[str, Any] = {"num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    shape |= {"bias": layer.bias, "batch_first": layer.batch_first}
    if isinstance(layer, nn.RNN):
        shape["nonlinearity"] = layer.nonlinearity
    made = _KINDS[type(layer)](layer.input_size, layer.hidden_size, **shape)
    made._parameters.clear()
    for name, parameter in layer.named_parameters():
        made.register_parameter(name, parameter)  # in torch's order
        owner, _, inner = made.new_to_old[name].rpartition(".")
        made.get_submodule(owner).register_parameter(inner, parameter)
    return cast(nn.Module, made.train(layer.training))
