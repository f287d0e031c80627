"""Many small models, half of them with a canary: told apart without noise, hardly with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from privet.privacy.accounting import noise_multiplier_for
from privet.privacy.audit.membership import Attack, attack_membership
from privet.privacy.mechanisms import DpSgd
from privet.privacy.mechanisms.together import NotTogether

DELTA = 1e-5


def attack(sigma: float, *, model: nn.Module | None = None) -> Attack:
    """Forty points of two classes on a plane, and one far above it."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(41, 3, generator=generator)
    inputs[:, 2] = 0.0
    inputs[-1] = torch.tensor([0.0, 0.0, 6.0])
    torch.manual_seed(1)
    plan = DpSgd(noise_multiplier=sigma, clip=1.0, sampling_rate=0.2, steps=20, batch_size=8.0)
    return Attack(
        model or nn.Linear(3, 2), inputs, torch.arange(41) % 2, plan, F.cross_entropy, lr=0.5
    )


def test_without_noise_the_canary_is_found() -> None:
    found = attack_membership(attack(0.0), runs=200, seed=1, delta=DELTA)
    assert found.bounds[0].refutes(2.0)
    assert found.bounds[0].assumes is None
    assert found.bounds[1].refutes(10.0)
    assert found.scores[found.inserted].mean() > found.scores[~found.inserted].mean() + 0.5


def test_with_the_claimed_noise_the_claim_stands() -> None:
    sigma = noise_multiplier_for(epsilon=2.0, delta=DELTA, sampling_rate=0.2, steps=20)
    found = attack_membership(attack(sigma), runs=200, seed=1, delta=DELTA)
    assert not any(bound.refutes(2.0) for bound in found.bounds)


def test_a_run_depends_on_its_number_and_the_seed_alone() -> None:
    heard: list[int] = []
    few = attack_membership(attack(1.0), runs=30, seed=2, delta=DELTA)
    more = attack_membership(attack(1.0), runs=60, seed=2, delta=DELTA, watch=heard.append)
    np.testing.assert_allclose(more.scores[:30], few.scores, rtol=1e-5)
    np.testing.assert_array_equal(more.inserted[:30], few.inserted)
    other = attack_membership(attack(1.0), runs=30, seed=3, delta=DELTA)
    assert not np.allclose(other.scores, few.scores)
    assert heard == [50, 60]


def test_the_model_that_was_given_stays_as_it_is() -> None:
    planned = attack(1.0)
    before = [p.detach().clone() for p in planned.model.parameters()]
    attack_membership(planned, runs=10, seed=1, delta=DELTA)
    for old, new in zip(before, planned.model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_model_that_is_no_chain_is_refused() -> None:
    with pytest.raises(NotTogether):
        attack_membership(attack(1.0, model=nn.Conv1d(1, 1, 1)), runs=10, seed=1, delta=DELTA)
