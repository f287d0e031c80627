"""Strategies that look at the updates one beside the other, to outvote silos that lie.

They keep every update until the round closes, and cannot work under encryption. A rule is a
function from n vectors of shape (d,), some of which may lie, to one; none looks at numbers of
records, which a liar would choose. Coordinates are handled in blocks, so beside the updates
themselves memory stays small. Flower's rules take whole messages with whole models; where they
differ each rule says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.strategies.strategy import Round, State, Strategy, Update, Vector, blocks

Rule = Callable[[Sequence[Vector]], Vector]


class Robust(Strategy):
    """Moves by `rule` of the round's updates; a round with less than `fewest` is skipped."""

    def __init__(self, *, name: str, rule: Rule, fewest: int = 1) -> None:
        super().__init__()
        self.name = name
        self.rule = rule
        self.fewest = fewest

    def _round(self, weights: Vector, lr: float | None) -> Round:  # noqa: ARG002
        return _WholeRound(self, weights)


class _WholeRound(Round):
    strategy: Robust

    def __init__(self, strategy: Robust, weights: Vector) -> None:
        super().__init__(strategy, weights)
        self._vectors: list[Vector] = []

    def _take(self, update: Update) -> None:
        self._vectors.append(update.vector)

    def _combine(self, silos: int) -> tuple[Vector, State]:  # noqa: ARG002
        return self._moved(self.strategy.rule(self._vectors)), {}


Distances = NDArray[np.float64]

_CELLS = 1 << 18
"""Values of all updates together in one block."""


def median(vectors: Sequence[Vector]) -> Vector:
    """The middle value of each coordinate; for even n the mean of two (Yin et al. 2018)."""
    return _by_coordinate(vectors, lambda block: np.median(block, axis=0))


def trimmed_mean(vectors: Sequence[Vector], *, fraction: float) -> Vector:
    """The mean of each coordinate without its largest and smallest values (Yin et al. 2018).

    Cut from each end: `fraction` of n, rounded up, but at least one value stays. Flower's rounds
    down, so that 0.2 of four replies protects from nothing, and 1/49 of 49 is none at all.
    """
    n = len(vectors)
    # Less 1e-9: 0.07 * 100 is above 7 in float64, and must cut seven.
    cut = min(math.ceil(fraction * n - 1e-9), (n - 1) // 2)
    return _by_coordinate(
        vectors, lambda block: np.sort(block, axis=0)[cut : n - cut].mean(axis=0, dtype=np.float64)
    )


def krum(vectors: Sequence[Vector], *, byzantine: int, keep: int | None = 1) -> Vector:
    """The mean of the `keep` updates nearest to their n - byzantine - 2 nearest others.

    Blanchard et al. 2017: `keep = 1` is Krum, more is Multi-Krum; None keeps n - byzantine - 2.
    Needs n >= 2 * byzantine + 3. Flower's weighs the kept ones by the records they claim and takes
    distances as ||x||^2 + ||y||^2 - 2xy in float32, which is noise when updates are close together.
    """
    closest = len(vectors) - byzantine - 2
    kept = _best_first(squared_distances(vectors), closest)[: closest if keep is None else keep]
    return _by_coordinate(
        [vectors[i] for i in kept], lambda block: block.mean(axis=0, dtype=np.float64)
    )


def bulyan(vectors: Sequence[Vector], *, byzantine: int) -> Vector:
    """Krum picks n - 2 * byzantine updates one by one, then a mean around their median.

    El Mhamdi et al. 2018; needs n >= 4 * byzantine + 3. In each coordinate the n - 4 * byzantine
    picked values that are closest to the median of the picked count. That half is Flower's; its
    selection scores once, where the paper scores the remaining updates again after each pick.
    """
    # Here, since whoever imports this room is promised to need numpy alone.
    from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights

    picked = _pick(squared_distances(vectors), byzantine)
    near = len(vectors) - 4 * byzantine

    def around_median(block: Vector) -> NDArray[Any]:
        middle = np.median(block, axis=0)
        mean: NDArray[Any] = aggregate_n_closest_weights([middle], [[row] for row in block], near)[
            0
        ]
        return mean

    return _by_coordinate([vectors[i] for i in picked], around_median)


def squared_distances(vectors: Sequence[Vector]) -> Distances:
    """Squared L2 distances, shape (n, n), infinite on the diagonal: nobody is his own neighbour.

    Differences come first, in float64, so near updates do not cancel and huge ones do not overflow.
    """
    n = len(vectors)
    distances = np.zeros((n, n))
    for block in blocks(vectors[0].size, max(1, _CELLS // n)):
        rows = np.stack([vector[block] for vector in vectors]).astype(np.float64)
        for i in range(n - 1):
            apart = rows[i + 1 :] - rows[i]
            distances[i, i + 1 :] += np.einsum("ij,ij->i", apart, apart)
    distances += distances.T
    np.fill_diagonal(distances, np.inf)
    return distances


def _best_first(distances: Distances, closest: int) -> NDArray[np.intp]:
    """Indices by Krum's score, the sum of the `closest` smallest distances in a row.

    Two that are each other's only neighbour always tie; the next neighbours then decide, so that
    the order of arrival does not.
    """
    scores = np.sort(distances, axis=1).cumsum(axis=1)[:, closest - 1 :]
    return np.lexsort(scores.T[::-1])


def _pick(distances: Distances, byzantine: int) -> list[int]:
    """Krum again and again on what is left; towards the end it goes by one neighbour."""
    left, picked = list(range(len(distances))), []
    for _ in range(len(distances) - 2 * byzantine):
        best = _best_first(distances[np.ix_(left, left)], max(1, len(left) - byzantine - 2))
        picked.append(left.pop(best[0]))
    return picked


def _by_coordinate(
    vectors: Sequence[Vector], rule: Callable[[Vector], NDArray[np.floating[Any]]]
) -> Vector:
    combined = np.empty(vectors[0].size, dtype=np.float32)
    for block in blocks(combined.size, max(1, _CELLS // len(vectors))):
        combined[block] = rule(np.stack([vector[block] for vector in vectors]))
    return combined
