"""Which models can be trained with DP-SGD, checked before a record is read.

Opacus takes 4 to 5 s of processor time to import, so it is imported by what needs it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from privet.errors import ModelError

_FIXES = {
    nn.LSTM: "use opacus.layers.DPLSTM",
    nn.GRU: "use opacus.layers.DPGRU",
    nn.RNN: "use opacus.layers.DPRNN",
    nn.MultiheadAttention: "use opacus.layers.DPMultiheadAttention",
}
_CHANCE = (nn.modules.dropout._DropoutNd,)


def check_model(model: nn.Module, example: Tensor | None = None) -> None:
    """Raise ModelError, with the layer's path and the fix, for a model that DP-SGD cannot train.

    Refused: any BatchNorm and anything that tracks running statistics, trained or frozen, affine or
    not; parameters that two layers share; parameters that are not float32 or
    not yet initialised; layers that Opacus refuses; and a model with nothing to train.

    With `example`, inputs of shape (k, ...), a copy of the model is also run on them in training
    mode: a buffer that changes, an example whose output depends on its neighbours, a parameter
    without per-example gradients, or one whose per-example gradients are not those of the example
    alone, is refused. The model itself and torch's random state stay as they are.
    """
    # Frozen layers too: a frozen BatchNorm in training mode still mixes the batch.
    for path, module in model.named_modules():
        problem = _problem(module)
        if problem:
            raise ModelError(f"layer {_named(path, module)} {problem}")
    _check_parameters(model)
    if example is not None:
        with torch.random.fork_rng(devices=[]):
            _probe(model, example)


def _problem(module: nn.Module) -> str | None:
    """What is wrong with this layer alone, and the fix."""
    if isinstance(module, _BatchNorm):
        return "mixes the examples of a batch and records their statistics: use nn.GroupNorm"
    if getattr(module, "track_running_stats", False):
        return "records statistics of the data without noise: set track_running_stats=False"
    for kind, fix in _FIXES.items():
        if isinstance(module, kind):
            return f"gives no per-example gradients: {fix}"
    for refusal in _refusals(module):
        return f"is refused by Opacus: {str(refusal).split('. ')[0]}"
    return None


def _refusals(module: nn.Module) -> list[Exception]:
    """What Opacus' own validator for this type of layer says; it does not look at frozen layers."""
    from privet.privacy.mechanisms.per_example import ModuleValidator

    validate = ModuleValidator.VALIDATORS.get(type(module))
    return list(validate(module)) if validate else []


def _check_parameters(model: nn.Module) -> None:
    trainable = [(name, p) for name, p in _all_parameters(model) if p.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameter")
    first_name: dict[int, str] = {}
    for name, parameter in trainable:
        if is_lazy(parameter):
            raise ModelError(f"parameter {name!r} has no shape yet: run the model once first")
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name!r} is {parameter.dtype}: use float32")
        # By memory, not by identity: two parameters may be views of one tensor.
        earlier = first_name.setdefault(parameter.data_ptr(), name)
        if earlier != name:
            raise ModelError(
                f"parameters {earlier!r} and {name!r} share their memory, which breaks "
                "per-example gradients: give each layer its own"
            )


def _all_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _named(path: str, module: nn.Module) -> str:
    return f"{path!r} ({type(module).__name__})" if path else f"({type(module).__name__})"


def _probe(model: nn.Module, example: Tensor) -> None:
    """Run a copy on the example and compare with what each row gives alone."""
    twin = copy.deepcopy(model).train()
    for module in twin.modules():
        if isinstance(module, _CHANCE):
            module.p = 0.0  # else dropout would hide whether rows depend on each other
    before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
    # One row cannot show that rows mix, so a single example stands in twice.
    inputs = example[:4] if len(example) > 1 else example.expand(2, *example.shape[1:])
    together, again = _outputs(twin, inputs), _outputs(twin, inputs)
    for name, buffer in twin.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise ModelError(
                f"buffer {name!r} changes in training and would carry data without noise: "
                "make it constant or compute it anew in each pass"
            )
    if not torch.equal(together, again):
        return  # random in training mode: rows cannot be compared
    alone = torch.cat([_outputs(twin, row.unsqueeze(0)) for row in inputs])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        raise ModelError(
            "the model's output for one example depends on the others in its batch: "
            "remove what averages or sorts over the first dimension"
        )
    _compare_gradients(twin, inputs, together)


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(inputs)
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(inputs):
        raise ModelError("the model must return one tensor with one row for each example")
    return output


def _compare_gradients(twin: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """Per-example gradients of a random linear function of the outputs, in a batch and alone."""
    # A plain sum of outputs has gradient zero behind a softmax; a random direction has not.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(outputs.shape, generator=generator)
    expected = [_gradient(twin, row, part) for row, part in zip(inputs, direction, strict=True)]
    from privet.privacy.mechanisms.per_example import PerExampleModule

    wrapped = PerExampleModule(twin)
    try:
        loss = (wrapped(inputs) * direction).flatten(1).sum(1).mean()
        loss.backward()
        wanted = torch.stack([g.square().sum() for g in expected])
        got = torch.stack([part.squared_norms() for part in wrapped.collect()]).sum(0)
    except RuntimeError as error:
        raise ModelError(f"per-example gradients fail: {str(error).splitlines()[0]}") from error
    finally:
        wrapped.close()
    if not torch.allclose(got, wanted, rtol=1e-2, atol=1e-6):
        raise ModelError(
            "per-example gradients differ from the gradients of each example alone: "
            "write custom parameters as layers that Opacus knows"
        )


def _gradient(model: nn.Module, row: Tensor, direction: Tensor) -> Tensor:
    """The gradient over all trainable parameters for one example, shape (d,); unused ones are 0."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    value = (model(row.unsqueeze(0)) * direction).sum()
    parts = torch.autograd.grad(value, trainable, allow_unused=True)
    return torch.cat([torch.zeros(0), *(g.reshape(-1) for g in parts if g is not None)])
