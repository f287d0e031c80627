"""Sweeps as a whole: what is run, what is kept, and what stands in the folder afterwards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

import privet
from privet import Execution, Experiment, sweep
from privet.errors import DataError, ExperimentError
from privet.privacy.ledger import read_history
from privet.simulations.run import simulate
from privet.sweeps.results import Cell, Sweep
from privet.sweeps.store import read_sweep

TINY = Experiment.from_mapping(
    {
        "task": "digits",
        "rounds": 2,
        "seed": 3,
        "federation": {"silos": 3, "participation": 0.9},
        "training": {"batch_size": 64, "lr": 0.5},
        "privacy": {"epsilon": 4.0},
    }
)
EPSILONS = (4, math.inf)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    """A sweep with all baselines, by two processes."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, sweep(TINY, axes={"privacy.epsilon": EPSILONS}, seeds=2, out=out, workers=2)


def _of(result: Sweep, kind: str, *, seed: int = 3) -> list[Cell]:
    return [cell for cell in result.cells if cell.kind == kind and cell.seed == seed]


def test_grid_seeds_and_baselines_are_all_there(done: tuple[Path, Sweep]) -> None:
    out, result = done
    assert {cell.status for cell in result.cells} == {"done"}
    assert len(result.cells) == 2 * (2 + 3 + 1)  # no DP is in the grid: it is not run twice
    assert result.seeds == (3, 4)
    assert [cell.silo for cell in _of(result, "alone")] == ["silo-0", "silo-1", "silo-2"]
    assert not any(cell.baseline for cell in _of(result, "federated"))
    for cell in result.cells:
        names = {path.name for path in (out / cell.folder).iterdir()}
        assert {"experiment.toml", "history.jsonl", "summary.json", "ledger.sqlite"} <= names
        assert not names & {"report.html", "plots"}
        assert len(cell.accuracies) == TINY.rounds + 1
        assert cell.accuracies[-1] == cell.accuracy


def test_results_are_read_back_as_they_were(done: tuple[Path, Sweep]) -> None:
    out, result = done
    assert read_sweep(out) == result
    assert json.loads((out / "sweep.json").read_text())["axes"] == [
        {"key": "privacy.epsilon", "values": [4, "inf"]}
    ]


def test_epsilon_is_the_ledgers(done: tuple[Path, Sweep]) -> None:
    out, result = done
    private, plain = _of(result, "federated")
    history = read_history(out / private.folder / "ledger.sqlite")
    assert private.epsilon_per_silo is not None
    for silo, epsilon in private.epsilon_per_silo.items():
        assert epsilon == history.spent(silo, delta=1e-5)
    assert private.asked_epsilon == 4
    assert private.epsilon == max(private.epsilon_per_silo.values())
    assert private.epsilon != 4
    assert plain.epsilon is plain.asked_epsilon is None


def test_one_process_gives_the_same_as_two(done: tuple[Path, Sweep], tmp_path: Path) -> None:
    out, result = done
    axes = {"privacy.epsilon": EPSILONS}
    again = sweep(TINY, axes=axes, seeds=[4], out=tmp_path, baselines="pooled", workers=1)
    before = {cell.address: cell for cell in result.cells}
    for cell in again.cells:
        assert replace(cell, seconds=None) == replace(before[cell.address], seconds=None)
        model = (tmp_path / cell.folder / "model.safetensors").read_bytes()
        assert model == (out / cell.folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["federated", "alone", "pooled"])
def test_a_cell_is_the_run_that_its_settings_give(
    done: tuple[Path, Sweep], tmp_path: Path, kind: str
) -> None:
    out, result = done
    cell = _of(result, kind)[0]
    experiment = Experiment.from_file(out / cell.folder / "experiment.toml")
    summary = simulate(experiment, out=tmp_path, execution=Execution())
    assert (summary["accuracy"], summary["loss"]) == (cell.accuracy, cell.loss)


