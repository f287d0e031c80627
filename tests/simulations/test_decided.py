"""Two runs of one seed share their noise only if everything else is the same.

The noise multiplier is so large that a model is its noise: models that share it are equal but for a
thousandth, and those of independent noise are not correlated.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from privet import Execution, Experiment, PrivetError
from privet.simulations.run import simulate

CORRELATED = 0.16
"""Four standard deviations of the correlation of 650 independent normal numbers."""
POLICY = """\
version = 1
[data."*"]
requesters = ["*"]
tasks = ["*"]
[data."*".budget]
epsilon = {epsilon}
delta = 1e-5
[data."*".training]
units = ["record"]
mechanisms = ["dp-sgd"]
"""


def experiment(**settings: Any) -> Experiment:
    base = {
        "rounds": 2,
        "seed": 5,
        "federation.silos": 2,
        "training.steps": 1,
        "training.lr": 1e-3,
        "training.batch_size": 64,
        "privacy.noise_multiplier": 1000.0,
        "evaluation.every": 2,
    }
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **named})


def learned(folder: Path) -> np.ndarray:
    """All parameters; they start at zero."""
    return np.concatenate([t.ravel() for t in load_file(folder / "model.safetensors").values()])


def correlation(one: Path, other: Path) -> float:
    return float(np.corrcoef(learned(one), learned(other))[0, 1])


def policy(path: Path, *, epsilon: float) -> Path:
    path.write_text(POLICY.format(epsilon=epsilon))
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    simulate(experiment(), out=folder)
    return folder


def test_the_same_settings_share_it(reference: Path, tmp_path: Path) -> None:
    simulate(experiment(), out=tmp_path / "run")
    assert correlation(reference, tmp_path / "run") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"privacy__noise_multiplier": 1001.0},
        {"privacy__clip": 1.001},
        {"evaluation__holdout": 0.3},
        {"training__lr": 1.001e-3},
        {"training__class_weights": [1.0] * 9 + [2.0]},
        {"rounds": 3},
        {"federation__dropout": 1e-9},
        {"encryption__scheme": "bfv", "encryption__colluding": 0},
    ],
    ids=str,
)
def test_another_setting_has_other_noise(
    reference: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    simulate(experiment(**settings), out=tmp_path / "run")
    assert abs(correlation(reference, tmp_path / "run")) < CORRELATED


def test_rounds_that_a_run_is_given_later_have_noise_of_their_own(
    reference: Path, tmp_path: Path
) -> None:
    """A run that had them from the start is elsewhere by then: shared noise would fall out."""
    for rounds in (3, 4):
        shutil.copytree(reference, tmp_path / f"{rounds}")
        simulate(experiment(rounds=rounds), out=tmp_path / f"{rounds}", resume=True)
        simulate(experiment(rounds=rounds), out=tmp_path / f"{rounds} at once")
        both = tmp_path / f"{rounds}", tmp_path / f"{rounds} at once"
        assert abs(correlation(*both)) < CORRELATED
        assert abs(np.corrcoef(learned(both[0]) - learned(reference), learned(both[1]))[0, 1]) < (
            CORRELATED
        )
    # The same rounds are the same release, whatever comes behind them.
    simulate(experiment(rounds=4), out=tmp_path / "3", resume=True)
    np.testing.assert_array_equal(learned(tmp_path / "3"), learned(tmp_path / "4"))


def test_other_canaries_have_other_noise(reference: Path, tmp_path: Path) -> None:
    simulate(experiment(), out=tmp_path / "run", execution=Execution(canaries=7))
    assert abs(correlation(reference, tmp_path / "run")) < CORRELATED


def test_another_policy_has_other_noise(tmp_path: Path) -> None:
    shared = experiment(evaluation=None, strategy__weighting="uniform")
    for epsilon in (1.0, 2.0):
        allowed = policy(tmp_path / f"{epsilon}.toml", epsilon=epsilon)
        simulate(shared, out=tmp_path / f"{epsilon}", policy=allowed)
    assert abs(correlation(tmp_path / "1.0", tmp_path / "2.0")) < CORRELATED


def table(folder: Path, rows: int) -> Path:
    folder.mkdir()
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(200)), "y"])
        for row in range(rows):
            writer.writerow([*((row * i) % 7 for i in range(200)), row % 2])
    return folder


def on_table() -> Experiment:
    names = [f"x{i}" for i in range(200)]
    data = {"file": "table.csv", "target": "y", "classes": [0, 1], "numeric": names}
    data["ranges"] = {name: [0, 6] for name in names}
    return experiment(task="table", data=data, evaluation=None)


def test_a_record_less_has_other_noise(tmp_path: Path) -> None:
    for rows in (100, 99):
        simulate(
            on_table(), out=tmp_path / f"run{rows}", data_dir=table(tmp_path / str(rows), rows)
        )
    assert abs(correlation(tmp_path / "run100", tmp_path / "run99")) < 0.3


def test_every_engine_has_the_same_noise(reference: Path, tmp_path: Path) -> None:
    for number, execution in enumerate([Execution(engine="vectorised"), Execution(workers=2)]):
        simulate(experiment(), out=tmp_path / f"{number}", execution=execution)
        assert correlation(reference, tmp_path / f"{number}") == pytest.approx(1.0)


class Stop(Exception):
    pass


def begun(out: Path, settings: Experiment, **others: Any) -> dict[Path, bytes]:
    def stop(_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        simulate(settings, out=out, watch=stop, **others)
    return files(out)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("settings", "others", "named"),
    [
        ({"privacy__clip": 2.0}, {}, r"privacy.clip = 1.0, not with privacy.clip = 2.0"),
        ({"evaluation": None}, {}, r"evaluation.every = 2, not with no evaluation.every"),
        ({}, {"execution": Execution(canaries=7)}, "canaries = 0, not with canaries = 7"),
    ],
)
def test_what_differs_is_named_and_nothing_changes(
    tmp_path: Path, settings: dict[str, Any], others: dict[str, Any], named: str
) -> None:
    before = begun(tmp_path / "run", experiment())
    with pytest.raises(PrivetError, match=f"was begun with {named}; --resume needs the same"):
        simulate(experiment(**settings), out=tmp_path / "run", resume=True, **others)
    assert files(tmp_path / "run") == before


def test_another_policy_or_other_records_are_no_resuming(tmp_path: Path) -> None:
    data, out = table(tmp_path / "data", 100), tmp_path / "run"
    before = begun(out, on_table(), data_dir=data)
    rules = policy(tmp_path / "policy.toml", epsilon=1.0)
    with pytest.raises(PrivetError, match="begun with no policy, not with the policy of digest"):
        simulate(on_table(), out=out, resume=True, data_dir=data, policy=rules)
    fewer = table(tmp_path / "fewer", 99)
    with pytest.raises(PrivetError, match="begun with the data of digest"):
        simulate(on_table(), out=out, resume=True, data_dir=fewer)
    assert files(out) == before
    simulate(on_table(), out=out, resume=True, data_dir=data)
