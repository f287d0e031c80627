"""Is the mechanism that ran the one that was claimed and charged? What its canaries show.

On canary coordinates the claimed mechanism leaves nothing open. Whether a canary was sampled is an
independent coin of the sampling rate; a noisy sum is independent Gaussian noise, plus the clip norm
where a canary was sampled. Missing or weak noise, another clipping, another sampling and noise that
is used twice each bend that law, long before a lower bound on epsilon would notice. A pass is no
proof: it says that these tests, with so many numbers, found nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr

from privet.audits.claims import Claim, judged, unknown
from privet.audits.epsilon import parts_of_charges
from privet.audits.evidence import Evidence
from privet.audits.laws import (
    LEVEL,
    Check,
    Conformance,
    again_elsewhere,
    again_within,
    fault_of,
    grid,
    mean,
    normality,
    spread,
    tail,
    variance,
)
from privet.audits.lower_bounds import OneRunBound, View, one_run_bound, score
from privet.errors import PrivacyError, PrivetError
from privet.privacy.mechanisms.canaries import (
    CANARIES,
    CanaryObservation,
    Floats,
    Mask,
    read_observations,
)

_FEWEST = 25
"""Sampled canaries, as expected, from which on the spread of their counts is tested."""
_OVER = {
    "steps": (("silo", "round"), "noise used again in another step"),
    "rounds": (("silo", "step"), "noise used again in another round"),
    "silos": (("round", "step"), "noise shared by silos"),
}


def conformance(observations: Sequence[CanaryObservation], *, level: float = LEVEL) -> Conformance:
    """Test the claimed law on what was seen, each silo's round once.

    A correct mechanism fails with probability `level` at most (the tests are exact, but for gamma
    and Kolmogorov-Smirnov approximations in three); a number that is not finite fails. Raises
    PrivacyError without observations, for observations of differently many coordinates, and for a
    claim without noise.
    """
    block = _Block.of(observations)
    lost = int((~np.isfinite(block.noise)).sum())
    if lost:
        checks = [Check("finite", "numbers that are infinite or none", 0.0, float(lost), 0.0)]
    else:
        checks = [*_noise_checks(block), *(_sampling_checks(block) if block.inserted.any() else [])]
    return Conformance(level, tuple(checks), steps=len(block.noise), values=block.noise.size)


@dataclass(frozen=True)
class _Block:
    """All observations stacked: a row for each step, N in all, a column for each coordinate."""

    keys: dict[str, NDArray[np.int64]]
    """Of each row: its silo, its round and its step in the round, as numbers; shape (N,)."""
    noise: Floats
    """Sums without the sampled canaries, in standard deviations of the noise, shape (N, m)."""
    inserted: Mask
    sampled: Mask
    """Both of shape (N, m)."""
    rates: Floats
    sigmas: Floats
    """Of each row, shape (N, 1)."""

    @classmethod
    def of(cls, observations: Sequence[CanaryObservation]) -> _Block:
        _demand_noise(observations)
        steps = [len(each.gradients) for each in observations]
        silos = {name: number for number, name in enumerate({s.silo: 0 for s in observations})}
        plans = [each.plan for each in observations]
        sigmas = np.repeat([plan.noise_multiplier for plan in plans], steps)[:, None]
        sampled = np.concatenate([each.sampled for each in observations])
        return cls(
            {
                "silo": np.repeat([silos[each.silo] for each in observations], steps),
                "round": np.repeat([each.round for each in observations], steps),
                "step": np.concatenate([np.arange(count) for count in steps]),
            },
            (np.concatenate([each.sums for each in observations]) - sampled) / sigmas,
            np.repeat([each.inserted for each in observations], steps, axis=0),
            sampled,
            np.repeat([plan.sampling_rate for plan in plans], steps)[:, None],
            sigmas,
        )

    @property
    def streams(self) -> list[Floats]:
        """The noise of each silo's round, in the order in which it was drawn; of equal lengths."""
        starts = np.flatnonzero(self.keys["step"] == 0)[1:]
        found = [each.ravel() for each in np.split(self.noise, starts)]
        shortest = min(each.size for each in found)
        return [each[:shortest] for each in found]

    def sums(self, values: Floats, keys: Sequence[str]) -> Floats:
        """Sums of `values`, shape (N, m), over the rows that agree in `keys`."""
        order = np.lexsort([self.keys[key] for key in keys])
        changes = [np.diff(self.keys[key][order]) != 0 for key in keys]
        starts = np.flatnonzero(np.concatenate([[True], np.logical_or.reduce(changes)]))
        return np.asarray(np.add.reduceat(values[order], starts, axis=0))


