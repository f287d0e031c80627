"""A sweep whose cells run on Flower's Ray simulation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from privet import Experiment, sweep
from privet.sweeps.store import read_sweep

pytestmark = pytest.mark.slow

SETTINGS = """\
task = "digits"
rounds = 2
seed = 3
[federation]
silos = 2
[privacy]
epsilon = 4.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    path = tmp_path / "experiment.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


def test_ray_sweeps_to_the_same_results_and_says_nothing(file: Path, tmp_path: Path) -> None:
    asked = ["--epsilon", "4", "--seeds", "1", "--baselines", "alone,pooled", "--workers", "2"]
    privet = [str(Path(sys.executable).parent / "privet"), "sweep", str(file), "--engine", "ray"]
    run = subprocess.run(
        [*privet, *asked, "--out", str(tmp_path / "ray"), "-q"],
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    theirs = read_sweep(tmp_path / "ray").cells
    ours = sweep(
        Experiment.from_file(file),
        axes={"privacy.epsilon": [4]},
        seeds=1,
        baselines="alone,pooled",
        engine="in-process",
        out=tmp_path / "ours",
    ).cells
    assert [cell.kind for cell in theirs] == ["federated", "alone", "alone", "pooled"]
    for one, other in zip(theirs, ours, strict=True):
        assert (one.kind, one.silo, one.epsilon) == (other.kind, other.silo, other.epsilon)
        tensors = load_file(tmp_path / "ray" / one.folder / "model.safetensors")
        own = load_file(tmp_path / "ours" / other.folder / "model.safetensors")
        for name, tensor in own.items():
            # Replies arrive in any order under Ray, so sums differ in their last bits.
            assert abs(tensor - tensors[name]).max() < 1e-5
