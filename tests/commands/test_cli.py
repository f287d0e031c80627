"""The command line, in real processes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from privet import Experiment
from privet.commands.cli import main
from privet.simulations.run import simulate

PRIVET = [sys.executable, "-m", "privet"]
EXPERIMENT = """
task = "digits"
rounds = 3
[federation]
silos = 3
[training]
batch_size = 64
[privacy]
noise_multiplier = 1.0
"""
IN_THE_CLEAR = ("--set", "privacy.epsilon=inf")


def privet(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PRIVET, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={name: value for name, value in os.environ.items() if name != "PRIVET_DATA"},
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


def said_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The command in this process, which has everything loaded: exit code, stdout, stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    return int(end.value.code or 0), *capsys.readouterr()


@pytest.fixture(scope="module")
def simulated(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run folder, and the process that left it."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "experiment.toml").write_text(EXPERIMENT)
    return folder / "run", privet("simulate", folder / "experiment.toml", "--out", folder / "run")


def model_of(file: Path, folder: Path, *, rounds: int) -> bytes:
    """Of the same run, without a break and in this process."""
    settings = {"rounds": rounds}
    simulate(Experiment.from_file(file).with_settings(settings), out=folder)
    return (folder / "model.safetensors").read_bytes()


def test_a_simulation_prints_figures_and_leaves_a_whole_run_folder(
    simulated: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = simulated
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert f"accuracy      {summary['accuracy']:.4f}" in done.stdout
    assert f"epsilon       {summary['epsilon']['max']:.3f}" in done.stdout
    assert "round 3/3" in done.stdout
    assert {path.name for path in folder.iterdir()} == {
        "experiment.toml", "history.jsonl", "silos.json", "summary.json", "report.html",
        "model.safetensors", "checkpoint.safetensors",
        "ledger.sqlite", "ledger.key", "ledger.sqlite.head", "ledger.sqlite.lock",
    }  # fmt: skip
    assert "wit" not in done.stderr  # no library's warnings


def test_json_output_is_one_document_a_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, _ = said_here(capsys, "simulate", file, "--out", tmp_path / "run", "--json")
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line.get("round") for line in lines[:4]] == [0, 1, 2, 3]
    assert lines[4]["schema"] == 2
    assert len(lines) == 5


def test_on_a_terminal_it_moves_from_the_start_and_says_that_privacy_is_missing(
    file: Path, tmp_path: Path
) -> None:
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "privet",
        "simulate",
        str(file),
        "--out",
        str(tmp_path / "run"),
        *IN_THE_CLEAR,
    ]
    with subprocess.Popen(
        command, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(follower)
        shown = b""
        with suppress(OSError):  # Linux says so at the end of a terminal
            while some := os.read(leader, 65536):
                shown += some
    os.close(leader)
    assert process.returncode == 0
    assert b"preparing digits" in shown
    assert shown.index(b"preparing digits") < shown.index(b"3/3")
    assert b"no privacy guarantee" in shown


def test_quiet_is_quiet(file: Path, tmp_path: Path) -> None:
    done = privet("simulate", file, "--out", tmp_path / "run", "-q", *IN_THE_CLEAR)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "rounds=none"], "rounds = 'none'"),
        (["--set", "round=3"], "Did you mean 'rounds'"),
        (["--set", "rounds"], "expected KEY=VALUE"),
        (["--set", "task=mnist"], "--data-dir"),
        (["--set", "task=heart-disease", "--data-dir", "/nowhere"], "/nowhere"),
        (["--set", "strategy.name=fedpox"], "Did you mean 'fedprox'"),
        (["--set", "privacy.epsilon=3"], "exactly one of"),
        (["--set", "federation.silos=5000"], "5000"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_nothing_is_written(
    file: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    code, _, said = said_here(capsys, "simulate", file, "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_mistake_is_one_line_of_a_process_too(file: Path, tmp_path: Path) -> None:
    done = privet("simulate", file, "--out", tmp_path / "run", "--set", "rounds=none")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(file: Path, tmp_path: Path) -> None:
    done = privet("--debug", "simulate", file, "--out", tmp_path / "run", "--set", "round=3")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_folder_is_not_written_over(
    file: Path,
    simulated: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in simulated[0].iterdir()}
    code, _, said = said_here(capsys, "simulate", file, "--out", simulated[0])
    assert code == 2
    assert "holds a run already" in said
    assert {path: path.read_bytes() for path in simulated[0].iterdir()} == before


def test_ctrl_c_leaves_a_readable_folder_and_resume_ends_at_the_same_model(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["simulate", str(file), "--out", str(tmp_path / "cut"), "--set", "rounds=60"]
    process = subprocess.Popen(
        [*PRIVET, *command, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell has what it runs in the background ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round  5/"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Interrupted after round" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "cut" / "report.html").exists()
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert said_here(capsys, *command, "--resume", "-q") == (0, "", "")
    model = (tmp_path / "cut" / "model.safetensors").read_bytes()
    assert model == model_of(file, tmp_path / "whole", rounds=60)


def test_a_finished_run_is_given_more_rounds_and_says_so(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["simulate", file, "--out", tmp_path / "run", "--resume", "--set"]
    assert said_here(capsys, *command, "rounds=2")[0] == 0
    code, out, _ = said_here(capsys, *command, "rounds=3")
    assert code == 0
    assert "The run here ended after round 2: rounds 3 to 3; epsilon grows with them." in out
    assert "round 3/3" in out
    assert (tmp_path / "run" / "model.safetensors").exists()
    code, out, said = said_here(capsys, *command, "rounds=4", "--set", "privacy.clip=2")
    assert code == 2
    assert "was begun with rounds = 3, not with rounds = 4; --resume needs the same" in said
    assert "it was also begun with privacy.clip = 1.0, not with privacy.clip = 2.0" in said


def test_the_lists_name_everything() -> None:
    tasks, strategies = privet("tasks").stdout, privet("strategies").stdout
    for name in ("digits", "mnist", "fashion-mnist", "heart-disease", "adult", "table"):
        assert f"{name} " in tasks
    for name in ("fedavg", "fedprox", "scaffold", "krum", "trimmed-mean"):
        assert f"{name} " in strategies


def test_report_can_be_written_again(
    simulated: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(simulated[0], run)
    (run / "report.html").unlink()
    done = privet("report", run)
    assert done.returncode == 0
    assert (run / "report.html").exists()
    assert (run / "plots" / "accuracy.png").exists()
    code, _, said = said_here(capsys, "report", tmp_path / "nothing")
    assert code == 2
    assert "is not a run folder" in said
