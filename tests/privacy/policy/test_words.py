"""The starting policy, and every policy in plain words."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from privet.privacy.accounting import dp_sgd_event, epsilon
from privet.privacy.policy import Policy, Request, best_guess, explain, starting_policy


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping) and "release" not in value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _explained(policy: Policy) -> set[str]:
    """The keys at the ends of the lines."""
    ends = (re.search(r"\(([\w., ]+)\)$", line) for line in explain(policy))
    return {key for end in ends if end for key in end.group(1).split(", ")}


def _with_all_settings() -> str:
    """The starting policy with the # taken from its examples."""
    return re.sub(r"^#(?=\S)", "", starting_policy(), flags=re.MULTILINE)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Policy]:
    def policy(text: str) -> Policy:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return Policy.from_file(path)

    return policy


@pytest.mark.parametrize("text", [starting_policy(), _with_all_settings()])
def test_every_key_of_the_starting_policy_is_explained(
    read: Callable[[str], Policy], text: str
) -> None:
    keys = {key.removeprefix("data.my-data.") for key in _keys(tomllib.loads(text))}
    assert keys <= _explained(read(text))


def test_the_starting_policy_has_every_setting_there_is(read: Callable[[str], Policy]) -> None:
    rules = read(_with_all_settings()).rules("my-data")
    assert rules is not None
    tables = [rules, rules.budget, rules.training, rules.sending, rules.hours]
    tables += rules.metrics.values()
    for table in tables:
        assert table is not None
        unset = set(type(table).model_fields) - table.model_fields_set
        assert unset <= {"noise_multiplier"}, unset
    assert any(metric.noise_multiplier for metric in rules.metrics.values())


def test_the_starting_policy_lets_nothing_run(
    read: Callable[[str], Policy], request_: Request
) -> None:
    asked = replace(request_, dataset="my-data")
    refused = read(starting_policy()).decide(asked).refusals
    assert [refusal.limit for refusal in refused] == ["requesters", "tasks"]
    filled = starting_policy().replace("requesters = []", 'requesters = ["alice"]')
    filled = filled.replace("tasks = []", 'tasks = ["digits"]')
    assert read(filled).decide(asked).allowed


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "Only these may ask: alice. (requesters)"),
        ({"requesters": []}, "Nobody may ask yet."),
        ({"requesters": ["*"]}, "Anyone may ask."),
        ({}, "these may run: digits."),
        ({"tasks": []}, "No task that comes with privet may run."),
        ({"tasks": ["*"]}, "Every task that comes with privet may run."),
        ({"code": ["*"]}, "whatever their code does"),
        ({"code": ["ab" * 32]}, f"exactly: sha256:{'ab' * 32}."),
        ({}, "at most epsilon = 2 at delta = 1e-06. Someone who knows all other records and sees "
             "all that was counted guesses rightly at most 88.1 times in 100"),
        ({"budget": {"epsilon": math.inf, "delta": 1e-6}}, "nothing is promised"),
        ({"budget": {"epsilon": 2.0, "delta": 1e-6, "epsilon_per_month": 0.5}},
         "Every single month may cost at most epsilon = 0.5"),
        ({}, "Training without differential privacy is refused."),
        ({"training": {"plain": True}, "budget": {"epsilon": math.inf, "delta": 1e-6}},
         "a model can then repeat records"),
        ({}, "There must be noise in every step"),
        ({"training": {"smallest_noise_multiplier": 0.8}}, "at least 0.8 times"),
        ({"training": {"largest_sampling_rate": 0.25}}, "between 0 and 25 % of the records"),
        ({"training": {"smallest_sampling_rate": 0.1}}, "records can be found out all the same"),
        ({"training": {"largest_sampling_rate": 0.9}}, "records can be found out all the same"),
        ({}, "The number of records stays here."),
        ({"sending": {"records_public": True}}, "The number of records is public"),
        ({}, "the server may then see this silo's by itself"),
        ({"sending": {"encryption_required": True}}, "Updates must be encrypted"),
        ({"sending": {"smallest_sum": 4}}, "3 or more other silos"),
        ({"metrics": {"loss": {"release": "exact"}}},
         "The metric loss leaves exactly as it is: unprotected"),
        ({"metrics": {"accuracy": {"release": "noised", "noise_multiplier": 20.0}}},
         "noise of 20 times"),
        ({}, "Every metric that is not named here is withheld."),
        ({"metrics": {"*": {"release": "exact"}}}, "Every other metric leaves exactly"),
        ({}, "Jobs may run at any time. (hours)"),
        ({"hours": {"timezone": "UTC", "days": ["sat", "mon"], "start": "22:00", "end": "06:00"}},
         "Jobs may run mon, sat from 22:00 to 06:00 next day (UTC)."),
    ],
)  # fmt: skip
def test_plain_words_say_what_the_rules_are(
    ward: Callable[..., Policy], tables: dict, words: str
) -> None:
    assert words in "\n".join(explain(ward(**tables)))


def test_data_sets_are_explained_by_name_and_the_rest_last(policy: Callable[..., Policy]) -> None:
    rules = {"requesters": [], "tasks": [], "budget": {"epsilon": 1.0, "delta": 1e-6}}
    lines = explain(policy({"*": rules, "b": rules, "a": rules}))
    assert [line for line in lines if line.endswith(":")] == [
        "Data set a:",
        "Data set b:",
        "Every other data set:",
    ]


@given(st.floats(1e-3, 50), st.floats(1e-12, 0.01))
def test_the_guess_is_between_a_coin_and_certainty_and_grows_with_epsilon(
    size: float, delta: float
) -> None:
    guess = best_guess(epsilon=size, delta=delta)
    assert 0.5 < guess <= 1 + delta
    assert guess <= best_guess(epsilon=1.1 * size, delta=delta)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-2])
def test_no_one_guesses_better_than_the_bound(noise: float, delta: float) -> None:
    """The best test of one Gaussian release is known: it is right with Phi(1 / (2 noise))."""
    event = dp_sgd_event(noise_multiplier=noise, sampling_rate=1.0, steps=1)
    bound = best_guess(epsilon=epsilon([event], delta=delta), delta=delta)
    assert norm.cdf(1 / (2 * noise)) < bound


def test_the_guess_is_reached_by_randomised_response() -> None:
    """Telling the truth with probability e^epsilon / (1 + e^epsilon) is epsilon-private."""
    assert best_guess(epsilon=math.log(3), delta=0.0) == pytest.approx(0.75)
