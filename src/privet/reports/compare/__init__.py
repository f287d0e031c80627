"""Runs and sweeps side by side."""

from privet.reports.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
