"""Any figure, everywhere: a task's own headline on the console, in files, on pages and in words."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import pytest

from privet.commands.cli import main
from privet.metrics import Metric, declared_by, metric_named
from privet.record.summary import read_summary
from privet.sweeps.statistics import Paired, outcome_of
from privet.sweeps.store import read_sweep

FILE = """\
task = "own_metrics:{task}"
rounds = 4
seed = 3
[federation]
silos = 3
[training]
batch_size = 8
lr = 0.5
[sweep]
seeds = 3
baselines = ["alone"]
axes.training.lr = [0.5, 0.0001]
"""


def privet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a sweep of each task."""
    folder = tmp_path_factory.mktemp("figures")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for task in ("Line", "Undeclared"):
            (folder / f"{task}.toml").write_text(FILE.format(task=task))
            assert privet("simulate", f"{task}.toml", "-q") == 0
            assert privet("sweep", f"{task}.toml", "-q", "--workers", "1") == 0
    finally:
        os.chdir(before)
    return folder / "runs"


def test_rounds_are_told_by_the_headline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("line.toml").write_text(FILE.format(task="Line"))
    assert privet("simulate", "line.toml") == 0
    told = capsys.readouterr().out
    rounds = [line for line in told.splitlines() if line.startswith("round ")]
    assert len(rounds) == 5
    assert all("RMSE " in line and " kUSD" in line for line in rounds)
    summary = read_summary(Path("runs/line"))
    assert summary is not None
    metrics = summary.metrics
    lines = [line.split() for line in told.splitlines() if line.startswith(("RMSE", "R²"))]
    assert lines == [
        ["RMSE", f"{metrics['rmse']:.4f}", "kUSD"],
        ["R²", f"{metrics['r2']:.4g}"],
    ]
    line = json.loads(Path("runs/line/history.jsonl").read_text().splitlines()[-1])
    assert line["headline"] == {"name": "rmse", "higher_is_better": False, "unit": "kUSD"}


def test_a_page_begins_with_the_headline_and_shows_any_other(ran: Path) -> None:
    page = ran / "Line" / "report.html"
    summary = read_summary(ran / "Line")
    assert summary is not None
    rmse = f"{summary.metrics['rmse']:.3f} kUSD"
    assert f"RMSE {rmse} on 32 held-out records" in page.read_text()
    assert "RMSE (kUSD)" in page.read_text()
    assert privet("report", str(ran / "Line"), "--metric", "r2") == 0
    assert f"R² {summary.metrics['r2']:.3f} on 32 held-out records" in page.read_text()
    assert (ran / "Line" / "plots" / "r2.png").exists()


def test_without_a_declaration_and_accuracy_the_loss_is_the_headline(ran: Path) -> None:
    page = (ran / "Undeclared" / "report.html").read_text()
    summary = read_summary(ran / "Undeclared")
    assert summary is not None
    assert f"Loss {summary.loss:.3f} on 32 held-out records" in page
    assert f"{summary.metrics['rmse']:.3f}" in page
    assert read_sweep(ran / "Undeclared-sweep").metric.name == "loss"


def test_a_regression_sweep_compares_in_the_right_direction(ran: Path) -> None:
    sweep = read_sweep(ran / "Line-sweep")
    good, bad = (
        next(e for e in sweep.estimates if e.settings.get("training.lr") == lr and not e.baseline)
        for lr in (0.5, 0.0001)
    )
    assert good.mean < 8 < bad.mean
    said = outcome_of(
        "lr 0.0001", "lr 0.5", Paired(3, -9.0, 1.0, 0.01), 0.02, family=3, metric=sweep.metric
    )
    assert said.startswith("lr 0.5 is better than lr 0.0001 by 9.0000 +- 1.0000 kUSD")
    assert " kUSD over 3 seeds" in said
    assert {cell.metric.name for cell in sweep.cells} == {"rmse"}
    alone = next(
        e for e in sweep.estimates if e.kind == "alone" and e.settings["training.lr"] == 0.5
    )
    assert 1 < alone.mean < 12
    cell = next(c for c in sweep.cells if c.settings.get("training.lr") == 0.5 and not c.baseline)
    assert cell.value == cell.metrics["rmse"]
    values = [value or math.inf for value in cell.values]
    assert cell.rounds_to(values[2]) == next(i for i, v in enumerate(values) if v <= values[2])
    assert cell.rounds_to(0.0) is None


def test_the_page_of_a_regression_sweep_has_its_table(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ran / "Line-sweep"
    page = (folder / "report.html").read_text()
    assert "Nothing was measured" not in page
    assert "Mean RMSE (kUSD)" in page
    assert (folder / "rmse.svg").exists()
    with (folder / "cells.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert all(float(row["rmse"]) > 0 and float(row["r2"]) <= 1 for row in rows)
    assert privet("report", str(folder), "--metric", "r2") == 0
    assert "Mean R²" in (folder / "report.html").read_text()
    assert privet("report", str(folder), "--metric", "r3") == 2
    assert "no metric 'r3' was measured; there is rmse, r2, loss" in capsys.readouterr().err


def test_compare_puts_any_figure_side_by_side(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(ran / "Line"), str(ran / "Line-sweep")]
    assert privet("compare", *folders, "--target", "8", "--out", str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "RMSE (kUSD)" in told
    assert "never" in told
    assert "accuracy" not in told
    assert "rmse_half_width" in (tmp_path / "compare.csv").read_text()
    assert privet("compare", *folders, "--metric", "r2", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["metric"]["name"] for entry in entries} == {"r2"}
    summary = read_summary(ran / "Line")
    assert summary is not None
    assert entries[0]["value"] == summary.metrics["r2"]


def test_values_of_other_headlines_are_not_tested_against_each_other(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert privet("compare", str(ran / "Line"), str(ran / "Undeclared")) == 0
    said = capsys.readouterr()
    assert "not the same headline" in said.err
    assert "is better than" not in said.out


@pytest.mark.parametrize(
    ("task", "said"),
    [("Twice", "a name is there twice"), ("Words", "'rmse' is no privet.Metric")],
)
def test_a_declaration_that_says_nothing_is_refused(
    task: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("line.toml").write_text(FILE.format(task=task))
    assert privet("simulate", "line.toml", "-q") == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_best_round_is_the_best_by_the_headline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("line.toml").write_text(FILE.format(task="Line") + "[validation]\nshare = 0.2\n")
    assert privet("simulate", "line.toml") == 0
    lines = [json.loads(line) for line in Path("runs/line/history.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["metrics"]["rmse"])
    summary = read_summary(Path("runs/line"))
    assert summary is not None
    assert summary.validation is not None
    assert summary.validation.round == best["round"]
    assert "RMSE" in capsys.readouterr().out.partition("best round")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.1235"), (12.34567, "12.346"), (-98765.4, "-98765.4")]
)
def test_numbers_have_the_digits_that_they_need(value: float, text: str) -> None:
    assert Metric("x").number(value) == text


def test_what_nobody_declared_is_known_by_its_name() -> None:
    assert declared_by(object()) == ()
    assert not metric_named("mae").higher_is_better
    assert metric_named("mae", [Metric("mae")]).higher_is_better
    assert Metric("a").worth(math.nan) < Metric("a").worth(-1e9)
    assert Metric("../x/y").filename == "-x-y"