def test_a_silo_alone_has_its_records_and_its_steps(done: tuple[Path, Sweep]) -> None:
    out, result = done
    together = _silos(out, _of(result, "federated")[1])
    for cell, silo in zip(_of(result, "alone"), together, strict=True):
        [alone] = _silos(out, cell)
        assert silo["name"] == cell.silo
        for what in ("records", "labels", "steps_per_round"):
            assert alone[what] == silo[what]


def test_pooled_data_are_everybodys_with_as_many_steps(done: tuple[Path, Sweep]) -> None:
    out, result = done
    together = _silos(out, _of(result, "federated")[1])
    [pooled] = _silos(out, _of(result, "pooled")[0])
    assert pooled["records"] == sum(silo["records"] for silo in together)
    steps = sum(silo["steps_per_round"] for silo in together)
    assert pooled["steps_per_round"] == round(0.9 * steps)


def test_records_that_are_held_out_are_so_in_the_baselines(tmp_path: Path) -> None:
    measured = TINY.with_settings({"evaluation.every": 2, "privacy.epsilon": math.inf})
    result = sweep(measured, seeds=1, baselines="alone,pooled", out=tmp_path)
    federated, *alone, pooled = result.cells
    together = _silos(tmp_path, federated)
    assert [_silos(tmp_path, cell)[0]["records"] for cell in alone] == [
        silo["records"] for silo in together
    ]
    [all_records] = _silos(tmp_path, pooled)
    assert all_records["records"] == sum(silo["records"] for silo in together)
    steps = sum(silo["steps_per_round"] for silo in together)
    assert all_records["steps_per_round"] == round(0.9 * steps)
    assert federated.accuracy_per_silo is not None
    assert list(federated.accuracy_per_silo) == ["silo-0", "silo-1", "silo-2"]


def _silos(out: Path, cell: Cell) -> list[dict[str, object]]:
    return list(json.loads((out / cell.folder / "silos.json").read_text())["silos"])


def test_tables(done: tuple[Path, Sweep]) -> None:
    out, result = done
    table = result.table()
    assert len(table) == len(result.cells)
    assert table["privacy.epsilon"].iloc[:4].tolist() == [4, 4, math.inf, math.inf]
    for read in (pandas.read_csv(out / "cells.csv"), pandas.read_parquet(out / "cells.parquet")):
        assert read["address"].tolist() == table["address"].tolist()
        assert read["accuracy"].tolist() == table["accuracy"].tolist()


def test_summary_says_what_was_found(done: tuple[Path, Sweep]) -> None:
    _, result = done
    text = result.summary()
    for part in ("epsilon 4: accuracy 0.", "by the ledger", "silos alone: ", "Student's t"):
        assert part in text
    assert "2 settings were tried on these data" in text


def test_going_on_keeps_what_is_done(done: tuple[Path, Sweep], tmp_path: Path) -> None:
    axes = {"training.lr": [0.5, 0.3]}
    first = sweep(TINY, axes=axes, seeds=1, baselines="no-dp", out=tmp_path)
    before = _times(tmp_path)
    with pytest.raises(ExperimentError, match="holds a sweep already"):
        sweep(TINY, axes=axes, seeds=1, out=tmp_path)
    wider = {"training.lr": [0.3, 0.1]}
    second = sweep(TINY, axes=wider, seeds=1, baselines="none", out=tmp_path, resume=True)
    after = _times(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len({Path(name).parent for name in after}) == len(first.cells) + 1 == 5
    assert [cell.settings for cell in second.cells] == [{"training.lr": 0.3}, {"training.lr": 0.1}]
    assert len(second.tried) == 3  # the one that is no longer asked for was tried all the same
    assert "no interval" in second.summary()


def _times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (out / "cells").glob("*/*")}


