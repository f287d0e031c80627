"""Runs and sweeps to compare, made once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import report_samples as samples
from privet import Experiment, sweep
from privet.simulations.run import simulate

TINY = Experiment.from_mapping(
    {
        "task": "digits",
        "model": "mlp",  # which does not begin at zero, where the smallest step is the best one
        "rounds": 4,
        "seed": 3,
        "federation": {"silos": 3},
        "training": {"batch_size": 128, "lr": 5.0},
        "privacy": {"epsilon": 4.0},
    }
)
RUNS = {
    "avg-3": {},
    "avg-4": {"seed": 4},
    "avg-5": {"seed": 5},
    "slow-3": {"training.lr": 0.002},
    "slow-4": {"training.lr": 0.002, "seed": 4},
    "slow-5": {"training.lr": 0.002, "seed": 5},
    "plain": {"privacy.epsilon": math.inf, "rounds": 3},
    "delta": {"privacy.delta": 1e-6},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated runs, the sweeps `fast` and `slow` over epsilon and three seeds, and samples."""
    home = tmp_path_factory.mktemp("compare")
    for name, settings in RUNS.items():
        simulate(TINY.with_settings(settings), out=home / name)
    for name, lr in (("fast", 5.0), ("slow", 0.002)):
        experiment = TINY.with_settings({"training.lr": lr})
        axes = {"privacy.epsilon": [4, 8]}
        baselines = "pooled" if name == "fast" else "none"
        sweep(experiment, axes=axes, seeds=3, baselines=baselines, out=home / name, workers=2)
    cut = samples.with_privacy()
    cut.interrupt(after=5)
    cut.write(home / "cut")
    for name, make in (
        ("hospitals", samples.hospitals),
        ("guarded", samples.guarded),
        ("withheld", _withheld),
    ):
        make().write(home / name)
    return home


def _withheld() -> samples.Sample:
    sample = samples.guarded()
    for entry in sample.history:
        for ways in (entry.get("evaluation") or {"released": {}})["released"].values():
            ways["accuracy"] = "withheld"
    return sample
