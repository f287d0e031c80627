"""What a data holder is shown of the records, and what of it jobs see."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from privet.commands.cli import main
from privet.deployment.parties import SiloKit
from privet.tasks.datasets import DatasetDescription

KIT = """
project = "lungs"
project_key = "{key}"
name = "north"
server = "https://train.example.org:8443"
data_dir = "data"
"""
POLICY = """
version = 1
[data.{name}]
requesters = ["*"]
tasks = ["*"]
[data.{name}.budget]
epsilon = 1.0
delta = 1e-5
"""
STAYS = """
[datasets.stays]
task = "table"
file = "stays.csv"
target = "outcome"
numeric = ["age"]
categorical = ["ward"]
classes = ["home", "died"]
ranges.age = [0, 110]
categories.ward = ["north", "south"]
"""
ROWS = """id,age,ward,outcome
1,40,north,home
2,old,hospice,home
3,61,south,escaped
4,?,hospice,died
5,50,north
6,55,"north,died
"""


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stays.csv").write_text(ROWS)
    (tmp_path / "silo.toml").write_text(KIT.format(key="ab" * 32) + STAYS)
    (tmp_path / "policy.toml").write_text(POLICY.format(name="stays"))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return int(end.value.code or 0), *capsys.readouterr()


def test_a_holder_sees_what_jobs_see_and_apart_from_it_what_they_do_not(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "silo", "check", kit / "silo.toml")
    assert code == 0
    jobs, _, private = out.partition("For your eyes only")
    asked = tomllib.loads(jobs[jobs.index("task =") :])
    assert asked["task"] == "table"
    description = SiloKit.from_folder(kit).datasets["stays"]
    description.demand("table", asked["data"], name="stays")
    assert "hospice" not in jobs
    assert "stays.csv" not in jobs
    assert "3 records to train on" in private
    assert "1 records are left out" in private
    assert "2 lines are left out" in private
    assert "ward: 2 values are not covered: 'hospice' (2)" in private
    assert "age: 1 values are not covered: 'old' (1)" in private
    assert "outcome: 1 values" in private
    assert said(capsys, "silo", "check", kit) == (code, out, "")


AGAIN = """data_dir = "data"
dataset = "stays"
[datasets.again]
task = "table"
file = "stays.csv"
target = "ward"
numeric = ["age"]
classes = ["north", "south"]
"""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (('"stays.csv"', '"none.csv"'), "'none.csv' is no file of the data folder"),
        (('"stays.csv"', '"../silo.toml"'), "'../silo.toml' is no file of the data folder"),
        (('["age"]', '["agee"]'), "stays.csv has no column 'agee'"),
        (('["home", "died"]', '["a", "b"]'), "there are no records to train on"),
        (("[datasets.stays]", "[datasets.other]"), "policy.toml has no [data.other]"),
        (
            ('data_dir = "data"\n', AGAIN),
            "data set again has the same records: they would have two",
        ),
    ],
)
def test_faults_are_shown_and_end_with_1(
    kit: Path, change: tuple[str, str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kit / "silo.toml"
    file.write_text(file.read_text().replace(*change))
    code, out, _ = said(capsys, "silo", "check", kit)
    assert code == 1
    assert f"FAULT: {fault}" in out


def test_data_sets_of_other_tasks_and_undescribed_ones_are_shown(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kit / "silo.toml").write_text(
        KIT.format(key="ab" * 32) + '[datasets.stays]\ntask = "digits"\n'
    )
    code, out, _ = said(capsys, "silo", "check", kit)
    assert (code, "1,437 records" in out) == (0, True)
    (kit / "silo.toml").write_text(KIT.format(key="ab" * 32) + 'dataset = "stays"\n')
    code, out, _ = said(capsys, "silo", "check", kit)
    assert (code, "not described in silo.toml" in out) == (0, True)


def test_a_first_description_marks_what_it_learned_from_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"{i + 7000},{20.5 + i},{i % 2},{'ab'[i % 2]} é\"'#,x,{'yes' if i % 3 else 'no'}"
        for i in range(30)
    ]
    rows[3] = rows[3].replace("23.5", "unknown")
    text = "\n".join(['patient,body mass,sex,kind of "stay",site,ill', *rows]).replace('"', "'")
    (tmp_path / "my stays.csv").write_text(text)
    code, out, err = said(capsys, "schema", tmp_path / "my stays.csv")
    assert (code, err) == (0, "")
    made = tomllib.loads(out)["datasets"]["my stays"]
    assert made["target"] == "ill"
    assert made["numeric"] == ["body mass", "sex"]
    assert made["categorical"] == ["kind of 'stay'"]
    assert made["ranges"] == {"body mass": [20.5, 49.5], "sex": [0, 1]}
    assert 'Left out: "patient", every value is another whole number' in out
    assert 'Left out: "site", one value only.' in out
    assert '# person = "..."' in out
    learned = [line.split(".")[0].split(" ")[0] for before, line in _pairs(out) if _marks(before)]
    assert learned == ["classes", "ranges", "ranges", "categories"]
    told = [line for before, line in _pairs(out) if not _marks(before) and line[:1] != "#"]
    assert not any(word in line for line in told for word in ("20.5", "yes", "'#"))
    DatasetDescription.model_validate(made)


def _pairs(text: str) -> list[tuple[str, str]]:
    return list(itertools.pairwise(text.splitlines()))


def _marks(line: str) -> bool:
    return line.startswith("# LEARNED FROM RECORDS")


def test_what_cannot_be_described_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"x": range(200), "y": [i % 2 for i in range(200)]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert 'target = "y"' in said(capsys, "schema", tmp_path / "x.parquet")[1]
    (tmp_path / "empty.csv").write_text("")
    for arguments, message in (
        (["x.parquet", "--target", "x"], "the column has 200 values"),
        (["x.parquet", "--target", "z"], "--target z: no such column."),
        (["empty.csv"], "the file has no header"),
        (["none.csv"], "cannot be read"),
    ):
        code, _, err = said(capsys, "schema", tmp_path / arguments[0], *arguments[1:])
        assert (code, message in err, err.count("\n")) == (2, True, 1), err


def test_a_description_from_records_is_one_that_the_silo_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Together they are the way of a holder: describe, look, put the text into silo.toml."""
    (tmp_path / "data").mkdir()
    rows = "".join(f"{i % 50},{'abc'[i % 3]},{i % 2}\n" for i in range(90))
    (tmp_path / "data" / "w.csv").write_text("age,ward,ill\n" + rows)
    text = said(capsys, "schema", tmp_path / "data" / "w.csv", "--name", "ward")[1]
    (tmp_path / "silo.toml").write_text(KIT.format(key="ab" * 32) + text)
    (tmp_path / "policy.toml").write_text(POLICY.format(name="ward"))
    code, out, _ = said(capsys, "silo", "check", tmp_path)
    assert (code, "90 records to train on" in out, "not covered" in out) == (0, True, False), out


