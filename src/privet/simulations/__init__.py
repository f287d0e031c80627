"""Whole federations on one machine: the apps of a deployment on the in-process grid, or on Ray."""

from typing import Literal

Engine = Literal["auto", "in-process", "vectorised", "ray"]
"""What trains the silos. Here, so that the command line knows it without importing torch."""
