"""Real trackers: what they were told is what the history says, and whatever happens, runs go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from privet import simulate, sweep
from privet.commands.cli import main
from privet.deployment.trial import free_port
from privet.errors import ExperimentError, PrivetError
from privet.experiment import dotted
from privet.record.history import RoundRecord
from privet.tracking import pipe
from privet.tracking.following import REPORT
from tracked import TINY, by_round

AXES = {"training.lr": [0.5, 0.3]}
_COPIES = count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `mlflow.db` all tests share: making the tables takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowClient(f"sqlite:///{folder / 'made.db'}").get_experiment_by_name("none")
    shutil.copy(folder / "made.db", folder / "mlflow.db")
    return folder


@pytest.fixture
def uri(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """The address of the database; the test has an MLflow experiment of its own in it."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.chdir(tmp_path)  # for MLflow's artifacts
    return f"sqlite:///{store / 'mlflow.db'}"


def _runs(uri: str, name: str) -> tuple[MlflowClient, list[Run]]:
    """The runs of an experiment, oldest first, read from a copy: readers keep files open."""
    if uri.startswith("sqlite:"):
        path = Path(uri.removeprefix("sqlite:///"))
        uri = f"sqlite:///{shutil.copy(path, path.with_name(f'copy-{next(_COPIES)}.db'))}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return client, sorted(runs, key=lambda run: run.info.start_time)


def _metrics(client: MlflowClient, run: Run) -> dict[str, dict[int, float]]:
    return {
        name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }


def test_mlflow_has_what_the_history_has(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit) as end:
        main(["simulate", "tiny.toml", "--out", "out", "--track", "mlflow", "-q"])
    assert not end.value.code
    client, [run] = _runs(uri, request.node.name)
    assert _metrics(client, run) == by_round(tmp_path / "out")
    assert {"accuracy", "loss", "epsilon", "own_records/accuracy", "bytes/up"} <= set(
        run.data.metrics
    )
    settings = dotted(TINY.model_dump(exclude_none=True))
    assert run.data.params == {name: str(value) for name, value in settings.items()}
    assert (run.info.run_name, run.info.status) == ("out", "FINISHED")
    assert set(run.data.tags) == {"mlflow.runName"}  # no user, no command, no commit
    for name in ("summary.json", REPORT):
        kept = Path(client.download_artifacts(run.info.run_id, name, str(tmp_path)))
        assert kept.read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert len(client.list_artifacts(run.info.run_id)) == 2


