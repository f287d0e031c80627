"""A server that has no data of its own: silos hold tables, the job says what is in them."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file, save_file

import hostile_names
from privet import Experiment, PrivetError
from privet.client.app import app as client
from privet.record.history import look_away
from privet.server.app import Hosting, server_app
from privet.simulations.grid import SERVER_NODE, InProcessGrid, Sequential
from rounds_written import history
from silo_holder import describing, holder

SCHEMA = {
    "target": "outcome",
    "numeric": ["age"],
    "categorical": ["ward"],
    "classes": ["home", "died"],
    "ranges": {"age": [0, 110]},
    "categories": {"ward": ["north", "south", "east", "hospice"]},
}
WARDS = (("north",), ("south", "east"), ("north", "hospice"), ("odd words", "east"))
"""Which are present at each of four silos."""
ROWS = (90, 40, 250, 33)


def stays(path: Path, wards: tuple[str, ...], rows: int) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "ward", "age", "outcome"])
        for i in range(rows):
            age = (i * 37) % 100
            table.writerow([i, wards[i % len(wards)], age, "died" if age > 60 else "home"])


def experiment(data: dict[str, Any], **more: Any) -> Experiment:
    base = {
        "task": "table",
        "rounds": 3,
        "data": data,
        "training": {"steps": 4, "batch_size": 16, "lr": 1.0},
        "strategy": {"name": "fedavg", "weighting": "uniform"},
        "federation": {"min_silos": 4},
        "privacy": {"noise_multiplier": 1.0},
    }
    return Experiment.from_mapping({**base, **more})


def silos(folder: Path) -> dict[int, Context]:
    """Four holders with files of their own, as real silos are told of them."""
    found = {}
    for place, (wards, rows) in enumerate(zip(WARDS, ROWS, strict=True)):
        home = folder / f"silo-{place}"
        home.mkdir()
        stays(home / "stays.csv", wards, rows)
        node = {**holder(home, public=False), "data-dir": str(home), "name": f"silo-{place}"}
        described = describing(node, "table", file="stays.csv", **SCHEMA)
        found[place + 2] = Context(9, place + 2, {**described}, RecordDict(), {})
    return found


def run(
    folder: Path, job: Experiment, everybody: dict[int, Context], *, data_dir: Path | None
) -> dict[str, Any]:
    for context in everybody.values():
        context.run_config = {**job.to_run_config()}
    grid = InProcessGrid(Sequential(client, everybody), silos=len(everybody), run_id=9)
    hosting = Hosting(folder=folder / "run", data_dir=data_dir, watch=look_away)
    context = Context(9, SERVER_NODE, {}, RecordDict(), {**job.to_run_config()})
    server_app(hosting)(grid=grid, context=context)
    found: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())
    return found


def test_a_table_runs_over_silos_whose_files_differ_in_length_and_categories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(empty)
    job, everybody = experiment({"dataset": "records", **SCHEMA}), silos(tmp_path)
    with hostile_names.opened() as opened:
        summary = run(tmp_path, job, everybody, data_dir=None)
    assert summary["rounds"] == 3
    entries = history(tmp_path / "run")
    assert all(len(entry["participants"]) == 4 for entry in entries[1:])
    assert not any(entry["metrics"] for entry in entries)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert sorted(weight.shape for weight in weights.values()) == [(2,), (2, 2 + 5)]
    # Each silo opens its own file, within its folder, and nobody opens one by another way.
    assert not any("stays.csv" in path for path in opened if path != "stays.csv")


def test_weights_to_begin_with_lie_at_the_server_and_no_silo_opens_them(tmp_path: Path) -> None:
    (data := tmp_path / "server").mkdir()
    tensors = {"1.weight": np.full((2, 7), 3, np.float32), "1.bias": np.zeros(2, np.float32)}
    save_file(tensors, data / "begin.safetensors")
    sha256 = hashlib.sha256((data / "begin.safetensors").read_bytes()).hexdigest()
    start = {"file": "begin.safetensors", "sha256": sha256, "seen": "another hospital"}
    job, everybody = experiment({"dataset": "records", **SCHEMA}, start=start), silos(tmp_path)
    job = job.with_settings({"training.lr": 1e-6})
    with hostile_names.opened() as opened:
        summary = run(tmp_path, job, everybody, data_dir=data)
    assert summary["start"] == {"sha256": sha256, "seen": "another hospital"}
    assert all(len(entry["participants"]) == 4 for entry in history(tmp_path / "run")[1:])
    weights = load_file(tmp_path / "run" / "model.safetensors")
    np.testing.assert_allclose(weights["1.weight"], 3, atol=1e-3)
    assert [path for path in opened if path.endswith("begin.safetensors")] == ["begin.safetensors"]


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"file": "../begin.safetensors", "sha256": "0" * 64}, "is no file of the data folder"),
        ({"file": "/etc/begin.safetensors", "sha256": "0" * 64}, "is no file of the data folder"),
        ({"file": "out.safetensors", "sha256": "0" * 64}, "is no file of the data folder"),
        ({"file": "begin.safetensors", "sha256": "0" * 64}, "is another file than the experiment"),
        ({"file": "begin.safetensors"}, "start.sha256 is needed with start.file"),
    ],
)
def test_no_other_file_of_the_server_is_begun_from(
    tmp_path: Path, start: dict[str, str], said: str
) -> None:
    (data := tmp_path / "server").mkdir()
    for path in (data / "begin.safetensors", tmp_path / "begin.safetensors"):
        save_file({"bias": np.zeros(2, np.float32)}, path)
    (data / "out.safetensors").symlink_to(tmp_path / "begin.safetensors")
    job = experiment({"dataset": "records", **SCHEMA}, start=start)
    with pytest.raises(PrivetError, match=said):
        run(tmp_path, job, silos(tmp_path), data_dir=data)


def test_a_server_that_has_test_data_evaluates_on_them(tmp_path: Path) -> None:
    (data := tmp_path / "server").mkdir()
    stays(data / "test.csv", ("north", "never heard of"), 50)
    job = experiment({"dataset": "records", "test_file": "test.csv", **SCHEMA})
    run(tmp_path, job, silos(tmp_path), data_dir=data)
    assert all("accuracy" in entry["metrics"] for entry in history(tmp_path / "run")[1:])


def test_a_built_in_task_needs_no_files_at_the_server(tmp_path: Path) -> None:
    """Its model needs none; without files the server does not evaluate."""
    job = experiment({}, task="adult", federation={"min_silos": 1})
    grid = InProcessGrid(Sequential(client, {}), silos=0, run_id=9)
    hosting = Hosting(folder=tmp_path / "run", data_dir=tmp_path, watch=look_away)
    context = Context(9, SERVER_NODE, {}, RecordDict(), {**job.to_run_config()})
    with pytest.raises(PrivetError) as caught:
        server_app(hosting)(grid=grid, context=context)
    assert "adult" not in str(caught.value)
    assert "silo" in str(caught.value)


def refusal(folder: Path, data_dir: Path | None, data: dict[str, Any]) -> str:
    """What a server says to a job before it asks a silo."""
    job = experiment(data)
    grid = InProcessGrid(Sequential(client, {}), silos=0, run_id=9)
    hosting = Hosting(folder=folder / "run", data_dir=data_dir, watch=look_away)
    context = Context(9, SERVER_NODE, {}, RecordDict(), {**job.to_run_config()})
    with pytest.raises(PrivetError) as caught:
        server_app(hosting)(grid=grid, context=context)
    return str(caught.value)


@pytest.mark.parametrize("key", ["file", "files", "silo", "test_fraction"])
def test_a_job_may_not_say_where_silos_have_their_records(tmp_path: Path, key: str) -> None:
    said = refusal(tmp_path, tmp_path, {**SCHEMA, key: 0.5 if "fraction" in key else "ward"})
    assert said.startswith(f"data.{key}: a job on real silos names a data set")


def test_a_job_that_leaves_something_open_is_refused(tmp_path: Path) -> None:
    for key in ("classes", "categories"):
        data = {name: value for name, value in SCHEMA.items() if name != key}
        assert "described in full" in refusal(tmp_path, tmp_path, data)


def test_no_name_of_test_data_leads_out_of_the_servers_data_folder(tmp_path: Path) -> None:
    data = hostile_names.data_folder(tmp_path)
    names = [name for name in hostile_names.names(tmp_path) if name and "\udc2e" not in name]

    def answers() -> dict[str, str]:
        return {name: refusal(tmp_path, data, {**SCHEMA, "test_file": name}) for name in names}

    refusal(tmp_path, data, {**SCHEMA, "test_file": "none.csv"})  # imports what it needs
    with hostile_names.opened() as opened:
        before = answers()
    assert {Path(path).name for path in opened} <= {data.name, "sub"}
    assert all("is no file of the data folder" in text for text in before.values())
    hostile_names.empty_outside(tmp_path)
    assert answers() == before
    assert not (tmp_path / "run").exists()
