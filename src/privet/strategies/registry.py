"""Strategies by name, their options and what is allowed; needs neither torch nor flwr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from privet.errors import ExperimentError, nearest
from privet.strategies import averaging, robust
from privet.strategies.averaging import FedAvg, Weighting
from privet.strategies.corrections import FedProx, Scaffold
from privet.strategies.qfedavg import QFedAvg
from privet.strategies.robust import Robust
from privet.strategies.strategy import Strategy


@dataclass(frozen=True)
class Option:
    """A key of the experiment file's [strategy] table."""

    default: float | str | None
    allowed: str
    """What a value must be, as the end of "must be ...", or of "unset: ..." for None."""
    accepts: Callable[[Any], bool] = field(repr=False)


@dataclass(frozen=True)
class StrategyEntry:
    """A strategy in one line, its options with their defaults, and how to build it."""

    summary: str
    options: Mapping[str, Option]
    build: Callable[..., Strategy] = field(repr=False)


def load_strategy(name: str, options: Mapping[str, object]) -> Strategy:
    """The strategy `name`, fresh, with `options` over its defaults.

    Raises ExperimentError for an unknown name or option and for a value that is not allowed.
    """
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise ExperimentError(
            f"strategy.name = '{name}' is unknown.{nearest(name, STRATEGIES)} Known: {known}"
        )
    entry = STRATEGIES[name]
    for key, value in options.items():
        _check(name, key, value, entry.options)
    defaults = {key: option.default for key, option in entry.options.items()}
    return entry.build(**{**defaults, **options})


def _check(name: str, key: str, value: object, options: Mapping[str, Option]) -> None:
    if key not in options:
        known = ", ".join(options) or "none"
        raise ExperimentError(
            f"{name} has no option 'strategy.{key}'.{nearest(key, options)} Known: {known}"
        )
    if not options[key].accepts(value):
        raise ExperimentError(f"strategy.{key} = {value!r}: must be {options[key].allowed}")


