"""A model or a loss for which epsilon would be false is refused, in simulation and by a real silo.

A silo refuses to train as well as to enrol: whoever sends it messages need not begin with either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.numpy import load_file

from privet import Experiment, PrivetError, simulate
from privet.client.app import app
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import ENROL, TrainReply, TrainRequest
from silo_holder import describing, holder
from silo_log import refused
from unsound_tasks import NETS

CASES = [
    ({"loss": "weights"}, "not the mean of its examples' own losses"),
    ({"loss": "sum"}, "not the mean of its examples' own losses"),
    ({"loss": "pairs"}, "not the mean of its examples' own losses"),
    ({"loss": "ignored"}, "not the mean of its examples' own losses"),
    ({"net": "centred"}, "depends on the others in its batch"),
    ({"net": "keeps"}, "'last' changes when the model runs"),
    ({"net": "tokens"}, "leave out max_norm"),
    ({"net": "tied"}, "differ from the gradients of each example alone"),
]
IDS = ["-".join(case.values()) for case, _ in CASES]


def settings(case: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "task": "unsound_tasks:Unsound",
        "rounds": 2,
        "training.batch_size": 5,
        "privacy.noise_multiplier": 1.0,
        **{f"data.{key}": value for key, value in case.items()},
        **changes,
    }


def experiment(case: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.from_mapping({"task": "digits"}).with_settings(
        settings(case, **{"federation.silos": 2, **changes})
    )


@pytest.mark.parametrize(("case", "message"), CASES, ids=IDS)
def test_a_simulation_does_not_start(case: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match=message) as caught:
        simulate(experiment(case), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return holder(tmp_path_factory.mktemp("holder"), plain=True)


def ask(node: dict[str, Any], content: RecordDict, kind: str, case: dict[str, Any]) -> Message:
    assume_identity(99)
    config = {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in settings(case).items()
    }
    node = describing(node, "unsound_tasks:Unsound", **case)
    return app(Message(content, 2, kind), Context(99, 2, node, RecordDict(), config))


def training(case: dict[str, str]) -> RecordDict:
    torch.manual_seed(1)
    weights = FlatModel(NETS[case.get("net", "linear")]()).vector()
    return TrainRequest(round=1, weights=weights).to_records()


@pytest.mark.parametrize("kind", ["query", "train"])
@pytest.mark.parametrize(("case", "message"), CASES, ids=IDS)
def test_a_silo_refuses(
    node: dict[str, Any], case: dict[str, str], message: str, kind: str
) -> None:
    content = RecordDict() if kind == "query" else training(case)
    reply = ask(node, content, ENROL if kind == "query" else "train", case)
    assert message in refused(reply).logged


def test_a_sound_one_trains(node: dict[str, Any]) -> None:
    reply = ask(node, training({}), "train", {})
    assert not reply.has_error(), reply.error
    assert TrainReply.from_records(reply.content).event is not None


@pytest.mark.usefixtures("shared_noise")
def test_an_unreduced_loss_trains_and_is_evaluated_as_its_mean(tmp_path: Path) -> None:
    mean = simulate(experiment({}), out=tmp_path / "mean")
    unreduced = simulate(experiment({"loss": "unreduced"}), out=tmp_path / "unreduced")
    assert unreduced["loss"] == pytest.approx(mean["loss"], rel=1e-6)


def after_one_step(weights: list[float], out: Path) -> np.ndarray:
    """The model after one step of one silo on all of its 20 records, next to no noise."""
    settings = {"privacy.noise_multiplier": 1e-6, "training.lr": 1.0, "rounds": 1}
    settings |= {"training.batch_size": 20, "federation.silos": 1, "privacy.clip": 5.0}
    simulate(experiment({}, **settings, **{"training.class_weights": weights}), out=out)
    return load_file(out / "model.safetensors")["weight"]


def test_class_weights_are_bounded_by_the_clip_norm(tmp_path: Path) -> None:
    """Each model lies within one clip norm of where both began, whatever a class weighs."""
    apart = after_one_step([1.0, 1.0], tmp_path / "a") - after_one_step([1.0, 1e3], tmp_path / "b")
    assert 0.5 < np.linalg.norm(apart) < 10.01
    with pytest.raises(PrivetError, match=r"training\.class_weights has 3 numbers"):
        simulate(experiment({}, **{"training.class_weights": [1.0, 2.0, 3.0]}), out=tmp_path / "c")
