"""One rule at a time: what it refuses, and that it refuses nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from privet.privacy.policy import BudgetLimit, MetricRule, Policy, Request

Ward = Callable[..., Policy]
HASH = "ab" * 32


def _limits(policy: Policy, request: Request) -> list[str]:
    return [refusal.limit for refusal in policy.decide(request).refusals]


def test_what_the_policy_names_is_allowed(ward: Ward, request_: Request) -> None:
    decision = ward().decide(request_)
    assert decision.allowed
    assert decision.reason == ""
    assert decision.limits == (BudgetLimit("dataset", 2.0, 1e-6),)
    assert decision.records_public is False


@pytest.mark.parametrize(
    ("tables", "change", "limit"),
    [
        ({}, {"requester": "bob"}, "requesters"),
        ({}, {"requester": "*"}, "requesters"),
        ({"requesters": []}, {}, "requesters"),
        ({}, {"task": "mnist"}, "tasks"),
        ({"tasks": ["*"]}, {"task": "evil.module:Task"}, "code"),
        ({"tasks": ["*"]}, {"task": "evil.module:Task", "code_hash": HASH}, "code"),
        ({"code": [HASH]}, {"task": "a.b:C", "code_hash": "cd" * 32}, "code"),
        ({"code": [HASH]}, {"task": "a.b:C"}, "code"),
        ({}, {"mechanism": None, "noise_multiplier": None}, "training.plain"),
        ({}, {"mechanism": None}, "training.plain"),
        ({}, {"noise_multiplier": None}, "training.plain"),
        ({}, {"noise_multiplier": 0.0}, "training.plain"),
        ({}, {"noise_multiplier": -1.0}, "training.plain"),
        ({}, {"noise_multiplier": math.nan}, "training.plain"),
        ({}, {"noise_multiplier": math.inf}, "training.plain"),
        ({}, {"clip": math.inf}, "training.plain"),
        ({}, {"clip": math.nan}, "training.plain"),
        ({}, {"clip": 0.0}, "training.plain"),
        ({}, {"kind": "query", "mechanism": None}, "training.plain"),
        ({}, {"kind": "evaluate", "noise_multiplier": 0.0}, "training.plain"),
        ({}, {"unit": "client"}, "training.units"),
        ({}, {"unit": None}, "training.units"),
        ({"training": {"units": []}}, {}, "training.units"),
        ({}, {"mechanism": "gaussian"}, "training.mechanisms"),
        (
            {"training": {"smallest_noise_multiplier": 1.01}},
            {},
            "training.smallest_noise_multiplier",
        ),
        ({"training": {"largest_sampling_rate": 0.09}}, {}, "training.largest_sampling_rate"),
        (
            {"training": {"largest_sampling_rate": 0.9}},
            {"sampling_rate": None},
            "training.largest_sampling_rate",
        ),
        ({}, {"sampling_rate": 0.0}, "training.largest_sampling_rate"),
        ({}, {"sampling_rate": math.nan}, "training.largest_sampling_rate"),
        ({}, {"sampling_rate": 1.5}, "training.largest_sampling_rate"),
        ({"training": {"smallest_sampling_rate": 0.11}}, {}, "training.smallest_sampling_rate"),
        ({"sending": {"encryption_required": True}}, {}, "sending.encryption_required"),
        ({"sending": {"smallest_sum": 3}}, {"silos_in_sum": 2}, "sending.smallest_sum"),
        ({"sending": {"smallest_sum": 3}}, {}, "sending.smallest_sum"),
        ({"hours": {"timezone": "UTC", "days": ["thu"]}}, {}, "hours"),
        ({"hours": {"timezone": "UTC", "days": []}}, {}, "hours"),
        ({"hours": {"timezone": "UTC", "start": "12:01", "end": "18:00"}}, {}, "hours"),
        ({"hours": {"timezone": "UTC", "start": "08:00", "end": "12:00"}}, {}, "hours"),
        ({}, {"dataset": "other"}, "data"),
        ({}, {"dataset": "*"}, "data"),
    ],
)  # fmt: skip
def test_each_rule_refuses_alone_and_grants_nothing(
    ward: Ward, request_: Request, tables: dict, change: dict, limit: str
) -> None:
    decision = ward(**tables).decide(replace(request_, **change))
    assert [refusal.limit for refusal in decision.refusals] == [limit]
    assert not decision.allowed
    assert decision.reason.startswith(f"{limit}: asked for ")
    assert (decision.limits, decision.metrics, decision.records_public) == ((), (), False)


@pytest.mark.parametrize(
    ("tables", "change"),
    [
        ({"requesters": ["*"]}, {"requester": "anyone"}),
        ({"tasks": ["*"]}, {"task": "mnist"}),
        ({"code": [f"sha256:{HASH.upper()}"]}, {"task": "a.b:C", "code_hash": HASH}),
        ({"code": [HASH]}, {"task": "a.b:C", "code_hash": f"sha256:{HASH}"}),
        ({"code": [HASH]}, {"task": "a.b:C", "code_hash": HASH.upper()}),
        ({"tasks": [], "code": [HASH]}, {"code_hash": HASH}),
        ({"code": ["*"]}, {"task": "a.b:C"}),
        ({"training": {"smallest_noise_multiplier": 1.0}}, {}),
        ({"training": {"largest_sampling_rate": 0.1, "smallest_sampling_rate": 0.1}}, {}),
        ({"training": {"mechanisms": ["gaussian"]}}, {"mechanism": "gaussian", "clip": None}),
        ({"training": {"units": ["client"]}}, {"unit": "client"}),
        ({"sending": {"encryption_required": True}}, {"encrypted": True}),
        ({"sending": {"smallest_sum": 3}}, {"silos_in_sum": 3}),
        ({"hours": {"timezone": "UTC", "days": ["wed"]}}, {}),
        ({"hours": {"timezone": "UTC", "start": "12:00", "end": "12:01"}}, {}),
        ({}, {"kind": "query"}),
    ],
)
def test_each_rule_allows_up_to_its_limit(
    ward: Ward, request_: Request, tables: dict, change: dict
) -> None:
    assert _limits(ward(**tables), replace(request_, **change)) == []


def test_all_that_is_wrong_is_named_at_once(ward: Ward, request_: Request) -> None:
    asked = replace(request_, requester="bob", noise_multiplier=0.1, sampling_rate=0.9)
    policy = ward(training={"smallest_noise_multiplier": 0.5, "largest_sampling_rate": 0.5})
    assert _limits(policy, asked) == [
        "requesters",
        "training.smallest_noise_multiplier",
        "training.largest_sampling_rate",
    ]


def test_plain_training_is_for_data_without_any_promise(ward: Ward, request_: Request) -> None:
    plain = replace(request_, unit=None, mechanism=None, noise_multiplier=None, clip=None)
    open_ = ward(training={"plain": True}, budget={"epsilon": math.inf, "delta": 1e-6})
    assert open_.decide(plain).allowed
    assert open_.decide(plain).limits == ()


def test_every_finite_limit_is_handed_to_the_ledger(ward: Ward, request_: Request) -> None:
    budget = {
        "epsilon": 3.0,
        "delta": 1e-5,
        "epsilon_per_job": 1.0,
        "epsilon_per_month": math.inf,
        "epsilon_per_requester": 2.0,
    }
    assert ward(budget=budget).decide(request_).limits == (
        BudgetLimit("dataset", 3.0, 1e-5),
        BudgetLimit("job", 1.0, 1e-5),
        BudgetLimit("requester", 2.0, 1e-5),
    )


def test_metrics_are_withheld_unless_the_policy_lets_them_go(ward: Ward, request_: Request) -> None:
    noised = {"release": "noised", "noise_multiplier": 20.0}
    asked = replace(
        request_,
        kind="evaluate",
        unit=None,
        mechanism=None,
        noise_multiplier=None,
        sampling_rate=None,
        clip=None,
        metrics=("loss", "recall", "accuracy", "loss"),
    )
    assert ward().decide(asked).metrics == (
        MetricRule("accuracy", "withheld"),
        MetricRule("loss", "withheld"),
        MetricRule("recall", "withheld"),
    )
    policy = ward(
        metrics={"accuracy": noised, "*": {"release": "exact"}, "loss": {"release": "withheld"}}
    )
    assert policy.decide(asked).metrics == (
        MetricRule("accuracy", "noised", 20.0),
        MetricRule("loss", "withheld"),
        MetricRule("recall", "exact"),
    )


def test_a_refusal_says_nothing_that_follows_from_the_records(
    ward: Ward, request_: Request
) -> None:
    """The rate is batch over records, and calibrated noise follows from the rate."""
    training = {"smallest_noise_multiplier": 5.0, "largest_sampling_rate": 0.01}
    asked = replace(request_, noise_multiplier=1.2345, sampling_rate=0.4321)
    hidden = ward(training=training).decide(asked).reason
    assert "1.2345" not in hidden
    assert "0.4321" not in hidden
    shown = ward(training=training, sending={"records_public": True}).decide(asked).reason
    assert "1.2345" in shown
    assert "0.4321" in shown


def test_a_refusal_does_not_tell_who_else_may_ask_or_what_else_lies_there(
    ward: Ward, request_: Request
) -> None:
    assert "alice" not in ward().decide(replace(request_, requester="bob")).reason
    assert "ward" not in ward().decide(replace(request_, dataset="other")).reason


def test_names_from_outside_cannot_forge_a_line(ward: Ward, request_: Request) -> None:
    reason = ward().decide(replace(request_, requester="eve\nallowed: all" + "x" * 999)).reason
    assert "\n" not in reason
    assert len(reason) < 300


def test_rules_of_a_data_set_come_before_those_of_all_others(
    policy: Callable[..., Policy], request_: Request
) -> None:
    rules = {"tasks": ["*"], "budget": {"epsilon": 1.0, "delta": 1e-6}}
    both = policy({"*": {**rules, "requesters": ["*"]}, "ward": {**rules, "requesters": ["carol"]}})
    assert not both.decide(request_).allowed
    assert both.decide(replace(request_, dataset="other")).allowed


def test_the_policy_of_a_simulation_allows_everything_and_says_so(request_: Request) -> None:
    policy = Policy.permissive()
    asked = replace(
        request_,
        task="own.module:Task",
        mechanism=None,
        noise_multiplier=None,
        metrics=("accuracy", "anything"),
    )
    decision = policy.decide(asked)
    assert decision.allowed
    assert decision.limits == ()
    assert decision.records_public
    assert {rule.release for rule in decision.metrics} == {"exact"}
    assert policy.decide(request_).allowed
    assert policy.decide(replace(request_, unit="client", mechanism="gaussian")).allowed
    assert "simulation" in policy.source


NIGHTS = {"timezone": "Europe/Berlin", "days": ["fri"], "start": "22:00", "end": "06:00"}


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        (datetime(2026, 1, 9, 20, 59, tzinfo=UTC), False),  # Friday 21:59 in Berlin
        (datetime(2026, 1, 9, 21, 0, tzinfo=UTC), True),
        (datetime(2026, 1, 10, 4, 59, tzinfo=UTC), True),  # Saturday, of Friday's night
        (datetime(2026, 1, 10, 5, 0, tzinfo=UTC), False),
        (datetime(2026, 1, 9, 3, 0, tzinfo=UTC), False),  # Friday 04:00, of Thursday's night
        (datetime(2026, 7, 10, 20, 0, tzinfo=UTC), True),  # summer time: 22:00 in Berlin
        (datetime(2026, 1, 9, 20, 0, tzinfo=UTC), False),
        (datetime(2026, 1, 10, 10, 30, tzinfo=timezone(timedelta(hours=13))), True),  # Friday 22:30
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(
    ward: Ward, request_: Request, moment: datetime, open_: bool
) -> None:
    assert ward(hours=NIGHTS).decide(replace(request_, at=moment)).allowed is open_


def test_whole_days_are_the_default_of_hours(ward: Ward, request_: Request) -> None:
    policy = ward(hours={"timezone": "UTC", "days": ["wed"]})
    day = datetime(2026, 3, 4, tzinfo=UTC)
    allowed = [
        policy.decide(replace(request_, at=day + timedelta(minutes=minutes))).allowed
        for minutes in (-1, 0, 12 * 60, 24 * 60 - 1, 24 * 60)
    ]
    assert allowed == [False, True, True, True, False]


def test_a_request_without_a_time_zone_or_of_an_unknown_kind_is_a_fault(
    request_: Request,
) -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(request_, at=datetime(2026, 3, 4))
    with pytest.raises(ValueError, match="kind"):
        replace(request_, kind="look")
