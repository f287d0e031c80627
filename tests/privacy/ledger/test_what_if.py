"""Would this experiment fit, and what would it leave? Against running it for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from torch import nn
from typer.testing import CliRunner

from privet.client.app import app
from privet.client.guard import RefusedByPolicy
from privet.commands.ledger import ledger_cli
from privet.experiment import Experiment
from privet.privacy.ledger import Ledger, SiloKey
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import TrainRequest
from silo_holder import holder

EXPERIMENT = """
task = "toy_tasks:Tiny"
rounds = 8
[training]
batch_size = 5
[privacy]
noise_multiplier = 1.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


def what_if(node: dict[str, Any], file: Path, *more: str) -> Any:
    arguments = ["what-if", str(file), "--ledger", node["ledger"], "--policy", node["policy"]]
    runner = CliRunner(env={"COLUMNS": "120"})
    return runner.invoke(ledger_cli, [*arguments, *more])


def rounds_in_fact(node: dict[str, Any]) -> int:
    """Run the job at the silo until it is refused."""
    assume_identity(3)
    weights = FlatModel(nn.Linear(2, 2)).vector()
    config = Experiment.from_mapping(
        {
            "task": "toy_tasks:Tiny",
            "rounds": 8,
            "training": {"batch_size": 5},
            "privacy": {"noise_multiplier": 1.5},
        }
    ).to_run_config()
    for round_ in range(1, 9):
        content = TrainRequest(round=round_, weights=weights).to_records()
        context = Context(3, 2, node, RecordDict(), dict(config))
        if app(Message(content, 2, "train"), context).has_error():
            return round_ - 1
    return 8


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 7.0, 30.0])
def test_it_says_beforehand_how_many_rounds_will_run(
    tmp_path: Path, file: Path, epsilon: float
) -> None:
    node = holder(tmp_path, epsilon=epsilon)
    told = what_if(node, file, "--records", "20", "--dataset", "records")
    counted = what_if(node, file)
    assert told.output == counted.output
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        assert len(ledger.entries()) == 1  # asking leaves no trace
    ran = rounds_in_fact(node)
    if ran == 8:
        assert told.exit_code == 0
        assert "It fits" in told.output
    elif ran == 0:
        assert "not one round would be allowed" in told.output
    else:
        assert f"{ran} of 8 rounds would be allowed, then refused" in told.output
    assert (told.exit_code == 0) == (ran == 8)


def test_it_tells_spent_projected_and_left(tmp_path: Path, file: Path) -> None:
    node = holder(tmp_path, epsilon=40.0)
    rounds_in_fact(node)
    with Ledger.open(Path(node["ledger"]), SiloKey.load(Path(node["key"]))) as ledger:
        spent = ledger.spent("records", delta=1e-5)
    output = what_if(node, file).output
    assert f"{spent:.3f}" in output
    assert "epsilon 40 at delta 1e-05" in output


def test_it_tells_the_noise_that_would_fit(tmp_path: Path, file: Path) -> None:
    node = holder(tmp_path, epsilon=4.0)
    told = what_if(node, file, "--set", "privacy.on_budget=calibrate")
    assert told.exit_code == 0
    assert "The noise would be raised from 1.5" in told.output


def test_a_job_that_the_policy_forbids_is_refused_with_the_rule(tmp_path: Path, file: Path) -> None:
    node = holder(tmp_path, noise=3.0)
    assert "smallest_noise_multiplier" in str(what_if(node, file).exception)
    assert isinstance(what_if(node, file).exception, RefusedByPolicy)


def test_a_holder_asks_about_a_described_data_set_by_the_kit(tmp_path: Path) -> None:
    """The job names no file: the kit says where the records are, and which data set is meant."""
    (tmp_path / "data").mkdir()
    rows = "".join(f"{i},{i % 2}\n" for i in range(37))
    (tmp_path / "data" / "w.csv").write_text("age,ill\n" + rows + "x,7\n")
    schema = 'target = "ill"\nnumeric = ["age"]\nclasses = [0, 1]\nranges.age = [0, 40]\n'
    (tmp_path / "silo.toml").write_text(
        f'project = "p"\nproject_key = "{"ab" * 32}"\nname = "north"\nserver = "https://a:1"\n'
        'data_dir = "data"\n[datasets.records]\ntask = "table"\nfile = "w.csv"\n' + schema
    )
    job = tmp_path / "job.toml"
    text = EXPERIMENT.replace("toy_tasks:Tiny", "table") + "[data]\n" + schema
    job.write_text(text)
    node = holder(tmp_path, epsilon=4.0)
    told = what_if(node, job, "--kit", str(tmp_path))
    assert "table on records: 8 rounds" in told.output
    assert "37 records" in told.output
    job.write_text(text.replace("[0, 40]", "[0, 41]"))
    assert "data.ranges is not what" in str(what_if(node, job, "--kit", str(tmp_path)).exception)
