"""Names, options, and the messages for those that do not exist."""

import subprocess
import sys

import pytest

from privet.errors import ExperimentError
from privet.strategies import STRATEGIES, load_strategy

NAMES = [
    *("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg"),
    *("fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan", "scaffold"),
]
LINEAR = {"fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold"}


def test_thirteen_strategies_are_registered():
    assert list(STRATEGIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_loads_with_its_defaults_and_says_what_it_needs(name):
    strategy = load_strategy(name, {})
    assert strategy.name == name
    assert strategy.linear == (name in LINEAR)
    assert strategy.needs_loss == (name == "qfedavg")
    assert strategy.plain_sgd == (name == "scaffold")


@pytest.mark.parametrize("name", NAMES)
def test_every_default_is_allowed_when_it_is_written_out(name):
    options = {key: option.default for key, option in STRATEGIES[name].options.items()}
    load_strategy(name, {key: value for key, value in options.items() if value is not None})


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ExperimentError, match=r"^strategy.name = 'fedagv' is unknown. Did you mean 'f"
    ):
        load_strategy("fedagv", {})


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ExperimentError, match=r"'strategy.mu'.*proximal_mu, weighting"):
        load_strategy("fedprox", {"mu": 1.0})
    with pytest.raises(ExperimentError, match=r"Did you mean 'server_lr'"):
        load_strategy("scaffold", {"servr_lr": 1.0})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedprox", {"proximal_mu": -1}, "strategy.proximal_mu = -1: must be a number >= 0"),
        ("fedavgm", {"server_momentum": 1.0}, r"must be a number in \[0, 1\)"),
        ("fedadam", {"server_lr": 10**400}, "must be a number > 0"),
        ("fedadam", {"server_lr": 0}, "strategy.server_lr = 0: must be a number > 0"),
        ("fedyogi", {"tau": float("nan")}, "strategy.tau = nan"),
        ("fedadam", {"beta_1": True}, "strategy.beta_1 = True"),
        ("trimmed-mean", {"fraction": 0.5}, r"must be a number in \[0, 0.5\)"),
        ("krum", {"byzantine": 1.0}, "strategy.byzantine = 1.0: must be a whole number >= 0"),
        ("multikrum", {"keep": 0}, "strategy.keep = 0: must be a whole number >= 1"),
        ("fedavg", {"weighting": "size"}, "must be 'examples' or 'uniform'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(name, options, message):
    with pytest.raises(ExperimentError, match=message):
        load_strategy(name, options)


@pytest.mark.parametrize(
    ("name", "options", "fewest"),
    [
        ("fedavg", {}, 1),
        ("krum", {"byzantine": 2}, 7),
        ("multikrum", {"byzantine": 1, "keep": 6}, 9),
        ("bulyan", {"byzantine": 2}, 11),
    ],
)
def test_a_federation_that_is_too_small_for_the_rule_is_refused(name, options, fewest):
    strategy = load_strategy(name, options)
    strategy.check_silos(fewest)
    with pytest.raises(ExperimentError, match=f"at least {fewest} silos"):
        strategy.check_silos(fewest - 1)


def test_the_registry_loads_neither_torch_nor_flwr():
    code = (
        "import sys; from privet.strategies import load_strategy, STRATEGIES\n"
        "[load_strategy(name, {}) for name in STRATEGIES]\n"
        "assert not {'torch', 'flwr'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
