"""The bound on silos that side with the server."""

from __future__ import annotations

import itertools

import pytest

from privet.privacy.encryption.keys import KeysError
from privet.privacy.encryption.masks import MaskError, MaskPlan, TooFewSilos, least_threshold


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
        return MaskPlan(
            **{"session": group.plan.session, "round": 1, "threshold": 3, "count": 5} | changes
        )

    return _plan


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bits": 0}, "bits = 0 is outside 1 to 64"),
        ({"bits": 65}, "bits = 65 is outside 1 to 64"),
        ({"count": 0}, "no coefficients"),
        ({"round": -1}, "round = -1 is outside"),
        ({"colluding": -1}, "colluding = -1 is outside"),
    ],
)
def test_a_plan_without_a_meaning_is_refused(plan, changes, problem):
    with pytest.raises(KeysError, match=problem):
        plan(**changes)


def test_a_threshold_fits_the_silos_that_are_there(plan):
    plan(threshold=3).check_silos(4)
    with pytest.raises(MaskError, match="it must be 4 or more"):
        plan(threshold=3).check_silos(5)
    with pytest.raises(TooFewSilos, match="2 silos are fewer than the threshold of 3"):
        plan(threshold=3).check_silos(2)
    with pytest.raises(MaskError, match="cannot withstand"):
        plan(threshold=2).check_silos(2)
    plan(threshold=2, colluding=0).check_silos(2)
