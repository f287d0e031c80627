"""The rule for what a private experiment leaves unsaid: `privet.tasks.defaults`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privet import Experiment
from privet.simulations.prepare import prepare
from privet.simulations.run import simulate
from privet.tasks.defaults import completed

EXAMPLES = Path(__file__).parents[2] / "examples"


def experiment(**more: Any) -> Experiment:
    return Experiment.from_mapping({"task": "digits", "privacy": {"epsilon": 4.0}, **more})


def test_a_task_and_an_epsilon_come_close_to_the_tuned_example(tmp_path: Path) -> None:
    """Within 1.5 points of examples/digits.toml on the same silos and seed, whatever the seed."""
    seed, figures = 7, []
    tuned = Experiment.from_file(EXAMPLES / "digits.toml", unset=["encryption"])
    for number, each in enumerate((tuned, experiment(seed=seed))):
        summary = simulate(each, out=tmp_path / str(number))
        assert summary["epsilon"]["max"] <= 4.0
        figures.append(summary["accuracy"])
    assert figures[1] > figures[0] - 0.015
    settings = (tmp_path / "1" / "experiment.toml").read_text()
    assert settings.startswith(
        "# By rule, for epsilon = 4 and some 1,437 records: rounds = 40, training.steps = 1, "
        "training.batch_size = 1024, privacy.clip = 0.5, training.lr = 6.1\n"
    )
    assert Experiment.from_file(tmp_path / "1" / "experiment.toml").rounds == 40


@pytest.mark.parametrize(
    "more",
    [
        {"training": {"lr": 0.1}},
        {"training": {"epochs": 2}},
        {"privacy": {"noise_multiplier": 1.0}},
        {"privacy": {"epsilon": float("inf")}},
    ],
)
def test_who_says_how_to_train_is_not_talked_into_anything(more: dict[str, Any]) -> None:
    given = experiment(**more)
    whole = completed(given)
    assert whole.experiment is given
    assert (whole.by_rule, whole.line) == ({}, "")


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "custom_task/experiment"])
def test_examples_stay_as_they_are(name: str) -> None:
    given = Experiment.from_file(EXAMPLES / f"{name}.toml")
    assert completed(given).experiment is given


def test_what_is_said_stays_and_the_rate_follows() -> None:
    said = completed(experiment(rounds=80, privacy={"epsilon": 2.0, "clip": 1.0}))
    assert (said.experiment.rounds, said.experiment.privacy.clip) == (80, 1.0)  # type: ignore[union-attr]
    assert said.experiment.training.lr == 0.76
    assert set(said.by_rule) == {"training.steps", "training.batch_size", "training.lr"}
    weights = completed(experiment(training={"class_weights": [1.0] * 10})).experiment.training
    assert (weights.class_weights, weights.steps) == ((1.0,) * 10, 1)
    heavy = experiment(strategy={"name": "fedavgm"})
    assert completed(heavy).experiment.training.lr == pytest.approx(0.61)
    # Few rounds do not make for leaps, nor a large epsilon for a way without end.
    assert completed(experiment(rounds=2)).experiment.training.lr == 12.0
    assert completed(experiment(privacy={"epsilon": 1e6})).experiment.training.lr == 30.0


def test_more_records_that_are_public_make_for_a_longer_way() -> None:
    own = {"task": "mine:Task", "privacy": {"epsilon": 2.0}}
    for said, rounds, rate in ((None, 40, 3.1), (6000, 40, 6.2), (90_000, 100, 9.6)):
        federation = {"federation": {"records": said}} if said else {}
        whole = completed(Experiment.from_mapping({**own, **federation})).experiment
        assert (whole.rounds, whole.training.lr) == (rounds, rate)
    assert completed(Experiment.from_mapping({**own, "task": "mnist"})).experiment.rounds == 100


def test_it_says_the_same_twice_and_travels() -> None:
    whole = completed(experiment()).experiment
    assert completed(whole).experiment is whole
    travelled = Experiment.from_run_config(whole.to_run_config())
    assert travelled == whole
    assert completed(travelled).experiment is travelled


def test_no_number_of_records_enters() -> None:
    few, many = (prepare(experiment(federation={"silos": n})) for n in (40, 4))
    assert few.experiment.training == many.experiment.training
    assert not few.warnings
    assert few.by_rule == many.by_rule
