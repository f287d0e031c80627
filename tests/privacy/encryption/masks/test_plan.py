"""The bound on silos that side with the server."""

from __future__ import annotations

import itertools

import pytest

from privet.privacy.encryption.keys import KeysError
from privet.privacy.encryption.masks import MaskError, RoundPlan, TooFewSilos, least_threshold


def server_can_cheat(silos: int, threshold: int, colluding: int) -> bool:
    """Brute force: can two different lists of survivors get enough approvals each?

    Honest silos approve one list each (or none); those that collude approve both.
    """
    honest = silos - colluding
    for choices in itertools.product((0, 1, 2), repeat=honest):
        approvals = [choices.count(which) + colluding for which in (1, 2)]
        if min(approvals) >= threshold:
            return True
    return False


@pytest.mark.parametrize("colluding", [0, 1, 2])
@pytest.mark.parametrize("silos", range(2, 9))
def test_the_least_threshold_is_the_smallest_at_which_no_server_can_cheat(silos, colluding):
    safe = [
        threshold
        for threshold in range(1, silos + 1)
        if not server_can_cheat(silos, threshold, colluding) and threshold - colluding >= 2
    ]
    if safe and silos > colluding:
        assert least_threshold(silos, colluding=colluding) == safe[0]
    else:
        with pytest.raises(MaskError, match="cannot withstand"):
            least_threshold(silos, colluding=colluding)


@pytest.fixture
def plan(group):
    def _plan(**changes):
        return RoundPlan(
            **{"session": group.plan.session, "round": 1, "job": bytes(32), "model": bytes(32)}
            | changes
        )

    return _plan


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"round": -1}, "round = -1 is outside"),
        ({"colluding": -1}, "colluding = -1 is outside"),
    ],
)
def test_a_plan_without_a_meaning_is_refused(plan, changes, problem):
    with pytest.raises(KeysError, match=problem):
        plan(**changes)


def test_the_threshold_follows_from_who_is_there_and_is_raised_by_the_settings(plan):
    assert [plan().least(silos) for silos in (3, 4, 5, 6, 16)] == [3, 3, 4, 4, 9]
    assert plan(threshold=5).least(6) == 5
    assert plan(colluding=0).least(2) == 2
    assert plan(masked=False).least(2) == 2
    with pytest.raises(TooFewSilos, match="6 silos are fewer than the threshold of 7"):
        plan(threshold=7).least(6)
    for few in (1, 2):
        with pytest.raises(MaskError, match="cannot withstand"):
            plan().least(few)
    with pytest.raises(TooFewSilos, match="1 silos are fewer than the threshold of 2"):
        plan(masked=False).least(1)
