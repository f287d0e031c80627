"""What a silo answers beside models: nothing that the schema does not name, no words, few noes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from privet.client.app import app
from privet.commands.cli import main
from privet.privacy.ledger import read_history
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import ENROL, EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from privet.wire.answers import (
    ANSWERS,
    ENCRYPTION,
    METRIC,
    PLAIN,
    PRIVACY,
    RECORDS_PUBLIC,
    Unsendable,
    check_answer,
)
from silo_holder import describing, holder
from silo_log import refused
from toy_tasks import Tiny

SETTINGS: dict[str, Any] = {
    "task": "toy_tasks:Tiny",
    "training.batch_size": 5,
    "training.steps": 4,
    "strategy.weighting": "uniform",
    "rounds": 30,
    "privacy.noise_multiplier": 1.0,
}
WEIGHTS = FlatModel(nn.Linear(2, 2)).vector()


def ask(node: dict[str, Any], kind: str, *, run_id: int = 7, **changes: Any) -> Message:
    assume_identity(run_id)
    contents = {
        "train": TrainRequest(round=1, weights=WEIGHTS).to_records(),
        "evaluate": EvaluateRequest(round=1, weights=WEIGHTS).to_records(),
    }
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    if "data.secret" in settings:
        node = describing(node, settings["task"], secret=settings["data.secret"])
    context = Context(run_id, 2, node, RecordDict(), settings)
    return app(Message(contents.get(kind, RecordDict()), 2, kind), context)


SECRET = {"data__secret": "Jane Doe"}
"""With it the task fails as soon as its records are read, and says the secret."""


def counted(node: dict[str, Any], who: str = "alice") -> int:
    return read_history(Path(node["ledger"])).failures("records", who)


def test_every_failure_after_the_records_are_opened_is_counted(tmp_path: Path) -> None:
    node = holder(tmp_path)
    for number, kind in enumerate((ENROL, "train", "evaluate"), start=1):
        assert refused(ask(node, kind, **SECRET)).stage == "data"
        assert counted(node) == number
    assert refused(ask(node, "train", rounds=-1)).stage == "settings"
    assert counted(node) == 3  # no record was touched


def test_a_refusal_that_says_nothing_new_is_counted_once_for_a_job(tmp_path: Path) -> None:
    node = holder(tmp_path, epsilon=0.5)
    for _ in range(5):
        assert refused(ask(node, "train")).code == "budget"
    assert counted(node) == 1
    assert refused(ask(node, "train", run_id=8)).code == "budget"
    assert counted(node) == 2


@pytest.mark.parametrize("kind", [ENROL, "train", "evaluate", "query.offer"])
def test_after_enough_failures_everything_is_refused_until_the_holder_forgives(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = holder(tmp_path, most_failures=3)
    told = [refused(ask(node, ENROL, run_id=run, **SECRET)) for run in range(20, 25)]
    assert [each.code for each in told] == ["data"] * 3 + ["refused"] * 2
    last = refused(ask(node, kind, run_id=30))
    assert (last.stage, last.code, last.names) == ("guard", "refused", ("sending.most_failures",))
    assert "privet ledger forgive" in last.logged
    # Another requester has a count of their own.
    assert not ask({**node, "requester": "bob"}, ENROL, run_id=31).has_error()
    forgive = ["ledger", "forgive", node["ledger"], "records", "alice", "--key", node["key"]]
    with pytest.raises(SystemExit) as end:
        main(forgive)
    assert not end.value.code
    assert "3 failures" in capsys.readouterr().out
    assert not ask(node, ENROL, run_id=32).has_error()
    assert counted(node) == 0


def test_what_cannot_be_counted_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: one answer, whatever failed."""
    from privet.privacy.ledger import Ledger, LedgerError

    def full(*_: object, **__: object) -> None:
        raise LedgerError("no space left on device")

    (tmp_path / "poor").mkdir()
    node = holder(tmp_path)
    monkeypatch.setattr(Ledger, "count_failure", full)
    told = refused(ask(node, ENROL, **SECRET))
    assert (told.stage, told.code) == ("guard", "ledger")
    poor = {**node, **holder(tmp_path / "poor", epsilon=0.5)}
    told = refused(ask(poor, "train"))
    assert (told.stage, told.code) == ("guard", "ledger")  # and not "budget"


