"""How the silos' updates become the next model: one aggregation rule by name, on server and silo.

    strategy = load_strategy("fedprox", {"proximal_mu": 0.1})
    gathered = strategy.open(weights, lr=0.1)          # server
    gathered.add(Update(vector, weight=143))           #   once for each silo that answers
    weights = gathered.close(round=1, silos=10)
    local = strategy.local(weights=weights, extras={}, memory={}, lr=0.1)    # silo

Importing this room needs numpy alone; torch is touched only by the silo's part of a rule.
"""

from privet.strategies.registry import STRATEGIES, load_strategy
from privet.strategies.strategy import Local, Round, RoundSkipped, Strategy, Update

__all__ = [
    "STRATEGIES",
    "Local",
    "Round",
    "RoundSkipped",
    "Strategy",
    "Update",
    "load_strategy",
]
