"""Whole federations on one machine: the in-process grid, runs, reports."""
