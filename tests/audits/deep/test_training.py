"""What the observers see, against the same thing computed one model and one record at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from privet.audits.deep.training import (
    OUTLIER_NORM,
    Case,
    Observations,
    TrainingRound,
    assignments,
    train_many,
    worst_case,
)
from privet.errors import DataError
from privet.privacy.mechanisms import DpSgd, ExampleLoss, SeededNoise, privatise
from privet.privacy.mechanisms.batched import OptimizerSettings, chain_of
from privet.privacy.mechanisms.canaries import Floats
from privet.randomness import numpy_generator, stream
from privet.strategies import load_strategy
from privet.tasks import Examples
from privet.vectors import FlatModel

RECORDS, CLIP, SEED = 30, 0.7, 4
LOSS = ExampleLoss(F.cross_entropy)


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))


def records() -> Examples:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(RECORDS, 5, generator=generator)
    inputs[:, 3] *= 0.1
    return Examples(inputs, torch.arange(RECORDS) % 3)


@cache
def case(strategy: str = "fedavg") -> Case:
    own, flat = records(), FlatModel(network())
    rounds = []
    for number, lr in ((1, 0.5), (2, 0.3), (4, 0.2)):
        plan = DpSgd(
            noise_multiplier=1.0 + number, clip=CLIP, sampling_rate=0.4, steps=3, batch_size=12.0
        )
        rounds.append(TrainingRound(number, plan, lr))
    return Case(
        chain_of(flat.module, own.inputs[:2]),
        LOSS,
        OptimizerSettings(),
        lambda: load_strategy(strategy, {}),
        flat.vector(),
        own,
        tuple(rounds),
        worst_case(own, own.targets, flat, LOSS, clip=CLIP),
    )


def seen(models: int, strategy: str = "fedavg", seed: int = SEED) -> Observations:
    inserted = assignments(models, 2, seed=seed)
    return train_many(case(strategy), inserted, seed=seed, watch=lambda _done: None)


def naive(model: int, inserted: np.ndarray) -> tuple[list[float], list[float]]:
    """Opacus-like training of one model, gradients by autograd, FedAvg by hand."""
    given_ = case()
    chosen = [c for c, bit in zip(given_.canaries, inserted, strict=True) if bit]
    inputs = torch.cat([given_.records.inputs, *(c.inputs for c in chosen)])
    targets = torch.cat([given_.records.targets, *(c.targets for c in chosen)])
    flat, products = FlatModel(network()), [0.0, 0.0]
    for round_ in given_.rounds:
        slopes = [clipped(flat.module, c.inputs, c.targets) for c in given_.canaries]
        before = flat.vector()
        draws = numpy_generator(stream(SEED, "deep", "batches", model, round_.number))
        noise = SeededNoise(stream(SEED, "deep", "noise", model, round_.number))
        optimizer = torch.optim.SGD(flat.module.parameters(), lr=round_.lr)
        batches = round_.plan.batches(RECORDS, draws, canaries=len(chosen))
        with privatise(flat.module, optimizer, plan=round_.plan, noise=noise) as private:
            for batch in map(torch.from_numpy, batches):
                private.optimizer.zero_grad()
                F.cross_entropy(private.model(inputs[batch]), targets[batch]).backward()
                private.optimizer.step()
        sums = (before - flat.vector()) * 12.0 / round_.lr
        weight = 0.4 / (round_.plan.noise_multiplier * CLIP) ** 2
        for place, slope in enumerate(slopes):
            products[place] += weight * float(sums @ slope)
    losses = [
        float(F.cross_entropy(flat.module(c.inputs), c.targets).detach()) for c in given_.canaries
    ]
    return products, losses


def clipped(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Floats:
    slope = unclipped(model, inputs, targets)
    return np.asarray(slope * min(1.0, CLIP / np.linalg.norm(slope)))


def unclipped(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Floats:
    slopes = torch.autograd.grad(F.cross_entropy(model(inputs), targets), [*model.parameters()])
    return np.asarray(torch.cat([each.flatten() for each in slopes]), dtype=np.float64)


def test_both_observers_see_what_one_model_at_a_time_shows() -> None:
    found = seen(12)
    assert {tuple(row) for row in found.inserted.tolist()} == {
        (one, other) for one in (False, True) for other in (False, True)
    }
    for model in range(12):
        products, losses = naive(model, found.inserted[model])
        np.testing.assert_allclose(found.products[model], products, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.losses[model], losses, rtol=1e-4, atol=1e-5)


def test_a_model_depends_on_its_place_its_canaries_and_the_seed_alone() -> None:
    inserted = assignments(120, 2, seed=1)
    heard: list[int] = []
    many = train_many(case(), inserted, seed=1, watch=heard.append)
    few = train_many(case(), inserted[:30], seed=1, watch=heard.append)
    np.testing.assert_allclose(many.products[:30], few.products, rtol=1e-4, atol=1e-5)
    assert heard == [50, 100, 120, 30]


@pytest.mark.parametrize("strategy", ["fedavgm", "fedyogi", "fedprox"])
def test_the_servers_rule_is_followed(strategy: str) -> None:
    assert not np.allclose(seen(4, strategy).losses, seen(4).losses, rtol=1e-3)


def test_a_silo_alone_has_nothing_to_correct() -> None:
    """In SCAFFOLD, c is then c_i."""
    np.testing.assert_allclose(seen(4, "scaffold").losses, seen(4).losses, rtol=1e-5)


def test_an_update_out_of_range_leaves_the_model_as_it_is() -> None:
    plan = replace(case().rounds[0].plan, noise_multiplier=1e4)
    wild = (TrainingRound(1, plan, lr=1e38),)
    inserted = assignments(4, 2, seed=1)
    found = train_many(replace(case(), rounds=wild), inserted, seed=1, watch=lambda _done: None)
    assert not np.isfinite(found.products).all()
    flat = FlatModel(network())
    with torch.no_grad():
        expected = [
            float(F.cross_entropy(flat.module(c.inputs), c.targets)) for c in case().canaries
        ]
    np.testing.assert_allclose(found.losses, [expected] * 4, rtol=1e-5)


@settings(max_examples=50)
@given(st.integers(4, 300), st.integers(1, 3), st.integers(0, 2**63 - 1))
def test_half_of_each_half_has_each_canary(models: int, canaries: int, seed: int) -> None:
    found = assignments(models, canaries, seed=seed)
    for half in (found[: models // 2], found[models // 2 :]):
        assert (half.sum(axis=0) == len(half) // 2).all()


def test_canaries_are_drawn_apart() -> None:
    found = assignments(1000, 2, seed=1)
    assert 200 < (found[:, 0] & found[:, 1]).sum() < 300
    assert not np.array_equal(found, assignments(1000, 2, seed=2))


class TestCanaries:
    """A record with a wrong label, and one that no other is like."""

    def test_the_mislabelled_record_is_the_silos_own(self) -> None:
        mislabelled, _ = case().canaries
        assert torch.equal(mislabelled.inputs, case().records.inputs[:1])
        assert mislabelled.targets != case().records.targets[0]

    @pytest.mark.parametrize("clip", [0.1, 0.7, 5.0])
    def test_the_outlier_lies_where_no_record_does_and_is_loud(self, clip: float) -> None:
        torch.manual_seed(3)
        model, own = nn.Linear(5, 3), records()
        flat = FlatModel(model)
        _, outlier = worst_case(own, own.targets, flat, LOSS, clip=clip)
        assert outlier.inputs.count_nonzero() == 1
        assert outlier.inputs[0, 3] > 3 * own.inputs[:, 3].abs().max()
        slope = unclipped(model, outlier.inputs, outlier.targets)
        assert np.linalg.norm(slope) >= OUTLIER_NORM * clip

    def test_where_an_input_cannot_be_loud_it_is_as_loud_as_can_be(self) -> None:
        own, flat = records(), FlatModel(network())  # layer norms take an input's length away
        _, outlier = worst_case(own, own.targets, flat, LOSS, clip=1e3)
        assert 1.0 <= outlier.inputs.abs().max() <= 2.0**11

    def test_a_label_that_all_share_cannot_be_wrong(self) -> None:
        same = replace(records(), targets=torch.ones(RECORDS, dtype=torch.int64))
        with pytest.raises(DataError, match="same target"):
            worst_case(same, same.targets, FlatModel(network()), LOSS, clip=CLIP)

    def test_pictures_stay_pictures(self) -> None:
        pictures = replace(records(), inputs=records().inputs[:, :4].reshape(RECORDS, 1, 2, 2))
        flat = FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        found = worst_case(pictures, pictures.targets, flat, LOSS, clip=CLIP)
        assert [canary.inputs.shape for canary in found] == [(1, 1, 2, 2)] * 2
