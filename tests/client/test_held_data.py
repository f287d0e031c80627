"""Whose data they are: a job names a data set and what it expects, the holder says the rest.

The silo compares texts, the job's and its holder's. Whatever the records hold, its answer is the
same, and no name in a job reaches a file.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flwr.app import Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import hostile_names
import silo_log
from privet import Experiment
from privet.client.app import app
from privet.client.silo import open_silo
from privet.errors import ExperimentError
from privet.simulations.grid import assume_identity
from privet.tasks import load_task
from privet.tasks.files import read_inside
from privet.tasks.table import Table
from privet.tasks.table_layout import TableOptions
from privet.vectors import FlatModel
from privet.wire import ENROL, TrainReply, TrainRequest
from silo_holder import describing, holder

STAYS = {
    "task": "table",
    "file": "stays.csv",
    "target": "outcome",
    "numeric": ["age"],
    "categorical": ["ward"],
    "classes": ["home", "died"],
    "ranges": {"age": [0, 110]},
    "categories": {"ward": ["north", "south"]},
}
OPTIONS = {key: value for key, value in STAYS.items() if key != "task"}
SCHEMA = {key: value for key, value in STAYS.items() if key not in ("task", "file")}
JOB = {"dataset": "records", **SCHEMA}
WIDTH = 2 + 3  # age and whether it is missing; two wards and a missing one
ROWS = [
    f"{20 + i},{'north' if i % 2 else 'south'},{'home' if i % 3 else 'died'}" for i in range(80)
]
_runs = itertools.count(50_000)


def write(folder: Path, rows: list[str], header: str = "age,ward,outcome") -> None:
    (folder / "stays.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", ROWS)
    return tmp_path


def node(folder: Path, description: dict[str, Any] | None = STAYS, **rules: Any) -> dict[str, Any]:
    made = {**holder(folder, public=False, **rules), "data-dir": str(folder / "data")}
    return made if description is None else describing(made, **description)


def job(data: dict[str, Any], **more: Any) -> Experiment:
    return Experiment.from_mapping(
        {
            "task": "table",
            "rounds": 2,
            "data": data,
            "training": {"steps": 2, "batch_size": 8},
            "strategy": {"name": "fedavg", "weighting": "uniform"},
            "privacy": {"noise_multiplier": 5.0},
            **more,
        }
    )


def ask(
    node: dict[str, Any], data: dict[str, Any], content: RecordDict | None = None, **more: Any
) -> Message:
    assume_identity(99)
    context = Context(next(_runs), 2, {**node}, RecordDict(), {**job(data, **more).to_run_config()})
    kind = "train" if content is not None else ENROL
    return app(Message(content or RecordDict(), 2, kind), context)


def refused(node: dict[str, Any], data: dict[str, Any], **more: Any) -> str:
    """What the silo's log says of a job that it refuses."""
    return silo_log.refused(ask(node, data, **more)).logged


def training() -> RecordDict:
    weights = FlatModel(nn.Linear(WIDTH, 2)).vector()
    return TrainRequest(round=1, weights=weights).to_records()


