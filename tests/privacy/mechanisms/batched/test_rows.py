"""Silos trained together against the same silos one by one: same batches, same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from privet.errors import PrivacyError
from privet.privacy.mechanisms import DpSgd, ExampleLoss, SeededNoise, privatise
from privet.privacy.mechanisms.batched import (
    OptimizerSettings,
    Row,
    RowResult,
    chain_of,
    train_rows,
)
from privet.randomness import numpy_generator, stream
from privet.vectors import FlatModel, Vector

FEATURES, CLASSES = 6, 3

LOSS = ExampleLoss(F.cross_entropy)


def linear() -> nn.Module:
    return nn.Linear(FEATURES, CLASSES)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(FEATURES, 8, bias=False), nn.Tanh(), nn.Linear(8, CLASSES)
    )


def normalised() -> nn.Module:
    hidden = nn.Sequential(nn.Linear(FEATURES, 8), nn.LayerNorm(8), nn.ReLU(inplace=True))
    plain = nn.LayerNorm(5, elementwise_affine=False)
    return nn.Sequential(
        hidden,
        nn.Linear(8, 5),
        plain,
        nn.GELU(),
        nn.LayerNorm(5),
        nn.Linear(5, CLASSES),
    )


MODELS = {"linear": linear, "mlp": mlp, "normalised": normalised}


def built(name: str) -> nn.Module:
    torch.manual_seed(3)
    return MODELS[name]().train()


def records(n: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = scale * torch.randn(n, FEATURES, generator=generator)
    return inputs, torch.randint(0, CLASSES, (n,), generator=generator)


def private_row(weights: Vector, silo: int, n: int, plan: DpSgd, *, lr: float = 0.3) -> Row:
    inputs, targets = records(n, silo)
    batches = list(plan.batches(n, numpy_generator(stream(1, "batches", silo))))
    return Row(weights, inputs, targets, batches, lr, plan, noise_of(silo))


def noise_of(silo: int) -> SeededNoise:
    return SeededNoise(stream(1, "noise", silo))


def optimizer_of(descent: OptimizerSettings, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    if descent.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=descent.weight_decay)
    if descent.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=descent.weight_decay)
    return torch.optim.SGD(
        model.parameters(), lr=lr, momentum=descent.momentum, weight_decay=descent.weight_decay
    )


def alone(name: str, row: Row, descent: OptimizerSettings, silo: int) -> RowResult:
    """The row through `privatise` and torch's own optimizer, or without privacy through neither."""
    flat = FlatModel(built(name))
    flat.load(row.weights)
    model, losses, nonfinite = flat.module, [], 0
    optimizer = optimizer_of(descent, model, row.lr)
    if row.correction is not None:
        parameters, correct = list(model.parameters()), row.correction
        optimizer.register_step_pre_hook(lambda *_: correct(parameters))

    def descend(model: Any, optimizer: Any) -> None:
        for batch in map(torch.from_numpy, row.batches):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(row.inputs[batch]), row.targets[batch])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))

    if row.plan is None:
        descend(model, optimizer)
        return RowResult(flat.vector() - row.weights, losses)
    with privatise(model, optimizer, plan=row.plan, noise=noise_of(silo)) as private:
        descend(private.model, private.optimizer)
        nonfinite = private.nonfinite
    return RowResult(flat.vector() - row.weights, nonfinite=nonfinite)


def compare(name: str, rows: list[Row], descent: OptimizerSettings, *, atol: float = 1e-5) -> None:
    chain = chain_of(built(name), rows[0].inputs)
    together = train_rows(
        chain,
        [replace(row, noise=row.plan and noise_of(silo)) for silo, row in enumerate(rows)],
        LOSS,
        optimizer=descent,
    )
    for silo, (row, outcome) in enumerate(zip(rows, together, strict=True)):
        expected = alone(name, row, descent, silo)
        np.testing.assert_allclose(outcome.update, expected.update, rtol=1e-4, atol=atol)
        np.testing.assert_allclose(outcome.losses, expected.losses, rtol=1e-4, atol=1e-5)
        assert outcome.nonfinite == expected.nonfinite


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(
    name=st.sampled_from(sorted(MODELS)),
    sizes=sizes,
    batch_size=st.integers(1, 20),
    noise=st.sampled_from([0.0, 0.5, 2.0]),
    clip=st.sampled_from([0.05, 1.0, 100.0]),
    epochs=st.integers(1, 2),
    momentum=st.sampled_from([0.0, 0.9]),
)
@settings(max_examples=60, deadline=None)
def test_private_rows_are_those_of_privatise(
    name: str,
    sizes: list[int],
    batch_size: int,
    noise: float,
    clip: float,
    epochs: int,
    momentum: float,
) -> None:
    weights = FlatModel(built(name)).vector()
    rows = []
    for silo, n in enumerate(sizes):
        # At most 12 steps: rounding grows with every one of them.
        size = max(batch_size, -(-n * epochs // 12))
        plan = DpSgd.over(
            n, batch_size=size, epochs=epochs, noise_multiplier=noise, clip=clip * (silo + 1)
        )
        rows.append(private_row(weights, silo, n, plan, lr=0.05 * (silo + 1)))
    compare(name, rows, OptimizerSettings(momentum=momentum), atol=1e-5 * max(1.0, clip))


@given(
    name=st.sampled_from(sorted(MODELS)),
    sizes=sizes,
    batch_size=st.integers(4, 20),
    descent=st.sampled_from(
        [OptimizerSettings(), OptimizerSettings(momentum=0.9, weight_decay=0.1)]
    ),
)
@settings(max_examples=30, deadline=None)
def test_plain_rows_are_those_of_torch(
    name: str, sizes: list[int], batch_size: int, descent: OptimizerSettings
) -> None:
    weights = FlatModel(built(name)).vector()
    rows = []
    for silo, n in enumerate(sizes):
        order = numpy_generator(stream(1, silo)).permutation(n)
        batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
        rows.append(Row(weights, *records(n, silo), batches, lr=0.05))
    compare(name, rows, descent)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_twelve_steps_with_an_empty_batch_and_uneven_silos(name: str) -> None:
    weights = FlatModel(built(name)).vector()
    uneven = [(120, 12), (24, 4), (7, 3), (120, 12)]
    rows = [
        private_row(
            weights, silo, n, DpSgd(1.0, 0.5, sampling_rate=5 / n, steps=steps, batch_size=5)
        )
        for silo, (n, steps) in enumerate(uneven)
    ]
    nobody = np.zeros(0, dtype=np.int64)
    rows[0] = replace(rows[0], batches=[nobody, *rows[0].batches[1:]])
    compare(name, rows, OptimizerSettings())
    compare(name, [replace(row, batches=[nobody] * 3) for row in rows[:1]], OptimizerSettings())


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_and_adamw_are_torchs(optimizer: Any) -> None:
    """Without noise its first steps divide by what may be zero; with it, they agree."""
    weights = FlatModel(built("mlp")).vector()
    plan = DpSgd.over(60, batch_size=6, epochs=1, noise_multiplier=1.0, clip=0.5)
    rows = [private_row(weights, silo, 60, plan, lr=0.01) for silo in range(3)]
    compare("mlp", rows, OptimizerSettings(optimizer, weight_decay=0.1))


@pytest.mark.parametrize("rate", [0.9, 1.0])
def test_large_batches_are_left_where_they_are(rate: float) -> None:
    """All records of a row, or nearly all; the records stay as they were."""
    weights, n = FlatModel(built("normalised")).vector(), 200_000
    plan = DpSgd(1.0, 0.5, sampling_rate=rate, steps=2, batch_size=int(rate * n))
    rows = [private_row(weights, silo, n, plan) for silo in range(2)]
    before = [row.inputs.clone() for row in rows]
    compare("normalised", rows, OptimizerSettings())
    assert all(torch.equal(row.inputs, was) for row, was in zip(rows, before, strict=True))


def pull(weights: Vector, layout: Callable[[], nn.Module], strength: float) -> Any:
    origin = FlatModel(layout())
    origin.load(weights)
    anchors = [p.detach().clone() for p in origin.module.parameters()]

    def correct(parameters: list[nn.Parameter]) -> None:
        for parameter, anchor in zip(parameters, anchors, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach() - anchor, alpha=strength)

    return correct


def test_each_row_has_its_own_correction_after_the_noise() -> None:
    weights = FlatModel(built("mlp")).vector()
    plan = DpSgd.over(30, batch_size=5, epochs=1, noise_multiplier=1.0, clip=0.5)
    rows = [private_row(weights, silo, 30, plan) for silo in range(3)]
    rows[0] = replace(rows[0], correction=pull(weights, mlp, 0.5))
    rows[2] = replace(rows[2], correction=pull(0 * weights, mlp, 2.0))
    compare("mlp", rows, OptimizerSettings())
    free = train_rows(
        chain_of(built("mlp"), rows[0].inputs),
        [private_row(weights, 0, 30, plan)],
        LOSS,
        optimizer=OptimizerSettings(),
    )
    assert abs(free[0].update - alone("mlp", rows[0], OptimizerSettings(), 0).update).max() > 1e-2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_counts_as_zero_in_its_silo_alone(value: float) -> None:
    weights = FlatModel(built("mlp")).vector()
    plan = DpSgd(1.0, 0.5, sampling_rate=1.0, steps=3, batch_size=8)
    rows = [private_row(weights, silo, 8, plan) for silo in range(3)]
    rows[1].inputs[2] = value
    compare("mlp", rows, OptimizerSettings())
    chain = chain_of(built("mlp"), rows[0].inputs)
    rows = [private_row(weights, silo, 8, plan) for silo in range(3)]
    rows[1].inputs[2] = value
    outcomes = train_rows(chain, rows, LOSS, optimizer=OptimizerSettings())
    assert all(np.isfinite(outcome.update).all() for outcome in outcomes)


def test_the_first_record_fills_up_batches_and_counts_for_nothing() -> None:
    """It is not a number in the silo whose batches are shorter, and in none of them."""
    weights = FlatModel(built("linear")).vector()
    rows = []
    for silo, batch in enumerate([np.arange(1, 4), np.arange(1, 9)]):
        inputs, targets = records(10, silo)
        inputs[0] = float("nan")
        rows.append(Row(weights, inputs, targets, [batch] * 3, lr=0.1))
    compare("linear", rows, OptimizerSettings())
    plan = DpSgd(1.0, 0.5, sampling_rate=0.5, steps=3, batch_size=5)
    compare("linear", [replace(row, plan=plan) for row in rows], OptimizerSettings())


def test_a_row_does_not_depend_on_the_others() -> None:
    weights = FlatModel(built("mlp")).vector()
    plan = DpSgd.over(40, batch_size=8, epochs=1, noise_multiplier=1.0, clip=0.5)
    chain = chain_of(built("mlp"), records(2, 0)[0])

    def first(*others: Row) -> Vector:
        rows = [private_row(weights, 0, 40, plan), *others]
        return train_rows(chain, rows, LOSS, optimizer=OptimizerSettings())[0].update

    other = private_row(weights, 1, 40, plan)
    wild = replace(private_row(1e4 * weights, 2, 40, plan), lr=100.0)
    np.testing.assert_allclose(first(other, wild), first(), atol=1e-6)


def test_rows_that_do_not_belong_together_are_refused() -> None:
    weights = FlatModel(built("linear")).vector()
    plan = DpSgd.over(20, batch_size=5, epochs=1, noise_multiplier=1.0, clip=0.5)
    row = private_row(weights, 0, 20, plan)
    plain = replace(row, plan=None, noise=None)
    chain = chain_of(built("linear"), row.inputs)
    for rows in ([row, plain], [plain, row], [replace(row, noise=None)]):
        with pytest.raises(PrivacyError, match="all with DP-SGD and noise, or all without"):
            train_rows(chain, rows, LOSS, optimizer=OptimizerSettings())
    longer = replace(row, batches=[*row.batches, row.batches[0]])
    with pytest.raises(PrivacyError, match="5 batches for a plan of 4 steps"):
        train_rows(chain, [longer], LOSS, optimizer=OptimizerSettings())