def test_no_word_of_an_error_leaves(tmp_path: Path) -> None:
    node = holder(tmp_path)
    for kind in (ENROL, "train", "evaluate"):
        reply = ask(node, kind, **SECRET)
        assert "Jane" in refused(reply).logged
        assert "Jane" not in str(reply)


def test_a_batch_that_is_larger_than_the_silo_is_not_told(tmp_path: Path) -> None:
    """Silos of 20 and of 19 records, asked for batches around that: all train, and say the same."""
    said = []
    for name, task in (("whole", "toy_tasks:Tiny"), ("fewer", "toy_tasks:Fewer")):
        (tmp_path / name).mkdir()
        node = holder(tmp_path / name, public=False, epsilon=1000.0)
        for size in (18, 19, 20, 21, 64):
            reply = ask(node, "train", task=task, training__batch_size=size, run_id=size)
            assert not reply.has_error(), reply.error
            records = reply.content
            said.append((name, {f"{n}.{k}" for n, record in records.items() for k in record}))
    assert {str(fields) for _, fields in said} == {"{'update.update'}"}


def test_the_divisor_of_a_small_silo_is_the_jobs(tmp_path: Path) -> None:
    """Noise of one standard deviation over a batch of 10,000 is small; over 20 records it shows."""
    node = holder(tmp_path, public=False, epsilon=1e6)
    size = 10_000
    reply = ask(node, "train", training__batch_size=size, training__lr=0.1, training__steps=1)
    update = TrainReply.from_records(reply.content).update
    assert update is not None
    assert np.abs(update).max() < 0.1 * (20 + 5) / size


def test_enrolment_tells_nothing_where_the_number_of_records_is_kept(tmp_path: Path) -> None:
    node = holder(tmp_path, public=False)
    record = dict(ask(node, ENROL).content["enrolment"])
    assert record.keys() == {"silo", "index"}


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_enrolling_is_no_way_to_find_out_what_the_budget_has_room_for(
    epsilon: float, tmp_path: Path
) -> None:
    """How many steps fit hangs on the number of records, and only the last of many asks fails."""
    node = holder(tmp_path, public=False, epsilon=epsilon)
    for run, noise in enumerate((30.0, 3.0, 1.0, 0.3)):
        assert not ask(node, ENROL, run_id=run, privacy__noise_multiplier=noise).has_error()
    assert counted(node) == 0
    assert refused(ask(node, "train", privacy__noise_multiplier=0.3)).code == "budget"
    assert counted(node) == 1


@pytest.mark.parametrize("kind", [ENROL, "train"])
@pytest.mark.parametrize("public", [True, False])
def test_figures_that_cannot_be_reckoned_with_are_counted_too(
    kind: str, public: bool, tmp_path: Path
) -> None:
    """Where the arithmetic ends hangs on the sampling rate, and so on the number of records."""
    node = holder(tmp_path, public=public)
    beyond = {"privacy__noise_multiplier": 1e15, "training__steps": 10**20}
    for _ in range(2):
        reply = ask(node, kind, training__batch_size=1, **beyond)
        if kind == "train" or public:
            assert refused(reply).stage == "guard"
            assert counted(node) == 1
        else:
            assert not reply.has_error()


def test_an_evaluation_does_not_tell_whether_a_record_is_left_to_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Tiny.metrics

    def metrics(self: Tiny, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        assert len(targets), "as many a task's own metrics fail without records"
        return inner(self, outputs, targets)

    monkeypatch.setattr(Tiny, "metrics", metrics)
    node = holder(tmp_path)
    assert not ask(node, "evaluate", evaluation__holdout=0.999999).has_error()


def test_a_metrics_name_leaves_only_if_the_holder_wrote_it(tmp_path: Path) -> None:
    """What a task calls a metric is the job's choice, and may say anything."""
    asked = {"task": "toy_tasks:Talkative", "evaluation__holdout": 0.9}
    said = {}
    for name, metrics in (("kept", ""), ("told", '"Jane Doe" = { release = "exact" }')):
        (tmp_path / name).mkdir()
        node = holder(tmp_path / name, metrics=metrics)
        said[name] = EvaluateReply.from_records(ask(node, "evaluate", **asked).content).released
    assert set(said["kept"]) == {"accuracy", "loss"}
    assert said["told"] == {"accuracy": "withheld", "loss": "withheld", "Jane Doe": "exact"}


KINDS = sorted({field.kind for field in ANSWERS})
GRANTS = [PRIVACY, PLAIN, ENCRYPTION, RECORDS_PUBLIC, f"{METRIC}accuracy"]
values = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=9), st.binary(max_size=9)
)


