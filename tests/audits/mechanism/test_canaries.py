"""Canaries take part as records do, in either engine, and neither disturb the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from privet import Examples, Execution, Experiment
from privet.client.training import LocalPlan, LocalTraining, Trained, train
from privet.commands.cli import main
from privet.errors import PrivacyError
from privet.experiment import TrainingSettings
from privet.privacy.mechanisms import Canaries, DpSgd, ExampleLoss, SeededNoise
from privet.privacy.mechanisms.batched import OptimizerSettings, Row, chain_of, train_rows
from privet.privacy.mechanisms.canaries import CANARIES, read_observations
from privet.randomness import numpy_generator, stream
from privet.simulations.run import simulate
from privet.simulations.vectorised import ways_to_train
from privet.vectors import FlatModel

FEATURES, CLASSES = 4, 3
WEIGHTS = np.linspace(-1, 1, FEATURES * CLASSES + CLASSES, dtype=np.float32)
HALF = Canaries(np.arange(20) % 2 == 0)


class Line:
    """Linear classification of random points."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)


def points(n: int, seed: int = 3) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, FEATURES, generator=generator)
    return Examples(inputs, torch.arange(n) % CLASSES)


def plan(n: int, batch_size: int, *, sigma: float, clip: float = 1.5, steps: int = 8) -> DpSgd:
    return DpSgd(
        noise_multiplier=sigma,
        clip=clip,
        sampling_rate=batch_size / n,
        steps=steps,
        batch_size=batch_size,
    )


def work(
    silo: int = 0,
    *,
    n: int = 12,
    batch_size: int = 3,
    sigma: float = 0.7,
    canaries: Canaries | None = HALF,
    **changes: Any,
) -> LocalTraining:
    """A silo's training, made anew so that its random numbers are fresh."""
    mechanism = plan(n, batch_size, sigma=sigma)
    settings: dict[str, Any] = {
        "examples": points(n, silo),
        "training": TrainingSettings(),
        "plan": LocalPlan(mechanism.steps, batch_size, mechanism),
    }
    return LocalTraining(
        model=lambda: FlatModel(nn.Linear(FEATURES, CLASSES)),
        loss=ExampleLoss(Line().loss),
        weights=WEIGHTS,
        lr=0.3,
        noise=lambda: SeededNoise(stream(1, "noise", silo)),
        draws=numpy_generator(stream(1, "batches", silo)),
        canaries=canaries,
        **{**settings, **changes},
    )


def together(*works: LocalTraining) -> list[Trained]:
    chain = chain_of(nn.Linear(FEATURES, CLASSES), works[0].examples.inputs)
    return [way() for way in ways_to_train(chain, works)]


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
def test_both_engines_see_the_same_of_canaries(training: dict[str, Any]) -> None:
    """Some steps have no record, some neither a record nor a canary."""
    sizes = [(12, 1), (7, 2), (30, 5)]

    def works() -> list[LocalTraining]:
        return [
            work(silo, n=n, batch_size=size, training=TrainingSettings(**training))
            for silo, (n, size) in enumerate(sizes)
        ]

    batches = [batch for each in works() for batch in each.batches()]
    assert any(len(batch) == 0 for batch in batches)
    assert any(len(batch) > 0 and batch.min() >= 12 for batch in batches)
    for alone, one in zip(map(train, works()), together(*works()), strict=True):
        assert alone.canaries
        assert one.canaries
        np.testing.assert_allclose(one.update, alone.update, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(one.canaries.sampled, alone.canaries.sampled)
        np.testing.assert_allclose(
            one.canaries.gradients, alone.canaries.gradients, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("engine", ["alone", "together"])
def test_without_noise_a_canary_shows_its_clip_norm_and_nothing_else(engine: str) -> None:
    silent = work(sigma=0.0)
    (done,) = [train(silent)] if engine == "alone" else together(silent, work(1, sigma=0.0))[:1]
    assert done.canaries
    sampled = done.canaries.sampled
    assert sampled.any()
    assert not sampled[:, ~HALF.inserted].any()
    sums = done.canaries.gradients * 3 / 1.5  # the divisor, and the clip norm
    np.testing.assert_allclose(sums, sampled, atol=2e-5)


def test_the_model_does_not_notice() -> None:
    """With every record in every batch and no noise, nothing is left to chance."""
    settings: dict[str, Any] = {"sigma": 0.0, "batch_size": 12}
    with_canaries, without = train(work(**settings)), train(work(canaries=None, **settings))
    np.testing.assert_array_equal(with_canaries.update, without.update)
    assert without.canaries is None


def test_what_is_seen_depends_on_no_record() -> None:
    changed = Examples(points(12).inputs * -50, points(12).targets)
    one, other = train(work()), train(work(examples=changed))
    assert one.canaries
    assert other.canaries
    assert not np.array_equal(one.update, other.update)
    np.testing.assert_array_equal(one.canaries.gradients, other.canaries.gradients)


def test_plain_training_has_no_canaries() -> None:
    plain = work(plan=LocalPlan(4, 3, None))
    assert train(plain).canaries is None


def test_rows_with_differently_many_coordinates_do_not_train_together() -> None:
    chain = chain_of(nn.Linear(FEATURES, CLASSES), points(2).inputs)
    mechanism, examples = plan(12, 3, sigma=1.0), points(12)
    noise = SeededNoise(stream(1, "noise"))
    row = Row(WEIGHTS, examples.inputs, examples.targets, [], 0.1, mechanism, noise, canaries=HALF)
    with pytest.raises(PrivacyError, match="equally many canaries"):
        train_rows(
            chain,
            [row, replace(row, canaries=None)],
            ExampleLoss(F.cross_entropy),
            optimizer=OptimizerSettings(),
        )


def experiment(**changes: Any) -> Experiment:
    return Experiment.from_mapping({"task": "digits"}).with_settings(
        {
            "model": "linear",
            "rounds": 2,
            "seed": 1,
            "federation.silos": 3,
            "training.steps": 4,
            "privacy.noise_multiplier": 1.0,
            **changes,
        }
    )


def test_a_run_keeps_what_it_saw(tmp_path: Path) -> None:
    simulate(experiment(), out=tmp_path / "one", execution=Execution(canaries=16, workers=1))
    simulate(experiment(), out=tmp_path / "two", execution=Execution(canaries=16, workers=2))
    one, two = (read_observations(tmp_path / run / CANARIES) for run in ("one", "two"))
    assert sorted((each.silo, each.round) for each in one) == [
        (f"silo-{silo}", round_) for silo in range(3) for round_ in (1, 2)
    ]
    assert len({each.inserted.tobytes() for each in one}) == 3  # a coin for each silo's each
    for here, there in zip(one, two, strict=True):
        assert here.plan == there.plan
        assert here.gradients.shape == (4, 16)
        np.testing.assert_array_equal(here.inserted, there.inserted)
        np.testing.assert_array_equal(here.gradients, there.gradients)


def test_a_run_without_canaries_keeps_nothing(tmp_path: Path) -> None:
    simulate(experiment(), out=tmp_path / "run")
    assert not (tmp_path / "run" / CANARIES).exists()
    assert read_observations(tmp_path / "run" / CANARIES) == []


def test_the_command_asks_for_canaries(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\nrounds = 1\n[privacy]\nnoise_multiplier = 1.0\n')
    command = ["simulate", str(file), "--set", "federation.silos=2", "--canaries", "5"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--out", str(tmp_path / "run"), "--quiet"])
    assert [each.gradients.shape[1] for each in read_observations(tmp_path / "run" / CANARIES)] == [
        5,
        5,
    ]
