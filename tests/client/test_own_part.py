"""What stays in a real silo of a model: kept in its own folder, by nobody else read or sent."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from local_tasks import Renamed, Turned
from privet import Experiment
from privet.client.app import app
from privet.client.own_files import OwnPart, forget_ended
from privet.simulations.grid import assume_identity
from privet.tasks.task import seeded_model
from privet.vectors import FlatModel, Vector
from privet.wire import (
    ENROL,
    EnrolRequest,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
)
from silo_holder import holder
from silo_log import refused

LOCAL = ["head*", "norm*"]
FLAT = FlatModel(seeded_model(Turned(model=None, data_dir=None), 0), local=LOCAL)
FIRST = FLAT.shared(FLAT.vector())


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    return {**holder(tmp_path, plain=True), "own-parts": str(tmp_path / "own"), "job": "7a"}


def ask(
    node: dict[str, Any],
    request: TrainRequest | EvaluateRequest | EnrolRequest,
    kind: str = "train",
    *,
    local: list[str] | None = LOCAL,
    **changes: Any,
) -> Message:
    """Ask as a server does, of a silo that was started anew: its memory is empty."""
    raw = {"task": "local_tasks:Turned", "rounds": 5, "training": {"batch_size": 20}, **changes}
    raw["federation"] = {} if local is None else {"local": local}
    run_config = Experiment.from_mapping(raw).to_run_config()
    assume_identity(99)
    context = Context(99, 2, dict(node), RecordDict(), dict(run_config))
    return app(Message(request.to_records(), 2, kind), context)


def trained(node: dict[str, Any], round_: int, **changes: Any) -> Vector:
    request = TrainRequest(round_, FIRST, base=FLAT.unsent)
    reply = ask(node, request, **changes)
    assert not reply.has_error(), reply.error.reason
    update = TrainReply.from_records(reply.content).update
    assert update is not None
    return update


def kept(node: dict[str, Any]) -> Path:
    return Path(node["own-parts"]) / f"{node['job']}.safetensors"


@pytest.mark.parametrize("privacy", [{}, {"privacy": {"noise_multiplier": 1.0}}])
def test_it_outlives_the_process_and_does_not_leave(
    node: dict[str, Any], privacy: dict[str, Any]
) -> None:
    assert trained(node, 1, **privacy).shape == (54,)
    file = kept(node)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    first = OwnPart.read(file).numbers
    assert first.shape == (26,)
    assert trained(node, 2, **privacy).shape == (54,)
    second = OwnPart.read(file).numbers
    assert not np.array_equal(first, second)
    if not privacy:  # it went on from where it was, and not from the beginning once more
        begun, far = FLAT.own(FLAT.vector()), np.linalg.norm
        assert far(second - begun) > 1.3 * far(first - begun)


def test_a_server_that_names_other_tensors_is_refused(node: dict[str, Any]) -> None:
    other = FlatModel(Turned(model=None, data_dir=None).model(), local=["head*"])
    whole = FlatModel(Turned(model=None, data_dir=None).model())
    for flat in (other, whole):
        weights = flat.shared(flat.vector())
        for kind, request in {
            ENROL: EnrolRequest(flat.unsent),
            "train": TrainRequest(1, weights, base=flat.unsent),
            "evaluate": EvaluateRequest(1, weights, base=flat.unsent),
        }.items():
            told = refused(ask(node, request, kind))
            assert (told.stage, told.code) == ("plan", "base")
            assert "head.weight" in told.logged
    old = FlatModel(Renamed(model=None, data_dir=None, old=True).model(), local=LOCAL)
    assert old.unsent != FLAT.unsent
    assert not kept(node).exists()


def test_a_vector_of_all_that_trains_is_an_error(node: dict[str, Any]) -> None:
    told = refused(ask(node, TrainRequest(1, FLAT.vector(), base=FLAT.unsent)))
    assert "54 values are expected" in told.logged


def test_a_file_that_cannot_be_believed_stops_the_silo(node: dict[str, Any]) -> None:
    trained(node, 1)
    file = kept(node)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    told = refused(ask(node, TrainRequest(2, FIRST, base=FLAT.unsent)))
    assert told.code == "data"
    assert "other numbers than it says" in told.logged
    assert file.read_bytes() == content


def test_one_jobs_part_is_not_anothers(node: dict[str, Any]) -> None:
    trained(node, 1)
    other = {**node, "job": "7b"}
    trained(other, 1)
    assert kept(node).exists()
    assert kept(other).exists()
    assert (
        refused(ask(node, TrainRequest(2, FIRST[:48], base=None), local=None)).code == "code"
    )  # without local parts nothing of it is read


def test_a_silo_measures_the_model_with_its_own_part(node: dict[str, Any]) -> None:
    evaluation = {"evaluation": {"holdout": 0.3}, "training": {"batch_size": 20, "epochs": 20}}
    rules = Path(node["policy"])
    rules.write_text(rules.read_text() + '[data.records.metrics.accuracy]\nrelease = "exact"\n')

    def accuracy() -> float:
        reply = ask(node, EvaluateRequest(1, FIRST, base=FLAT.unsent), "evaluate", **evaluation)
        assert not reply.has_error(), reply.error.reason
        return EvaluateReply.from_records(reply.content).metrics["accuracy"]

    before = accuracy()
    trained(node, 1, **evaluation)
    assert accuracy() != before


def test_it_goes_when_the_order_has_ended_unless_the_holder_keeps_it(tmp_path: Path) -> None:
    for job, until in {"over": 100.0, "going": 900.0, "unsaid": 0.0}.items():
        OwnPart(FIRST, "0" * 64, "cases", until).write(tmp_path / f"{job}.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"nothing")
    forget_ended(tmp_path, lambda dataset: dataset == "cases", now=500)
    assert len(list(tmp_path.iterdir())) == 4
    forget_ended(tmp_path, lambda _: False, now=500)
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {"going", "unsaid", "odd"}
