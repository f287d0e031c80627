"""What a ledger promises, one promise a test."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import sqlite3
import threading
from datetime import datetime, timedelta

import dp_accounting as dpa
import numpy as np
import pytest

from privet.errors import PrivacyError, PrivetError
from privet.privacy.accounting import dp_sgd_event, epsilon
from privet.privacy.ledger import (
    BudgetExceeded,
    Ledger,
    LedgerError,
    LedgerRefusal,
    Limit,
    fingerprint_of,
    read_history,
    verify,
)
from privet.privacy.ledger.database import connect

DELTA = 1e-5


def steps(count, *, noise=1.0, rate=0.1):
    return dp_sgd_event(noise_multiplier=noise, sampling_rate=rate, steps=count)


def reserve(ledger, event, *, dataset="heart", job="job", round=1, who="lab", limits=()):
    return ledger.reserve(
        dataset=dataset, job=job, round=round, event=event, who=who, limits=limits
    )


def kinds(ledger):
    return [entry.kind for entry in ledger.entries("heart")]


def test_a_reservation_is_in_the_file_before_a_record_is_opened(ledger, path):
    def records():
        other = sqlite3.connect(path)
        row = other.execute("SELECT kind, event FROM entries ORDER BY sequence DESC").fetchone()
        other.close()
        return row

    kind, event = reserve(ledger, steps(5)).records(records)
    assert kind == "reserve"
    assert json.loads(event)["times"] == 5


def test_a_transaction_waits_for_the_disk(ledger, path, monkeypatch):
    """SQLite is told to (2 is FULL); the signed head and its name are synced by us."""
    connection = connect(path)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(real(descriptor)))
    reserve(ledger, steps(1))
    assert len(synced) == 2


def test_a_commit_lowers_the_charge_to_what_ran(ledger):
    with reserve(ledger, steps(10)) as reservation:
        assert ledger.spent("heart", delta=DELTA) == epsilon([steps(10)], delta=DELTA)
        reservation.records(lambda: None)
        reservation.commit(steps(4))
    assert ledger.spent("heart", delta=DELTA) == epsilon([steps(4)], delta=DELTA)
    assert ledger.events("heart") == [steps(4)]


@pytest.mark.parametrize(
    "ran",
    [
        steps(11),
        steps(10, noise=0.999),
        steps(10, rate=0.1001),
        dpa.ComposedDpEvent([steps(10), steps(1, noise=50.0, rate=0.01)]),
        dpa.GaussianDpEvent(1.0),
    ],
)
def test_a_commit_that_is_not_provably_within_its_reservation_is_refused(ledger, path, key, ran):
    with reserve(ledger, steps(10)) as reservation:
        reservation.records(lambda: None)
        with pytest.raises(LedgerRefusal, match="stands in full"):
            reservation.commit(ran)
    assert ledger.events("heart") == [steps(10)]
    assert verify(path, key.public) == []


@pytest.mark.parametrize(
    "ran",
    [
        steps(10),
        steps(0),
        steps(10, noise=2.0),
        steps(10, rate=0.05),
        dpa.ComposedDpEvent([steps(6), steps(4, noise=3.0)]),
    ],
)
def test_a_commit_may_be_cheaper_in_every_way(ledger, ran):
    with reserve(ledger, steps(10)) as reservation:
        reservation.records(lambda: None)
        reservation.commit(ran)
    assert ledger.events("heart") == [ran]


def test_an_untouched_reservation_is_released_on_the_way_out(ledger):
    with reserve(ledger, steps(10)):
        pass
    assert ledger.events("heart") == []
    assert kinds(ledger)[-1] == "release"


def test_an_error_before_the_records_releases_and_stays_visible(ledger):
    with pytest.raises(ZeroDivisionError), reserve(ledger, steps(10)):
        _ = 1 / 0
    assert ledger.events("heart") == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_touched_reservation_stays_spent_unless_committed(ledger, fails):
    def records():
        if fails:
            raise OSError("the folder vanished")

    with contextlib.suppress(OSError), reserve(ledger, steps(10)) as reservation:
        reservation.records(records)
    assert ledger.events("heart") == [steps(10)]
    with pytest.raises(LedgerRefusal):
        reservation.release()
    with pytest.raises(LedgerRefusal):
        reservation.commit(steps(1))


def test_a_touched_reservation_cannot_be_released(ledger):
    reservation = reserve(ledger, steps(10))
    reservation.records(lambda: None)
    with pytest.raises(LedgerRefusal, match="records were opened"):
        reservation.release()
    assert kinds(ledger)[-1] == "reserve"


def test_records_cannot_be_opened_once_the_reservation_is_closed(ledger):
    opened = []
    committed, released = reserve(ledger, steps(1)), reserve(ledger, steps(1))
    committed.commit(steps(1))
    released.release()
    for reservation in (committed, released):
        with pytest.raises(LedgerRefusal, match="cannot be opened"):
            reservation.records(lambda: opened.append(1))
    assert opened == []


def test_a_reservation_is_marked_touched_while_its_records_are_being_opened(ledger):
    reservation = reserve(ledger, steps(3))
    inside, go_on = threading.Event(), threading.Event()

    def records():
        inside.set()
        go_on.wait(10)

    reader = threading.Thread(target=reservation.records, args=(records,))
    reader.start()
    assert inside.wait(10)
    with pytest.raises(LedgerRefusal):
        reservation.release()
    go_on.set()
    reader.join()
    assert ledger.events("heart") == [steps(3)]


def _in_child(reservation, ledger, queue):
    for act in (
        reservation.release,
        lambda: reservation.records(int),
        lambda: ledger.note("x", who="y"),
    ):
        try:
            act()
        except PrivetError as error:
            queue.put(str(error))
        else:
            queue.put(None)


def test_a_forked_process_can_use_neither_reservation_nor_ledger(ledger):
    reservation = reserve(ledger, steps(3))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(reservation, ledger, queue))
    child.start()
    answers = [queue.get() for _ in range(3)]
    child.join()
    assert [bool(answer and ("process" in answer or "fork" in answer)) for answer in answers] == [
        True,
        True,
        True,
    ]
    assert kinds(ledger)[-1] == "reserve"


def test_a_reservation_and_a_key_are_not_copied(ledger, key):
    for thing in (reserve(ledger, steps(1)), key):
        with pytest.raises(TypeError):
            copy.copy(thing)


@pytest.mark.parametrize(
    ("scope", "same", "other"),
    [
        ("dataset", {"job": "b", "who": "b"}, {"dataset": "lung"}),
        ("job", {"who": "b"}, {"job": "b"}),
        ("requester", {"job": "b"}, {"who": "b"}),
    ],
)
def test_a_limit_counts_its_scope_and_no_more(ledger, records, scope, same, other):
    ledger.register("lung", records(1))
    limit = Limit(epsilon([steps(10)], delta=DELTA), DELTA, scope)
    reserve(ledger, steps(10), limits=[limit])
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, steps(1), limits=[limit], **same)
    reserve(ledger, steps(10), limits=[limit], **other)
    assert refused.value.limit == limit
    assert refused.value.spent == limit.epsilon
    assert refused.value.projected == epsilon([steps(11)], delta=DELTA)


def test_a_monthly_limit_begins_anew_with_the_month(ledger, clock):
    limit = Limit(epsilon([steps(10)], delta=DELTA), DELTA, "month")
    reserve(ledger, steps(10), limits=[limit])
    clock.forward(hours=11, minutes=59)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, steps(1), limits=[limit])
    clock.forward(minutes=1)
    reserve(ledger, steps(10), limits=[limit])


def test_a_refused_reservation_leaves_no_trace(ledger):
    before = ledger.entries()
    with pytest.raises(BudgetExceeded, match=r"limit is epsilon 0\.1 at delta 1e-05"):
        reserve(ledger, steps(100), limits=[Limit(100, DELTA), Limit(0.1, DELTA)])
    assert ledger.entries() == before


def test_a_limit_holds_to_the_last_bit(ledger):
    exact = epsilon([steps(7)], delta=DELTA)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, steps(7), limits=[Limit(np.nextafter(exact, 0), DELTA)])
    reserve(ledger, steps(7), limits=[Limit(exact, DELTA)])


def test_training_without_noise_breaks_every_limit(ledger):
    with pytest.raises(BudgetExceeded):
        reserve(ledger, steps(1, noise=0.0), limits=[Limit(1e6, DELTA)])
    reserve(ledger, steps(1, noise=0.0))
    assert ledger.spent("heart", delta=DELTA) == np.inf


def test_a_projection_tells_what_a_reservation_would_find(ledger):
    limits = [Limit(1.0, DELTA), Limit(50.0, 1e-6, "job")]
    reserve(ledger, steps(3))
    found = ledger.project(dataset="heart", job="job", event=steps(9), who="x", limits=limits)
    assert [p.limit for p in found] == limits
    assert [p.fits for p in found] == [False, True]
    assert found[1].spent == epsilon([steps(3)], delta=1e-6)
    assert found[1].projected == epsilon([steps(12)], delta=1e-6)
    assert len(ledger.entries()) == 3


def test_only_registered_data_sets_and_accountable_events_are_reserved(ledger):
    with pytest.raises(LedgerRefusal, match="'lung' is not registered"):
        reserve(ledger, steps(1), dataset="lung")
    with pytest.raises(PrivacyError):
        reserve(ledger, dpa.LaplaceDpEvent(1.0))
    assert len(ledger.entries()) == 2


@pytest.mark.parametrize(
    "wrong", [{"job": ""}, {"job": "a\nb"}, {"who": "x" * 201}, {"round": -1}, {"round": True}]
)
def test_names_and_rounds_are_checked(ledger, wrong):
    with pytest.raises(LedgerRefusal, match=next(iter(wrong))):
        reserve(ledger, steps(1), **wrong)


@pytest.mark.parametrize(
    "wrong", [{"epsilon": -1}, {"epsilon": np.inf}, {"delta": 0}, {"delta": 1}, {"scope": "week"}]
)
def test_a_limit_says_what_is_wrong_with_it(wrong):
    with pytest.raises(PrivacyError, match=next(iter(wrong))):
        Limit(**{"epsilon": 1.0, "delta": 1e-5, **wrong})


def test_the_same_fingerprint_is_registered_once(ledger, records):
    ledger.register("heart", records(0))
    assert len(ledger.entries()) == 2


def test_a_changed_data_set_is_refused_until_it_has_grown_and_keeps_its_spend(ledger, records):
    reserve(ledger, steps(5))
    spent = ledger.spent("heart", delta=DELTA)
    with pytest.raises(LedgerRefusal, match=r"has changed \(content\)"):
        ledger.register("heart", records(1))
    ledger.register("heart", records(1), change="grown")
    ledger.register("heart", records(1))
    assert ledger.spent("heart", delta=DELTA) == spent
    with pytest.raises(LedgerRefusal, match="has changed"):
        ledger.register("heart", records(0))


def test_records_have_one_budget_whatever_they_are_called(ledger, records):
    with pytest.raises(LedgerRefusal, match="registered as 'heart'"):
        ledger.register("heart-2", records(0))
    ledger.register("heart", records(1), change="grown")
    for old in (0, 1):
        with pytest.raises(LedgerRefusal, match="registered as 'heart'"):
            ledger.register("heart-2", records(old))


def test_a_fingerprint_is_of_the_records_and_not_of_their_order():
    inputs, targets = np.arange(12.0).reshape(6, 2), np.arange(6)
    order = np.random.default_rng(0).permutation(6)
    same = fingerprint_of(inputs[order], targets[order])
    assert same == fingerprint_of(inputs, targets)
    assert same == fingerprint_of(inputs.astype(">f8"), targets)
    assert same.content not in repr(same)
    assert fingerprint_of(inputs[order], targets) != same
    changed = inputs.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 0)
    assert fingerprint_of(changed, targets) != same
    assert fingerprint_of(inputs.astype(np.float32), targets).schema != same.schema


@pytest.mark.parametrize(
    "wrong", [(np.zeros((3, 1)), np.zeros(2)), (np.zeros(0),), (np.array([{}]),)]
)
def test_what_has_no_fingerprint(wrong):
    with pytest.raises(PrivetError, match="fingerprint"):
        fingerprint_of(*wrong)


def test_the_fingerprint_is_not_in_the_file(path, key, clock):
    found = fingerprint_of(np.zeros((31337, 1), np.uint8), np.zeros(31337, np.uint8))
    with Ledger.create(path, key, clock=clock) as ledger:
        ledger.register("heart", found)
    content = path.read_bytes()
    assert found.content.encode() not in content
    assert b"31337" not in content
    assert b"uint8" not in content
    assert b"|u1" not in content


def test_the_clock_may_lag_a_little_and_not_more(ledger, clock, path, key):
    ledger.note("before", who="operator")
    clock.forward(minutes=-5)
    ledger.note("five minutes back", who="operator")
    clock.forward(minutes=-5, seconds=-1)
    with pytest.raises(LedgerError, match="the clock says 2025-01-31T11:49:59"):
        reserve(ledger, steps(1))
    assert len(ledger.entries()) == 4
    ledger.note("the clock ran ahead", who="operator", clock_set_back=True)
    reserve(ledger, steps(1))
    times = [entry.time for entry in ledger.entries()]
    assert times != sorted(times)
    assert verify(path, key.public) == []


def test_the_clock_of_a_silo_has_a_time_zone(path, key):
    with pytest.raises(LedgerError, match="time zone"):
        Ledger.create(path, key, clock=lambda: datetime(2025, 1, 1))


def test_two_open_ledgers_see_each_other(ledger, path, key, clock):
    limit = Limit(epsilon([steps(10)], delta=DELTA), DELTA)
    with Ledger.open(path, key, clock=clock) as second:
        reserve(second, steps(6), limits=[limit])
        with pytest.raises(BudgetExceeded):
            reserve(ledger, steps(5), limits=[limit])
        reserve(ledger, steps(4), limits=[limit])
        assert second.spent("heart", delta=DELTA) == limit.epsilon


def test_threads_share_a_ledger_and_never_overspend(ledger, path, key):
    limit = Limit(epsilon([steps(10)], delta=DELTA), DELTA)
    won = []

    def race():
        for _ in range(3):
            with contextlib.suppress(BudgetExceeded):
                won.append(reserve(ledger, steps(1), limits=[limit]))

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 10
    assert verify(path, key.public) == []


def test_a_closed_ledger_is_one_file_and_does_nothing_more(ledger, path):
    ledger.close()
    ledger.close()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "ledger.sqlite",
        "ledger.sqlite.head",
        "ledger.sqlite.lock",
    ]
    with pytest.raises(LedgerError, match="is closed"):
        ledger.note("late", who="operator")


def test_entries_survive_reopening(ledger, path, key, clock):
    reserve(ledger, steps(5)).records(lambda: None)
    before = ledger.entries()
    ledger.close()
    with Ledger.open(path, key, clock=clock) as again:
        assert again.entries() == before
        assert again.events("heart") == [steps(5)]
    assert read_history(path).entries == before


def test_a_commit_needs_the_reservation_it_came_from(ledger, path, key, clock):
    """Whoever opens the ledger anew has no way to lower or to release what stands."""
    reserve(ledger, steps(5))
    with Ledger.open(path, key, clock=clock) as again:
        doors = {name for name in dir(again) if not name.startswith("_")}
    assert doors == {
        "approved", "chain", "close", "count_failure", "create", "decide", "ended", "entries",
        "events", "failures", "forgive", "holds", "let_grow", "note", "note_evaluation",
        "note_files", "note_job", "open",
        "path", "project", "public_key", "register", "reserve", "sign_export", "spent",
        "training_noise",
    }  # fmt: skip


def test_an_entry_says_who_when_and_with_what(ledger, clock):
    clock.forward(seconds=1)
    sequence = reserve(ledger, steps(1), job="trial", round=7, who="lab").sequence
    entry = ledger.entries()[-1]
    assert (entry.sequence, entry.job, entry.round, entry.who) == (sequence, "trial", 7, "lab")
    assert entry.time == "2025-01-31T12:00:01.000000+00:00"
    assert {"privet", "python", "dp-accounting"} <= set(json.loads(entry.versions))


def test_silos_take_turns_within_the_tolerance_of_their_clocks(ledger, path, key, clock):
    behind = lambda: clock() - timedelta(minutes=4)  # noqa: E731
    with Ledger.open(path, key, clock=behind) as second:
        for _ in range(3):
            second.note("behind", who="operator")
            ledger.note("ahead", who="operator")
    assert verify(path, key.public) == []
