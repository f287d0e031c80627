"""The same experiment on Flower's own simulation: through Ray, and by `flwr run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from privet import Experiment
from privet.commands.cli import main
from privet.simulations.run import simulate

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _needs_ray() -> None:
    pytest.importorskip("ray", reason="needs the extra 'ray'")


def test_ray_trains_the_same_model(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(
        'task = "digits"\nrounds = 2\n[federation]\nsilos = 4\n[privacy]\nnoise_multiplier = 1.0\n'
    )
    before = os.environ.get("PYTHONPATH")
    command = ["simulate", str(file), "--engine", "ray", "--workers", "2", "--quiet"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--out", str(tmp_path / "ray")])
    assert not end.value.code
    assert os.environ.get("PYTHONPATH") == before, "the path of a next run is longer"
    ours = simulate(Experiment.from_file(file), out=tmp_path / "ours")
    theirs = json.loads((tmp_path / "ray" / "summary.json").read_text())
    assert theirs["epsilon"] == ours["epsilon"]
    assert theirs["client_updates"] == 8
    tensors = load_file(tmp_path / "ray" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "ours" / "model.safetensors").items():
        # Replies arrive in any order under Ray, so sums differ in their last bits.
        assert abs(tensor - tensors[name]).max() < 1e-5


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[dict[str, str]]:
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39291",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    yield environment
    for process in Path("/proc").glob("[0-9]*/cmdline"):  # Flower's daemon never ends by itself
        if str(tmp_path / "home").encode() in process.read_bytes():
            os.kill(int(process.parent.name), signal.SIGTERM)


def test_flwr_run_works_from_a_thin_app_directory(
    tmp_path: Path, flower_home: dict[str, str]
) -> None:
    command = ["flwr", "run", str(CHECKOUT / "examples" / "flower_app"), "--stream"]
    nodes = ["--federation-config", "num-supernodes=10 client-resources-num-cpus=1"]
    subprocess.run([*command, *nodes], cwd=tmp_path, env=flower_home, check=True, timeout=300)
    deadline = time.monotonic() + 60
    while not (found := list(tmp_path.glob("privet-*/summary.json"))):
        assert time.monotonic() < deadline, "no summary was written"
        time.sleep(0.5)
    summary = json.loads(found[0].read_text())
    assert summary["rounds"] == 3
    assert summary["client_updates"] == 30
    assert 3.9 <= summary["epsilon"]["max"] <= 4.0
