"""The silo's half: what is added to gradients, and what SCAFFOLD makes of it."""

import numpy as np
import pytest
import torch
from torch import nn

from privet.strategies import STRATEGIES, Update, load_strategy

# Three silos, f_i(x) = 1/2 (x - b_i)' A_i (x - b_i) with A_i diagonal: each wants to be elsewhere.
CURVATURES = np.array([[1.0, 0.2, 3.0], [0.1, 2.0, 0.5], [2.0, 0.5, 0.05]], np.float32)
OPTIMA = np.array([[4.0, -1.0, 0.0], [-3.0, 2.0, 1.0], [0.5, 5.0, -6.0]], np.float32)
BEST = (CURVATURES * OPTIMA).sum(axis=0) / CURVATURES.sum(axis=0)


def train(local, weights, silo, *, steps, lr):
    """Plain gradient descent on f_silo, on a model of two parameters of different shapes."""
    model = [
        nn.Parameter(torch.tensor(weights[:2]).reshape(2, 1)),
        nn.Parameter(torch.tensor(weights[2:])),
    ]
    optimizer = torch.optim.SGD(model, lr=lr)
    curvature, optimum = torch.tensor(CURVATURES[silo]), torch.tensor(OPTIMA[silo])
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.cat([parameter.reshape(-1) for parameter in model])
        (0.5 * (curvature * (x - optimum) ** 2).sum()).backward()
        if local.correction is not None:
            local.correction(model)
        optimizer.step()
    trained = torch.cat([parameter.detach().reshape(-1) for parameter in model]).numpy()
    return trained - weights


def federate(name, options, *, rounds, steps=20, lr=0.3, asked=None):
    """(weights, strategy, memories) after `rounds` in which `asked(round)` silos take part."""
    strategy, weights = load_strategy(name, options), np.zeros(3, np.float32)
    memories = [{} for _ in OPTIMA]
    for number in range(1, rounds + 1):
        gathered = strategy.open(weights, lr=lr)
        for silo in range(3) if asked is None else asked(number):
            local = strategy.local(
                weights=weights, extras=strategy.broadcast(), memory=memories[silo], lr=lr
            )
            delta = train(local, weights, silo, steps=steps, lr=lr)
            extras = local.finish(delta, steps)
            gathered.add(Update(delta, weight=10.0, extras=extras))
        weights = gathered.close(round=number, silos=3)
    return weights, strategy, memories


def test_scaffold_reaches_the_optimum_that_fedavg_misses():
    fedavg = federate("fedavg", {}, rounds=80)[0]
    scaffold = federate("scaffold", {}, rounds=80)[0]
    assert np.linalg.norm(fedavg - BEST) > 0.4
    np.testing.assert_allclose(scaffold, BEST, atol=1e-4)


def test_scaffold_reaches_it_when_only_one_silo_is_asked_at_a_time():
    rng = np.random.default_rng(0)
    weights = federate(
        "scaffold",
        {"server_lr": 0.5},
        rounds=200,
        lr=0.1,
        asked=lambda _: [int(rng.integers(3))],
    )[0]
    np.testing.assert_allclose(weights, BEST, atol=1e-4)


def test_the_servers_variate_stays_the_mean_of_the_silos():
    asked = {1: [0, 1, 2], 2: [2], 3: [], 4: [0, 1], 5: [1]}
    _, strategy, memories = federate("scaffold", {}, rounds=5, asked=asked.get)
    mean = np.mean([memory["c_i"] for memory in memories], axis=0)
    np.testing.assert_allclose(strategy.state()["c"], mean, atol=1e-5)


