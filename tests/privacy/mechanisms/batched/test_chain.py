"""Which models can be trained together, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from privet.privacy.mechanisms import ExampleLoss
from privet.privacy.mechanisms.batched import NotBatchable, chain_of

FLAT = torch.randn(4, 6)
PICTURES = torch.randn(4, 1, 2, 3)


def hooked() -> nn.Module:
    layer = nn.Linear(6, 2)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr]
    return model


def twice() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight  # type: ignore[assignment]
    return model


def with_buffer() -> nn.Module:
    model = nn.Linear(6, 2)
    model.register_buffer("mean", torch.zeros(1))
    return model


class Own(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize(
    ("make", "inputs", "why"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()), PICTURES, "'0' .Conv2d., on inp"),
        (lambda: nn.Linear(3, 2), PICTURES, r"\(Linear\), on inputs of shape \(1, 2, 3\)"),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1)), FLAT, r"'1' \(Dropout\)"),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), FLAT, r"'1' \(BatchNorm1d\)"),
        (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(24, 2)), FLAT, r"'0' \(Flatten\)"),
        (lambda: nn.Sequential(nn.LayerNorm(3), nn.Flatten()), PICTURES, r"'0' \(LayerNorm\)"),
        (lambda: nn.Sequential(nn.LayerNorm((1, 2, 3)), nn.Flatten()), PICTURES, r"\(LayerNorm\)"),
        (lambda: nn.Sequential(nn.LayerNorm(6, bias=False)), FLAT, r"\(LayerNorm\)"),
        (lambda: nn.Sequential(nn.PReLU(), nn.Linear(6, 2)), FLAT, r"'0' \(PReLU\)"),
        (lambda: nn.Sequential(nn.Sequential(nn.Softmax(1))), FLAT, r"'0.0' \(Softmax\)"),
        (lambda: Own(nn.Linear(6, 2)), FLAT, r"\(Own\)"),
        (lambda: weight_norm(nn.Linear(6, 2)), FLAT, r"\(ParametrizedLinear\)"),
        (hooked, FLAT, "has hooks"),
        (frozen, FLAT, "frozen"),
        (twice, FLAT, "share parameters"),
        (tied, FLAT, "share parameters"),
        (with_buffer, FLAT, "buffers"),
        (lambda: nn.Linear(6, 2), FLAT.double(), "torch.float64"),
        (lambda: nn.Linear(6, 2), FLAT.long(), "torch.int64"),
    ],
)
def test_what_cannot_be_trained_together_is_told(
    make: Callable[[], nn.Module], inputs: Tensor, why: str
) -> None:
    with pytest.raises(NotBatchable, match=why):
        chain_of(make(), inputs)


def test_outputs_and_gradients_are_the_models_own() -> None:
    """Also where an activation is one object in two places, and works in place."""
    act = nn.LeakyReLU(inplace=True)
    model = nn.Sequential(
        nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 5), act, nn.Sequential(nn.Linear(5, 4), act)
    )
    chain = chain_of(model, PICTURES)
    targets = torch.tensor([0, 1, 2, 3])
    stacked = [parameter.detach().unsqueeze(0) for parameter in model.parameters()]
    outputs, layers = chain.run(
        PICTURES[None], targets[None], stacked, ExampleLoss(F.cross_entropy)
    )
    expected = model(PICTURES.clone())
    torch.testing.assert_close(outputs[0], expected)
    F.cross_entropy(expected, targets).backward()
    sums = [torch.zeros_like(parameter) for parameter in stacked]
    left = iter(sums)
    for seen in layers:
        into = [next(left) for _ in seen.layer.shapes]
        seen.layer.add_sums(seen.prepared, seen.backprops / 4, *into)
    for parameter, total in zip(model.parameters(), sums, strict=True):
        torch.testing.assert_close(total[0], parameter.grad)
