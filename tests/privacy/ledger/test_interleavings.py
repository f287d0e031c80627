"""Any interleaving of reserve, open, commit, release and reopening keeps the books."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from privet.privacy.accounting import dp_sgd_event
from privet.privacy.accounting.events import merged
from privet.privacy.ledger import (
    BudgetExceeded,
    Ledger,
    LedgerRefusal,
    Limit,
    SiloKey,
    fingerprint_of,
    verify,
)

DELTA = 1e-5
BUDGET = 3.0
DATASETS = ("heart", "lung")
NOISE = (1.0, 2.0)


def event(noise, steps):
    return dp_sgd_event(noise_multiplier=noise, sampling_rate=0.2, steps=steps)


class Books(RuleBasedStateMachine):
    """Two processes' views of one file, and a model of it in a dictionary."""

    reservations = Bundle("reservations")

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").exists() else None))
        self.path = self.folder / "ledger.sqlite"
        self.key = SiloKey.create(self.folder / "silo.key")
        self.views = [Ledger.create(self.path, self.key)]
        self.views.append(Ledger.open(self.path, self.key))
        for number, name in enumerate(DATASETS):
            self.views[0].register(name, fingerprint_of(np.full((2, 1), float(number))))
        self.model = {}
        self.bound = dict.fromkeys(DATASETS, 0.0)

    def teardown(self):
        if hasattr(self, "views"):
            for view in self.views:
                view.close()
            assert verify(self.path, self.key.public) == []
            shutil.rmtree(self.folder)

    @rule(
        target=reservations,
        view=st.sampled_from([0, 1]),
        dataset=st.sampled_from(DATASETS),
        noise=st.sampled_from(NOISE),
        steps=st.integers(1, 8),
        limited=st.booleans(),
    )
    def reserve(self, view, dataset, noise, steps, limited):
        limits = [Limit(BUDGET, DELTA)] if limited else []
        wish = {"dataset": dataset, "job": "job", "event": event(noise, steps), "who": "lab"}
        (promise,) = self.views[view].project(**wish, limits=[Limit(BUDGET, DELTA)])
        try:
            made = self.views[view].reserve(**wish, round=len(self.model), limits=limits)
        except BudgetExceeded as refusal:
            assert limited
            assert not promise.fits
            assert (refusal.spent, refusal.projected) == (promise.spent, promise.projected)  # noqa: PT017
            return None
        assert promise.fits or not limited
        self.model[made.sequence] = [dataset, noise, steps, "untouched"]
        self.bound[dataset] = promise.projected
        return made

    @rule(reservation=reservations)
    def open_records(self, reservation):
        if reservation is None:
            return
        state = self.model[reservation.sequence]
        if state[3] in ("untouched", "touched"):
            assert reservation.records(lambda: 7) == 7
            state[3] = "touched"
        else:
            with contextlib.suppress(LedgerRefusal):
                reservation.records(lambda: 7)
                raise AssertionError("records of a closed reservation")

    @rule(reservation=reservations, steps=st.integers(0, 9), noise=st.sampled_from(NOISE))
    def commit(self, reservation, steps, noise):
        if reservation is None:
            return
        dataset, reserved_noise, reserved, how = self.model[reservation.sequence]
        allowed = how in ("untouched", "touched") and (
            steps == 0 or (steps <= reserved and noise >= reserved_noise)
        )
        try:
            reservation.commit(event(noise, steps))
        except LedgerRefusal:
            assert not allowed
            return
        assert allowed
        self.model[reservation.sequence] = [dataset, noise, steps, "committed"]
        self.lowered(dataset)

    @rule(reservation=reservations)
    def release(self, reservation):
        if reservation is None:
            return
        state = self.model[reservation.sequence]
        try:
            reservation.release()
        except LedgerRefusal:
            assert state[3] != "untouched"
            return
        assert state[3] == "untouched"
        state[2:] = [0, "released"]
        self.lowered(state[0])

    @rule(reservation=reservations)
    def leave(self, reservation):
        """The end of a `with` block."""
        if reservation is None:
            return
        state = self.model[reservation.sequence]
        with reservation:
            pass
        if state[3] == "untouched":
            state[2:] = [0, "released"]
            self.lowered(state[0])
        elif state[3] == "touched":
            state[3] = "left"

    @rule(view=st.sampled_from([0, 1]))
    def reopen(self, view):
        """A process that ends and begins anew; what it had reserved stands as it was."""
        if any(state[3] in ("untouched", "touched") for state in self.model.values()):
            return
        self.views[view].close()
        self.views[view] = Ledger.open(self.path, self.key)

    def lowered(self, dataset):
        now = self.views[0].spent(dataset, delta=DELTA)
        assert now <= self.bound[dataset] * (1 + 1e-12)
        self.bound[dataset] = now

    @invariant()
    def both_views_tell_what_the_model_says(self):
        if not hasattr(self, "model"):
            return
        for dataset in DATASETS:
            expected = Counter()
            for name, noise, steps, _ in self.model.values():
                if name == dataset:
                    expected[noise] += steps
            for view in self.views:
                parts = merged(view.events(dataset))
                assert Counter({p.noise_multiplier: p.steps for p in parts}) == +expected
                assert view.spent(dataset, delta=DELTA) == self.bound[dataset]


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
