"""`objective` of a table, through the command and at a holder's silo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privet.commands.cli import main
from privet.errors import ExperimentError
from privet.record.summary import RunSummary, read_summary
from privet.tasks import load_task

WARDS, GRADES = ("north", "south"), ("mild", "some", "bad")
RANGES = "ranges.age = [0, 100]\n"
EXPERIMENT = """\
task = "table"
rounds = 12
seed = 1
[data]
file = "stays.csv"
numeric = ["age"]
categorical = ["ward"]
categories.ward = ["north", "south"]
{data}
[federation]
silos = 3
[training]
batch_size = 32
lr = 0.5
{more}
"""
DP = "[privacy]\nepsilon = 20.0\ndelta = 1e-4\nclip = 1.0\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    rng = np.random.default_rng(0)
    age, ward = rng.uniform(0, 100, 600), rng.integers(0, 2, 600)
    days = np.exp(0.5 + age / 40 + 0.3 * ward + rng.normal(0, 0.2, 600))
    visits = rng.poisson(age / 10 + ward)
    grade = np.digitize(age + rng.normal(0, 12, 600), [30, 60])
    died = rng.random(600) < 0.5
    lines = ["age,ward,days,visits,grade,time,died"]
    lines += [
        f"{a:.2f},{WARDS[w]},{d:.2f},{v},{GRADES[g]},{200 / d:.2f},{int(e)}"
        for a, w, d, v, g, e in zip(age, ward, days, visits, grade, died, strict=True)
    ]
    Path("stays.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(data: str, more: str = "", *options: str) -> RunSummary:
    Path("stays.toml").write_text(EXPERIMENT.format(data=data, more=more))
    with pytest.raises(SystemExit) as end:
        main(["simulate", "stays.toml", *options])
    assert not end.value.code
    found = read_summary(Path("runs/stays"))
    assert found is not None
    return found


NUMBERS = f'target = "days"\nranges.days = [0, 30]\nunit = "days"\n{RANGES}'
GRADE = 'target = "grade"\nclasses = ["mild", "some", "bad"]\n'
OBJECTIVES = {
    "squared": NUMBERS + 'objective = "squared"',
    "absolute": NUMBERS + 'objective = "absolute"',
    "poisson": f'target = "visits"\nranges.visits = [0, 20]\nobjective = "poisson"\n{RANGES}',
    "ordinal": f'{GRADE}objective = "ordinal"\n{RANGES}',
    "survival": 'target = "time"\nevent = "died"\nintervals = [20, 40, 60, 80]\n'
    f'objective = "survival"\n{RANGES}',
    "classes": GRADE + RANGES,
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("more", ["", DP])
def test_each_learns_more_than_one_answer_for_everybody(
    objective: str, more: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(OBJECTIVES[objective], more)
    first = summary.declared[0]
    value, baseline = summary.metrics[first.name], summary.baselines[first.name]
    assert (value > baseline) == first.higher_is_better
    told = capsys.readouterr().out
    assert f"(baseline {baseline:.4g})" in told
    assert "baseline" in told.splitlines()[-6:][0] or "one answer for everybody" in told
    page = (here / "runs/stays/report.html").read_text()
    assert "The baseline is one answer for everybody" in page
    if objective in ("squared", "absolute"):
        assert f"{value:.3f} days" in page


def test_a_model_answers_as_it_was_evaluated(here: Path) -> None:
    run(OBJECTIVES["squared"])
    with pytest.raises(SystemExit) as end:
        main(["predict", "runs/stays", "stays.csv", "--out", "scored.csv"])
    assert not end.value.code
    header, *rows = Path("scored.csv").read_text().splitlines()
    assert header.endswith("prediction")
    said = np.array([float(row.rpartition(",")[2]) for row in rows])
    days = np.loadtxt("stays.csv", delimiter=",", skiprows=1, usecols=2)
    assert np.corrcoef(said, days)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            'target = "days"\nobjective = "squared"',
            "ranges.days = [lowest, highest] is needed",
        ),
        (
            'target = "days"\nobjective = "poisson"\nranges.days = [-1, 3]',
            "data.ranges.days is below 0",
        ),
        ('target = "time"\nobjective = "survival"', "data.event and data.intervals are needed"),
        (
            'target = "time"\nobjective = "survival"\nevent = "died"\nintervals = [3, 2]',
            "data.intervals = [3.0, 2.0]: rising ends above 0",
        ),
        ('target = "grade"\nintervals = [3]', "data.intervals is not for data.objective"),
        (
            'target = "days"\nobjective = "squared"\nranges.days = [0, 9]\nclasses = [1, 2]',
            "data.classes is not for",
        ),
        ('target = "grade"\nobjective = "sqared"', "data.objective = 'sqared'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    data: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("stays.toml").write_text(EXPERIMENT.format(data=data, more=""))
    with pytest.raises(SystemExit) as end:
        main(["simulate", "stays.toml", "-q"])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def held(folder: Path, **options: Any) -> Any:
    given = {"file": "stays.csv", "numeric": ["age"], "ranges": {"age": [0, 100]}, **options}
    return load_task("table", data_dir=folder, options=given, held=True)


def test_a_holder_leaves_out_what_its_description_does_not_cover(tmp_path: Path) -> None:
    lines = "age,days,died\n5,1,0\n5,many,1\n5,,1\n5,31,1\n5,-1,0\n5,30,1\n"
    (tmp_path / "stays.csv").write_text(lines)
    options = {"target": "days", "objective": "squared"}
    task = held(tmp_path, **options, ranges={"age": [0, 100], "days": [0, 30]})
    assert torch.equal(task.train_data().targets, torch.tensor([-1 + 2 / 30, 1.0]))
    task = held(tmp_path, target="days", objective="survival", event="died", intervals=[10.0, 20.0])
    assert task.train_data().targets.tolist() == [0, 4, 4]


def test_a_description_says_in_full_what_is_predicted(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"data\.ranges\.days"):
        held(tmp_path, target="days", objective="squared")


def test_the_folder_holds_what_pictures_are_drawn_from(here: Path) -> None:
    summary = run(OBJECTIVES["squared"])
    assert summary.pictures is not None
    assert summary.pictures.against is not None
    tested = sum(map(sum, summary.pictures.against.counts))
    assert 80 < tested < 160
    json.dumps(summary.plain(), allow_nan=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": [{"name": "a", "of_class": [-1] * 20, "of_others": [9] * 20}]},
        {"scores": [{"name": "a", "of_class": [10**400] * 20, "of_others": [9] * 20}]},
        {"confusion": {"classes": ["a", "b"], "counts": [[1], [2, 3, 4]]}},
        {"against": {"low": 0.0, "high": 1.0, "unit": "", "counts": [[-4, 1], [0, -2]]}},
        {"against": {"low": -1e308, "high": 1e308, "unit": "", "counts": [[1]]}},
        {"against": {"low": 0.0, "high": 1.0, "unit": "", "counts": [[0]]}},
        {"scores": 7, "confusion": [], "against": "none"},
    ],
)
def test_a_page_is_written_whatever_the_folder_says(damage: dict[str, Any], here: Path) -> None:
    run(OBJECTIVES["classes"])
    path = here / "runs/stays/summary.json"
    told = json.loads(path.read_text())
    told["pictures"] = {"scores": [], "confusion": None, "against": None, **damage}
    path.write_text(json.dumps(told))
    with pytest.raises(SystemExit) as end:
        main(["report", "runs/stays"])
    assert not end.value.code