def _demand_noise(observations: Sequence[CanaryObservation]) -> None:
    if not observations:
        raise PrivacyError("no canary was seen: there is nothing to test the mechanism by")
    if any(each.plan.noise_multiplier == 0 for each in observations):
        raise PrivacyError("noise_multiplier = 0 claims no privacy: there is nothing to test")
    if len({each.inserted.shape for each in observations}) > 1:
        raise PrivacyError("silos with differently many canary coordinates cannot be compared")


def _noise_checks(block: _Block) -> Iterator[Check]:
    yield variance("noise", "too little or too much noise", block.noise)
    yield mean("noise-mean", "noise that is not centred", block.noise)
    yield normality(block.noise.ravel())
    yield tail(block.noise)
    yield grid(block.noise)
    yield _repeats(block)
    yield again_elsewhere([*block.noise])
    yield again_within(block.streams)
    rows = np.ones((len(block.noise), 1))
    for over, (keys, finds) in _OVER.items():
        sums = block.sums(block.noise, keys) / np.sqrt(block.sums(rows, keys))
        yield variance(f"independent-{over}", finds, sums)
    sums = block.noise.sum(axis=1) / np.sqrt(block.noise.shape[1])
    yield variance("independent-coordinates", "noise shared by coordinates", sums)


def _sampling_checks(block: _Block) -> Iterator[Check]:
    expected = block.rates * block.inserted
    count, total = int((block.sampled & block.inserted).sum()), int(block.inserted.sum())
    # Coins of different rates add up to less spread than as many of their mean (Hoeffding 1956).
    rate = min(1.0, float(expected.sum()) / total)
    p_value = float(stats.binomtest(count, total, rate).pvalue)
    yield Check("sampling", "records sampled more or less often", p_value, count / total, rate)
    if total * rate * (1 - rate) >= _FEWEST:
        coins = expected * (1 - block.rates)
        deviations = block.sampled - expected
        by_round = (block.sums(each, ("silo", "round")) for each in (deviations, coins))
        yield spread("sampling-steps", "records that take turns or stay", *by_round, rate=rate)
        by_step = deviations.sum(axis=1), coins.sum(axis=1)
        yield spread("sampling-together", "records sampled together", *by_step, rate=rate)
    if block.sampled.any():
        yield from _clipping_checks(block)


def _clipping_checks(block: _Block) -> Iterator[Check]:
    """A sampled canary's sum is the clip norm, each time, and noise."""
    sigmas = np.broadcast_to(block.sigmas, block.sampled.shape)[block.sampled]
    noise = block.noise[block.sampled]
    missed = noise * sigmas
    p_value = float(2 * ndtr(-abs(missed.sum()) / np.linalg.norm(sigmas)))
    finds = "gradients clipped to another norm, or not one by one"
    yield Check("clipping", finds, p_value, 1 + float(missed.mean()), 1.0)
    yield variance("clipping-even", "gradients clipped to norms that differ", noise)


def _repeats(block: _Block) -> Check:
    """Two steps of a silo with the same signs on all m coordinates: by chance one pair in 2^m.

    It finds a noise that was used twice wherever that was, and however it was scaled.
    """
    _, sizes = np.unique(block.keys["silo"], return_counts=True)
    signs = np.packbits(block.noise > 0, axis=1)
    named = zip(block.keys["silo"], (row.tobytes() for row in signs), strict=True)
    repeated = len(signs) - len(set(named))
    pairs = sum(math.comb(int(size), 2) for size in sizes)
    p_value = min(1.0, pairs * 2.0 ** -block.noise.shape[1]) if repeated else 1.0
    return Check("repeats", "a step's noise used a second time", p_value, float(repeated), 0.0)


_OBSERVERS: dict[View, str] = {
    "steps": "who sees every step inside the silos",
    "updates": "who gets the silos' updates",
    "model": "who gets what all rounds have done to the model",
}


def mechanism_claims(
    observations: Sequence[CanaryObservation], *, subject: str, epsilon: float, delta: float
) -> list[Claim]:
    """`mechanism.conformance` and `mechanism.lower-bound` of the run `subject`.

    `epsilon` is the largest that the run claims for a silo, at `delta`. The second claim is judged
    by the observer who sees most; what weaker ones can infer is noted. Without canaries, or without
    noise in the claim, both are UNKNOWN.
    """
    return [
        _conformance_claim(observations, subject),
        _lower_bound_claim(observations, subject, epsilon, delta),
    ]


