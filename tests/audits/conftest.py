"""Two honest runs, made once: one in the clear and one encrypted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from privet.audits import dry_runs
from privet.audits.code import TrainingCode
from privet.audits.evidence import Evidence
from privet.experiment import Experiment
from privet.simulations.run import simulate

POLICY = """\
version = 1
[data.my-data]
requesters = ["*"]
tasks = ["*"]
[data.my-data.budget]
epsilon = 8.0
delta = 1e-5
[data.my-data.training]
smallest_noise_multiplier = 0.5
[data.my-data.sending]
records_public = true
[data.my-data.metrics]
accuracy = { release = "noised", noise_multiplier = 20.0 }
loss = { release = "exact" }
"""
EXPERIMENT = {
    "task": "digits",
    "rounds": 3,
    "seed": 3,
    "federation": {"silos": 4, "dropout": 0.2},
    "training": {"lr": 0.5, "batch_size": 64, "steps": 4},
    "privacy": {"epsilon": 3.0, "delta": 1e-5, "clip": 1.0},
    "evaluation": {"every": 2},
}


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs "clear" and "sealed" and the policy that they kept to."""
    folder = tmp_path_factory.mktemp("golden")
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    unmasked = {"encryption": {"scheme": "bfv", "pairwise_masks": False}}
    for name, more in (("clear", {}), ("sealed", unmasked)):
        experiment = Experiment.from_mapping({**EXPERIMENT, **more})
        simulate(experiment, out=folder / name, policy=policy)
    return folder


@pytest.fixture
def run(golden: Path, tmp_path: Path) -> Path:
    """A copy of the run in the clear, to spoil."""
    return Path(shutil.copytree(golden / "clear", tmp_path / "run"))


@pytest.fixture
def sealed_run(golden: Path, tmp_path: Path) -> Path:
    """A copy of the encrypted run."""
    return Path(shutil.copytree(golden / "sealed", tmp_path / "run"))


@pytest.fixture(scope="module")
def tried_once() -> Iterator[None]:
    """The installed code is tried once for all audits of one experiment.

    For tests that leave the code as it is and audit hundreds of times what was recorded: nine
    tenths of an audit are dry runs, which would come to the same.
    """
    real, known = dry_runs._tried, dict[str, dry_runs.Tried]()

    def once(run: Evidence, code: TrainingCode) -> dry_runs.Tried:
        settings, noise = run.settings.model_dump_json(), dry_runs._noise_multiplier(run)
        key = f"{settings} {noise} {run.job is None}"
        if key not in known:
            known[key] = real(run, code)
        return known[key]

    with patch.object(dry_runs, "_tried", once):
        yield