def test_a_cell_that_fails_says_why_and_the_rest_go_on(tmp_path: Path) -> None:
    result = sweep(
        TINY,
        axes={"strategy.name": ["krum", "fedavg"]},
        seeds=1,
        baselines="none",
        out=tmp_path,
    )
    krum, fedavg = result.cells
    assert (krum.status, fedavg.status) == ("failed", "done")
    assert krum.reason is not None
    assert "krum" in krum.reason
    assert f"failed: strategy krum, seed 3: {krum.reason}" in result.summary()
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [fedavg.address]


def test_a_cell_in_which_nobody_trained_is_no_figure(tmp_path: Path) -> None:
    """A loss that is no number: the model of the table would be the untrained one."""
    asked = {"axes": {"training.lr": [0.5, 1e38]}, "seeds": 1, "baselines": "none"}
    result = sweep(TINY.with_settings({"training.weight_decay": 1e38}), out=tmp_path, **asked)
    assert [cell.status for cell in result.cells] == ["failed", "failed"]
    assert "nobody trained: silo-0: " in str(result.cells[0].reason)


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    result = sweep(
        TINY.with_settings({"task": "sweep_tasks:Deadly"}),
        axes={"data.deadly": [True, False]},
        seeds=2,
        baselines="none",
        out=tmp_path,
        workers=1,
    )
    assert [cell.status for cell in result.cells] == ["failed", "failed", "done", "done"]
    assert result.cells[0].reason == "its process died with exit code 9"
    assert list((tmp_path / "cells").glob(".*")) == []


def test_a_cell_in_which_nothing_moved_is_no_figure(tmp_path: Path) -> None:
    settings = {"task": "frozen_tasks:Detached", "rounds": 1, "federation": {"silos": 3}}
    result = sweep(Experiment.from_mapping(settings), seeds=1, baselines="none", out=tmp_path)
    [cell] = result.cells
    assert cell.status == "failed"
    assert str(cell.reason).startswith("nothing was trained: every number of the model is")


def test_a_failed_cell_is_run_again(tmp_path: Path) -> None:
    task = {"task": "sweep_tasks:Counting", "data.log": str(tmp_path / "none" / "log")}
    lost = TINY.with_settings(task)
    asked = {"axes": {"training.lr": [0.5]}, "seeds": 1, "out": tmp_path / "out"}
    first = sweep(lost, **asked)
    assert [cell.status for cell in first.cells if not cell.baseline] == ["failed"]
    assert "No such file" in str(first.cells[0].reason)
    (tmp_path / "none").mkdir()
    second = sweep(lost, **asked, baselines="none", resume=True)
    assert [cell.status for cell in second.cells] == ["done"]


def test_data_are_read_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    counting = TINY.with_settings({"task": "sweep_tasks:Counting", "data.log": str(log)})
    result = sweep(counting, axes={"training.lr": [0.5, 0.3]}, seeds=1, out=tmp_path / "out")
    assert not result.failed
    assert len(result.cells) > 4
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"axes": {"training.rl": [1]}}, "cell rl 1: unknown key 'training.rl'.*Known: .*lr"),
        ({"axes": {"training.lr": [-1]}}, "cell lr -1: training.lr = -1"),
        ({"axes": {"training.lr": [1, 1]}}, "axis training.lr: it needs values, each of them once"),
        ({"axes": {"training.lr": []}}, "axis training.lr: it needs values"),
        ({"axes": {"seed": [1, 2]}}, "leave 'seed' out"),
        ({"cells": [{"seed": 1}]}, "leave 'seed' out"),
        ({"seeds": 0}, "seeds = 0: at least one"),
        ({"seeds": [1, 1]}, "must be different"),
        ({"baselines": "pool"}, "baselines = 'pool': .* Did you mean 'pooled'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, asked: dict[str, object], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExperimentError, match=message):
        sweep(TINY, out=out, **asked)
    assert not out.exists()


def test_another_folder_is_not_taken_for_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a sweep's folder"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"schema": 99}')
    with pytest.raises(DataError, match="not a sweep of schema 1"):
        read_sweep(tmp_path)


def test_sweep_is_public() -> None:
    assert privet.sweep is sweep
