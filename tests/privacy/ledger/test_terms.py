"""The terms of a job: its rounds in order, each a few times, until its order ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.privacy.accounting import dp_sgd_event
from privet.privacy.ledger import (
    JobTerms,
    Ledger,
    LedgerError,
    SiloKey,
    TermsRefused,
    fingerprint_of,
    verify,
)
from privet.privacy.ledger.reservation import Reservation

STEP = dp_sgd_event(noise_multiplier=2.0, sampling_rate=0.1, steps=1)


def use(ledger: Ledger, round_: int, terms: JobTerms, job: str = "job", **more: Any) -> Reservation:
    place = {"dataset": "heart", "job": job, "round": round_, "who": "ana", **more}
    return ledger.reserve(event=STEP, terms=terms, **place)


@settings(max_examples=25, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from(["one", "two"]),
            st.integers(1, 4),
            st.sampled_from(["training", "evaluation", "free"]),
            st.booleans(),
        ),
        max_size=25,
    ),
    attempts=st.integers(1, 3),
)
def test_whatever_is_asked_rounds_go_forward_and_each_is_used_a_few_times(
    asked: list[tuple[str, int, str, bool]], attempts: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    key = SiloKey.create(path.with_suffix(".key"))
    Ledger.create(path, key, durable=False).close()
    used: dict[tuple[str, str], list[int]] = {}
    ledger = Ledger.open(path, key, durable=False)
    ledger.register("heart", fingerprint_of(np.zeros((4, 2))))
    for job, round_, what, anew in asked:
        terms = JobTerms(attempts=attempts, order=job * 3)
        kind = "training" if what == "training" else "evaluation"
        before = used.setdefault((job, kind), [])
        allowed = round_ >= (before or [0])[-1] and before.count(round_) < attempts
        if anew:  # nothing is remembered but what is on disk
            ledger.close()
            ledger = Ledger.open(path, key, durable=False)
        try:
            if what == "free":
                place = {"dataset": "heart", "job": job, "round": round_, "who": "ana"}
                ledger.note_evaluation("told", **place, terms=terms)
            else:
                use(ledger, round_, terms, job, use=what).records(lambda: None)
        except TermsRefused:
            assert not allowed
        else:
            assert allowed
            before.append(round_)
    ledger.close()
    assert verify(path, key.public) == []
    for rounds in used.values():
        assert rounds == sorted(rounds)
        assert max(Counter(rounds).values(), default=0) <= attempts


def test_what_was_released_before_a_record_was_opened_does_not_count(ledger: Ledger) -> None:
    terms = JobTerms(attempts=1)
    use(ledger, 2, terms).release()
    use(ledger, 1, terms).records(lambda: None)
    with pytest.raises(TermsRefused, match="attempts_per_round, 1"):
        use(ledger, 1, terms)
    use(ledger, 2, terms)


def test_a_clock_that_is_set_back_gives_no_order_more_time(ledger: Ledger, clock: Any) -> None:
    terms = JobTerms(attempts=9, until=clock() + timedelta(days=1))
    use(ledger, 1, terms)
    clock.forward(days=1, seconds=1)
    with pytest.raises(TermsRefused, match="the order ended on 2025-02-01 at 12:00 UTC"):
        use(ledger, 1, terms)
    ledger.note("another day", who="operator")
    clock.forward(days=-1)
    with pytest.raises(LedgerError, match="clock"):
        use(ledger, 1, terms)
    with pytest.raises(LedgerError, match="clock"):
        ledger.note_evaluation("x", dataset="heart", job="job", round=1, who="ana", terms=terms)


def test_a_job_is_the_first_order_that_used_records_under_its_number(
    ledger: Ledger, path: Path, key: SiloKey, clock: Callable[[], Any]
) -> None:
    use(ledger, 1, JobTerms(attempts=9, order="a"))
    with Ledger.open(path, key, clock=clock) as again:
        for other in ("b", None):
            with pytest.raises(TermsRefused, match="another order"):
                use(again, 2, JobTerms(attempts=9, order=other))
        use(again, 1, JobTerms(attempts=9, order="b"), job="another")
        use(again, 2, JobTerms(attempts=9, order="a"))
