"""The local training of many silos as one batched computation, DP-SGD or plain.

The same law as `privatise`, silo by silo, to rounding: every silo has its own weights, records,
batches, noise and learning rate, and no number of one reaches another's. Per-example gradients are
never written down: a layer's input and its output's gradient give their norms (Goodfellow 2015,
arXiv 1510.01799) and their clipped sum (Bu et al. 2023, arXiv 2210.00038).
"""

from privet.privacy.mechanisms.batched.chain import Chain, NotBatchable, chain_of
from privet.privacy.mechanisms.batched.rows import OptimizerSettings, Row, RowResult, train_rows

__all__ = [
    "Chain",
    "NotBatchable",
    "OptimizerSettings",
    "Row",
    "RowResult",
    "chain_of",
    "train_rows",
]
