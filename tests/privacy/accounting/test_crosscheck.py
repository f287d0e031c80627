import logging
import math

import pytest
from opacus.accountants import PRVAccountant

from privet.privacy.accounting import cross_check, crosscheck, dp_sgd_event

DELTA = 1e-5


def dp_sgd(noise_multiplier, sampling_rate, steps):
    return dp_sgd_event(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps)


@pytest.mark.parametrize(
    ("segments", "rdp", "prv"),
    [
        ([(1.0, 1 / 12, 120)], 7.159, 6.382),
        ([(0.8, 64 / 6000, 4700)], 7.836, 7.130),
        ([(10.0, 1.0, 100)], 4.729, 4.387),
    ],
)
def test_three_accountants_agree(segments, rdp, prv):
    checks = cross_check([dp_sgd(*s) for s in segments], delta=DELTA)
    assert checks.agree
    assert not checks.notes
    assert checks.rdp == pytest.approx(rdp, rel=2e-3)
    assert checks.prv == pytest.approx(prv, rel=2e-3)
    assert checks.pld <= checks.prv <= checks.pld + 0.03
    assert checks.pld <= checks.rdp <= 1.15 * checks.pld


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("segment", "tolerance"),
    [((1.0, 1 / 12, 120), 0.03), ((0.55, 0.2, 250), 0.002)],
    ids=["0.02 and PRV's own error", "0.2 % of a large epsilon"],
)
def test_prv_must_be_as_near_as_the_documentation_says(segment, tolerance, sign, monkeypatch):
    events = [dp_sgd(*segment)]
    figure = cross_check(events, delta=DELTA).pld
    allowed = tolerance if figure < 15 else tolerance * figure
    assert 5 < figure < crosscheck.PRV_EPSILON
    for share, agree in ((0.98, True), (1.02, False)):
        answer = figure + sign * share * allowed
        monkeypatch.setattr(crosscheck, "_prv", lambda *_, answer=answer: answer)
        checks = cross_check(events, delta=DELTA)
        assert checks.agree is agree
        assert any("apart" in problem for problem in checks.problems) is not agree


def test_prv_is_asked_for_a_tight_answer(monkeypatch):
    asked = []
    found = PRVAccountant.get_epsilon
    monkeypatch.setattr(
        PRVAccountant,
        "get_epsilon",
        lambda self, delta, **how: asked.append(how) or found(self, delta, **how),
    )
    assert cross_check([dp_sgd(1.0, 1 / 12, 119)], delta=DELTA).prv is not None
    assert asked == [{"eps_error": 0.01}]


def test_several_mechanisms_are_all_counted():
    """Opacus' GDP forgets all but the last of these, and under-states by more than half."""
    events = [dp_sgd(1.0, 1 / 12, 60), dp_sgd(3.0, 0.01, 10)]
    checks = cross_check(events, delta=DELTA)
    assert checks.agree
    assert checks.prv > cross_check(events[1:], delta=DELTA).prv * 2


def test_prv_is_left_out_with_the_reason_when_there_are_many_mechanisms():
    events = [dp_sgd(1.0 + 0.1 * i, 0.1, 10) for i in range(20)]
    checks = cross_check(events, delta=DELTA)
    assert checks.prv is None
    assert "20 distinct mechanisms" in checks.notes[0]
    assert checks.agree
    same = cross_check([dp_sgd(1.0, 0.1, 10)] * 20, delta=DELTA)
    assert same.prv is not None


def test_rare_sampling_where_rdp_is_loose_is_no_disagreement_when_prv_confirms():
    checks = cross_check([dp_sgd(1.0, 0.001, 10_000)], delta=DELTA)
    assert checks.rdp > 1.5 * checks.pld
    assert checks.agree
    assert abs(checks.prv - checks.pld) < 0.02


def test_nothing_and_everything():
    nothing = cross_check([], delta=DELTA)
    assert (nothing.pld, nothing.rdp, nothing.prv) == (0.0, 0.0, None)
    everything = cross_check([dp_sgd(0.0, 0.1, 1)], delta=DELTA)
    assert everything.pld == everything.rdp == math.inf
    assert nothing.agree
    assert everything.agree


@pytest.mark.parametrize("segment", [(0.3, 0.1, 100), (100.0, 0.01, 1), (0.07, 1.0, 1)])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.5])
def test_extremes_do_not_crash(segment, delta):
    checks = cross_check([dp_sgd(*segment)], delta=delta)
    assert checks.prv is not None or checks.notes


def test_the_root_logger_and_the_reader_are_left_alone(caplog):
    before = list(logging.getLogger().handlers)
    with caplog.at_level(logging.WARNING):
        cross_check([dp_sgd(1.0, 1 / 12, 121)], delta=DELTA)
    assert not [record for record in caplog.records if "converge" in record.message]
    assert list(logging.getLogger().handlers) == before
