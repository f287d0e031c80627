"""Events in, epsilon(delta) out. Pure: no files, no clock, no randomness.

Adjacency is add-or-remove one record (or one client) throughout.
"""

from privet.privacy.accounting.calibration import MOST_NOISE, noise_multiplier_for
from privet.privacy.accounting.crosscheck import CrossChecks, cross_check
from privet.privacy.accounting.events import (
    decode_event,
    dp_sgd_event,
    encode_event,
    gaussian_event,
    plain_event,
)
from privet.privacy.accounting.spending import Spending, epsilon

__all__ = [
    "MOST_NOISE",
    "CrossChecks",
    "Spending",
    "cross_check",
    "decode_event",
    "dp_sgd_event",
    "encode_event",
    "epsilon",
    "gaussian_event",
    "noise_multiplier_for",
    "plain_event",
]