def test_a_job_that_expects_what_the_holder_describes_trains(folder: Path) -> None:
    silo = node(folder)
    assert not ask(silo, JOB).has_error()
    unnamed = {key: value for key, value in JOB.items() if key != "dataset"}
    assert not ask(silo, unnamed).has_error()
    reply = ask(silo, JOB, training())
    assert TrainReply.from_records(reply.content).update is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"categories": {"ward": ["north"]}}, "data.categories"),
        ({"categories": {"ward": ["north", "south", "hospice"]}}, "data.categories"),
        ({"target": "ward", "categorical": [], "classes": ["north", "south"]}, "data.target"),
        ({"target": "age", "numeric": [], "classes": [21, 22]}, "data.target"),
        ({"numeric": ["age", "outcome_2"]}, "data.numeric"),
        ({"numeric": ["diagnosis"], "ranges": {"diagnosis": [0, 1]}}, "data.numeric"),
        ({"classes": ["died", "home"]}, "data.classes"),
        ({"ranges": {"age": [0, math.nextafter(110, 111)]}}, "data.ranges"),
        ({"ranges": {}}, "data.ranges"),
        ({"missing": "drop"}, "data.missing"),
        ({"missing": "refuse"}, "data.missing"),
        ({"dataset": "../x"}, "data.dataset"),
        ({"dataset": "stays\x00" * 40}, "data.dataset"),
        ({"dataset": 7}, "data.dataset"),
        ({"file": "stays.csv"}, "data.file"),
        ({"file": "/etc/passwd"}, "data.file"),
        ({"files": "*.csv"}, "data.files"),
        ({"silo": "ward"}, "data.silo"),
        ({"test_fraction": 0.5}, "data.test_fraction"),
        ({"unknown": 1}, "data.unknown"),
        ({"un\nknown" * 999: 1}, "data.'un"),
        ({"missing": "x" * 9999}, "data.missing"),
    ],
)
def test_another_expectation_does_not_match_whatever_the_records_are(
    folder: Path, change: dict[str, Any], named: str
) -> None:
    """The same answer over the records, over others, and over none; it names the job's setting."""
    silo = node(folder)
    told = {refused(silo, {**JOB, **change})}
    write(folder / "data", ["7,hospice,unknown", 'x,"', "95,north,died", *ROWS[:20]])
    told.add(refused(silo, {**JOB, **change}))
    (folder / "data" / "stays.csv").unlink()
    told.add(refused(silo, {**JOB, **change}))
    (answer,) = told
    assert named in answer
    assert len(answer) < 500


def test_another_task_than_the_holders_is_no_match(folder: Path) -> None:
    assert "task" in refused(node(folder), {"dataset": "records"}, task="digits")
    digits = node(folder / "data", {"task": "digits"})
    assert not ask(digits, {"dataset": "records"}, task="digits").has_error()
    assert "data.split" in refused(digits, {"split": "flamby"}, task="digits")


def test_a_silo_without_a_description_serves_what_needs_none(folder: Path) -> None:
    plain = node(folder, None)
    assert not ask(plain, {}, task="digits").has_error()
    assert not ask(plain, {"dataset": "records"}, task="digits").has_error()
    for data in (JOB, SCHEMA, {**SCHEMA, "file": "stays.csv"}):
        assert "task" in refused(plain, data)
    assert "data.silo" in refused(plain, {"silo": "education"}, task="adult")


ODD = (
    "",
    "?",
    "inf",
    "-1e999",
    "forty",
    "Jane Doe",
    '"',
    '"a',
    "a,b",
    "north,south,north",
    "\x00",
    "9" * 400,
    "x" * 200_000,
    "1e400",
    "\ufeff",
    "ｎorth",
    "01",
    "TRUE",
    "=cmd()",
)


