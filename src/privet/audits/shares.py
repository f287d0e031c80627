"""The noise of evaluation: shares of made-up values, released as a round's figures are.

Of a share s = (yes + a) / (yes + no + a + b), a and b normal with deviation sigma, the chance of at
most t is that of (1 - t) a - t b <= t no - (1 - t) yes, which is normal: so each released share
gives one standard normal number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from privet.audits import laws
from privet.audits.laws import LEVEL, Check, Conformance
from privet.privacy.mechanisms.canaries import Floats
from privet.privacy.mechanisms.traces import EvaluationTrace

_SAME = 1e-9
"""How likely two releases are equal by chance, from above."""
_NORMAL = 100
"""Numbers from which on their distribution is looked at."""


def share_conformance(traces: Sequence[EvaluationTrace]) -> Conformance:
    """Test the claimed law on released shares; a correct mechanism fails with LEVEL at most."""
    rows = np.stack([_normal(each) for each in traces])
    checks = tuple(_checks(traces, rows))
    return Conformance(LEVEL, checks, steps=len(rows), values=rows.size)


def _normal(trace: EvaluationTrace) -> Floats:
    shares = np.array(trace.released)
    spread = trace.noise_multiplier * np.sqrt(np.square(1 - shares) + np.square(shares))
    return np.asarray((shares * trace.no - (1 - shares) * trace.yes) / spread)


def _checks(traces: Sequence[EvaluationTrace], rows: Floats) -> Iterator[Check]:
    yield laws.variance("evaluation-noise", "too little or too much noise in evaluation", rows)
    yield laws.mean("evaluation-mean", "noise in evaluation that is not centred", rows)
    counts = np.unique(rows, return_counts=True)[1]
    again = float((counts > 1).sum())
    p_value = min(1.0, _SAME * math.comb(rows.size, 2)) if again else 1.0
    yield Check("evaluation-again", "noise used again in evaluation", p_value, again, 0.0)
    if rows.size >= _NORMAL:
        yield laws.normality(rows.ravel())
    for name, key in (("rounds", "silo"), ("silos", "round")):
        sums = _sums(rows, [str(getattr(each, key)) for each in traces])
        finds = f"noise shared by {name} in evaluation"
        yield laws.variance(f"evaluation-{name}", finds, sums)


def _sums(rows: Floats, keys: Sequence[str]) -> Floats:
    """Over the rows of each key, in deviations, shape (keys, k)."""
    found = []
    for key in dict.fromkeys(keys):
        own = rows[[each == key for each in keys]]
        found.append(own.sum(axis=0) / math.sqrt(len(own)))
    return np.stack(found)
