"""`privet sweep` as a person runs it: killed, interrupted, gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from privet.commands.cli import main
from privet.sweeps.store import read_sweep

FILE = """\
task = "digits"
rounds = 10
seed = 3
[federation]
silos = 2
[training]
batch_size = 64
lr = 0.5
[sweep]
seeds = 2
baselines = ["alone"]
axes.training.lr = [0.5, 0.1]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(FILE)
    return tmp_path


def _start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "privet", "sweep", "tiny.toml", "--workers", "2", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _cells_done(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "tiny-sweep" / "cells").glob("[!.]*"))


def _wait_for_cells(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    until = time.monotonic() + 120
    while len(_cells_done(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def _times(folder: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns for cell in _cells_done(folder) for path in cell.iterdir()
    }


def test_a_sweep_that_is_killed_and_interrupted_goes_on_with_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _start(folder)
    _wait_for_cells(folder, first, 1)
    workers = psutil.Process(first.pid).children()
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert len(workers) == 2
    assert not alive  # or they would write beside those who go on
    killed = _times(folder)

    second = _start(folder, "--resume", "--quiet")
    _wait_for_cells(folder, second, len(_cells_done(folder)) + 1)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 130
    interrupted = _times(folder)
    done = len(_cells_done(folder))
    assert done < 12
    assert errors == (
        f"Interrupted: {done} of 12 cells are done. Go on with the same command and --resume.\n"
    )
    assert list((folder / "runs" / "tiny-sweep" / "cells").glob(".*")) == []

    monkeypatch.chdir(folder)
    assert _privet("sweep", "tiny.toml", "--resume") == 0
    lines = capsys.readouterr().out
    assert lines.startswith(f"{done} of 12 cells are done already")
    assert "Results: runs/tiny-sweep/sweep.json, cells.csv, cells.parquet" in lines
    finished = _times(folder)
    for before in (killed, interrupted):
        assert {path: finished[path] for path in before} == before
    result = read_sweep(folder / "runs" / "tiny-sweep")
    assert [cell.status for cell in result.cells] == ["done"] * 12


def _privet(*arguments: str) -> int:
    """The command in this process; its exit code."""
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_failed_cell_is_exit_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    asked = ("tiny.toml", "--axis", "strategy.name=krum", "--set", "rounds=1", "--seeds", "1")
    assert _privet("sweep", *asked, "--json") == 1
    cells = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = [cell for cell in cells if cell["status"] == "failed"]
    assert len(failed) == 2
    assert all("krum" in cell["reason"] for cell in failed)
    assert len(cells) == 2 + 2 * 2
    assert _privet("sweep", *asked) == 2
    assert "runs/tiny-sweep holds a sweep already" in capsys.readouterr().err


def test_simulate_leaves_the_table_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert _privet("simulate", "tiny.toml", "--set", "rounds=1") == 0
    assert "The table [sweep] is for privet sweep: this is one run." in capsys.readouterr().out
    assert "sweep" not in (folder / "runs" / "tiny" / "experiment.toml").read_text()
