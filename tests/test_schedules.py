"""The learning rate over the rounds, against torch's own schedulers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)

from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.server.app import initial_model
from privet.simulations.prepare import prepare
from privet.simulations.run import simulate

Scheduler = Callable[[Optimizer], LRScheduler]


def experiment(rounds: int = 10, **training: Any) -> Experiment:
    return Experiment.from_mapping({"task": "digits", "rounds": rounds, "training": training})


def schedulers(rounds: int, training: dict[str, Any]) -> dict[str, Scheduler]:
    every, factor = training.get("decay_every", 1), training.get("decay_factor", 0.1)
    return {
        "constant": lambda optimizer: ConstantLR(optimizer, factor=1.0),
        "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=rounds),
        "linear": lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=rounds),
        "step": lambda optimizer: StepLR(optimizer, every, gamma=factor),
    }


def scheduled(optimizer: Optimizer, rounds: int, training: dict[str, Any]) -> LRScheduler:
    """torch's scheduler of these settings, a step a round."""
    warmup = training.get("warmup", 0)
    main = schedulers(rounds - warmup, training)[training["schedule"]]
    if not warmup:
        return main(optimizer)
    rising = LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
    return SequentialLR(optimizer, [rising, main(optimizer)], milestones=[warmup])


def rates_of_torch(rounds: int, training: dict[str, Any]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training["lr"])
    scheduler, rates = scheduled(optimizer, rounds, training), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a step of SequentialLR's own and of no step before it
        for _ in range(rounds):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


@given(
    rounds=st.integers(1, 60),
    schedule=st.sampled_from(["constant", "cosine", "linear", "step"]),
    lr=st.floats(1e-4, 10.0),
    warmup=st.integers(0, 20),
    decay_every=st.integers(1, 12),
    decay_factor=st.floats(0.05, 0.95),
)
def test_rates_are_those_of_torchs_schedulers(
    rounds: int, schedule: str, warmup: int, lr: float, decay_every: int, decay_factor: float
) -> None:
    training = {"schedule": schedule, "lr": lr, "warmup": min(warmup, rounds - 1)}
    if schedule == "step":
        training |= {"decay_every": decay_every, "decay_factor": decay_factor}
    setup = experiment(rounds, **training)
    ours = [setup.learning_rate(round_) for round_ in range(1, rounds + 1)]
    np.testing.assert_allclose(ours, rates_of_torch(rounds, training), rtol=1e-6, atol=1e-9 * lr)
    assert all(0 < rate <= lr for rate in ours)


@pytest.mark.parametrize(
    "training",
    [
        {"schedule": "cosine", "warmup": 2},
        {"schedule": "linear"},
        {"schedule": "step", "decay_every": 2, "decay_factor": 0.5},
    ],
    ids=lambda training: training["schedule"],
)
def test_a_run_of_one_silo_is_a_loop_with_torchs_scheduler(
    tmp_path: Path, training: dict[str, Any]
) -> None:
    """One batch a round, of all records, so that their order does not matter."""
    training = {"lr": 0.5, **training}
    setup = Experiment.from_mapping(
        {
            "task": "digits",
            "rounds": 6,
            "federation": {"silos": 1},
            "training": {"batch_size": 100_000, **training},
        }
    )
    place = prepare(setup).place
    model, (records,) = initial_model(place.task, setup), place.silos
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = scheduled(optimizer, 6, training)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(model(records.inputs), records.targets).backward()
        optimizer.step()
        scheduler.step()
    simulate(setup, out=tmp_path / "run")
    ended = load_file(tmp_path / "run/model.safetensors")
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(ended[name], tensor.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"schedule": "exponential"}, "should be 'constant', 'cosine', 'linear' or 'step'"),
        ({"schedule": "step"}, 'schedule = "step" needs training.decay_every, a number of rounds'),
        ({"decay_every": 3}, 'decay_every = 3 does nothing with schedule = "constant"'),
        (
            {"schedule": "cosine", "decay_factor": 0.5},
            'decay_factor = 0.5 does nothing with schedule = "cosine"; allowed with "step"',
        ),
        ({"schedule": "step", "decay_every": 0}, "training.decay_every = 0: "),
        (
            {"schedule": "step", "decay_every": 1, "decay_factor": 1},
            "training.decay_factor = 1: input should be less than 1",
        ),
        ({"warmup": -1}, "training.warmup = -1: input should be greater than or equal to 0"),
        ({"warmup": 10}, "training.warmup = 10 with rounds = 10: allowed are fewer"),
        ({"optimizer": "lamb"}, "should be 'sgd', 'adam' or 'adamw'"),
    ],
)
def test_a_wrong_schedule_is_named(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as refusal:
        experiment(**training)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
