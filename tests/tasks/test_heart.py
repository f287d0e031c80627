"""The cleaning rule of heart-disease on invented patients; real ones are in tests/realdata."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.errors import DataError, ExperimentError
from privet.tasks import load_task
from privet.tasks.task import uncovered

FLAMBY = {"split": "flamby", "scaling": "per-silo"}
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
SIZES = (30, 24, 12, 20)


def patient(rng: np.random.Generator) -> list[str]:
    values = [
        rng.integers(30, 80), rng.integers(0, 2), rng.integers(1, 5), rng.integers(95, 200),
        rng.integers(120, 400), rng.integers(0, 2), rng.integers(0, 3), rng.integers(80, 200),
        rng.integers(0, 2), round(float(rng.uniform(-2, 5)), 1), 2, 1, 3, rng.integers(0, 5),
    ]  # fmt: skip
    return [str(value) for value in values]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files; in each one patient lacks a column that is kept, all lack one that is not."""
    rng = np.random.default_rng(5)
    for name, size in zip(HOSPITALS, SIZES, strict=True):
        patients = [patient(rng) for _ in range(size)]
        for row in patients:
            row[11] = "?"
        patients[3][4] = "?"
        lines = [",".join(row) for row in patients]
        (tmp_path / f"processed.{name}.data").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_patients_with_a_missing_value_in_a_kept_column_are_dropped(folder: Path) -> None:
    task = load_task("heart-disease", data_dir=folder, options=FLAMBY)
    train, test = task.train_data(), task.test_data()
    assert test is not None
    assert train.silo is not None
    assert test.silo is not None
    together = np.bincount(train.silo) + np.bincount(test.silo)
    assert together.tolist() == [size - 1 for size in SIZES]
    assert np.bincount(train.silo).tolist() == [int(0.66 * (size - 1)) for size in SIZES]
    assert train.silo_names == test.silo_names == HOSPITALS
    assert train.inputs.shape[1] == 13
    assert set(train.targets.tolist()) == {0, 1}


def test_per_silo_scaling_uses_the_training_patients_of_that_hospital_alone(folder: Path) -> None:
    before = load_task("heart-disease", data_dir=folder, options=FLAMBY).train_data()
    assert before.silo is not None
    for silo in range(4):
        own = before.inputs[torch.from_numpy(before.silo == silo)]
        torch.testing.assert_close(own.mean(dim=0), torch.zeros(13), atol=1e-5, rtol=0)
        deviation = own.std(dim=0)
        assert ((deviation - 1).abs().lt(1e-4) | deviation.eq(0)).all()
    other = folder / "processed.va.data"
    lines = [line.split(",") for line in other.read_text().splitlines() if line]
    other.write_text("\n".join(",".join(["99", *line[1:]]) for line in lines))
    after = load_task("heart-disease", data_dir=folder, options=FLAMBY).train_data()
    rows = torch.from_numpy(before.silo != 3)
    assert torch.equal(after.inputs[rows], before.inputs[rows])


def test_public_ranges_are_used_and_clip(folder: Path) -> None:
    path = folder / "processed.cleveland.data"
    path.write_text(path.read_text() + "200,0,1,60,600,0,0,220,1,8,2,?,3,0\n")
    task = load_task("heart-disease", data_dir=folder, options={"scaling": "public-ranges"})
    train, test = task.train_data(), task.test_data()
    assert test is not None
    everybody = torch.cat([train.inputs, test.inputs])
    added = everybody[everybody[:, 0] == 1.0]
    assert added.tolist() == [[1, -1, -1, 1, -1, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert everybody.abs().max() <= 1


def test_a_column_that_is_constant_in_training_stays_finite(folder: Path) -> None:
    path = folder / "processed.switzerland.data"
    lines = [line.split(",") for line in path.read_text().splitlines() if line]
    path.write_text("\n".join(",".join([*row[:4], "0", *row[5:]]) for row in lines))
    train = load_task("heart-disease", data_dir=folder, options=FLAMBY).train_data()
    assert train.silo is not None
    assert (train.inputs[torch.from_numpy(train.silo == 2), 3] == 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"scaling": "per-silo"}, ["scaled by each hospital's own mean"]),
        ({"split": "flamby"}, ["divided into training and testing by their places"]),
        (FLAMBY, ["scaled by each hospital's own mean", "by their places"]),
    ],
)
def test_what_epsilon_does_not_cover_is_said(options: dict[str, str], said: list[str]) -> None:
    found = uncovered(load_task("heart-disease", options=options))
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence
        assert "epsilon does not cover" in sentence


def test_about_two_thirds_of_the_patients_are_trained_on(folder: Path) -> None:
    task = load_task("heart-disease", data_dir=folder)
    train, test = task.train_data(), task.test_data()
    assert test is not None
    assert len(train) + len(test) == sum(SIZES) - 4
    assert 0.5 < len(train) / (sum(SIZES) - 4) < 0.8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hospital=st.sampled_from(HOSPITALS), place=st.integers(0, 11))
def test_a_patient_more_or_less_moves_no_other(folder: Path, hospital: str, place: int) -> None:
    path = folder / f"processed.{hospital}.data"
    whole = path.read_text()
    before = parts(folder)
    lines = whole.splitlines()
    del lines[place]
    path.write_text("\n".join(lines) + "\n")
    after = parts(folder)
    path.write_text(whole)
    assert sum((before[0] - after[0]).values()) + sum((before[1] - after[1]).values()) <= 1
    assert not after[0] - before[0]
    assert not after[1] - before[1]


def parts(folder: Path) -> tuple[Counter[bytes], Counter[bytes]]:
    """The patients trained and tested on, as their models see them."""
    task = load_task("heart-disease", data_dir=folder)
    found = []
    for examples in (task.train_data(), task.test_data()):
        assert examples is not None
        assert examples.silo is not None
        rows = zip(examples.inputs, examples.targets, examples.silo, strict=True)
        found.append(
            Counter(x.numpy().tobytes() + bytes(f"{y} {silo}", "ascii") for x, y, silo in rows)
        )
    return found[0], found[1]


def test_another_scaling_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"data.scaling = 'pooled': it is public-ranges or"):
        load_task("heart-disease", options={"scaling": "pooled"})
    with pytest.raises(ExperimentError, match=r"data.split = 'flambi': .* Did you mean 'flamby'"):
        load_task("heart-disease", options={"split": "flambi"})


def test_a_missing_hospital_and_a_damaged_file_are_named(folder: Path) -> None:
    (folder / "processed.va.data").write_text("1,2,3\n")
    with pytest.raises(DataError, match=r"processed.va.data is not a file of UCI Heart Disease"):
        load_task("heart-disease", data_dir=folder).train_data()
    (folder / "processed.va.data").unlink()
    with pytest.raises(DataError, match=r"processed.va.data not found in .*UCI Heart Disease"):
        load_task("heart-disease", data_dir=folder).train_data()
