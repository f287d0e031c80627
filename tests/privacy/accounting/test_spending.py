import math
import random

import dp_accounting as dpa
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import PrivacyError
from privet.privacy.accounting import Spending, dp_sgd_event, epsilon, noise_multiplier_for

DELTA = 1e-5


def dp_sgd(noise_multiplier, sampling_rate, steps):
    return dp_sgd_event(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps)


def reference(events, *, grid=1e-4, relation=dpa.NeighboringRelation.ADD_OR_REMOVE_ONE):
    accountant = PLDAccountant(relation, value_discretization_interval=grid)
    for event in events:
        accountant.compose(event)
    return accountant.get_epsilon(DELTA)


THREE = [(1.0, 1 / 12, 60), (1.5, 0.16, 125), (0.8, 64 / 6000, 900)]
TWENTY = [(1.0 + 0.1 * i, 0.02 + 0.005 * i, 10 + i) for i in range(20)]


@pytest.mark.parametrize(
    ("segments", "published"),
    [
        ([(1.0, 1 / 12, 120)], 6.372),
        ([(1.5, 1 / 12, 1200)], 11.238),
        ([(0.8, 64 / 6000, 4700)], 7.120),
        ([(0.7, 512 / 60000, 4680)], 7.934),
        ([(2.0, 0.16, 125)], 4.416),
        ([(1.2, 32 / 300, 270)], 9.110),
        ([(10.0, 1.0, 100)], 4.3772),
    ],
)
def test_reference_values_within_a_fifth_of_a_percent(segments, published):
    assert epsilon([dp_sgd(*s) for s in segments], delta=DELTA) == pytest.approx(
        published, rel=2e-3
    )


def test_three_segments_agree_with_a_ten_times_finer_grid():
    events = [dp_sgd(*s) for s in THREE]
    ours, exact = epsilon(events, delta=DELTA), reference(events)
    assert ours == pytest.approx(exact, rel=2e-3)
    assert ours >= exact - 1e-6  # pessimistic


def test_twenty_segments_agree_with_dp_accounting():
    events = [dp_sgd(*s) for s in TWENTY]
    ours = epsilon(events, delta=DELTA)
    assert ours == pytest.approx(reference(events, grid=1e-3), rel=1e-6)
    finer = 3.2227166116133787  # reference(events, grid=1e-4)
    assert finer - 1e-6 <= ours <= finer * 1.002


@given(
    sigma=st.floats(0.6, 20),
    rate=st.floats(0.005, 1.0),
    steps=st.integers(1, 300),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
)
@settings(max_examples=15, deadline=None)
def test_one_mechanism_agrees_with_dp_accounting(sigma, rate, steps, delta):
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(dp_sgd(sigma, rate, steps))
    theirs = accountant.get_epsilon(delta)
    ours = epsilon([dp_sgd(sigma, rate, steps)], delta=delta)
    # Where one step's loss is small against the grid we refine and end below them, never above.
    assert ours <= theirs * (1 + 1e-6) + 1e-6
    assert ours >= 0.55 * theirs


def test_small_steps_are_not_drowned_by_the_grid():
    """At grid 1e-3 dp-accounting's own answer, 0.587, lies above its RDP bound of 0.410."""
    event = dp_sgd(3.0, 0.001, 100_000)
    renyi = RdpAccountant().compose(event).get_epsilon(DELTA)
    finest = 0.3729  # PLDAccountant at grid 2e-5
    assert epsilon([event], delta=DELTA) == pytest.approx(finest, rel=3e-3)
    assert epsilon([event], delta=DELTA) < renyi < reference([event], grid=1e-3)


def test_the_way_back_to_the_common_grid_is_pessimistic():
    event = dp_sgd(30.0, 0.01, 1000)
    exact = reference([event], grid=1e-5)
    assert exact - 1e-6 <= epsilon([event], delta=DELTA) <= exact * 1.005


def test_rounds_of_one_mechanism_cost_exactly_what_the_whole_run_costs():
    whole = epsilon([dp_sgd(2.5, 0.44, 120)], delta=DELTA)
    spending = Spending()
    for _ in range(40):
        spending = spending.after(dp_sgd(2.5, 0.44, 3))
    assert spending.epsilon(DELTA) == whole


def test_order_and_grouping_do_not_matter():
    events = [dp_sgd(*s) for s in TWENTY]
    shuffled = random.Random(3).sample(events, len(events))
    nested = dpa.SelfComposedDpEvent(dpa.ComposedDpEvent(events[:2]), 3)
    flat = [event for event in events[:2] for _ in range(3)]
    assert epsilon(shuffled, delta=DELTA) == pytest.approx(epsilon(events, delta=DELTA), rel=1e-9)
    assert epsilon([nested], delta=DELTA) == pytest.approx(epsilon(flat, delta=DELTA), rel=1e-9)


