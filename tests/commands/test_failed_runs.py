"""A run that went wrong says so: in its round, in the summary, on the page and by its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
import numpy as np
import torch
from torch import nn
from privet import Examples

class Fine:
    def __init__(self, *, model=None, data_dir=None): pass
    def model(self): return nn.Linear(4, 2)
    def train_data(self): return self._of(90)
    def test_data(self): return self._of(30)
    def _of(self, n):
        inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
        return Examples(inputs, (inputs[:, 0] > 0).long())
    def loss(self, outputs, targets): return nn.functional.cross_entropy(outputs, targets)
    def metrics(self, outputs, targets):
        return {"mae": np.float32(0.25), "r2": torch.tensor(float("nan")), "n": np.int64(3)}

class Nan(Fine):
    def loss(self, outputs, targets): return super().loss(outputs, targets) * float("nan")

class Broken(Fine):
    def metrics(self, outputs, targets):
        return {"mae": 1 / 0}

class Worse(Fine):
    def model(self): return OnlyOutside()

class OnlyOutside(nn.Linear):
    def __init__(self): super().__init__(4, 2)
    def forward(self, x):
        if self.training:
            raise KeyError("age")
        return super().forward(x)

class Detached(Fine):
    def loss(self, outputs, targets):
        return super().loss(outputs.detach() + 0 * outputs, targets)

class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.beside = nn.Linear(4, 2), nn.Linear(4, 2)
    def forward(self, x):
        return self.head(x) + 0.0 * self.beside(x)

class Partly(Fine):
    def model(self): return Beside()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(TASK)
    return tmp_path


def run(folder: Path, task: str, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "x.toml").write_text(
        f'task = "own:{task}"\nrounds = 2\n[federation]\nsilos = 3\n[training]\nbatch_size = 10\n'
    )
    command = [sys.executable, "-m", "privet", "simulate", "x.toml", "--out", "out", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def summary(folder: Path) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    for line in (folder / "out" / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    text = (folder / "out" / "summary.json").read_text()
    found: dict[str, object] = json.loads(text, parse_constant=refuse)
    return found


@pytest.mark.parametrize("task", ["Nan", "Worse"])
def test_a_run_in_which_nobody_trained_exits_with_one_and_says_why(folder: Path, task: str) -> None:
    done = run(folder, task)
    why = {"Nan": "the training loss is nan", "Worse": "KeyError: 'age' (own.py:33: "}[task]
    assert done.returncode == 1
    assert "nobody trained: the model is as it was made" in done.stderr
    for number in (1, 2):
        line = next(each for each in done.stdout.splitlines() if f"round {number}/2" in each)
        assert f"nobody trained: silo-0: {why}" in line
    problems = summary(folder)["problems"]
    assert isinstance(problems, list)
    assert any(each.startswith("round 1 and 1 more: nobody trained") for each in problems)
    page = (folder / "out" / "report.html").read_text()
    assert ("Neither a loss nor an accuracy" in page) == (task == "Nan")
    assert "no held-out records" not in page
    assert why.split(" (")[0].replace("'", "&#39;") in page


def test_numbers_of_numpy_and_torch_are_numbers_and_what_is_not_finite_is_said(
    folder: Path,
) -> None:
    done = run(folder, "Fine")
    assert done.returncode == 0, done.stderr
    found = summary(folder)
    assert found["metrics"] == {"mae": 0.25, "n": 3.0}
    assert found["problems"] == ["round 0 and 2 more: r2 is not finite"]
    assert "mae 0.25" in next(each for each in done.stdout.splitlines() if "round 1/2" in each)


def test_an_error_of_a_tasks_own_code_names_its_line(folder: Path) -> None:
    done = run(folder, "Broken")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "privet: the model or a metric fails on the test records: ZeroDivisionError: division by "
        'zero (own.py:24: return {"mae": 1 / 0})'
    )
    assert "Traceback" not in done.stderr


def test_a_run_in_which_nothing_trains_says_so_and_exits_1(folder: Path) -> None:
    done = run(folder, "Detached")
    assert done.returncode == 1
    assert "privet: nothing was trained: every number of the model is where it" in done.stderr
    assert (folder / "out/report.html").exists()
    assert json.loads((folder / "out/summary.json").read_text())["model"]["nothing_trained"]


def test_tensors_that_stay_are_named_in_a_run_that_trains(folder: Path) -> None:
    done = run(folder, "Partly")
    assert done.returncode == 0
    assert "warning: beside.weight, beside.bias: every number is where it started" in done.stderr