def test_a_description_of_a_file_that_is_written_in_german(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"{i % 30 + 50},5;{i % 7}.000;Zürich;{'k.A.' if i % 9 == 0 else i % 2}" for i in range(60)
    ]
    (tmp_path / "x.csv").write_bytes("\n".join(["größe;lohn;ort;krank", *rows]).encode("latin-1"))
    code, _, err = said(capsys, "schema", tmp_path / "x.csv")
    assert (code, "not utf-8; say --encoding, such as latin-1" in err) == (2, True), err
    out = said(capsys, "schema", tmp_path / "x.csv", "--encoding", "latin-1")[1]
    assert "Left out: \"größe\", '50,5' looks like a number (say decimal or thousands" in out
    assert "'k.A.' may be a value or stand for none: missing_marks = ['k.A.']" in out
    options = ["--encoding", "latin-1", "--decimal", ",", "--thousands", ".", "--missing-mark"]
    out = said(capsys, "schema", tmp_path / "x.csv", *options, "k.A.")[1]
    made = tomllib.loads(out)["datasets"]["x"]
    assert made["ranges"] == {"größe": [50.5, 79.5], "lohn": [0, 6000]}
    assert made["classes"] == ["0", "1"]
    written = {"encoding": "latin-1", "decimal": ",", "thousands": ".", "missing_marks": ["k.A."]}
    assert written.items() <= made.items()
    DatasetDescription.model_validate(made)


def test_what_may_name_persons_is_no_category_of_a_first_description(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"P{i:04},2020-01-{i % 28 + 1:02},{i % 40 + 7000},0{i % 9}01,"
        f"{-999 if i < 4 else i % 9},{i % 2}"
        for i in range(60)
    ]
    header = "who,day,patient_nbr,plz,lab,ill"
    (tmp_path / "x.csv").write_text("\n".join([header, *rows, ""]))
    out = said(capsys, "schema", tmp_path / "x.csv")[1]
    made = tomllib.loads(out)["datasets"]["x"]
    assert (made["numeric"], made["categorical"]) == ([], [])
    for reason in (
        '"who", 60 different texts in 60 rows',
        "\"day\", '2020-01-01' looks like a date",
        '"patient_nbr", 40 different numbers in 60 rows, such as an ID',
        "\"plz\", numbers that are written as codes are, such as '0001'",
        "\"lab\", -999 is there 4 times, far from all others (missing_marks = ['-999']",
    ):
        assert f"Left out: {reason}" in out
    assert "P0007" not in out
