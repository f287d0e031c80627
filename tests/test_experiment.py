"""The experiment file: what it accepts, and how it refuses."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privet.errors import ExperimentError
from privet.experiment import Experiment

MINIMAL = {"task": "digits"}


def test_defaults_are_filled_in() -> None:
    experiment = Experiment.from_mapping(MINIMAL)
    assert experiment.strategy.name == "fedavg"
    assert experiment.privacy is None
    assert experiment.federation.participation == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "digits", "round": 3}, "unknown key 'round'. Did you mean 'rounds'?"),
        ({"task": "digits", "training": {"learning_rate": 1}}, "unknown key 'training.learning_ra"),
        ({"task": "digits", "privacy": {"epsilon": 1, "sigma": 1}}, "unknown key 'privacy.sigma'"),
        ({"rounds": 3}, "the experiment has no 'task'"),
        ({"task": "digits", "rounds": 0}, "rounds = 0: input should be greater than or equal to 1"),
        (
            {"task": "digits", "privacy": {"epsilon": 0}},
            "privacy.epsilon = 0: input should be grea",
        ),
        ({"task": "digits", "privacy": {"epsilon": -2}}, "privacy.epsilon = -2"),
        ({"task": "digits", "privacy": {"epsilon": "nan"}}, "privacy.epsilon = 'nan'"),
        ({"task": "digits", "privacy": {"epsilon": 1, "delta": 1}}, "privacy.delta = 1"),
        (
            {"task": "digits", "privacy": {}},
            "exactly one of privacy.epsilon and privacy.noise_mult",
        ),
        (
            {"task": "digits", "privacy": {"epsilon": 1, "noise_multiplier": 1}},
            "both is set",
        ),
        ({"task": "digits", "training": {"epochs": 1, "steps": 3}}, "exclude each other"),
        ({"task": "digits", "federation": {"participation": 0}}, "federation.participation = 0"),
        ({"task": "digits", "federation": {"dropout": 1}}, "federation.dropout = 1"),
        ({"task": "digits", "federation": {"partition": "random"}}, "should be 'iid', 'dirichlet'"),
        ({"task": "digits", "federation": {"partition": "natural", "silos": 3}}, "leave it out"),
        ({"task": "digits", "privacy": 3}, "privacy = 3"),
        ({"task": "digits", "seed": -1}, "seed = -1"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as refusal:
        Experiment.from_mapping(settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_infinite_epsilon_means_no_privacy() -> None:
    for infinite in (float("inf"), "inf"):
        experiment = Experiment.from_mapping({**MINIMAL, "privacy": {"epsilon": infinite}})
        assert experiment.privacy is None


def test_settings_on_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('task = "digits"\nrounds = 3\n')
    experiment = Experiment.from_file(
        file, {"privacy.epsilon": "2", "strategy.name": "fedprox", "strategy.proximal_mu": "0.1"}
    )
    assert experiment.privacy is not None
    assert experiment.privacy.epsilon == 2.0
    assert experiment.strategy.name == "fedprox"
    assert experiment.strategy.options == {"proximal_mu": 0.1}
    assert experiment.rounds == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [("task = ", "is not a TOML file"), (None, "cannot read"), ("\xff", "is not a TOML file")],
)
def test_an_unreadable_file_is_an_error_of_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "experiment.toml"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ExperimentError, match=message):
        Experiment.from_file(file)


def test_a_value_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('task = "digits"\nprivacy = 3\n')
    with pytest.raises(ExperimentError, match="'privacy' is a value, not a table"):
        Experiment.from_file(file, {"privacy.epsilon": "2"})


scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
)
options = st.dictionaries(
    st.text("abcdefgh_-. é", min_size=1, max_size=8),
    st.one_of(scalars, st.lists(st.integers(0, 9), max_size=3)),
    max_size=4,
)


@example(rounds=1, seed=0, lr=1.0, data={"far": math.inf, "near": -math.inf})
@given(
    rounds=st.integers(1, 10**6),
    seed=st.integers(0, 2**63 - 1),
    lr=st.floats(1e-12, 1e12),
    data=options,
)
def test_settings_survive_toml_and_the_run_config(
    rounds: int, seed: int, lr: float, data: dict[str, Any]
) -> None:
    experiment = Experiment.from_mapping(
        {**MINIMAL, "rounds": rounds, "seed": seed, "training": {"lr": lr}, "data": data}
    )
    again = Experiment.from_mapping(tomllib.loads(experiment.to_toml()))
    assert again.to_toml() == experiment.to_toml()
    assert again.training == experiment.training
    assert again.data == data
    assert Experiment.from_run_config(experiment.to_run_config()).to_toml() == again.to_toml()


def test_a_flower_run_config_of_dotted_keys_is_read() -> None:
    config = {"task": "digits", "rounds": 2, "federation.silos": 3, "privacy.epsilon": 1.5}
    experiment = Experiment.from_run_config(config)
    assert experiment.federation.silos == 3
    assert experiment.privacy is not None
    assert experiment.privacy.epsilon == 1.5


def test_with_settings_validates_again() -> None:
    experiment = Experiment.from_mapping(MINIMAL)
    assert experiment.with_settings({"training.lr": 0.7}).training.lr == 0.7
    with pytest.raises(ExperimentError, match=r"training\.lr = 0"):
        experiment.with_settings({"training.lr": 0})


PLAIN = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_options_of_a_task_come_back_from_the_file_as_they_were(data: dict[str, Any]) -> None:
    experiment = Experiment.from_mapping({"task": "digits", "data": data})
    assert Experiment.from_mapping(tomllib.loads(experiment.to_toml())).data == data
    assert Experiment.from_run_config(experiment.to_run_config()).data == data


@pytest.mark.parametrize("value", ["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"])
@pytest.mark.parametrize("place", ["data.when = {}", "strategy.x = [1, {{ a = {} }}]"])
def test_a_date_is_no_setting(tmp_path: Path, place: str, value: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'task = "digits"\n{place.format(value)}\n')
    with pytest.raises(ExperimentError, match=r"= .* is no setting; allowed are texts") as raised:
        Experiment.from_file(path)
    assert len(str(raised.value).splitlines()) == 1


def test_what_neither_json_nor_toml_can_say_is_refused() -> None:
    for value in (None, {1}, b"bytes", [None], {"a": None}):
        with pytest.raises(ExperimentError, match="is no setting"):
            Experiment.from_mapping({"task": "digits", "data": {"x": value}})


@pytest.mark.parametrize("text", ["{", "", "[1]", '"text"', "3", "[" * 100_000, '{"task": }'])
def test_a_run_config_that_is_no_experiment_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ExperimentError, match=r"^experiment: ") as raised:
        Experiment.from_run_config({"experiment": text})
    assert len(str(raised.value).splitlines()) == 1
