"""Tables as people have them: read as they are meant, or refused with the place and the way out."""

from __future__ import annotations

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
    ],
    ids=["tabs", "bars", "german", "quoted", "crlf", "bom", "latin-1", "utf-16", "index"],
)
def test_one_table_written_in_many_ways_is_one_table(
    tmp_path: Path, text: str | bytes, options: dict[str, object]
) -> None:
    same(tmp_path, text, **options)


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
    "capitals": (CLEAN.replace("north", "North", 3), "'North' and 'north' differ in capitals"),
    "truths and digits": (CLEAN.replace("north,0", "north,False", 2), "both 'False' and 0 or 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_be_meant_in_two_ways_is_refused_with_the_way_out(
    tmp_path: Path, case: str
) -> None:
    text, said = REFUSED[case]
    assert said in refused(tmp_path, text)


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


@settings(max_examples=60, deadline=None)
@given(place=st.integers(1, N), cells=st.integers(1, 9).filter(lambda n: n != 4))
def test_no_line_of_another_length_is_ever_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, cells: int
) -> None:
    lines = CLEAN.strip().split("\n")
    lines[place] = ",".join((lines[place].split(",") * 3)[:cells])
    folder = tmp_path_factory.mktemp("odd")
    assert f"line {place + 1} has {cells} cells" in refused(folder, "\n".join(lines))
