"""Tables as people have them: read as they are meant, or refused with the place and the way out."""

from __future__ import annotations

import datetime
import decimal
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import DataError, ExperimentError
from privet.tasks import Examples, load_task
from privet.tasks.table import Table
from privet.tasks.task import Task

N = 60
RNG = np.random.default_rng(5)
AGE = [round(20 + 60 * each, 1) for each in RNG.random(N)]
PAID = [int(each) for each in RNG.integers(1_000, 90_000, N)]
WARD = ["north", "south", "Zürich"]
ILL = [int(age > 50) for age in AGE]
LINES = [
    f"{a},{p},{WARD[i % 3]},{y}" for i, (a, p, y) in enumerate(zip(AGE, PAID, ILL, strict=True))
]
CLEAN = "\n".join(["age,paid,ward,ill", *LINES, ""])
LONG = CLEAN + "\n".join([*LINES, ""])
Change = Callable[[list[str]], list[str]]


def task(folder: Path, text: str | bytes, **options: object) -> Task:
    raw = text.encode() if isinstance(text, str) else text
    (folder / "x.csv").write_bytes(raw)
    said = {"file": "x.csv", "target": "ill", "test_fraction": 0, **options}
    return load_task("table", data_dir=folder, options=said)


def read(folder: Path, text: str | bytes, **options: object) -> Examples:
    return task(folder, text, **options).train_data()


def refused(folder: Path, text: str | bytes, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(folder: Path, text: str | bytes, **options: object) -> None:
    """Read like the clean file, to the bit."""
    (folder / "clean").mkdir()
    wanted, found = read(folder / "clean", CLEAN), read(folder, text, **options)
    assert torch.equal(found.inputs, wanted.inputs)
    assert torch.equal(found.targets, wanted.targets)


def with_column(name: str, values: list[str], text: str = CLEAN) -> str:
    """The file with one more column in front."""
    header, *lines = text.strip().split("\n")
    rows = [f"{value},{line}" for value, line in zip(values, lines, strict=True)]
    return "\n".join([f"{name},{header}", *rows, ""])


def quoted(text: str) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.split())


def in_german(text: str) -> str:
    return text.replace(",", ";").replace(".", ",")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (CLEAN.replace(",", "\t"), {}),
        (CLEAN.replace(",", "|"), {"separator": "|"}),
        (in_german(CLEAN), {"decimal": ","}),
        (quoted(CLEAN), {}),
        (CLEAN.replace("\n", "\r\n"), {}),
        ("\ufeff" + CLEAN, {}),
        (CLEAN.encode("latin-1"), {"encoding": "latin-1"}),
        (CLEAN.encode("utf-16"), {"encoding": "utf-16"}),
        (with_column("", [str(i) for i in range(N)]), {"exclude": ["Unnamed: 0"]}),
        (CLEAN.replace("\n", ",,\n") + ",,,,,\n,,,,,\n", {}),
        (quoted(CLEAN).replace('"north"', '"north  "').replace('"age"', '"age "'), {}),
        (CLEAN.replace("ü", "u\u0308"), {}),
        (in_german(CLEAN).replace("\n", "\r"), {"decimal": ","}),
    ],
    ids=[
        *("tabs", "bars", "german", "quoted", "crlf", "bom", "latin-1", "utf-16", "index"),
        *("empty-cells", "blanks", "umlauts", "mac"),
    ],
)
def test_one_table_written_in_many_ways_is_one_table(
    tmp_path: Path, text: str | bytes, options: dict[str, object]
) -> None:
    same(tmp_path, text, **options)


def test_all_columns_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    days = with_column("day", [f"{1 + i % 28}.3.2020" for i in range(N)])
    both = with_column("number", [str(i) for i in range(1, N + 1)], days)
    (tmp_path / "x.csv").write_text(both)
    said = refused(tmp_path, both)
    assert "2 columns cannot be used as they are" in said
    assert "column 'number': numbers its rows from 1; " in said
    assert "column 'day': '1.3.2020' looks like a date or a time. " in said
    assert said.count("data.exclude") == 1
    same(tmp_path, both, exclude=["number", "day"])


def test_parquet_is_the_same_table(tmp_path: Path) -> None:
    rows = pd.read_csv(io.StringIO(CLEAN))
    rows.to_parquet(tmp_path / "x.parquet")
    same(tmp_path, CLEAN, file="x.parquet")