@given(
    kind=st.sampled_from(KINDS),
    grants=st.frozensets(st.sampled_from(GRANTS)),
    record=st.one_of(st.text(max_size=12), st.sampled_from(["metrics", "enrolment", "privacy"])),
    name=st.one_of(st.text(max_size=12), st.sampled_from(["loss", "event", "records", "silo"])),
    value=values,
)
def test_what_the_schema_does_not_name_cannot_leave(
    kind: str, grants: frozenset[str], record: str, name: str, value: Any
) -> None:
    place = f"{record}.{name}"
    known = [field for field in ANSWERS if field.kind == kind and field.covers(place)]
    free = any(not f.grants or grants.intersection(f.grants) for f in known)
    of_metric = any(f.grants == (METRIC,) or f.place == "released.*" for f in known)
    content = RecordDict({record: ConfigRecord({name: value})})
    if free or of_metric:
        return
    with pytest.raises(Unsendable) as told:
        check_answer(kind, content, grants)
    assert repr(value) not in str(told.value) or repr(value) in place


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("train", {"metrics": MetricRecord({"num-examples": 7.0})}),
        ("train", {"metrics": MetricRecord({"loss": 0.5})}),
        ("train", {"metrics": MetricRecord({"seconds": 0.5})}),
        ("train", {"sealed": ConfigRecord({"statement": b"", "clipped": 3})}),
        ("train", {"update": ArrayRecord({"update": Array(np.zeros(3, np.float32))})}),
        ("evaluate", {"metrics": MetricRecord({"auc": 0.5})}),
        ("evaluate", {"released": ConfigRecord({"Jane Doe": "withheld"})}),
        ("evaluate", {"released": ConfigRecord({"loss": "Jane Doe"})}),
        (ENROL, {"enrolment": ConfigRecord({"records": 7})}),
        (ENROL, {"enrolment": ConfigRecord({"silo": b"north"})}),
        ("query.other", {"enrolment": ConfigRecord({"silo": "north"})}),
    ],
)
def test_an_answer_without_its_grant_does_not_leave(kind: str, records: dict[str, Any]) -> None:
    with pytest.raises(Unsendable):
        check_answer(kind, RecordDict(records), frozenset())


def test_an_answer_that_may_not_leave_becomes_an_error_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inner = TrainReply.to_records

    def more(self: TrainReply) -> RecordDict:
        records = inner(self)
        records["remark"] = ConfigRecord({"patient": "Jane Doe"})
        return records

    monkeypatch.setattr(TrainReply, "to_records", more)
    node = holder(tmp_path)
    with caplog.at_level(logging.WARNING, logger="privet.silo"):
        reply = ask(node, "train")
    assert "remark.patient may not leave" in refused(reply).logged
    assert "Jane" not in str(reply) + caplog.text
    assert counted(node) == 1


THREAT_MODEL = Path(__file__).parents[2] / "docs" / "threat-model.md"


def table() -> list[str]:
    """The schema as docs/threat-model.md shows it: a row for all steps that answer alike."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for field in ANSWERS:
        needs = " or ".join(field.grants) or "nothing"
        needs = f"`{needs}NAME`" if needs == METRIC else f"`{needs}`" if field.grants else needs
        place = (f"`{field.place}`: {field.says}", needs, field.protection)
        rows.setdefault(place, []).append(field.kind.removeprefix("query."))
    return [
        f"| {', '.join(kinds)} | {value} | {needs} | {how} |"
        for (value, needs, how), kinds in rows.items()
    ]


def test_the_threat_model_lists_what_the_schema_lets_out() -> None:
    lines = THREAT_MODEL.read_text().splitlines()
    start = lines.index("| in answer to | value | needs | protection |") + 2
    end = next(n for n in range(start, len(lines)) if "anything that fails" in lines[n])
    assert lines[start:end] == table()