def _conformance_claim(observations: Sequence[CanaryObservation], subject: str) -> Claim:
    id_, seen = "mechanism.conformance", sum(len(each.inserted) for each in _one_each(observations))
    statement = (
        f"The noise of {seen:,} canary coordinates, and the sampling and clipping of their "
        "records, follow the law of the mechanism that was claimed."
    )
    try:
        found = conformance(observations)
    except PrivacyError as reason:
        return unknown(id_, subject, statement, str(reason))
    note = (
        f"{len(found.checks)} tests of {found.values:,} numbers from {found.steps:,} steps, "
        f"p = {found.p_value:.2g} together; a correct mechanism fails with probability "
        f"{found.level:g}"
    )
    faults = (fault_of(check) for check in found.failed)
    return judged(id_, subject, statement, faults=faults, notes=[note])


def _one_each(observations: Sequence[CanaryObservation]) -> list[CanaryObservation]:
    """An observation of each silo."""
    return list({each.silo: each for each in observations}.values())


def _lower_bound_claim(
    observations: Sequence[CanaryObservation], subject: str, epsilon: float, delta: float
) -> Claim:
    id_, statement = "mechanism.lower-bound", f"No attack shows epsilon to be above {epsilon:.4g}."
    if not observations or any(each.plan.noise_multiplier == 0 for each in observations):
        return unknown(id_, subject, statement, "no canary was seen of a mechanism with noise")
    try:
        bounds = {view: _bound(observations, view, delta) for view in _OBSERVERS}
    except PrivacyError as reason:
        return unknown(id_, subject, statement, str(reason))
    texts = [_bound_text(bound, _OBSERVERS[view]) for view, bound in bounds.items()]
    # Only the strongest observer refutes: three bounds at 95 % each would be wrong more often.
    faults = texts[:1] if bounds["steps"].refutes(epsilon) else []
    return judged(id_, subject, statement, faults=faults, notes=texts[len(faults) :])


def _bound(observations: Sequence[CanaryObservation], view: View, delta: float) -> OneRunBound:
    found = score(observations, view=view)
    return one_run_bound(found.scores, found.inserted, delta=delta)


def _bound_text(bound: OneRunBound, observer: str) -> str:
    return (
        f"epsilon is at least {bound.epsilon:.2f} with {bound.confidence:.0%} confidence, at delta "
        f"{bound.delta:g}, for {observer}: {bound.correct} of {bound.guesses} guesses right, "
        f"{bound.canaries:,} canaries"
    )


def claims(run: Evidence) -> Iterator[Claim]:
    """Of a run with differential privacy; UNKNOWN where no canaries took part."""
    seen = read_observations(run.folder / CANARIES)
    statement = "Canaries were seen of the mechanism that the ledger charges."
    if not seen:
        if run.settings.privacy is not None:
            why = "no canaries took part, so that what ran left nothing to test"
            yield unknown("mechanism.canaries", run.subject, statement, why)
        return
    yield judged("mechanism.canaries", run.subject, statement, faults=_uncharged(run, seen))
    last, delta = run.lines[-1].epsilon, run.delta
    if last is not None and last.max is not None and delta is not None:
        yield from mechanism_claims(seen, subject=run.subject, epsilon=last.max, delta=delta)


_COMPARED = 40
"""Canary coordinates whose signs two steps do not share by chance."""


def claims_across(runs: Sequence[Evidence]) -> Iterator[Claim]:
    """`mechanism.across`, of several runs with canaries: no step of two has the same noise.

    Runs of the same settings repeat each other, and count as one.
    """
    seen: dict[bytes, Evidence] = {}
    faults: dict[str, None] = {}
    looked = 0
    for run in runs:
        rows = _signs(run)
        looked += bool(rows)
        for row in rows:
            other = seen.setdefault(row, run)
            if other.settings != run.settings:
                faults[f"{run.subject} has noise of {other.subject}"] = None
    if looked > 1:
        statement = "No two runs of different settings have a step with the same noise."
        yield judged("mechanism.across", "all runs", statement, faults=faults)


def _signs(run: Evidence) -> list[bytes]:
    try:
        noise = _Block.of(read_observations(run.folder / CANARIES)).noise
    except PrivetError:  # of each run by itself this is said elsewhere
        return []
    if noise.shape[1] < _COMPARED:
        return []
    return [row.tobytes() for row in np.packbits(noise[:, :_COMPARED] > 0, axis=1)]


def _uncharged(run: Evidence, seen: Sequence[CanaryObservation]) -> Iterator[str]:
    for each in seen:
        ledger = run.ledger(each.silo)
        if ledger is None:
            continue
        charged = parts_of_charges(ledger.of("training", each.round))
        ran = (each.plan.noise_multiplier, each.plan.sampling_rate, len(each.gradients))
        if ran not in [(part.noise_multiplier, part.sampling_rate, part.steps) for part in charged]:
            yield (
                f"{each.silo}, round {each.round}: noise multiplier {ran[0]:g}, sampling rate "
                f"{ran[1]:g}, {ran[2]} steps are not what the ledger charges"
            )