def test_mlflow_nests_the_cells_of_a_sweep(
    uri: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "out"
    result = sweep(TINY, axes=AXES, seeds=1, baselines="pooled", out=out, track=f"mlflow:{uri}")
    client, runs = _runs(uri, request.node.name)
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {
        parent.info.run_id
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert set(children) == {"lr 0.5, seed 3", "lr 0.3, seed 3", "pooled data, lr 0.5, seed 3"} | {
        "pooled data, lr 0.3, seed 3"
    }
    cell = next(cell for cell in result.cells if cell.settings == {"training.lr": 0.3})
    child = children["lr 0.3, seed 3"]
    assert _metrics(client, child) == by_round(out / cell.folder)
    assert child.data.params["training.lr"] == "0.3"
    assert parent.data.params["axis.training.lr"] == "[0.5, 0.3]"
    told = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.json", "cells.csv"} <= told


@pytest.mark.slow
def test_a_run_that_is_interrupted_is_told_as_such(
    uri: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def stop(entry: RoundRecord) -> None:
        if entry.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(TINY, out=tmp_path / "out", track=f"mlflow:{uri}", watch=stop)
    _, [run] = _runs(uri, request.node.name)
    assert run.info.status == "KILLED"
    assert run.data.metrics["accuracy"] == by_round(tmp_path / "out")["accuracy"][1]


def test_a_run_that_does_not_start_is_not_tracked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate(TINY, out=out)
    with pytest.raises(ExperimentError, match="holds a run already"):
        simulate(TINY, out=out, track="tensorboard")
    assert not (out / "tensorboard").exists()


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def _float32(figures: dict[str, dict[int, float]]) -> dict[str, Any]:
    return {name: pytest.approx(values, rel=1e-6) for name, values in figures.items()}


def test_tensorboard_has_what_the_history_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate(TINY, out=out, track="tensorboard")
    assert _scalars(out / "tensorboard" / "out") == _float32(by_round(out))
    events = EventAccumulator(str(out / "tensorboard" / "out")).Reload()
    texts = {
        name: events.Tensors(name)[0].tensor_proto.string_val[0].decode()
        for name in events.Tags()["tensors"]
    }
    assert "| training.lr | 0.5 |" in texts["settings/text_summary"]
    shown = json.loads(texts["summary/text_summary"])
    assert shown == json.loads((out / "summary.json").read_text())


@pytest.mark.slow
def test_tensorboard_has_a_folder_for_each_cell(tmp_path: Path) -> None:
    out, place = tmp_path / "out", tmp_path / "elsewhere"
    result = sweep(
        TINY, axes=AXES, seeds=1, baselines="none", out=out, track=f"tensorboard:{place}"
    )
    assert {path.name for path in place.iterdir()} == {"out", "lr 0.5, seed 3", "lr 0.3, seed 3"}
    for cell in result.cells:
        told = _scalars(place / f"lr {cell.settings['training.lr']}, seed 3")
        assert told == _float32(by_round(out / cell.folder))


def _wandb_records(folder: Path) -> Iterator[Any]:
    """The records of a transaction log: LevelDB's format behind a header of seven bytes."""
    [path] = folder.glob("*.wandb")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def _wandb_run(folder: Path) -> tuple[Any, dict[str, dict[int, float]]]:
    run, figures = None, {}
    for record in _wandb_records(folder):
        if record.WhichOneof("record_type") == "run":
            run = record.run
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for name, value in items.items():
                if not name.startswith("_"):
                    step = json.loads(items["_step"])
                    figures.setdefault(name, {})[step] = json.loads(value)
    return run, figures


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Weights & Biases keeps what it does not send."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path / "wandb"


def test_wandb_has_what_the_history_has(offline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate(TINY, out=out, track="wandb:mine")
    [folder] = offline.glob("offline-run-*")
    run, figures = _wandb_run(folder)
    assert figures == by_round(out)
    assert (run.project, run.display_name, run.run_group) == ("mine", "out", "")
    told = {each.key: json.loads(each.value_json) for each in run.config.update}
    del told["_wandb"]
    assert told == dotted(TINY.model_dump(exclude_none=True))
    assert {path.name for path in (folder / "files").iterdir()} == {REPORT, "summary.json"}
    assert (run.host, run.git.commit) == ("", "")
    seen = {record.WhichOneof("record_type") for record in _wandb_records(folder)}
    assert not seen & {"stats", "output", "output_raw", "environment"}


@pytest.mark.slow
def test_wandb_groups_the_cells_of_a_sweep(offline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = sweep(TINY, axes=AXES, seeds=1, baselines="none", out=out, track="wandb")
    found = {run.display_name: (run, f) for run, f in map(_wandb_run, offline.glob("offline-*"))}
    assert set(found) == {"out", "lr 0.5, seed 3", "lr 0.3, seed 3"}
    assert {run.run_group for run, _ in found.values()} == {"out"}
    for cell in result.cells:
        _, figures = found[f"lr {cell.settings['training.lr']}, seed 3"]
        assert figures == by_round(out / cell.folder)


@pytest.mark.slow
def test_a_tracker_that_fails_in_the_middle_is_told_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.db"
    shutil.copy(store / "made.db", broken)

    def spoil(entry: RoundRecord) -> None:
        if entry.round == 1:
            broken.write_bytes(b"not a database" * 1000)

    summary = simulate(TINY, out=tmp_path / "out", track=f"mlflow:sqlite:///{broken}", watch=spoil)
    assert summary["accuracy"] == simulate(TINY, out=tmp_path / "plain")["accuracy"]
    err = capfd.readouterr().err
    assert err.count("warning: tracking with mlflow has ended: ") == 1
    assert err.count("\n") == 1


def test_a_server_that_is_not_there_stops_nothing_and_no_password_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    simulate(TINY, out=tmp_path, track="mlflow:http://me:secret@127.0.0.1:9")
    err = capfd.readouterr().err
    assert err.count("warning: tracking with mlflow has ended: ") == 1
    assert "secret" not in err
    assert (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_a_server_that_never_answers_is_waited_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipe, "GRACE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        result = sweep(
            TINY,
            seeds=2,
            baselines="none",
            out=tmp_path,
            track=f"mlflow:http://127.0.0.1:{deaf.getsockname()[1]}",
        )
    assert {cell.status for cell in result.cells} == {"done"}
    assert capfd.readouterr().err.count("it was not ready within 1 s, and the rest is lost") == 1


def test_a_tracker_that_is_killed_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def kill(entry: RoundRecord) -> None:
        if entry.round == 1:
            [tracker] = [p for p in psutil.Process().children() if pipe.__name__ in p.cmdline()]
            tracker.send_signal(signal.SIGKILL)

    simulate(TINY, out=tmp_path, track="tensorboard", watch=kill)
    assert "its process died with exit code -9" in capfd.readouterr().err
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_package_is_said_before_the_start(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(PrivetError, match=rf"pip install 'privet\[{kind}\]'"):
        simulate(TINY, out=tmp_path / "out", track=kind)
    with pytest.raises(PrivetError, match=rf"pip install 'privet\[{kind}\]'"):
        sweep(TINY, seeds=1, out=tmp_path / "sweep", track=kind)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`mlflow server` as a process."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    log = tmp_path / "server.log"
    with log.open("w") as told:
        process = subprocess.Popen(
            [
                *command,
                "--backend-store-uri",
                "sqlite:///server.db",
                "--artifacts-destination",
                "a",
            ],
            cwd=tmp_path,
            env=_without_jobs(),
            stdout=told,
            stderr=told,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", process, log)
        yield address, process
    finally:
        _end(process)


def _without_jobs() -> dict[str, str]:
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**os.environ, **own}


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"mlflow server ({process.poll()}) does not answer:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    for each in [*psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_real_server_is_told_and_may_go_away(
    server: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    out = tmp_path / "out"
    result = sweep(TINY, axes=AXES, seeds=1, baselines="none", out=out, track="mlflow")
    client, runs = _runs(address, "privet")
    by_name = {run.info.run_name: run for run in runs}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for cell in result.cells:
        child = by_name[f"lr {cell.settings['training.lr']}, seed 3"]
        assert child.data.tags["mlflow.parentRunId"] == by_name["out"].info.run_id
        assert _metrics(client, child) == by_round(out / cell.folder)
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["summary.json"]

    def leave(entry: RoundRecord) -> None:
        if entry.round == 1:
            while len(_runs(address, "privet")[1]) == len(runs):
                time.sleep(0.1)
            _end(process)

    assert capfd.readouterr().err == ""
    simulate(TINY, out=tmp_path / "left", watch=leave, track="mlflow")
    assert (tmp_path / "left" / "summary.json").exists()
    assert capfd.readouterr().err.count("warning: tracking with mlflow has ended: ") == 1
