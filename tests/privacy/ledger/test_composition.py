"""Epsilon is a pure function of what ran, whatever the order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import PrivacyError
from privet.privacy.accounting import cross_check, dp_sgd_event, epsilon
from privet.privacy.accounting.events import Segment
from privet.privacy.ledger.costs import covers, epsilon_of

MECHANISMS = [(1.0, 0.05), (1.3, 0.02), (2.0, 0.1), (4.0, 1.0)]
segments = st.builds(
    lambda mechanism, steps: Segment(*mechanism, steps),
    st.sampled_from(MECHANISMS),
    st.integers(1, 20),
)


def as_event(part):
    return dp_sgd_event(
        noise_multiplier=part.noise_multiplier, sampling_rate=part.sampling_rate, steps=part.steps
    )


@given(st.lists(segments, max_size=8), st.randoms())
@settings(max_examples=40)
def test_order_and_grouping_do_not_change_a_bit(parts, random):
    shuffled = [
        Segment(part.noise_multiplier, part.sampling_rate, 1)
        for part in parts
        for _ in range(part.steps)
    ]
    random.shuffle(shuffled)
    assert epsilon_of(shuffled, delta=1e-5) == epsilon_of(parts, delta=1e-5)


@given(st.lists(segments, min_size=1, max_size=6))
@settings(max_examples=30)
def test_it_is_what_the_accountant_says(parts):
    events = [as_event(part) for part in parts]
    assert epsilon_of(parts, delta=1e-5) == pytest.approx(epsilon(events, delta=1e-5), rel=2e-3)


@given(st.lists(segments, max_size=6), segments)
@settings(max_examples=30)
def test_one_more_step_never_costs_less(parts, more):
    before, after = epsilon_of(parts, delta=1e-5), epsilon_of([*parts, more], delta=1e-5)
    assert after >= before


def test_changing_rate_noise_and_mechanism_passes_the_cross_checks():
    parts = [Segment(1.1, 0.02, 60), Segment(1.4, 0.05, 40), Segment(6.0, 1.0, 3)]
    checks = cross_check([as_event(part) for part in parts], delta=1e-5)
    assert checks.agree, checks.problems
    assert checks.prv is not None
    assert epsilon_of(parts, delta=1e-5) == pytest.approx(checks.prv, abs=0.03)
    assert epsilon_of(parts, delta=1e-5) <= checks.rdp


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon_of([], delta=1e-5) == 0
    assert epsilon_of([Segment(1.0, 0.1, 5), Segment(0.0, 0.1, 1)], delta=1e-5) == math.inf
    with pytest.raises(PrivacyError, match="delta"):
        epsilon_of([], delta=1.0)


def test_a_hundred_mechanisms_are_composed_like_one():
    """Nearly equal mechanisms must cost nearly what equal ones cost."""
    different = [Segment(2.0 + 1e-9 * i, 0.1, 1) for i in range(100)]
    assert epsilon_of(different, delta=1e-5) == pytest.approx(
        epsilon_of([Segment(2.0, 0.1, 100)], delta=1e-5), rel=0.02
    )


@given(st.lists(segments, max_size=4), st.lists(segments, max_size=4))
@settings(max_examples=60)
def test_what_a_reservation_covers_costs_no_more(reserved, ran):
    reserved, ran = _distinct(reserved), _distinct(ran)
    if covers(reserved, ran):
        assert epsilon_of(ran, delta=1e-5) <= epsilon_of(reserved, delta=1e-5) * (1 + 1e-9)


@given(st.lists(segments, max_size=4), st.data())
@settings(max_examples=60)
def test_a_reservation_covers_every_part_of_itself(reserved, data):
    reserved = _distinct(reserved)
    ran = [
        Segment(part.noise_multiplier, part.sampling_rate, data.draw(st.integers(1, part.steps)))
        for part in reserved
    ]
    assert covers(reserved, ran)
    for part in reserved[:1]:
        longer = Segment(part.noise_multiplier, part.sampling_rate, part.steps + 1)
        assert not covers([part], [longer])


@given(
    st.floats(0.8, 3),
    st.floats(0.01, 1),
    st.floats(1, 3),
    st.floats(0.1, 1),
    st.sampled_from([1e-6, 1e-3, 0.05]),
)
@settings(max_examples=25)
def test_more_noise_and_a_lower_rate_never_cost_more(noise, rate, louder, rarer, delta):
    """The rule that `covers` rests on, asked of the accountant."""
    dear = epsilon_of([Segment(noise, rate, 3)], delta=delta)
    cheap = epsilon_of([Segment(noise * louder, rate * rarer, 3)], delta=delta)
    # The discretisation of the two differs by up to a grid step.
    assert cheap <= dear + 2e-3


def _distinct(parts):
    return list({(p.noise_multiplier, p.sampling_rate): p for p in parts}.values())