def _number(default: float, allowed: str, accepts: Callable[[float], bool]) -> Option:
    def fits(value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max and accepts(value)  # type: ignore[arg-type]

    return Option(default, f"a number {allowed}", fits)


def _count(default: int | None, allowed: str, *, least: int) -> Option:
    def fits(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return Option(default, f"a whole number >= {least}{allowed}", fits)


def _above_zero(default: float) -> Option:
    return _number(default, "> 0", lambda value: value > 0)


def _not_negative(default: float) -> Option:
    return _number(default, ">= 0", lambda value: value >= 0)


def _decay(default: float) -> Option:
    return _number(default, "in [0, 1)", lambda value: 0 <= value < 1)


_WEIGHTING = Option("examples", "'examples' or 'uniform'", lambda x: x in ("examples", "uniform"))
_BYZANTINE = _count(1, " of silos that may lie", least=0)


def _adaptive(*, server_lr: float, beta_1: float, beta_2: float | None) -> dict[str, Option]:
    second = {} if beta_2 is None else {"beta_2": _decay(beta_2)}
    return {
        "server_lr": _above_zero(server_lr),
        "beta_1": _decay(beta_1),
        **second,
        "tau": _above_zero(1e-3),
        "weighting": _WEIGHTING,
    }


def _fedavgm(*, weighting: Weighting, **options: float) -> Strategy:
    return FedAvg(name="fedavgm", weighting=weighting, step=averaging.momentum(**options))


def _fedadagrad(*, weighting: Weighting, **options: float) -> Strategy:
    step = averaging.adaptive(averaging.adagrad(), **options)
    return FedAvg(name="fedadagrad", weighting=weighting, step=step)


def _fedadam(*, weighting: Weighting, beta_2: float, **options: float) -> Strategy:
    step = averaging.adaptive(averaging.adam(beta_2=beta_2), **options)
    return FedAvg(name="fedadam", weighting=weighting, step=step)


def _fedyogi(*, weighting: Weighting, beta_2: float, **options: float) -> Strategy:
    step = averaging.adaptive(averaging.yogi(beta_2=beta_2), **options)
    return FedAvg(name="fedyogi", weighting=weighting, step=step)


def _fedmedian() -> Strategy:
    return Robust(name="fedmedian", rule=robust.median)


def _trimmed_mean(*, fraction: float) -> Strategy:
    rule = partial(robust.trimmed_mean, fraction=fraction)
    return Robust(name="trimmed-mean", rule=rule)


def _krum(*, byzantine: int) -> Strategy:
    rule = partial(robust.krum, byzantine=byzantine)
    return Robust(name="krum", rule=rule, fewest=2 * byzantine + 3)


def _multikrum(*, byzantine: int, keep: int | None) -> Strategy:
    rule = partial(robust.krum, byzantine=byzantine, keep=keep)
    # Beyond n - byzantine - 2 kept updates Multi-Krum is no longer proved to hold liars off.
    fewest = max(2 * byzantine + 3, (keep or 0) + byzantine + 2)
    return Robust(name="multikrum", rule=rule, fewest=fewest)


def _bulyan(*, byzantine: int) -> Strategy:
    rule = partial(robust.bulyan, byzantine=byzantine)
    return Robust(name="bulyan", rule=rule, fewest=4 * byzantine + 3)


STRATEGIES: Mapping[str, StrategyEntry] = {
    "fedavg": StrategyEntry(
        "mean of the updates, by numbers of records", {"weighting": _WEIGHTING}, FedAvg
    ),
    "fedprox": StrategyEntry(
        "fedavg whose silos are held close to the global model",
        {"proximal_mu": _not_negative(0.01), "weighting": _WEIGHTING},
        FedProx,
    ),
    "fedavgm": StrategyEntry(
        "fedavg with momentum on the server",
        {
            "server_lr": _above_zero(1.0),
            "server_momentum": _decay(0.9),
            "weighting": _WEIGHTING,
        },
        _fedavgm,
    ),
    "fedadam": StrategyEntry(
        "Adam on the server", _adaptive(server_lr=0.01, beta_1=0.9, beta_2=0.99), _fedadam
    ),
    "fedyogi": StrategyEntry(
        "Yogi on the server", _adaptive(server_lr=0.01, beta_1=0.9, beta_2=0.99), _fedyogi
    ),
    "fedadagrad": StrategyEntry(
        "Adagrad on the server", _adaptive(server_lr=0.1, beta_1=0.0, beta_2=None), _fedadagrad
    ),
    "qfedavg": StrategyEntry(
        "fairer: silos with a larger loss count more (sends losses in the clear)",
        {"q": _number(0.1, "in [0, 100]", lambda value: 0 <= value <= 100)},
        QFedAvg,
    ),
    "fedmedian": StrategyEntry("robust: middle value of each coordinate", {}, _fedmedian),
    "trimmed-mean": StrategyEntry(
        "robust: mean of each coordinate without its extremes",
        {"fraction": _number(0.2, "in [0, 0.5)", lambda value: 0 <= value < 0.5)},
        _trimmed_mean,
    ),
    "krum": StrategyEntry(
        "robust: the one update nearest to its neighbours", {"byzantine": _BYZANTINE}, _krum
    ),
    "multikrum": StrategyEntry(
        "robust: mean of the updates that Krum rates best",
        {
            "byzantine": _BYZANTINE,
            "keep": _count(None, "; unset: updates - byzantine - 2", least=1),
        },
        _multikrum,
    ),
    "bulyan": StrategyEntry(
        "robust: Krum's choice, then a mean around its median", {"byzantine": _BYZANTINE}, _bulyan
    ),
    "scaffold": StrategyEntry(
        "control variates against the drift of uneven silos",
        {"server_lr": _above_zero(1.0)},
        Scaffold,
    ),
}
