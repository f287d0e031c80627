"""Persons who are more than one record, and how epsilon moves with delta."""

from __future__ import annotations

import math
from contextlib import nullcontext
from unittest.mock import patch

import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.audits import spent
from privet.audits.spent import DELTAS, TIMES, by_delta, in_one_silo, in_silos
from privet.privacy.accounting.events import Segment
from privet.privacy.ledger.costs import epsilon_of

DELTA = 1e-5
RUN = [Segment(1.5, 1 / 12, 120)]


def test_epsilon_rises_as_delta_falls() -> None:
    told = list(by_delta(RUN).values())
    assert len(told) == len(DELTAS)
    assert told == sorted(told)
    assert by_delta(RUN)["1e-05"] == epsilon_of(RUN, delta=DELTA)


def test_somebody_in_several_silos_is_their_composition() -> None:
    """Figures of dp-accounting 0.6: 3.18 alone, 4.54 in two silos, 5.65 in three, 7.51 in five."""
    found = in_silos({f"silo-{i}": RUN for i in range(5)}, delta=DELTA)
    assert [each.times for each in found] == list(TIMES)
    for each, expected in zip(found, (4.54, 5.65, 7.51), strict=True):
        assert math.isclose(each.epsilon, expected, abs_tol=0.006)
    assert [each.times for each in in_silos({"a": RUN, "b": RUN}, delta=DELTA)] == [2]


def test_somebody_several_times_in_one_silo() -> None:
    """Against the grid of 1e-3 of dp-accounting: 7.114, 11.638, 22.310."""
    found = in_one_silo(RUN, delta=DELTA)
    assert {each.method for each in found} == {"mixture"}
    for each, expected in zip(found, (7.1145, 11.6380, 22.3105), strict=True):
        assert math.isclose(each.epsilon, expected, rel_tol=1e-3)


@pytest.mark.parametrize(
    "parts",
    [
        [Segment(4.0, 0.05, 7)],
        pytest.param(RUN, marks=pytest.mark.slow),
        pytest.param([Segment(0.7, 0.5, 30), Segment(3.0, 1.0, 1)], marks=pytest.mark.slow),
    ],
)
def test_the_search_at_once_gives_dp_accountings_own_numbers(parts: list[Segment]) -> None:
    found = in_one_silo(parts, delta=DELTA)
    spent._mixture.cache_clear()
    with patch.object(spent, "_bisected_at_once", nullcontext):
        assert in_one_silo(parts, delta=DELTA) == found


def test_without_sampling_several_records_are_a_larger_one() -> None:
    (twice, *_) = in_one_silo([Segment(8.0, 1.0, 1)], delta=DELTA)
    exact = PLDAccountant(value_discretization_interval=1e-4).compose(GaussianDpEvent(4.0))
    assert math.isclose(twice.epsilon, exact.get_epsilon(DELTA), rel_tol=1e-2)
    assert twice.epsilon >= exact.get_epsilon(DELTA) * (1 - 1e-6)


def _demand_quick_above_exact(part: Segment) -> None:
    exact = in_one_silo([part], delta=DELTA)
    quick = in_one_silo([part], delta=DELTA, exact=False)
    for one, other in zip(exact, quick, strict=True):
        assert (one.method, other.method) == ("mixture", "domination")
        assert other.epsilon >= one.epsilon * (1 - 1e-2)


def test_the_quick_bound_is_above_the_exact_one() -> None:
    _demand_quick_above_exact(*RUN)


@pytest.mark.slow
@settings(max_examples=30)
@given(noise=st.floats(1.0, 4.0), rate=st.floats(0.05, 0.5), steps=st.integers(1, 30))
def test_the_quick_bound_is_never_below_the_exact_one(
    noise: float, rate: float, steps: int
) -> None:
    _demand_quick_above_exact(Segment(noise, rate, steps))


def test_without_noise_there_is_no_bound() -> None:
    for each in in_one_silo([Segment(0.0, 1.0, 1)], delta=DELTA):
        assert each.epsilon == math.inf


def test_nothing_spent_is_nothing_told() -> None:
    assert in_one_silo([], delta=DELTA) == []
    assert in_silos({}, delta=DELTA) == []
    assert set(by_delta([]).values()) == {0.0}


@pytest.mark.parametrize("times", TIMES)
def test_one_silo_costs_more_than_as_many_silos(times: int) -> None:
    apart = {p.times: p.epsilon for p in in_silos({str(i): RUN for i in range(5)}, delta=DELTA)}
    together = {p.times: p.epsilon for p in in_one_silo(RUN, delta=DELTA)}
    assert together[times] > apart[times]
