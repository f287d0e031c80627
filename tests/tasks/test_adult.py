"""The quirks of the Adult files on a handful of records."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from privet.errors import DataError, ExperimentError
from privet.tasks import load_task

FIRST = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, "
    "2174, 0, 40, United-States, <=50K"
)
UNKNOWN = "17, ?, 5000, 11th, 1, Divorced, ?, Wife, Black, Female, 0, 9999, 99, ?, >50K"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adult").mkdir()
    (tmp_path / "adult" / "adult.data").write_text(f"{FIRST}\n{UNKNOWN}\n\n")
    (tmp_path / "adult" / "adult.test").write_text(
        f"|1x3 Cross validator\n{UNKNOWN}.\n{FIRST}.\n\n"
    )
    return tmp_path


def test_both_files_read_alike_despite_comment_and_full_stops(folder: Path) -> None:
    task = load_task("adult", data_dir=folder)
    train, test = task.train_data(), task.test_data()
    assert test is not None
    assert train.targets.tolist() == [0, 1]
    assert test.targets.tolist() == [1, 0]
    assert torch.equal(train.inputs, test.inputs.flip(0))


def test_inputs_are_bounded_numbers_and_one_column_per_value(folder: Path) -> None:
    inputs = load_task("adult", data_dir=folder).train_data().inputs
    assert inputs.shape == (2, 108)
    assert inputs.abs().max() <= 1
    assert inputs[:, 6:].sum(dim=1).tolist() == [8.0, 8.0]
    age, weight, education, gain, loss, hours = inputs[1, :6].tolist()
    assert (age, weight, education, gain, loss, hours) == (-1, -1, -1, -1, 1, 1)


def test_unknown_is_a_value_of_three_categories(folder: Path) -> None:
    first, unknown = load_task("adult", data_dir=folder).train_data().inputs[:, 6:].bool()
    both = [int(i) for i in (unknown & ~first).nonzero()]
    assert {8, 9 + 16 + 7 + 14, 101} <= set(both)


def test_levels_of_education_can_be_silos(folder: Path) -> None:
    assert load_task("adult", data_dir=folder).train_data().silo is None
    train = load_task("adult", data_dir=folder, options={"silo": "education"}).train_data()
    assert train.silo is not None
    assert [train.silo_names[i] for i in train.silo] == ["Bachelors", "11th"]
    assert len(train.silo_names) == 16
    with pytest.raises(ExperimentError, match=r"data.silo = 'race'"):
        load_task("adult", options={"silo": "race"})


@pytest.mark.parametrize(
    "text", ["", "1, 2, 3\n", FIRST.replace("State-gov", "Elsewhere"), FIRST.replace("39", "old")]
)
def test_a_damaged_file_is_named(folder: Path, text: str) -> None:
    (folder / "adult" / "adult.data").write_text(text)
    with pytest.raises(DataError, match=r"adult.data is not a file of UCI Adult"):
        load_task("adult", data_dir=folder).train_data()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"adult.data not found in .*adult: get it from UCI Adult"):
        load_task("adult", data_dir=tmp_path).train_data()
