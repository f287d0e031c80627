"""The run folder survives interruptions and refuses to mix runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privet.errors import DataError, ExperimentError
from privet.experiment import Experiment
from privet.record.folder import RunFolder
from privet.record.history import HISTORY
from rounds_written import a_round


def experiment(**settings: object) -> Experiment:
    return Experiment.from_mapping({"task": "digits", **settings})


def filled(path: Path) -> RunFolder:
    folder = RunFolder(path / "run")
    folder.create(experiment())
    for round_ in range(3):
        folder.append(a_round(round_))
        if round_ < 2:
            folder.save_checkpoint(round_, {"weights": np.full(3, round_, dtype=np.float32)})
    return folder


def test_reopening_goes_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoint = filled(tmp_path).reopen(experiment())
    assert checkpoint is not None
    assert checkpoint.round == 1
    np.testing.assert_array_equal(checkpoint.tensors["weights"], np.ones(3, dtype=np.float32))
    assert RunFolder(tmp_path / "run").rounds() == (a_round(0), a_round(1))


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with (folder.path / HISTORY).open("a") as file:
        file.write('{"round": 3, "lo')
    assert [entry.round for entry in folder.rounds()] == [0, 1, 2]


def test_a_folder_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(experiment())
    folder.append(a_round(0))
    assert folder.reopen(experiment()) is None
    assert folder.rounds() == ()


def test_a_history_that_is_shorter_than_the_checkpoint_cannot_be_gone_on_with(
    tmp_path: Path,
) -> None:
    """Epsilon is that of its events: what a lost line charged would be forgotten."""
    folder = filled(tmp_path)
    (folder.path / HISTORY).write_text(a_round(0).line() + "\n")
    with pytest.raises(DataError, match="has 1 lines, and the checkpoint 2 rounds"):
        folder.reopen(experiment())


def test_other_settings_cannot_be_resumed(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with pytest.raises(ExperimentError, match=r"was begun with rounds = \d+, not with rounds = 11"):
        folder.reopen(experiment(rounds=11))


def test_all_settings_that_differ_are_named_in_one_line(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with pytest.raises(ExperimentError) as refusal:
        folder.reopen(experiment(rounds=11, seed=4, training={"lr": 0.5, "steps": 3}))
    told = str(refusal.value)
    for named in (
        "rounds = 10, not with rounds = 11",
        "seed = 0, not with seed = 4",
        "training.lr = 0.1, not with training.lr = 0.5",
        "training.epochs = 1, not with no training.epochs",
        "no training.steps, not with training.steps = 3",
    ):
        assert named in told
    assert "\n" not in told


def finished(path: Path, **settings: object) -> RunFolder:
    folder = RunFolder(path / "run")
    folder.create(experiment(rounds=1, **settings))
    for round_ in range(2):
        folder.append(a_round(round_))
        folder.save_checkpoint(round_, {"weights": np.zeros(3, dtype=np.float32)})
    folder.save_model({"weights": np.zeros(3, dtype=np.float32)})
    (folder.path / "summary.json").write_text("{}")
    return folder


def test_a_finished_run_that_is_given_more_rounds_is_unfinished_again(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    checkpoint = folder.reopen(experiment(rounds=2))
    assert checkpoint is not None
    assert checkpoint.round == 1
    names = {path.name for path in folder.path.iterdir()}
    assert names == {"experiment.toml", "history.jsonl", "checkpoint.safetensors"}
    assert not folder.check_settings(experiment(rounds=2))
    with pytest.raises(ExperimentError, match="rounds = 2, not with rounds = 1; --resume needs"):
        folder.reopen(experiment(rounds=1))
    with pytest.raises(ExperimentError, match="more rounds at its end, and this one has 1 of 2"):
        folder.reopen(experiment(rounds=3))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"training": {"schedule": "cosine"}}, 'schedule = "cosine" falls to the last round'),
        ({"training": {"schedule": "linear"}}, 'schedule = "linear" falls to the last round'),
        ({"privacy": {"epsilon": 2.5}}, "privacy.epsilon = 2.5 is what the noise was calibrated"),
        (
            {"privacy": {"noise_multiplier": 1.0, "on_budget": "calibrate"}},
            'privacy.on_budget = "calibrate" fits the noise',
        ),
        ({"encryption": {}}, "[encryption]: silos agreed on a job of so many rounds"),
    ],
)
def test_what_hangs_on_the_number_of_rounds_gets_no_more_of_them(
    tmp_path: Path, settings: dict[str, object], why: str
) -> None:
    folder = finished(tmp_path, **settings)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(ExperimentError) as refusal:
        folder.reopen(experiment(rounds=2, **settings))
    assert why in str(refusal.value)
    assert "begun with rounds = 1, not with rounds = 2; --resume needs" in str(refusal.value)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with pytest.raises(ExperimentError, match="holds a run already"):
        folder.create(experiment())


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExperimentError, match="cannot write to"):
        RunFolder(tmp_path / "file" / "run").check_free(resume=False)


def test_no_temporary_files_are_left(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.save_model({"layer.weight": np.zeros((2, 3), dtype=np.float32)})
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        "experiment.toml",
        "history.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
    }


def test_settings_in_another_spelling_of_toml_are_the_same(tmp_path: Path) -> None:
    """As an earlier version wrote them: lists in one line, tabs escaped."""
    settings = {"hidden": [64, 32], "names": ["a\tb"], "share": 1e-05}
    experiment = Experiment.from_mapping({"task": "digits", "data": settings})
    folder = RunFolder(tmp_path)
    folder.create(experiment)
    written = (tmp_path / "experiment.toml").read_text()
    start = written.index("[data]")
    end = written.index("\n\n", start)
    table = '[data]\nhidden = [64, 32]\nnames = ["a\\tb"]\nshare = 1e-05'
    assert written[start:end] != table
    (tmp_path / "experiment.toml").write_text(written[:start] + table + written[end:])
    assert folder.reopen(experiment) is None
