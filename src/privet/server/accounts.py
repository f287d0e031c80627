"""What each silo's records have been charged, by the mechanisms that the silos report."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from privet.errors import PrivacyError
from privet.privacy.accounting import (
    CrossChecks,
    Spending,
    cross_check,
    decode_event,
)
from privet.record.history import EpsilonSpent

_Charges = frozenset[tuple[str, int]]


class Accounts:
    """Epsilon per silo as a pure function of the reported events.

    Silos with the same events, in whatever order, share one computation: composition does not
    depend on the order.
    """

    def __init__(self, *, delta: float) -> None:
        self.delta = delta
        self._charged: dict[str, Counter[str]] = {}
        self._spending: dict[_Charges, Spending] = {frozenset(): Spending()}
        self._unknown: set[str] = set()

    def charge(self, silo: str, event: Mapping[str, Any] | None) -> None:
        """Add one encoded event to a silo's account; PrivacyError when it cannot be read.

        None: the silo used its records and keeps to itself what that cost, as its ledger knows.
        """
        if event is None:
            self._unknown.add(silo)
            return
        text = json.dumps(event, sort_keys=True)
        before = self._charges(silo)
        counts = self._charged.setdefault(silo, Counter())
        counts[text] += 1
        after = self._charges(silo)
        if after not in self._spending and before in self._spending:
            self._spending[after] = self._spending[before].after(decode_event(event))

    def epsilon(self, silo: str) -> float | None:
        """The silo's epsilon so far, 0 before its first event; None where it is not known.

        Because the silo keeps its account, or because no accountant can add up what it says.
        """
        if silo in self._unknown:
            return None
        try:
            return self._epsilon(silo)
        except PrivacyError:
            # A silo may say what it likes of itself, and the others go on.
            self._unknown.add(silo)
            return None

    def spent(self, silos: Iterable[str]) -> EpsilonSpent:
        """Epsilon of each silo, and the largest; that is None unless every silo's is known."""
        per_silo = {silo: self.epsilon(silo) for silo in silos}
        known = [epsilon for epsilon in per_silo.values() if epsilon is not None]
        largest = max(known) if len(known) == len(per_silo) else None
        return EpsilonSpent(max=largest, per_silo=per_silo)

    def digest(self, silos: Iterable[str]) -> str | None:
        """SHA-256 of all charges by silo, in hexadecimal; None unless every silo's are known."""
        told = sorted(silos)
        if self._unknown.intersection(told):
            return None
        charges = {silo: sorted(self._charges(silo)) for silo in told}
        return hashlib.sha256(json.dumps(charges).encode()).hexdigest()

    def cross_checks(self) -> CrossChecks | None:
        """The other accountants' word on the silo that spent most; None when nobody spent."""
        known = [silo for silo in self._charged if self.epsilon(silo) is not None]
        if not known:
            return None
        worst = max(known, key=self._epsilon)
        return cross_check(list(self._of(self._charges(worst)).events), delta=self.delta)

    def _epsilon(self, silo: str) -> float:
        return self._of(self._charges(silo)).epsilon(self.delta)

    def _charges(self, silo: str) -> _Charges:
        return frozenset(self._charged.get(silo, Counter()).items())

    def _of(self, charges: _Charges) -> Spending:
        if charges not in self._spending:
            spending = Spending()
            # Sorted: composition rounds, and a figure must not hang on the order that a set has.
            for text, count in sorted(charges):
                for _ in range(count):
                    spending = spending.after(decode_event(json.loads(text)))
            self._spending[charges] = spending
        return self._spending[charges]