@given(
    odd=st.lists(
        st.tuples(st.sampled_from(ODD), st.sampled_from(ODD), st.sampled_from(ODD)), max_size=4
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_answer_depends_on_a_cell_that_the_description_does_not_cover(
    tmp_path_factory: pytest.TempPathFactory, odd: list[tuple[str, str, str]]
) -> None:
    """Nor does an odd record change how another is read: neighbours stay neighbours."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "data").mkdir()
    write(folder / "data", ROWS)
    silo = node(folder)
    before = inputs(silo)
    reply = ask(silo, JOB)
    lines = [",".join(cells) for cells in odd]
    write(folder / "data", [*ROWS[:7], *lines, *ROWS[7:]])
    (folder / "other").mkdir()
    again = {**holder(folder / "other", public=False), "data-dir": str(folder / "data")}
    again["description"] = json.dumps(STAYS)
    other = ask(again, JOB)
    assert not other.has_error()
    assert other.content == reply.content
    after = inputs(again)
    for row in before:
        after.remove(row)
    assert len(after) <= len(odd)


def inputs(silo: dict[str, Any], data: dict[str, Any] = JOB) -> list[list[float]]:
    opened = open_silo(job(data), Context(next(_runs), 2, {**silo}, RecordDict(), {}))
    rows = zip(opened.examples.inputs.tolist(), opened.examples.targets.tolist(), strict=True)
    return [[*row, target] for row, target in rows]


def test_what_is_not_covered_counts_as_missing_and_a_strange_class_leaves_the_record_out(
    folder: Path,
) -> None:
    write(
        folder / "data", ["55,north,home", "old,hospice,died", ",south,1.0", "110.0, north ,home"]
    )
    assert inputs(node(folder)) == [
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 1, 1],
        [1, 0, 1, 0, 0, 0],
    ]
    (folder / "dropping").mkdir()
    dropping = {**node(folder / "dropping", {**STAYS, "missing": "drop"})}
    dropping["data-dir"] = str(folder / "data")
    assert inputs(dropping, {**JOB, "missing": "drop"}) == [[0, 1, 0, 0], [1, 1, 0, 0]]


def test_of_each_person_one_row_is_used_and_nobody_elses_rows_decide_which(folder: Path) -> None:
    described = {**STAYS, "person": "patient"}
    rows = [f"{20 + i},{'north' if i % 2 else 'south'},home,{i // 3}" for i in range(30)]
    rows += ["50,north,died,", "51,north,died,7.0", "52,north,died,Ann", "53,south,died, Ann "]

    def used(lines: list[str], name: str) -> list[list[float]]:
        header = "age,ward,outcome,patient"
        (folder / "data" / "stays.csv").write_text("\n".join([header, *lines]) + "\n")
        (folder / name).mkdir()
        silo = {**node(folder / name, described), "data-dir": str(folder / "data")}
        return sorted(inputs(silo))

    whole = used(rows, "whole")
    assert len(whole) == 11  # 0 to 9, and Ann; a row of nobody is left out
    for number, patient in enumerate(["0", "5", "Ann"]):
        left = [row for row in rows if row.split(",")[3].strip() not in (patient, f"{patient}.0")]
        fewer = used(left, f"without {number}")
        assert len(fewer) == 10
        assert all(row in whole for row in fewer)
    assert used(rows[::-1], "turned") == whole


def test_a_column_of_persons_is_the_holders_alone(folder: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be a feature"):
        TableOptions.of({**OPTIONS, "person": "age"})
    with pytest.raises(ExperimentError, match="only the description of a holder's table has it"):
        Table(**{**OPTIONS, "person": "patient"})
    assert "data.person" in refused(node(folder), {**JOB, "person": "patient"})


def test_numbers_and_truth_values_are_words_however_a_file_writes_them(folder: Path) -> None:
    words = {"ward": [1, True]}
    write(folder / "data", ["5,1,home", "5,1.0,home", "5,true,died", "5,TRUE,died"])
    silo = node(folder, {**STAYS, "categories": words})
    assert [row[2:5] for row in inputs(silo, {**JOB, "categories": words})] == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
    ]


def test_parquet_and_several_files_are_read_alike(folder: Path) -> None:
    expected = inputs(node(folder))
    data = folder / "data"
    frame = pd.read_csv(data / "stays.csv")
    (data / "wards").mkdir()
    frame[:30].to_parquet(data / "wards" / "a.parquet")
    frame[30:].to_csv(data / "wards" / "b.csv", index=False, sep=";")
    for number, files in enumerate(("wards/*", ["wards/a.parquet", "wards/b.csv"])):
        held = {key: value for key, value in STAYS.items() if key != "file"} | {"files": files}
        (place := folder / str(number)).mkdir()
        silo = {**node(place, held), "data-dir": str(data)}
        assert inputs(silo) == expected


def test_no_cell_of_a_parquet_file_keeps_the_others_from_being_read(folder: Path) -> None:
    """Dates beyond Python's, bytes that are no text, categories: columns are read all the same."""
    expected = inputs(node(folder))
    data = folder / "data"
    frame = pd.read_csv(data / "stays.csv")
    odd = {"age": [50, 51, 52], "ward": [b"n\xff", b"north", b"\x00"], "outcome": ["x", "", None]}
    binary = pa.array([*(ward.encode() for ward in frame["ward"]), *odd["ward"]], pa.binary())
    table = {
        "age": pa.array([*frame["age"], *odd["age"]]),
        "ward": pa.Array.from_buffers(pa.string(), len(binary), binary.buffers()),
        "outcome": pa.array([*frame["outcome"], *odd["outcome"]]).dictionary_encode(),
    }
    pq.write_table(pa.table(table), data / "odd.parquet")
    (place := folder / "arrow").mkdir()
    silo = {**node(place, {**STAYS, "file": "odd.parquet"}), "data-dir": str(data)}
    assert inputs(silo) == expected
    day = pa.array([10**9] * 80 + [2**40] * 3, pa.timestamp("s"))
    pq.write_table(pa.table({**table, "age": day}), data / "odd.parquet")
    (place := folder / "days").mkdir()
    assert (
        len(inputs({**node(place, {**STAYS, "file": "odd.parquet"}), "data-dir": str(data)})) == 80
    )


def odd_columns() -> dict[str, pa.Array]:
    """Columns of 80 that hold something which Python cannot."""
    raw = pa.array([b"north"] * 79 + [b"\xff"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 80, raw.buffers())
    day = pa.array([0] * 79 + [2**62], pa.int64()).cast(pa.timestamp("us"))
    return {
        "struct": pa.StructArray.from_arrays([day], ["day"]),
        "list": pa.ListArray.from_arrays(pa.array(range(81), pa.int32()), text),
        "view": raw.cast(pa.binary_view()).view(pa.string_view()),
        "json": pa.ExtensionArray.from_storage(pa.json_(pa.string()), text),
    }


@pytest.mark.parametrize("kind", ["struct", "list", "view", "json"])
def test_nor_does_a_column_that_nobody_asked_for(folder: Path, kind: str) -> None:
    expected, data = inputs(node(folder)), folder / "data"
    frame = pa.Table.from_pandas(pd.read_csv(data / "stays.csv"))
    pq.write_table(frame.append_column("notes", odd_columns()[kind]), data / "odd.parquet")
    (place := folder / kind).mkdir()
    silo = {**node(place, {**STAYS, "file": "odd.parquet"}), "data-dir": str(data)}
    assert inputs(silo) == expected


@pytest.mark.parametrize("fault", ["gone", "empty", "header", "column", "bytes", "folder", "link"])
def test_files_that_cannot_be_used_all_have_one_answer(folder: Path, fault: str) -> None:
    path = folder / "data" / "stays.csv"
    (folder / "secret").write_text("age,ward,outcome\n" + "\n".join(ROWS))
    texts = {"empty": b"", "header": b"age,ward,outcome\n", "column": b"age,outcome\n5,home\n"}
    path.unlink()
    if fault in texts or fault == "bytes":
        path.write_bytes(texts.get(fault, bytes(range(128, 256)) * 3))
    elif fault == "folder":
        path.mkdir()
    elif fault == "link":
        path.symlink_to(folder / "secret")
    told = silo_log.refused(ask(node(folder), JOB))
    assert (told.stage, told.code, told.names) == ("data", "data", ())


def test_no_name_in_a_description_or_a_job_leads_out_of_the_data_folder(tmp_path: Path) -> None:
    """Links, devices, steps upwards, other systems' forms: none is opened."""
    data = hostile_names.data_folder(tmp_path)
    names = hostile_names.names(tmp_path)
    assert len(names) > 1000

    def answers() -> dict[str, str]:
        found = {}
        for name in names:
            with pytest.raises(ExperimentError) as caught:
                read_inside(data, name)
            found[name] = str(caught.value)
        return found

    with hostile_names.opened() as opened:
        before = answers()
    assert {Path(path).name for path in opened} <= {data.name, "sub"}
    hostile_names.empty_outside(tmp_path)
    assert answers() == before
    assert not any(hostile_names.CANARY in text for text in before.values())


def test_a_silo_gives_one_answer_to_every_hostile_name(tmp_path: Path) -> None:
    data = hostile_names.data_folder(tmp_path)
    silo = {**node(tmp_path), "data-dir": str(data)}
    names = [name for name in hostile_names.names(tmp_path) if "\udc2e" not in name]  # no JSON
    with hostile_names.opened() as opened:
        for key in ("file", "files", "test_file", "dataset", "silo"):
            for name in names[:: 1 if key == "file" else 20]:
                reply = ask(silo, {**JOB, key: name})
                if key == "test_file":  # the server's own business: a silo does not look at it
                    assert not reply.has_error()
                    continue
                told = silo_log.refused(reply)
                assert (told.stage, f"data.{key}" in told.logged) == ("schema", True), told
                assert told.code in {"schema", "settings"}
                assert hostile_names.CANARY not in reply.error.reason + told.logged
    own = {str(tmp_path / file) for file in ("silo.key", "policy.toml")}
    kept = {path for path in opened if path.startswith(str(tmp_path)) and "ledger" not in path}
    assert kept <= own | {str(data), str(tmp_path)}


@pytest.mark.parametrize("kind", ["file", "files"])
def test_a_holders_own_slip_leads_nowhere_either(tmp_path: Path, kind: str) -> None:
    """A description that names what lies outside has the answer of one whose file is gone."""
    data = hostile_names.data_folder(tmp_path)
    names = [name for name in hostile_names.names(tmp_path)[::40] if name]
    told = set()
    for number, name in enumerate(names):
        (place := tmp_path / f"silo-{number}").mkdir()
        held = {key: value for key, value in STAYS.items() if key != "file"}
        silo = {**node(place, {**held, kind: name}), "data-dir": str(data)}
        reply = silo_log.refused(ask(silo, JOB))
        told.add((reply.stage, reply.code, reply.names))
    assert len(told) == 1
    assert hostile_names.CANARY not in told.pop()


def test_a_link_within_the_data_folder_is_the_holders_own(folder: Path) -> None:
    (folder / "data" / "today.csv").symlink_to("stays.csv")
    assert inputs(node(folder, {**STAYS, "file": "today.csv"})) == sorted_like(folder)


def sorted_like(folder: Path) -> list[list[float]]:
    (place := folder / "plain").mkdir()
    return inputs({**node(place), "data-dir": str(folder / "data")})


ADULT = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, "
    "2174, 0, 40, United-States, <=50K"
)
HEART = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0"
ODD_ADULTS = [
    ADULT.replace("State-gov", "Jane Doe"),
    ADULT.replace("39", "Jane Doe"),
    ADULT.replace("77516", "-1e999"),
    ADULT.replace("2174", "-5"),
    ADULT.replace("<=50K", "rich"),
    "Jane Doe",
    "Jänë Döe, " + ADULT,
]
ODD_PATIENTS = [
    HEART.replace("63.0", "Jane"),
    HEART.replace("233.0", "inf"),
    HEART.replace("2.3", "nan"),
    HEART.replace("145.0", "?"),
    "Jänë",
    HEART + ",1",
]


@pytest.mark.parametrize(
    ("task", "file", "line", "odd"),
    [
        ("adult", "adult.data", ADULT, ODD_ADULTS),
        ("heart-disease", "processed.va.data", HEART, ODD_PATIENTS),
    ],
)
def test_an_odd_record_of_a_built_in_task_is_left_out_and_nobody_is_told(
    folder: Path, task: str, file: str, line: str, odd: list[str]
) -> None:
    data = folder / "data"
    for other in ("cleveland", "hungarian", "switzerland", "va"):
        (data / f"processed.{other}.data").write_text("\n".join([HEART] * 12) + "\n")
    records = [line.replace("145.0", str(100 + i)).replace("39", str(20 + i)) for i in range(40)]

    def answer(lines: list[str], number: int) -> tuple[RecordDict, list[list[float]]]:
        (data / file).write_bytes("\n".join([*lines, ""]).encode("latin-1"))
        (place := folder / str(number)).mkdir()
        silo = {**node(place, {"task": task}), "data-dir": str(data)}
        reply = ask(silo, {"dataset": "records"}, task=task)
        assert not reply.has_error(), reply.error
        context = Context(next(_runs), 2, {**silo}, RecordDict(), {})
        examples = open_silo(job({}, task=task), context).examples
        rows = zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True)
        return reply.content, [[*row, target] for row, target in rows]

    whole = answer(records, 0)
    for number, strange in enumerate(odd, start=1):
        assert answer([*records[:9], strange, *records[9:]], number) == whole, strange


@pytest.mark.parametrize("task", ["adult", "heart-disease", "mnist", "fashion-mnist"])
@pytest.mark.parametrize("way", ["folder", "files"])
def test_a_built_in_task_follows_no_link_out_of_the_data_folder(
    tmp_path: Path, task: str, way: str
) -> None:
    """Read as a simulation it is there, by the very same link."""
    real = tmp_path / "elsewhere"
    (tmp_path / "data").mkdir()
    real.mkdir()
    (real / "adult.data").write_text("\n".join([ADULT] * 20) + "\n")
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        (real / f"processed.{hospital}.data").write_text("\n".join([HEART] * 12) + "\n")
    images = bytes([0, 0, 8, 3]) + (20).to_bytes(4) + (28).to_bytes(4) * 2 + bytes(20 * 784)
    (real / "train-images-idx3-ubyte").write_bytes(images)
    labels = bytes([0, 0, 8, 1]) + (20).to_bytes(4) + bytes(range(10)) * 2
    (real / "train-labels-idx1-ubyte").write_bytes(labels)
    if way == "folder":
        (tmp_path / "data" / task).symlink_to(real)
    else:
        for file in real.iterdir():
            (tmp_path / "data" / file.name).symlink_to(file)
    assert len(load_task(task, data_dir=tmp_path / "data").train_data()) > 0
    told = refused(node(tmp_path, {"task": task}), {}, task=task)
    assert "the silo cannot use its records" in told
    (tmp_path / "moved").mkdir()
    inside = {**node(tmp_path / "moved", {"task": task}), "data-dir": str(real)}
    assert not ask(inside, {}, task=task).has_error()


def test_a_link_that_comes_after_the_look_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are resolved and then opened: who changes one in between reaches nothing either."""
    data = hostile_names.data_folder(tmp_path)
    assert read_inside(data, "stays.csv")
    monkeypatch.setattr(Path, "resolve", lambda path, **_: path.absolute())
    assert read_inside(data, "stays.csv")
    for name in (
        "link.csv",
        "chain.csv",
        "way/secret.csv",
        "sub/up/secret.csv",
        "zero",
        "fifo.csv",
    ):
        with hostile_names.opened() as opened, pytest.raises(ExperimentError):
            read_inside(data, name)
        assert not any(
            path.endswith(("secret.csv", "fifo.csv", "zero")) for path in opened - {name}
        )


def test_a_clean_file_is_read_as_a_simulation_reads_it(folder: Path) -> None:
    options = {key: value for key, value in STAYS.items() if key != "task"} | {"test_fraction": 0}
    simulated = load_task("table", data_dir=folder / "data", options=options).train_data()
    rows = zip(simulated.inputs.tolist(), simulated.targets.tolist(), strict=True)
    assert inputs(node(folder)) == [[*row, target] for row, target in rows]
