"""When the next key is due."""

from __future__ import annotations

import itertools

import pytest

from privet.privacy.encryption.keys import KeyAge, KeysError, Reason, Rotation, rotation

AGE = KeyAge(epoch=4, since=10, members=("ada", "bob"))


def decided(age=AGE, *, round=11, present=("bob", "ada"), tags_failed=False, every=5):
    return rotation(age, round=round, present=present, tags_failed=tags_failed, every=every)


def test_a_run_begins_with_epoch_one():
    assert decided(None) == Rotation(1, Reason.START)


def test_a_key_serves_its_rounds_and_no_more():
    kept = [round for round in range(10, 20) if decided(round=round) is None]
    assert kept == [10, 11, 12, 13, 14]
    assert decided(round=15) == Rotation(5, Reason.ROUNDS)
    assert decided(round=11, every=1) == Rotation(5, Reason.ROUNDS)


@pytest.mark.parametrize("present", [("ada",), ("ada", "bob", "cleo"), ("ada", "cleo"), ()])
def test_who_comes_or_goes_changes_the_key(present):
    assert decided(present=present) == Rotation(5, Reason.MEMBERS)


def test_the_weightiest_reason_is_given():
    assert decided(tags_failed=True) == Rotation(5, Reason.TAGS)
    assert decided(tags_failed=True, present=(), round=99) == Rotation(5, Reason.TAGS)
    assert decided(present=(), round=99) == Rotation(5, Reason.MEMBERS)


def test_epochs_only_ever_go_up_by_one():
    for round, present, failed in itertools.product(
        range(10, 20), [("ada",), ("ada", "bob")], [True, False]
    ):
        found = decided(round=round, present=present, tags_failed=failed)
        assert found is None or found.epoch == 5


@pytest.mark.parametrize("changes", [{"every": 0}, {"round": 9}])
def test_what_has_no_meaning_is_refused(changes):
    with pytest.raises(KeysError):
        decided(**changes)


def test_the_key_itself_says_how_old_it_is(federation):
    assert federation.key.age == KeyAge(epoch=1, since=1, members=("ada", "bob", "cleo"))
