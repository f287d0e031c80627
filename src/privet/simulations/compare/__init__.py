"""Runs and sweeps side by side."""

from privet.simulations.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
