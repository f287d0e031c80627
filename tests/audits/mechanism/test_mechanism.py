"""What was seen, as claims with verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from audits.mechanism.made import sightings
from privet.audits.claims import Claim
from privet.audits.mechanism import mechanism_claims
from privet.privacy.accounting import noise_multiplier_for
from privet.privacy.mechanisms.canaries import CanaryObservation

DELTA, EPSILON = 1e-5, 2.0
SIGMA = noise_multiplier_for(epsilon=EPSILON, delta=DELTA, sampling_rate=0.1, steps=100)


def claims(seen: list[CanaryObservation]) -> tuple[Claim, Claim]:
    conforms, bounded = mechanism_claims(seen, subject="run", epsilon=EPSILON, delta=DELTA)
    assert (conforms.id, bounded.id) == ("mechanism.conformance", "mechanism.lower-bound")
    return conforms, bounded


def made(seed: int = 1, **law: float) -> list[CanaryObservation]:
    return sightings(
        seed, silos=10, rounds=10, steps=10, coordinates=100, rate=0.1, sigma=SIGMA, **law
    )


def test_a_correct_mechanism_passes_and_says_how_much_was_looked_at() -> None:
    conforms, bounded = claims(made())
    assert (conforms.verdict, bounded.verdict) == ("PASS", "PASS")
    assert "100,000 numbers from 1,000 steps" in conforms.evidence[0]
    assert len(bounded.evidence) == 3
    assert all("with 95% confidence" in line for line in bounded.evidence)
    assert all("1,000 canaries" in line for line in bounded.evidence)


def test_a_noise_that_is_weak_fails_the_one_and_one_that_is_missing_both() -> None:
    conforms, bounded = claims(made(real_sigma=0.98 * SIGMA))
    assert (conforms.verdict, bounded.verdict) == ("FAIL", "PASS")
    assert conforms.evidence[0].startswith("too little or too much noise (noise): 0.97")
    conforms, bounded = claims(made(real_sigma=0.0))
    assert (conforms.verdict, bounded.verdict) == ("FAIL", "FAIL")
    assert "for who sees every step" in bounded.evidence[0]
    assert len(bounded.evidence) == 3


def test_without_canaries_or_noise_nothing_is_known() -> None:
    silent = [replace(each, plan=replace(each.plan, noise_multiplier=0.0)) for each in made()]
    for seen in ([], silent):
        assert [claim.verdict for claim in claims(seen)] == ["UNKNOWN", "UNKNOWN"]


def test_numbers_that_are_none_fail() -> None:
    seen = made()
    seen[0].gradients[0, 0] = np.nan
    conforms, bounded = claims(seen)
    assert (conforms.verdict, bounded.verdict) == ("FAIL", "UNKNOWN")
