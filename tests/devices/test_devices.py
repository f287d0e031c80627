"""Devices, tried on one that needs no hardware: every test there is run and passes.

In processes of their own: where torch has an accelerator none can fork others that train, which
other tests do; and one that has trained can get no accelerator any more.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", ["runs_on_paper.py", "silos_on_paper.py"])
def test_on_paper(file: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", str(HERE / file), "-q", "-n", "0"]
    command += ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
