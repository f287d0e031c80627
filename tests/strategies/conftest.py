"""One round through the public doors, for every test of a strategy."""

from collections.abc import Callable

import numpy as np
import pytest

from privet.strategies import Update

RunRound = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def run_round() -> RunRound:
    def run(strategy, vectors, *, start=None, counts=None, losses=None, number=1, silos=None):
        """New weights after one round of `vectors`, with the extras that the strategy asks for."""
        vectors = [np.asarray(vector, dtype=np.float32) for vector in vectors]
        size = len(vectors[0]) if vectors else 1
        start = np.zeros(size, np.float32) if start is None else np.asarray(start, np.float32)
        gathered = strategy.open(start, lr=0.5)
        for i, vector in enumerate(vectors):
            gathered.add(
                Update(
                    vector,
                    weight=1.0 if counts is None else float(counts[i]),
                    loss=1.0 if losses is None else losses[i],
                    extras=dict.fromkeys(strategy.extras, -vector),
                )
            )
        return gathered.close(round=number, silos=silos or max(1, len(vectors)))

    return run