def test_spending_is_immutable_and_keeps_its_events():
    first, second = dp_sgd(1.0, 0.1, 5), dp_sgd(2.0, 0.1, 5)
    before = Spending().after(first)
    value = before.epsilon(DELTA)
    after = before.after(second)
    assert before.events == (first,)
    assert before.epsilon(DELTA) == value < after.epsilon(DELTA)
    assert after.events == (first, second)
    assert Spending((first, second)) == after
    assert Spending((first, second)).epsilon(DELTA) == after.epsilon(DELTA)


def test_more_events_never_cost_less():
    spending, last = Spending(), 0.0
    for segment in TWENTY:
        spending = spending.after(dp_sgd(*segment))
        assert spending.epsilon(DELTA) > last
        last = spending.epsilon(DELTA)
    assert spending.epsilon(1e-8) > spending.epsilon(1e-3)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert Spending().epsilon(DELTA) == 0
    assert epsilon([], delta=DELTA) == 0
    assert epsilon([dpa.NoOpDpEvent()], delta=DELTA) == 0
    nobody = dpa.PoissonSampledDpEvent(0.0, dpa.GaussianDpEvent(1.0))
    assert epsilon([nobody], delta=DELTA) == 0
    bare = dp_sgd(0.0, 0.1, 1)
    assert epsilon([bare], delta=DELTA) == math.inf
    mixed = [dp_sgd(1.0, 0.1, 5), bare, dp_sgd(1.0, 0.1, 5)]
    assert epsilon(mixed, delta=DELTA) == math.inf


@pytest.mark.parametrize("segment", [(0.01, 0.5, 10), (0.3, 0.5, 10**9), (1.0, 1.0, 10**15)])
def test_absurd_parameters_are_unbounded_rather_than_a_crash(segment):
    assert epsilon([dp_sgd(*segment)], delta=DELTA) == math.inf


def test_so_much_noise_that_delta_covers_all():
    assert epsilon([dp_sgd(1e6, 0.01, 1)], delta=DELTA) == 0


def test_the_adjacency_is_add_or_remove():
    """The same event costs about twice as much under replace-one adjacency."""
    event = dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(4.0), 10)
    ours = epsilon([event], delta=DELTA)
    replace_one = reference([event], relation=dpa.NeighboringRelation.REPLACE_ONE)
    assert ours == pytest.approx(3.341, rel=2e-3)
    assert replace_one == pytest.approx(7.511, rel=2e-3)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 1e-13, math.nan])
def test_impossible_deltas_are_named(delta):
    with pytest.raises(PrivacyError, match=r"privacy\.delta"):
        epsilon([dp_sgd(1.0, 0.1, 1)], delta=delta)


def test_an_unknown_event_is_refused():
    with pytest.raises(PrivacyError, match="LaplaceDpEvent"):
        Spending().after(dpa.LaplaceDpEvent(1.0))
    with pytest.raises(PrivacyError, match="PoissonSampledDpEvent"):
        Spending().after(dpa.PoissonSampledDpEvent(0.1, dpa.LaplaceDpEvent(1.0)))


@pytest.mark.parametrize(
    ("segment", "cost"),
    [((1e-200, 0.5, 1), math.inf), ((1e200, 0.5, 10), 0.0), ((1.0, 5e-324, 10), 0.0)],
)
def test_what_floats_can_hardly_hold_is_accounted_all_the_same(segment, cost):
    assert epsilon([dp_sgd(*segment)], delta=DELTA) == cost


def test_more_steps_than_a_float_can_count_are_refused():
    event = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=10**400)
    with pytest.raises(PrivacyError, match=r"at most 2\^53"):
        Spending((event,))
    with pytest.raises(PrivacyError, match=r"at most 2\^53"):
        noise_multiplier_for(epsilon=1.0, delta=1e-5, sampling_rate=0.1, steps=10**400)


def test_an_account_that_did_not_move_is_not_worked_out_again(monkeypatch):
    """However many others there are: a silo that idles is asked for in every round."""
    accounts = [Spending().after(dp_sgd(1 + k / 100, 0.1, 5)) for k in range(70)]
    before = [each.epsilon(DELTA) for each in accounts]
    monkeypatch.setattr("privet.privacy.accounting.spending.composed_epsilon", None)
    assert [each.epsilon(DELTA) for each in accounts] == before
    with pytest.raises(TypeError):
        accounts[0].after(dp_sgd(1.0, 0.1, 5)).epsilon(DELTA)
