"""Every built-in model: shape, determinism, and per-example gradients that are each one's own."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from privet.tasks import load_task

CASES = [
    *(("digits", name, (1, 8, 8), 10) for name in ("linear", "mlp", "cnn")),
    *(("mnist", name, (1, 28, 28), 10) for name in ("linear", "mlp", "cnn")),
    ("fashion-mnist", "cnn", (1, 28, 28), 10),
    ("fashion-mnist", "scatter-linear", (81, 7, 7), 10),
    *(("heart-disease", name, (13,), 2) for name in ("linear", "mlp")),
    *(("adult", name, (108,), 2) for name in ("linear", "mlp")),
]


def build(task: str, name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return load_task(task, model=name).model()


@pytest.mark.parametrize(("task", "name", "shape", "classes"), CASES)
def test_a_model_gives_one_output_per_class_and_follows_torchs_seed(
    task: str, name: str, shape: tuple[int, ...], classes: int
) -> None:
    inputs = torch.randn(3, *shape)
    first, again = build(task, name), build(task, name)
    assert first(inputs).shape == (3, classes)
    assert torch.equal(first(inputs), again(inputs))
    if not name.endswith("linear"):
        assert not torch.equal(first(inputs), build(task, name, seed=1)(inputs))


@pytest.mark.parametrize(("task", "name", "shape", "classes"), CASES)
def test_per_example_gradients_are_those_of_each_example_alone(
    task: str, name: str, shape: tuple[int, ...], classes: int
) -> None:
    inputs, targets = torch.randn(4, *shape), torch.arange(4) % classes
    loss = load_task(task, model=name).loss
    model = build(task, name)
    assert ModuleValidator.validate(model, strict=False) == []
    wrapped = GradSampleModule(build(task, name), loss_reduction="mean")
    loss(wrapped(inputs), targets).backward()
    for i in range(4):
        model.zero_grad()
        loss(model(inputs[i : i + 1]), targets[i : i + 1]).backward()
        for alone, together in zip(model.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(together.grad_sample[i], alone.grad, atol=1e-5, rtol=1e-4)


def test_no_model_keeps_statistics_of_a_batch() -> None:
    for task, name, _, _ in CASES:
        assert not list(build(task, name).buffers()), (task, name)
