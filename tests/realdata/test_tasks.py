"""The built-in tasks on the files as published: exact counts, classes and ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from privet.tasks import Examples, check_examples, load_task

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


def halves(name: str, data_dir: Path, **options: object) -> tuple[Examples, Examples]:
    task = load_task(name, data_dir=data_dir, options=options)
    train, test = task.train_data(), task.test_data()
    assert test is not None
    check_examples(train, name)
    check_examples(test, name)
    return train, test


def silos(examples: Examples) -> np.ndarray:
    assert examples.silo is not None
    return np.bincount(examples.silo)


@pytest.mark.parametrize(
    ("name", "per_class"),
    [
        ("mnist", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("fashion-mnist", [6000] * 10),
    ],
)
def test_images_are_complete_and_standardised(
    data_dir: Path, name: str, per_class: list[int]
) -> None:
    train, test = halves(name, data_dir)
    assert train.inputs.shape == (60000, 1, 28, 28)
    assert test.inputs.shape == (10000, 1, 28, 28)
    assert train.targets.bincount().tolist() == per_class
    assert set(test.targets.tolist()) == set(range(10))
    assert train.inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert train.inputs.std().item() == pytest.approx(1, abs=1e-3)


def test_heart_disease_has_flambys_patients_and_split(data_dir: Path) -> None:
    train, test = halves("heart-disease", data_dir, split="flamby")
    assert (silos(train) + silos(test)).tolist() == [303, 261, 46, 130]
    assert silos(train).tolist() == [199, 172, 30, 85]
    assert silos(test).tolist() == [104, 89, 16, 45]
    assert train.silo_names == HOSPITALS
    assert train.inputs.shape == (486, 13)


def test_heart_disease_splits_the_sick_evenly(data_dir: Path) -> None:
    train, test = halves("heart-disease", data_dir, split="flamby")
    # 139 of Cleveland's 303 patients are sick and 98 of Hungary's 261, as counted in the files.
    sick = [np.bincount(e.silo[e.targets.numpy() == 1]) for e in (train, test)]  # type: ignore[index]
    assert sick[0].tolist() == [91, 65, 30, 66]
    assert sick[1].tolist() == [48, 33, 15, 35]


def test_heart_disease_is_the_plain_rule_row_by_row(data_dir: Path) -> None:
    """Against a slow reading of one file: the same patients, in the same order, before scaling."""
    train, test = halves("heart-disease", data_dir)
    kept = []
    for line in (data_dir / "heart-disease" / "processed.va.data").read_text().split():
        age, sex, pain, pressure, cholesterol, sugar, ecg, rate, angina, dip, *_, stage = (
            line.split(",")
        )
        row = (age, sex, pain, pressure, cholesterol, sugar, ecg, rate, angina, dip)
        if "?" not in row:
            kept.append([float(value) for value in row] + [float(float(stage) > 0)])
    assert len(kept) == 130
    expected = sorted(
        (
            round((age - 55) / 35, 4), sex * 2 - 1, float(pain == 2), float(pain == 3),
            float(pain == 4), float(ecg == 1), float(ecg == 2), sick,
        )
        for age, sex, pain, _, _, _, ecg, _, _, _, sick in kept
    )  # fmt: skip
    found = []
    for examples in (train, test):
        own = torch.from_numpy(examples.silo == 3)
        for x, y in zip(examples.inputs[own].tolist(), examples.targets[own].tolist(), strict=True):
            found.append((round(x[0], 4), x[1], *x[8:], float(y)))
    np.testing.assert_allclose(sorted(found), expected, atol=1e-4)


def test_heart_disease_by_own_statistics_has_mean_0_and_deviation_1(data_dir: Path) -> None:
    train, test = halves("heart-disease", data_dir, scaling="per-silo")
    for silo in range(4):
        own = train.inputs[torch.from_numpy(train.silo == silo)]
        torch.testing.assert_close(own.mean(dim=0), torch.zeros(13), atol=1e-5, rtol=0)
    assert test.inputs.abs().max() < 20


def test_adult_is_complete(data_dir: Path) -> None:
    train, test = halves("adult", data_dir, silo="education")
    assert (len(train), len(test)) == (32561, 16281)
    assert (int(train.targets.sum()), int(test.targets.sum())) == (7841, 3846)
    assert silos(train).tolist() == [
        5355, 7291, 1175, 10501, 576, 1067, 1382, 514, 646, 433, 1723, 168, 933, 413, 333, 51,
    ]  # fmt: skip
    # One value of each of eight categories; an unknown one in 2,399 and 1,221 records.
    unknown = [8, 46, 107 - 6]
    for examples, count in ((train, 2399), (test, 1221)):
        values = examples.inputs[:, 6:]
        assert (values.sum(dim=1) == 8).all()
        assert int(values[:, unknown].any(dim=1).sum()) == count


def test_adult_also_reads_as_a_table(data_dir: Path, tmp_path: Path) -> None:
    header = (
        "age,work,weight,education,years,marital,occupation,relationship,race,sex,gain,loss,hours,"
        "country,income"
    )
    lines = (data_dir / "adult" / "adult.data").read_text().strip()
    (tmp_path / "adult.csv").write_text(f"{header}\n{lines}\n")
    options = {"file": "adult.csv", "target": "income", "silo": "education", "missing": "drop"}
    train, test = halves("table", tmp_path, **options)
    assert len(train) + len(test) == 32561 - 2399
    assert len(train.silo_names) == 16
    assert set(train.targets.tolist()) == {0, 1}


@pytest.mark.parametrize(("name", "least"), [("heart-disease", 0.74), ("adult", 0.84)])
def test_the_default_model_learns(data_dir: Path, name: str, least: float) -> None:
    task = load_task(name, data_dir=data_dir)
    train, test = task.train_data(), task.test_data()
    assert test is not None
    model = task.model()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = task.loss(model(train.inputs), train.targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert task.metrics(model(test.inputs), test.targets)["accuracy"] > least
