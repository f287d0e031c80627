"""`privet new`: what it writes runs, passes its test, and points at the line that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | path, capture_output=True, text=True, timeout=300
    )


def begun(folder: Path, kind: str) -> Path:
    done = python(folder, "privet", "new", "mine", "--kind", kind)
    assert done.returncode == 0, done.stderr
    assert "Next: cd mine" in done.stdout
    return folder / "mine"


@pytest.mark.parametrize("kind", ["table", "images", "text", "custom"])
def test_its_own_test_passes(tmp_path: Path, kind: str) -> None:
    folder = begun(tmp_path, kind)
    tested = python(folder, "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    assert "1 passed" in tested.stdout
    code = folder / "my_task.py"
    assert code.exists() == (kind != "table")
    if code.exists():
        assert len(code.read_text().splitlines()) < 45


def test_it_simulates_as_it_says(tmp_path: Path) -> None:
    folder = begun(tmp_path, "table")
    done = python(folder, "privet", "simulate", "experiment.toml", "--data-dir", ".")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    folder = begun(tmp_path, "table")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = python(tmp_path, "privet", "new", "mine", "--kind", "custom")
    assert (done.returncode, done.stderr) == (2, "privet: mine is not empty: name a new folder\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "nn.Linear(6, 16)",
            "nn.Linear(6, size)",
            "privet: NameError: name 'size' is not defined (my_task.py:15: ",
        ),
        (
            'file[f"{part}_inputs"]',
            'file[f"{part}_input"]',
            "is not a file in the archive' (my_task.py:31: ",
        ),
        (
            "nn.functional.cross_entropy(outputs, targets)",
            "nn.functional.cross_entropy(outputs, missing)",
            "NameError: name 'missing' is not defined (my_task.py:24: return nn.functional",
        ),
        ("class MyTask", "1 / 0\n\n\nclass MyTask", "(my_task.py:10: 1 / 0)"),
    ],
    ids=["model", "data", "loss", "import"],
)
def test_an_error_of_a_task_is_one_line_with_its_own(
    tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    folder = begun(tmp_path, "custom")
    code = folder / "my_task.py"
    assert right in code.read_text()
    code.write_text(code.read_text().replace(right, wrong))
    done = python(folder, "privet", "simulate", "experiment.toml", "--data-dir", ".")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr
