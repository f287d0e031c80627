"""A small experiment for trackers, and what its history says."""

from __future__ import annotations

from pathlib import Path

from privet import Experiment
from privet.record.folder import RunFolder
from privet.tracking.tracker import figures

TINY = Experiment.from_mapping(
    {
        "task": "digits",
        "rounds": 3,
        "seed": 3,
        "federation": {"silos": 3},
        "training": {"batch_size": 64, "lr": 0.5},
        "privacy": {"epsilon": 4.0},
        "evaluation": {"every": 2},
    }
)


def by_round(folder: Path) -> dict[str, dict[int, float]]:
    """By figure and round, what a tracker should have been told of a run."""
    found: dict[str, dict[int, float]] = {}
    for entry in RunFolder(folder).rounds():
        for name, value in figures(entry).items():
            found.setdefault(name, {})[entry.round] = value
    return found