def test_a_mark_of_missing_values_is_one_in_parquet_too(tmp_path: Path) -> None:
    rows = pd.read_csv(io.StringIO(CLEAN)).assign(ward=["?", "-", "north"] * (N // 3))
    rows.to_parquet(tmp_path / "x.parquet")
    found = read(tmp_path, rows.to_csv(index=False), missing_marks=["-"], categorical=["ward"])
    assert found.inputs.sum(0).tolist() == [N / 3, 2 * N / 3]
    again = read(tmp_path, "", file="x.parquet", missing_marks=["-"], categorical=["ward"])
    assert torch.equal(found.inputs, again.inputs)


@pytest.mark.parametrize("kind", ["table", "held"])
def test_grouped_digits_are_numbers_where_it_is_said(tmp_path: Path, kind: str) -> None:
    text = CLEAN
    for paid in PAID:
        text = text.replace(f",{paid},", f',"{paid:,}",', 1)
    options = {"numeric": ["paid"], "classes": [0, 1], "ranges": {"paid": [0, 90000]}}
    said = {"file": "x.csv", "target": "ill", "thousands": ",", **options}
    (tmp_path / "x.csv").write_text(text)
    if kind == "held":
        from privet.tasks.held_table import HeldTable

        found = HeldTable(data_dir=tmp_path, **said).train_data()
    else:
        found = read(tmp_path, text, **{**said, "file": "x.csv"})
    wanted = torch.tensor(PAID, dtype=torch.float64) / 45000 - 1
    assert found.inputs[:, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
    assert found.inputs[:, 1].sum() == 0


def test_a_holders_file_is_read_as_its_description_says(tmp_path: Path) -> None:
    from privet.tasks.held_table import HeldTable

    (tmp_path / "x.csv").write_bytes(in_german(CLEAN).replace("52,", "-;", 0).encode("latin-1"))
    held = HeldTable(
        data_dir=tmp_path, file="x.csv", target="ill", numeric=["age"], categorical=["ward"],
        ranges={"age": [0, 100]}, categories={"ward": WARD}, classes=[0, 1],
        decimal=",", encoding="latin-1", missing_marks=["south"],
    )  # fmt: skip
    found = held.train_data()
    assert found.inputs[:, 0].tolist() == pytest.approx([age / 50 - 1 for age in AGE], abs=1e-6)
    assert found.inputs[:, 2:].sum(0).tolist() == [N / 3, 0, N / 3, N / 3]


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a separator at each end": (
        CLEAN.replace("\n", ",\n").replace("ill,", "ill", 1),
        "line 2 has 5",
    ),
    "one cell too many": (CLEAN.replace(LINES[7], LINES[7] + ",3"), "line 9 has 5 cells"),
    "one cell too few": (CLEAN.replace(LINES[7], "30,1"), "line 9 has 2 cells, the header 4"),
    "a name twice": (CLEAN.replace("paid", " age "), "two columns are called 'age'"),
    "latin-1": (CLEAN.encode("latin-1"), "line 4 has byte 0xfc, which is not utf-8; say data.enc"),
    "NUL": (CLEAN.replace("north,1", "north,1\0", 1), "has a NUL character"),
    "row numbers": (with_column("", [str(i) for i in range(N)]), r"exclude = ['Unnamed: 0']"),
    "counted from one": (
        with_column("nth", [str(i + 1) for i in range(N)]),
        "rows from 1: data.ex",
    ),
    "an ID": (with_column("patientID", [str(7 * i + 3) for i in range(N)]), "a number of its own"),
    "large IDs": (
        with_column("who", [str(2**54 + 8 * i) for i in range(N)]),
        "too long to tell them",
    ),
    "nines": (
        CLEAN.replace(f"\n{AGE[3]},", "\n-999,")
        .replace(f"\n{AGE[4]},", "\n-999,")
        .replace(f"\n{AGE[5]},", "\n-999,"),
        "-999 is there 3 times, far",
    ),
    "decimal commas": (CLEAN.replace(".", ";").replace(",", "|").replace(";", ","), "data.decimal"),
    "percent": (with_column("rate", [f"{i % 7}.5%" for i in range(N)]), "'0.5%' looks like a num"),
    "thousands": (with_column("won", [f'"{i % 9 + 1},000"' for i in range(N)]), "data.thousands"),
    "currency": (with_column("won", [f"$ {i % 9}.20" for i in range(N)]), "looks like a number"),
    "a dash among numbers": (CLEAN.replace(f"\n{AGE[3]},", "\n-,"), "such as '-'; a mark of miss"),
    "None as a class": (CLEAN.replace("north,0", "north,None", 1), "missing_marks = ['None']"),
    "a point as a word": (CLEAN.replace("south", ".", 3), "missing_marks = ['.']"),
    "no value in German": (CLEAN.replace("north,1", "k.A.,1"), "missing_marks = ['k.A.']"),
    "no value in SPSS": (CLEAN.replace("north,1", "#NULL!,1"), "missing_marks = ['#NULL!']"),
    "our own mark": (CLEAN.replace("north,1", "(missing),1"), "missing_marks = ['(missing)']"),
    "one -999": (CLEAN.replace(f"\n{AGE[3]},", "\n-999,"), "-999 is there 1 times, far"),
    "97 to 99": (
        with_column("smokes", [["1", "2", "3", "97", "98", "99"][i % 6] for i in range(N)]),
        "missing_marks = ['99', '98', '97']",
    ),
    "curved marks": (with_column("won", [f"{i + 1}’200.50" for i in range(N)]), "data.thousands"),
    "a minus behind": (with_column("won", [f"{i}.5-" for i in range(N)]), "looks like a number"),
    "in brackets": (with_column("won", [f"({i}.50)" for i in range(N)]), "looks like a number"),
    "a unit": (with_column("mass", [f"{i % 40 + 50} kg" for i in range(N)]), "'50 kg' looks lik"),
    "dates": (with_column("day", [f"2020-01-{i % 28 + 1:02}" for i in range(N)]), "like a date"),
    "German dates": (with_column("day", [f"{i % 28 + 1}.1.2020" for i in range(N)]), "like a date"),
    "times": (with_column("at", [f"{i % 24}:30" for i in range(N)]), "like a date or a time"),
    "SAS dates": (with_column("day", [f"{i % 28 + 1:02}JAN2020" for i in range(N)]), "like a date"),
    "leading zeros": (
        with_column("plz", [f"0{i % 9 + 1000}" for i in range(N)]),
        "as codes are, such as '01000'",
    ),
    "an ID of letters": (
        with_column("who", [f"P{i:04}" for i in range(N)]),
        "60 different texts in 60 rows: data.exclude = ['who']",
    ),
    "francs": (
        with_column("won", [f"CHF {i}.20" for i in range(120)], LONG),
        "'CHF 0.20' looks like a number",
    ),
    "an ID of visits": (
        with_column("patient_id", [str(i % 40) for i in range(120)], LONG),
        "40 different numbers in 120 rows, such as an ID",
    ),
    "totals": (
        CLEAN + f"{sum(AGE):.1f},{sum(PAID)},Summe,{sum(ILL)}\n",
        "'Summe' is there once, in the last row: remove a row of totals, or list",
    ),
    "utf-8 too": (CLEAN.encode(), "line 4 is utf-8, and not iso8859-1"),
    "a title": ("Ward 7\n" + CLEAN, "line 2 has 4 cells, the header 1; lines before the header"),
    "sep=": ("sep=,\n" + CLEAN, "lines before the header, such as a title or sep="),
    "utf-16": (CLEAN.encode("utf-16"), "say data.encoding, such as utf-16"),
    "a spreadsheet": (b"PK\x03\x04\xff\xfe,", "save it as CSV"),
    "capitals": (CLEAN.replace("north", "North", 3), "'North' and 'north' differ in capitals"),
    "truths and digits": (CLEAN.replace("north,0", "north,False", 2), "both 'False' and 0 or 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_be_meant_in_two_ways_is_refused_with_the_way_out(
    tmp_path: Path, case: str
) -> None:
    text, said = REFUSED[case]
    options = {"encoding": "latin-1"} if case == "utf-8 too" else {}
    assert said in refused(tmp_path, text, **options)


@pytest.mark.parametrize(
    "name", ["patientid", "PatNr", "Fallnummer", "Fall-Nr.", "No.", "subject", "id_patient"]
)
def test_a_column_of_which_the_name_says_that_it_names_rows(tmp_path: Path, name: str) -> None:
    text = with_column(name, [str(7 * (37 * i % N) + 1003) for i in range(N)])
    assert "every row has a number of its own" in refused(tmp_path, text)
    visits = with_column("patient_nbr", [str(7 * (37 * i % 40) + 1003) for i in range(N)])
    assert "40 different numbers in 60 rows, such as an ID" in refused(tmp_path, visits)


@pytest.mark.parametrize(
    "words",
    [
        ["<5", "5-10", ">10"],
        ["1.2.3", "1.2.4", "2.0.0"],
        ["[0-10)", "[10-20)", "[20-30)"],
        ["5 mg", "10 mg", "20 mg"],
        ["E11.9", "I10", "J45"],
        ["-", "+", "++"],
        ["*", "**", "***"],
        ["4ABC12", "5ABD13", "6XYZ99"],
    ],
)
def test_words_with_digits_are_words(tmp_path: Path, words: list[str]) -> None:
    text = with_column("x", [words[i % 3] for i in range(N)])
    assert read(tmp_path, text).inputs.shape == (N, 4 + 4 + 4)


@pytest.mark.parametrize("kind", ["table", "held"])
@pytest.mark.parametrize(
    ("cell", "options", "value"),
    [
        ("1.234", {"thousands": ".", "decimal": ","}, 1234),
        ("1.234,5", {"thousands": ".", "decimal": ","}, 1234.5),
        ("1.5", {"thousands": ".", "decimal": ","}, None),
        ("1.5", {"decimal": ","}, None),
        ("01.02.2020", {"thousands": ".", "decimal": ","}, None),
        ("1,5", {"thousands": ","}, None),
        ("1’234.5", {"thousands": "'"}, 1234.5),
        ("1\u202f234,5", {"thousands": " ", "decimal": ","}, 1234.5),
        ("1\u00a0234", {"thousands": " "}, 1234),
        ("1_000", {}, None),
        (" 12 ", {}, 12),
    ],
)
def test_a_number_is_one_as_the_settings_write_it_and_no_other(
    tmp_path: Path, kind: str, cell: str, options: dict[str, object], value: float | None
) -> None:
    from privet.tasks.held_table import HeldTable

    (tmp_path / "x.csv").write_text(f'paid;ill\n"{cell}";1\n7;0\n')
    said = {"target": "ill", "numeric": ["paid"], "ranges": {"paid": [-3000, 3000]}, **options}
    said = {"file": "x.csv", "classes": [0, 1], "test_fraction": 0, **said}
    made = HeldTable if kind == "held" else Table
    if kind == "table" and value is None:
        with pytest.raises(DataError, match="1 of 2 values are not numbers"):
            made(data_dir=tmp_path, **said).train_data()
        return
    found = made(data_dir=tmp_path, **said).train_data().inputs[0].tolist()
    assert found == ([0, 1] if value is None else [pytest.approx(value / 3000), 0])


def test_codes_and_truth_values_are_words_as_the_file_writes_them(tmp_path: Path) -> None:
    text = with_column("plz", [f"0{i % 3 + 1000}" for i in range(N)])
    text = text.replace(",1\n", ",TRUE\n").replace(",0\n", ",FALSE\n")
    words = {"plz": ["01000", "01001", "01002"]}
    said = {"categorical": ["plz"], "categories": words, "classes": ["FALSE", "TRUE"]}
    found = read(tmp_path, text, **said)
    assert found.inputs.sum(0).tolist() == [N / 3, N / 3, N / 3, 0]
    assert found.targets.tolist() == ILL


@pytest.mark.parametrize("kind", ["table", "held"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_marked_number_is_one_however_it_is_written(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    from privet.tasks.held_table import HeldTable

    rows = pd.DataFrame({"x": [-999.0, 1.5, 2.5, -999.0], "ill": [0, 1, 0, 1]})
    (tmp_path / "x.csv").write_text(rows.to_csv(index=False, float_format="%.2f"))
    rows.to_parquet(tmp_path / "x.parquet")
    said = {"file": f"x.{suffix}", "missing_marks": ["-999"], "test_fraction": 0}
    said = {**said, "target": "ill", "numeric": ["x"], "classes": [0, 1], "ranges": {"x": [0, 4]}}
    made = HeldTable if kind == "held" else Table
    assert made(data_dir=tmp_path, **said).train_data().inputs[:, 1].tolist() == [1, 0, 0, 1]


def test_the_header_says_the_separator_where_it_is_in_no_quotes(tmp_path: Path) -> None:
    text = in_german(CLEAN).replace("age;paid", '"age, years";"paid, a year"', 1)
    assert read(tmp_path, text, decimal=",").inputs.shape == (N, 8)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([str(i % 9) for i in range(N)], "written as texts, as codes are, such as '0'"),
        ([datetime.date(2020, 1, i % 28 + 1) for i in range(N)], "60 values are date"),
        ([[1, 2]] * N, "60 values are of several types, or lists"),
        ([b"a", b"b"] * (N // 2), "60 values are bytes"),
    ],
)
def test_what_parquet_may_hold_beside_numbers_and_words(
    tmp_path: Path, cells: list[object], said: str
) -> None:
    pd.read_csv(io.StringIO(CLEAN)).assign(x=cells).to_parquet(tmp_path / "x.parquet")
    assert said in refused(tmp_path, "", file="x.parquet")


def test_decimals_of_parquet_are_numbers(tmp_path: Path) -> None:
    rows = pd.read_csv(io.StringIO(CLEAN))
    rows["age"] = [decimal.Decimal(str(age)) for age in rows.age]
    rows.to_parquet(tmp_path / "x.parquet")
    same(tmp_path, "", file="x.parquet")


@pytest.mark.parametrize("kind", ["table", "held"])
def test_a_mark_is_one_among_decimals(tmp_path: Path, kind: str) -> None:
    from privet.tasks.held_table import HeldTable

    cells = [decimal.Decimal("-999.00"), decimal.Decimal("1.50"), None, decimal.Decimal("2.50")]
    pd.DataFrame({"x": cells, "ill": [0, 1, 0, 1]}).to_parquet(tmp_path / "x.parquet")
    said = {"file": "x.parquet", "missing_marks": ["-999"], "test_fraction": 0, "target": "ill"}
    said = {**said, "numeric": ["x"], "classes": [0, 1], "ranges": {"x": [0, 4]}}
    made = HeldTable if kind == "held" else Table
    assert made(data_dir=tmp_path, **said).train_data().inputs[:, 1].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("kind", ["table", "held"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_truth_values_that_are_listed_as_numbers(tmp_path: Path, kind: str, suffix: str) -> None:
    from privet.tasks.held_table import HeldTable

    rows = pd.DataFrame({"x": [True, False, None, True], "ill": [0, 1, 0, 1]})
    (tmp_path / "x.csv").write_text(rows.to_csv(index=False).upper().replace("X,ILL", "x,ill"))
    rows.to_parquet(tmp_path / "x.parquet")
    said = {"file": f"x.{suffix}", "test_fraction": 0, "target": "ill", "numeric": ["x"]}
    said = {**said, "classes": [0, 1], "ranges": {"x": [0, 1]}}
    made = HeldTable if kind == "held" else Table
    found = made(data_dir=tmp_path, **said).train_data().inputs
    assert found.tolist() == [[1, 0], [-1, 0], [0, 1], [1, 0]]


def test_names_that_are_one_but_for_spaces_or_form_are_one_name(tmp_path: Path) -> None:
    assert "two columns are called 'größe'" in refused(
        tmp_path, with_column("größe,gro\u0308ße", ["1,2"] * N)
    )
    rows = pd.DataFrame({"age": AGE, "age ": AGE, "ill": ILL})
    rows.to_parquet(tmp_path / "x.parquet")
    assert "two columns are called 'age'" in refused(tmp_path, "", file="x.parquet")


def test_a_named_index_of_parquet_is_a_column(tmp_path: Path) -> None:
    rows = pd.read_csv(io.StringIO(CLEAN))
    rows.set_index("age").to_parquet(tmp_path / "x.parquet")
    same(tmp_path, "", file="x.parquet")


def test_a_table_of_nothing_but_the_target(tmp_path: Path) -> None:
    said = refused(tmp_path, CLEAN, exclude=["age", "paid", "ward"])
    assert "no column is left to predict 'ill' from" in said


def test_columns_that_some_sites_lack(tmp_path: Path) -> None:
    for name, columns in (("a", "age,ill"), ("b", "ill,smokes,age"), ("c", "age,smokes,ill")):
        lines = [",".join(str(i % 2) for _ in columns.split(",")) for i in range(N)]
        (tmp_path / f"{name}.csv").write_text("\n".join([columns, *lines, ""]))
    said: dict[str, object] = {"target": "ill", "test_fraction": 0}
    sites = load_task("table", data_dir=tmp_path, options={**said, "files": "*.csv"})
    with pytest.raises(DataError, match=r"a.csv has no column 'smokes', which b.csv has.*exclude"):
        sites.train_data()
    said["exclude"] = ["smokes"]
    sites = load_task("table", data_dir=tmp_path, options={**said, "files": "*.csv"})
    assert sites.train_data().inputs.shape == (3 * N, 2)


def test_sites_that_code_the_target_otherwise_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(CLEAN)
    other = CLEAN.replace(",1\n", ",yes\n").replace(",0\n", ",no\n")
    (tmp_path / "two.csv").write_text(other)
    sites = load_task("table", data_dir=tmp_path, options={"target": "ill", "files": "*.csv"})
    with pytest.raises(DataError, match=r"'ill': '0' in one.csv and 'no' in two.csv.*data.classes"):
        sites.train_data()


def test_a_silo_column_that_is_not_there(tmp_path: Path) -> None:
    assert "no column 'wrd'" in refused(tmp_path, CLEAN, silo="wrd")


def test_a_row_without_target_says_what_leaves_it_out(tmp_path: Path) -> None:
    text = CLEAN.replace("north,1", "north,", 1)
    assert "1 of 60 values are missing" in refused(tmp_path, text)
    assert "data.missing = 'drop'" in refused(tmp_path, text)
    assert len(read(tmp_path, text, missing="drop")) == N - 1


def test_a_windows_file_that_is_called_latin_1(tmp_path: Path) -> None:
    raw = CLEAN.replace("Zürich", "l’été").encode("cp1252")
    assert "such as cp1252" in refused(tmp_path, raw, encoding="latin-1")
    assert len(read(tmp_path, raw, encoding="cp1252")) == N


def test_a_number_that_stands_for_no_value_is_one_where_it_is_said(tmp_path: Path) -> None:
    text = CLEAN.replace(f"\n{AGE[3]},", "\n-999,")
    found = read(tmp_path, text, missing_marks=["-999"], numeric=["age"])
    assert found.inputs[3].tolist() == [0, 1]
    assert found.inputs[:, 1].sum() == 1


def test_who_lists_a_column_means_it(tmp_path: Path) -> None:
    numbered = with_column("nth", [str(i + 1) for i in range(N)])
    assert read(tmp_path, numbered, numeric=["nth"]).inputs.shape == (N, 2)
    percent = with_column("rate", [f"{i % 7}.5%" for i in range(N)])
    assert read(tmp_path, percent, categorical=["rate"]).inputs.shape == (N, 8)


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (list(range(N)), (0, 100)),
        ([99999 if i < 5 else i % 9 for i in range(N)], (0, 99999)),
        ([f"0{i % 9}" for i in range(N)], (0, 10)),
    ],
    ids=["counts", "nines", "zeros"],
)
def test_a_column_with_a_public_range_is_meant_as_a_number(
    tmp_path: Path, values: list[object], limits: tuple[float, float]
) -> None:
    text = with_column("x", [str(each) for each in values])
    assert "a range in data.ranges" in refused(tmp_path, text)
    found = read(tmp_path, text, ranges={"x": limits})
    wanted = [2 * (float(str(each)) - limits[0]) / (limits[1] - limits[0]) - 1 for each in values]
    assert found.inputs[:, 0].tolist() == pytest.approx(wanted, abs=1e-6)
    assert found.inputs.shape == (N, 6 + 4)


def test_a_mark_outside_the_public_range_is_still_one(tmp_path: Path) -> None:
    text = with_column("x", [str(999 if i < 5 else i % 90) for i in range(N)])
    assert "999 is there 5 times" in refused(tmp_path, text, ranges={"x": [0, 110]})


def test_a_column_of_which_the_values_are_said_is_one_of_words(tmp_path: Path) -> None:
    text = with_column("sex", [str(i % 2 + 1) for i in range(N)])
    assert read(tmp_path, text).inputs.shape == (N, 6 + 4)
    found = read(tmp_path, text, categories={"sex": [1, 2]})
    assert found.inputs.shape == (N, 4 + 3 + 4)
    assert found.inputs[:, 4:7].tolist() == [[1, 0, 0], [0, 1, 0]] * (N // 2)


@pytest.mark.parametrize("setting", ["ranges", "categories"])
def test_a_setting_of_a_column_that_is_not_there(tmp_path: Path, setting: str) -> None:
    said = refused(tmp_path, CLEAN, **{setting: {"aeg": [0, 100]}})
    assert "no column 'aeg'" in said
    assert "Did you mean 'age'?" in said


def test_high_values_of_which_few_are_small(tmp_path: Path) -> None:
    text = with_column("x", [str(9 if i < 5 else 50 + i % 5) for i in range(N)])
    assert read(tmp_path, text).inputs.shape == (N, 6 + 4)


def test_sites_that_code_a_column_otherwise_are_refused(tmp_path: Path) -> None:
    for name, sexes in (("one.csv", "01"), ("two.csv", "FM")):
        lines = [f"{a},{sexes[i % 2]},{y}" for i, (a, y) in enumerate(zip(AGE, ILL, strict=True))]
        (tmp_path / name).write_text("\n".join(["age,sex,ill", *lines, ""]))
    options: dict[str, object] = {"target": "ill", "files": "*.csv"}
    made = load_task("table", data_dir=tmp_path, options=options)
    with pytest.raises(DataError, match=r"column 'sex': '0' in one.csv and 'F' in two.csv"):
        made.train_data()
    options["categories"] = {"sex": ["0", "1", "F", "M"]}
    assert len(load_task("table", data_dir=tmp_path, options=options).train_data()) > 80


def test_silos_in_one_file_that_code_a_column_otherwise_are_refused(tmp_path: Path) -> None:
    sexes = [("FM" if i % 2 else "01")[i // 2 % 2] for i in range(N)]
    sites = with_column("site", [f"s{i % 2}" for i in range(N)], with_column("sex", sexes))
    assert "column 'sex': '0' in s0 and 'F' in s1" in refused(tmp_path, sites, silo="site")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoding": "klingon"}, "data.encoding = 'klingon' is not known"),
        ({"encoding": "hex"}, "data.encoding = 'hex' is not known"),
        ({"decimal": ",", "thousands": ","}, "both ','"),
        ({"exclude": ["age"], "numeric": ["paid"]}, "data.exclude and a list of columns"),
        ({"separator": "ab"}, "data.separator"),
        ({"ranges": {"x": [0, 1]}, "categories": {"x": [0]}}, "'x' is in data.ranges and in data"),
    ],
)
def test_formats_that_make_no_sense(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        task(tmp_path, CLEAN, **options)
    assert said in str(caught.value)


def test_a_column_to_leave_out_must_be_there(tmp_path: Path) -> None:
    assert "no column 'wrad'" in refused(tmp_path, CLEAN, exclude=["wrad"])


def test_what_was_made_of_each_column_is_said(tmp_path: Path) -> None:
    text = CLEAN.replace(f"\n{AGE[3]},", "\n,")
    lines = task(tmp_path, text).described  # type: ignore[attr-defined]
    ages = [age for place, age in enumerate(AGE) if place != 3]
    assert lines == (
        f"age   number, {min(ages):g} to {max(ages):g}, 1 of 60 missing",
        f"paid  number, {min(PAID):g} to {max(PAID):g}",
        f"ward  3 words: {', '.join(sorted(WARD))}",
        "ill   2 words: 0, 1, the target",
    )


def test_what_is_said_of_a_column_is_one_line(tmp_path: Path) -> None:
    notes = [f'"pain\x1b[2J\nfor {i % 5} days, {"and more " * 20}"' for i in range(N)]
    made = task(tmp_path, with_column("note", notes))
    line = made.described[2]  # type: ignore[attr-defined]
    assert line.startswith("note  5 words: pain [2J for 0 days, and more and")
    assert line.isprintable()
    assert len(line) < 300


@settings(max_examples=60, deadline=None)
@given(place=st.integers(1, N), cells=st.integers(1, 9).filter(lambda n: n != 4))
def test_no_line_of_another_length_is_ever_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, cells: int
) -> None:
    lines = CLEAN.strip().split("\n")
    lines[place] = ",".join((lines[place].split(",") * 3)[:cells])
    folder = tmp_path_factory.mktemp("odd")
    assert f"line {place + 1} has {cells} cells" in refused(folder, "\n".join(lines))