def test_after_one_round_a_silos_variate_is_its_mean_gradient():
    _, strategy, memories = federate("scaffold", {}, rounds=1, steps=1)
    gradients = CURVATURES * (0 - OPTIMA)
    for memory, gradient in zip(memories, gradients, strict=True):
        np.testing.assert_allclose(memory["c_i"], gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(strategy.broadcast()["c"], gradients.mean(axis=0), rtol=1e-5)


def test_scaffold_by_hand():
    strategy, memory = load_strategy("scaffold", {"server_lr": 0.5}), {"c_i": np.float32([1.0])}
    local = strategy.local(
        weights=np.float32([0.0]), extras={"c": np.float32([3.0])}, memory=memory, lr=0.1
    )
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([10.0])
    local.correction([parameter])
    assert parameter.grad.tolist() == [12.0]  # gradient + c - c_i
    extras = local.finish(np.float32([-4.0]), 5)
    np.testing.assert_allclose(extras["delta_c"], [5.0])  # -3 + 4 / (5 * 0.1)
    np.testing.assert_allclose(memory["c_i"], [6.0])
    strategy.load_state({"c": np.float32([3.0])})
    gathered = strategy.open(np.float32([0.0]))
    gathered.add(Update(np.float32([-4.0]), weight=7, extras=extras))
    assert gathered.close(round=1, silos=10).tolist() == [-2.0]
    np.testing.assert_allclose(strategy.state()["c"], [3.5])  # 3 + 5 / 10


def test_a_silo_that_took_no_step_keeps_its_variate():
    memory = {}
    local = load_strategy("scaffold", {}).local(
        weights=np.zeros(2, np.float32), extras={"c": np.ones(2, np.float32)}, memory=memory, lr=0.1
    )
    assert local.finish(np.zeros(2, np.float32), 0)["delta_c"].tolist() == [0, 0]
    assert memory == {}


def test_fedprox_pulls_each_parameter_towards_the_global_model():
    local = load_strategy("fedprox", {"proximal_mu": 0.5}).local(
        weights=np.arange(6, dtype=np.float32), extras={}, memory={}, lr=0.1
    )
    model = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(1))]
    for parameter in model:
        parameter.grad = torch.full_like(parameter, 10.0)
    local.correction(model)  # five parameters; the sixth value is a buffer's
    assert model[0].grad.tolist() == [[10.5, 10.0], [9.5, 9.0]]
    assert model[1].grad.tolist() == [8.5]


def test_fedprox_is_the_gradient_of_its_penalty():
    start, here = torch.randn(4, generator=torch.manual_seed(0)), torch.linspace(-1, 1, 4)
    local = load_strategy("fedprox", {"proximal_mu": 0.3}).local(
        weights=start.numpy(), extras={}, memory={}, lr=0.1
    )
    parameter, twin = nn.Parameter(here.clone()), nn.Parameter(here.clone())
    parameter.grad = torch.zeros(4)
    local.correction([parameter])
    (0.3 / 2 * ((twin - start) ** 2).sum()).backward()
    torch.testing.assert_close(parameter.grad, twin.grad)


def test_fedprox_keeps_silos_closer():
    def drift(mu):
        strategy, weights = load_strategy("fedprox", {"proximal_mu": mu}), np.zeros(3, np.float32)
        local = strategy.local(weights=weights, extras={}, memory={}, lr=0.1)
        return np.linalg.norm(train(local, weights, 0, steps=20, lr=0.1))

    assert drift(10.0) < 0.5 * drift(0.0)


@pytest.mark.parametrize("name", ["fedprox", "scaffold"])
def test_a_frozen_parameter_is_left_alone_and_still_takes_its_place(name):
    local = load_strategy(name, {}).local(
        weights=np.float32([5, 7]),
        extras={"c": np.float32([5, 7])},
        memory={},
        lr=0.1,
    )
    frozen, free = nn.Parameter(torch.zeros(1), requires_grad=False), nn.Parameter(torch.zeros(1))
    free.grad = torch.zeros(1)
    local.correction([frozen, free])
    assert frozen.grad is None
    assert free.grad.item() == pytest.approx(7.0 if name == "scaffold" else -0.07)


def test_a_model_with_more_parameters_than_values_is_refused():
    local = load_strategy("fedprox", {}).local(
        weights=np.zeros(2, np.float32), extras={}, memory={}, lr=0.1
    )
    with pytest.raises(ValueError, match="3 parameters, but 2 values"):
        local.correction([nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if name not in ("fedprox", "scaffold")]
)
def test_other_strategies_ask_nothing_of_the_silo(name):
    strategy, memory = load_strategy(name, {}), {}
    local = strategy.local(weights=np.zeros(2, np.float32), extras={}, memory=memory, lr=0.1)
    assert local.correction is None
    assert local.finish(np.zeros(2, np.float32), 3) == {}
    assert (memory, strategy.broadcast()) == ({}, {})
