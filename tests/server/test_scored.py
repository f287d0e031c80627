"""Figures out of noised counts of scores: what they are without noise, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference

from privet.server.scored import NoisedScores

BINS = 20


def drawn(rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of records and whether they are of the class."""
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < 0.3
    return 1 / (1 + np.exp(-rng.normal(np.where(positive, 0.7, -0.9), 1.0))), positive


def counted(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    own, others = (np.bincount(places[p], minlength=BINS) for p in (positive, ~positive))
    return own, others


def test_without_noise_they_are_those_of_the_binned_scores() -> None:
    scores, positive = drawn(3000)
    own, others = counted(scores, positive)
    found = NoisedScores(own.tolist(), others.tolist(), 0.0)
    binned = (np.floor(scores * BINS) + 0.5) / BINS
    auc = found.auc()
    assert auc.value == pytest.approx(reference.roc_auc_score(positive, binned))
    assert auc.low == auc.high == auc.value or auc.high - auc.low < 1e-3
    assert auc.value == pytest.approx(reference.roc_auc_score(positive, scores), abs=2e-3)
    assert found.accuracy().value == pytest.approx(((scores >= 0.5) == positive).mean())
    assert found.recall().value == pytest.approx((scores[positive] >= 0.5).mean())
    (right, wrong), (missed, hit) = found.confusion()
    expected = reference.confusion_matrix(positive, scores >= 0.5)
    assert [[right, wrong], [missed, hit]] == expected.tolist()


@pytest.mark.parametrize(("rows", "noise"), [(4000, 10.0), (1000, 8.0), (400, 8.0)])
def test_intervals_cover_the_exact_figures_in_95_per_cent(rows: int, noise: float) -> None:
    scores, positive = drawn(rows)
    # The exact figures of what a bin tells; of the scores themselves they are a thousandth away.
    own, others = counted(scores, positive)
    exact = NoisedScores(own.tolist(), others.tolist(), 0.0)
    truth = {name: figure.value for name, figure in exact.figures().items()}
    held = dict.fromkeys(truth, 0)
    near = 0
    unbinned = reference.roc_auc_score(positive, scores)
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        noisy = [each + rng.normal(0, noise, BINS) for each in (own, others)]
        found = NoisedScores(noisy[0].tolist(), noisy[1].tolist(), noise).figures()
        for name, figure in found.items():
            held[name] += figure.low - 2.5e-4 <= truth[name] <= figure.high + 2.5e-4
        near += found["auc"].low - 2.5e-4 <= unbinned <= found["auc"].high + 2.5e-4
    for name in ("auc", "accuracy", "recall"):
        assert 935 <= held[name] <= 965, (name, held)
    assert held["ece"] >= 950
    assert 935 <= near <= 965


def test_where_noise_is_everything_nothing_is_ruled_out() -> None:
    rng = np.random.default_rng(1)
    found = NoisedScores(rng.normal(0, 1e6, BINS).tolist(), rng.normal(0, 1e6, BINS).tolist(), 1e6)
    auc = found.auc()
    assert auc.high - auc.low > 0.5
    assert all(0 <= f.low <= f.value <= f.high <= 1 for f in found.figures().values())
