"""Every layer of torch.nn with its options: right under DP-SGD, or refused in one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from privet.base import Base
from privet.privacy.mechanisms import DpSgd, ExampleLoss, privatise
from torch_layers import (
    LAYERS,
    LOSSES,
    NOT_LOOKED_AT,
    Layer,
    in_short,
    loss_verdict,
    on_page,
    page,
    verdict,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CLIP = 0.3
PAGE = (Path(__file__).parents[3] / "docs/layers.md").read_text(encoding="utf-8")
TOLD = on_page(PAGE)
PRINT = "python tests/support/torch_layers.py >docs/layers.md"


class Nothing:
    """A source of noise that gives none."""

    def normal(self, shape: tuple[int, ...], std: float) -> torch.Tensor:
        return torch.zeros(shape) * std


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.written)
def test_a_layer_is_right_or_refused_in_one_line(layer: Layer) -> None:
    """The clipped sum of a step is that of a loop over examples, each by itself, by autograd."""
    found = verdict(layer)
    assert "\n" not in found
    assert in_short(found) == TOLD[layer.written], PRINT
    if found != "trains":
        assert len(found) < 220
        return
    model, inputs, targets = layer.make(), made_up(layer), torch.tensor([0, 1, 2, 1, 0])
    model = Base.of(model).train()
    wanted = by_a_loop(model, inputs, targets)
    plan = DpSgd(noise_multiplier=1e-9, clip=CLIP, sampling_rate=1.0, steps=1, batch_size=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with privatise(model, optimizer, plan=plan, noise=Nothing()) as private, fixed_chance():
        private.optimizer.zero_grad()
        private.backward(ExampleLoss(F.cross_entropy), private.model(inputs), targets)
        private.optimizer.step()
        got = torch.cat([p.grad.reshape(-1) for p in trained(model)])  # type: ignore[union-attr]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-4 * CLIP)


def made_up(layer: Layer) -> torch.Tensor:
    shape = (5, *layer.inputs)
    if layer.type == torch.int64:
        return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(1))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def by_a_loop(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(sum(p.numel() for p in trained(model)))
    for x, y in zip(inputs, targets, strict=True):
        with fixed_chance():
            loss = F.cross_entropy(model(x[None].clone()), y[None])
        parts = torch.autograd.grad(loss, trained(model), allow_unused=True)
        pairs = zip(parts, trained(model), strict=True)
        own = [torch.zeros_like(p) if g is None else g for g, p in pairs]
        whole = torch.cat([(g.to_dense() if g.is_sparse else g).reshape(-1) for g in own])
        total += whole * min(1.0, CLIP / float(whole.norm()))
    return total


def fixed_chance():
    from privet.privacy.mechanisms.soundness import _WithoutChance

    return _WithoutChance()


def test_every_layer_and_loss_of_torch_is_in_the_list() -> None:
    there = {
        name
        for name in dir(nn)
        if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Module)
    }
    left_out = {name for names in NOT_LOOKED_AT.values() for name in names.split()}
    seen = {each.name for each in (*LAYERS, *LOSSES)}
    assert not seen & left_out
    assert there == seen | left_out


@pytest.mark.parametrize("written", ["", 'reduction="none"', "label_smoothing=0.1"])
def test_a_mean_over_examples_trains(written: str) -> None:
    [loss] = [each for each in LOSSES if each.written == f"CrossEntropyLoss({written})"]
    assert loss_verdict(loss) == "trains"


def test_the_page_is_the_list() -> None:
    """As far as it is not each layer's verdict, which is held against the page with the layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = page({each.written: TOLD[each.written] for each in LAYERS})
    assert found == PAGE, PRINT
