"""How many rounds fit, and with how much noise: against trying one round after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.privacy.accounting import dp_sgd_event, epsilon, plain_event
from privet.privacy.ledger import (
    BudgetExceeded,
    Ledger,
    Limit,
    fingerprint_of,
    fitting_noise,
    forecast,
)

DELTA = 1e-5


def event(noise=2.0, steps=4):
    return dp_sgd_event(noise_multiplier=noise, sampling_rate=0.1, steps=steps)


@pytest.fixture
def project(ledger):
    ledger.register("hearts", fingerprint_of(np.zeros((3, 2))))

    def with_limits(*limits, job="job", who="lab"):
        return lambda wish: ledger.project(
            dataset="hearts", job=job, event=wish, who=who, limits=limits
        )

    return with_limits


def reserve(ledger: Ledger, round_, wish, limits=(), job="job"):
    return ledger.reserve(
        dataset="hearts", job=job, round=round_, event=wish, who="lab", limits=limits
    )


@pytest.mark.parametrize("allowed", [0.3, 0.8, 1.2, 5.0])
def test_the_rounds_that_fit_are_those_that_can_be_reserved(ledger, project, allowed):
    limits = [Limit(allowed, DELTA), Limit(2.0, DELTA, "job")]
    told = forecast(project(*limits), event(), rounds=12)
    done = 0
    for round_ in range(12):
        try:
            reserve(ledger, round_, event(), limits)
        except BudgetExceeded:
            break
        done += 1
    assert told.rounds == done
    assert told.fits == (done == 12)


def test_a_forecast_tells_the_coming_round_and_the_whole_job(project):
    told = forecast(project(Limit(9.0, DELTA)), event(), rounds=10)
    assert told.coming[0].projected == pytest.approx(epsilon([event()], delta=DELTA))
    assert told.whole[0].projected == pytest.approx(epsilon([event()] * 10, delta=DELTA))


def test_without_limits_everything_fits(project):
    told = forecast(project(), plain_event(), rounds=7)
    assert (told.rounds, told.fits, told.whole) == (7, True, ())


def test_plain_training_never_fits_a_limit(project):
    told = forecast(project(Limit(1000.0, DELTA)), plain_event(), rounds=7)
    assert (told.rounds, told.fits) == (0, False)


@given(allowed=st.floats(0.2, 4.0), before=st.integers(0, 5), rounds=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_raised_noise_fits_and_is_not_wasted(allowed, before, rounds):
    """A pure model of the ledger: what was spent before is in every projection."""
    from privet.privacy.ledger.costs import epsilon_of, event_text, parts_of
    from privet.privacy.ledger.history import Projection

    limit = Limit(allowed, DELTA)
    spent = [part for _ in range(before) for part in parts_of(event_text(event(noise=6.0)))]

    def project(wish):
        parts = parts_of(event_text(wish))
        after = epsilon_of([*spent, *parts], delta=DELTA)
        return (Projection(limit, epsilon_of(spent, delta=DELTA), after),)

    noise = fitting_noise(project, event, rounds=rounds, floor=1.0)
    if noise is None:
        assert epsilon_of(spent, delta=DELTA) > 0.98 * allowed
        return
    told = forecast(project, event(noise), rounds=rounds)
    assert told.fits
    assert noise == 1.0 or told.whole[0].projected >= 0.99 * allowed


def test_enough_noise_is_left_alone_and_too_little_budget_is_said(ledger, project):
    assert fitting_noise(project(Limit(50.0, DELTA)), event, rounds=3, floor=2.5) == 2.5
    reserve(ledger, 1, event(noise=0.5))
    assert fitting_noise(project(Limit(0.1, DELTA)), event, rounds=3, floor=2.5) is None
    assert fitting_noise(project(Limit(0.0, DELTA)), event, rounds=3, floor=2.5) is None


def test_the_noise_of_a_job_is_that_of_its_training(ledger, project):
    assert ledger.training_noise(dataset="hearts", job="job") == 0
    reserve(ledger, 1, event(noise=3.0))
    reserve(ledger, 2, event(noise=4.0), job="other")
    ledger.reserve(
        dataset="hearts", job="job", round=1, event=event(noise=50.0), who="lab", use="evaluation"
    )
    assert ledger.training_noise(dataset="hearts", job="job") == 3.0


def test_a_round_is_held_once_it_is_reserved_and_until_it_is_released(ledger, project):
    place = {"dataset": "hearts", "job": "job", "round": 4, "event": event()}
    assert not ledger.holds(**place)
    reservation = reserve(ledger, 4, event())
    assert ledger.holds(**place)
    assert not ledger.holds(**{**place, "event": event(noise=9.0)})
    assert not ledger.holds(**{**place, "round": 5})
    reservation.release()
    assert not ledger.holds(**place)


def test_a_remark_about_a_job_is_recorded_once(ledger, project):
    before = len(ledger.entries())
    for _ in range(3):
        ledger.note_job("refused: so it is", dataset="hearts", job="job", who="lab")
    ledger.note_job("refused: so it is", dataset="hearts", job="other", who="lab")
    assert len(ledger.entries()) == before + 2
