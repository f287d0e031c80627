"""What holds for every policy and every request."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.privacy.policy import Decision, Policy, Request

Rules = dict[str, Any]
Tightening = Callable[[st.DataObject, Rules], None]
HASHES = ["aa" * 32, "bb" * 32]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
PEOPLE, TASKS, METRICS = ["alice", "bob"], ["digits", "mnist"], ["accuracy", "loss", "auc"]
NOISES, RATES, EPSILONS = [0.3, 0.5, 1.0, 2.0], [0.01, 0.1, 0.5, 1.0], [0.5, 1.0, 4.0, math.inf]
CLOCKS = ["06:00", "09:00", "12:00", "18:00"]
SCOPES = ["epsilon_per_job", "epsilon_per_month", "epsilon_per_requester"]
STRICTNESS = {"exact": 0, "noised": 1, "withheld": 2}


def _some(names: list[str], *, least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=least, unique=True)


def _metric(name: str) -> st.SearchStrategy[Rules]:
    plain = st.sampled_from([{"release": "withheld"}, {"release": "exact"}])
    noised = st.fixed_dictionaries(
        {"release": st.just("noised"), "noise_multiplier": st.sampled_from([1.0, 10.0])}
    )
    return plain | noised if name == "accuracy" else plain


@st.composite
def rules_(draw: st.DrawFn) -> Rules:
    """Rules of one data set, all of which allow something."""
    plain = draw(st.sampled_from([False, False, True]))
    limit = st.just(math.inf) if plain else st.sampled_from(EPSILONS)
    low, high = sorted(draw(st.tuples(st.sampled_from(RATES), st.sampled_from(RATES))))
    rules: Rules = {
        "requesters": draw(_some([*PEOPLE, "*"], least=1)),
        "tasks": draw(_some([*TASKS, "*"], least=1)),
        "code": draw(_some([*HASHES, "*"])),
        "budget": {
            "epsilon": draw(limit),
            "delta": 1e-6,
            **{scope: draw(limit) for scope in draw(_some(SCOPES))},
        },
        "training": {
            "plain": plain,
            "units": draw(_some(["record", "client"], least=1)),
            "mechanisms": draw(_some(["dp-sgd", "gaussian"], least=1)),
            "smallest_noise_multiplier": draw(st.sampled_from([0.0, *NOISES])),
            "smallest_sampling_rate": draw(st.sampled_from([0.0, 0.0, low])),
            "largest_sampling_rate": high,
        },
        "sending": {
            "records_public": draw(st.booleans()),
            "encryption_required": draw(st.sampled_from([False, False, True])),
            "smallest_sum": draw(st.sampled_from([1, 1, 2, 5])),
        },
        "metrics": {name: draw(_metric(name)) for name in draw(_some([*METRICS, "*"]))},
    }
    if draw(st.booleans()):
        rules["hours"] = {
            "timezone": draw(st.sampled_from(["UTC", "Europe/Berlin"])),
            "days": draw(_some(DAYS, least=5)),
            "start": draw(st.sampled_from(CLOCKS)),
            "end": draw(st.sampled_from(CLOCKS)),
        }
    return rules


anything = st.builds(
    Request,
    dataset=st.just("ward"),
    task=st.sampled_from([*TASKS, "own.code:Task"]),
    requester=st.sampled_from([*PEOPLE, "eve"]),
    job=st.just("job"),
    kind=st.sampled_from(["train", "evaluate", "query"]),
    at=st.datetimes(datetime(2026, 3, 1), datetime(2026, 4, 15), timezones=st.just(UTC)),
    code_hash=st.sampled_from([None, *HASHES]),
    unit=st.sampled_from(["record", "record", "client", None]),
    mechanism=st.sampled_from(["dp-sgd", "dp-sgd", "gaussian", None]),
    noise_multiplier=st.sampled_from([None, 0.0, math.nan, *NOISES]),
    sampling_rate=st.sampled_from([None, *RATES]),
    clip=st.sampled_from([None, 1.0, math.inf]),
    encrypted=st.booleans(),
    silos_in_sum=st.sampled_from([None, 1, 2, 5, 10]),
    metrics=st.lists(st.sampled_from(METRICS), max_size=4).map(tuple),
)


FIELDS = sorted({field.name for field in fields(Request)} - {"dataset", "job"})


@st.composite
def requests_for(draw: st.DrawFn, rules: Rules) -> Request:
    """What `rules` allow (but perhaps for the hour), with one field of anything in half of them.

    Requests that are refused for many reasons would show nothing about any one rule.
    """
    training, sending = rules["training"], rules["sending"]
    noises = [noise for noise in NOISES if noise >= training["smallest_noise_multiplier"]]
    low, high = training["smallest_sampling_rate"], training["largest_sampling_rate"]
    other = draw(anything)
    request = replace(
        other,
        requester=draw(_one_of(rules["requesters"], PEOPLE)),
        task=draw(_one_of(rules["tasks"], TASKS)),
        unit=draw(_one_of(training["units"])),
        mechanism=draw(_one_of(training["mechanisms"])),
        noise_multiplier=draw(_one_of(noises)),
        sampling_rate=draw(_one_of([rate for rate in RATES if low <= rate <= high])),
        clip=1.0,
        encrypted=other.encrypted or sending["encryption_required"],
        silos_in_sum=sending["smallest_sum"] + draw(st.sampled_from([0, 1, 5])),
    )
    if training["plain"] and draw(st.booleans()):
        request = replace(request, mechanism=None)
    changed = draw(st.sampled_from([None] * len(FIELDS) + FIELDS))
    return replace(request, **{changed: getattr(other, changed)}) if changed else request


def _one_of(names: list[Any], everyone: list[str] | None = None) -> st.SearchStrategy[Any]:
    return st.sampled_from(everyone if everyone and "*" in names else names)


def _fewer(table: str | None, key: str, everyone: list[str]) -> Tightening:
    def tighten(data: st.DataObject, rules: Rules) -> None:
        place = rules if table is None else rules[table]
        now = everyone if "*" in place[key] else place[key]
        place[key] = data.draw(_some(now)) if now else []

    return tighten


def _changed(table: str, key: str, value: Callable[[Any], Any]) -> Tightening:
    def tighten(data: st.DataObject, rules: Rules) -> None:
        rules[table][key] = value(rules[table][key])

    return tighten


def _less_epsilon(data: st.DataObject, rules: Rules) -> None:
    key = data.draw(st.sampled_from(["epsilon", *SCOPES]))
    rules["training"]["plain"] = False  # a finite limit excludes it
    rules["budget"][key] = min(rules["budget"].get(key, math.inf), 4.0) / 2


def _stricter_metric(data: st.DataObject, rules: Rules) -> None:
    metrics = rules["metrics"]
    name = data.draw(st.sampled_from(METRICS))
    now = metrics.get(name) or metrics.get("*") or {"release": "withheld"}
    if now["release"] == "noised":
        metrics[name] = {**now, "noise_multiplier": 2 * now["noise_multiplier"]}
    elif now["release"] == "exact" and name == "accuracy":
        metrics[name] = {"release": "noised", "noise_multiplier": 5.0}
    else:
        metrics[name] = {"release": "withheld"}


def _fewer_hours(data: st.DataObject, rules: Rules) -> None:
    if "hours" not in rules:
        rules["hours"] = {"timezone": "UTC", "start": "09:00", "end": "18:00"}
        return
    hours = rules["hours"]
    hours["days"] = data.draw(_some(hours["days"]))
    # One hour later keeps the span within the old one, also one that ends on the next day.
    later = f"{int(hours['start'][:2]) + 1:02d}:00"
    if later != hours["end"]:
        hours["start"] = later


TIGHTENINGS: dict[str, Tightening] = {
    "requesters": _fewer(None, "requesters", PEOPLE),
    "tasks": _fewer(None, "tasks", TASKS),
    "code": _fewer(None, "code", HASHES),
    "epsilon": _less_epsilon,
    "plain": _changed("training", "plain", lambda _: False),
    "units": _fewer("training", "units", []),
    "mechanisms": _fewer("training", "mechanisms", []),
    "noise": _changed("training", "smallest_noise_multiplier", lambda now: now + 0.4),
    "smallest rate": _changed(
        "training", "smallest_sampling_rate", lambda now: max(now, min(now + 0.005, 0.01))
    ),
    "largest rate": _changed("training", "largest_sampling_rate", lambda now: max(now / 2, 0.01)),
    "records": _changed("sending", "records_public", lambda _: False),
    "encryption": _changed("sending", "encryption_required", lambda _: True),
    "sum": _changed("sending", "smallest_sum", lambda now: now + 2),
    "metric": _stricter_metric,
    "hours": _fewer_hours,
}


def _valid(rules: Rules) -> Rules:
    low, high = "smallest_sampling_rate", "largest_sampling_rate"
    rules["training"][low] = min(rules["training"][low], rules["training"][high])
    return rules


@pytest.mark.parametrize("name", sorted(TIGHTENINGS))
@given(data=st.data(), rules=rules_())
@settings(max_examples=30)
def test_tightening_a_rule_never_allows_more(
    policy: Callable[..., Policy], name: str, data: st.DataObject, rules: Rules
) -> None:
    request = replace(data.draw(requests_for(rules)), metrics=tuple(METRICS))
    stricter = copy.deepcopy(rules)
    TIGHTENINGS[name](data, stricter)
    before = policy({"ward": rules}).decide(request)
    after = policy({"ward": _valid(stricter)}).decide(request)
    _assert_no_wider(before, after)


def _assert_no_wider(before: Decision, after: Decision) -> None:
    if not after.allowed:
        assert (after.limits, after.metrics, after.records_public) == ((), (), False)
        return
    assert before.allowed
    assert before.records_public or not after.records_public
    left = {limit.scope: limit for limit in after.limits}
    for limit in before.limits:
        assert left[limit.scope].epsilon <= limit.epsilon
    for loose, strict in zip(before.metrics, after.metrics, strict=True):
        assert loose.name == strict.name
        assert STRICTNESS[loose.release] <= STRICTNESS[strict.release]
        if loose.release == strict.release == "noised":
            assert loose.noise_multiplier <= strict.noise_multiplier


def _reordered(data: st.DataObject, value: Any) -> Any:
    if isinstance(value, dict):
        keys = data.draw(st.permutations(list(value)))
        return {key: _reordered(data, value[key]) for key in keys}
    return data.draw(st.permutations(value)) if isinstance(value, list) else value


@given(data=st.data(), rules=rules_(), other=rules_())
@settings(max_examples=60)
def test_a_decision_depends_on_no_order_and_on_nothing_that_came_before(
    policy: Callable[..., Policy], data: st.DataObject, rules: Rules, other: Rules
) -> None:
    """Of lists, tables, data sets, metrics that are asked for, and decisions."""
    request = data.draw(requests_for(rules))
    first = policy({"ward": rules})
    expected = first.decide(request)
    first.decide(replace(request, requester="eve", task="own.code:Task", encrypted=True))
    assert first.decide(request) == expected
    shuffled = _reordered(data, {"other": other, "ward": rules, "*": other})
    metrics = tuple(data.draw(st.permutations(request.metrics)))
    assert policy(shuffled).decide(replace(request, metrics=metrics)) == expected


@given(data=st.data(), rules=rules_(), more=st.sampled_from([1.5, 10.0]))
def test_a_job_may_always_ask_for_more_protection(
    policy: Callable[..., Policy], data: st.DataObject, rules: Rules, more: float
) -> None:
    ward = policy({"ward": rules})
    request = data.draw(requests_for(rules))
    if not ward.decide(request).allowed:
        return
    silos = None if request.silos_in_sum is None else request.silos_in_sum + 1
    noise = None if request.noise_multiplier is None else request.noise_multiplier * more
    safer = replace(request, encrypted=True, silos_in_sum=silos, noise_multiplier=noise, metrics=())
    assert ward.decide(safer).allowed
