"""`privet try` as a stranger runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def begin(folder: Path) -> subprocess.Popen[str]:
    (folder / "temporary").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "privet", "try", "--out", str(folder / "run")],
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_behind(folder: Path) -> list[str]:
    """What still runs with the folder in its command line, and files in the temporary one."""
    mark = str(folder / "temporary")
    lines = [
        path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if os.access(path, os.R_OK)
    ]
    # torch makes an empty folder of this name at its import.
    files = (folder / "temporary").iterdir()
    kept = [path.name for path in files if not path.name.startswith("torchinductor_")]
    return [line for line in lines if mark in line] + kept


def test_it_trains_over_real_silos_with_privacy_and_encryption(tmp_path: Path) -> None:
    process = begin(tmp_path)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    summary = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    assert summary["rounds"] == 10
    assert len(summary["epsilon"]["per_silo"]) == 3
    # 4 for the training, and a little for the accuracy that silos tell with noise.
    assert 3.9 < summary["epsilon"]["max"] < 4.1
    assert summary["encryption"]["scheme"] == "bfv"
    assert "epsilon" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_it_takes_everything_along_when_it_is_ended(tmp_path: Path) -> None:
    process = begin(tmp_path)
    end = time.monotonic() + 120
    while not any("silo" in line for line in left_behind(tmp_path)):
        assert time.monotonic() < end, "no silo was started"
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert left_behind(tmp_path) == []
