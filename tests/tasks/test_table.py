"""Any table: what is read, how it is scaled, and one line for everything that can be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import DataError, ExperimentError, PrivetError
from privet.tasks import Examples, load_task
from privet.tasks.task import uncovered

ROWS = """age, ward ,smoker,pressure,ill
30,north,True,120,no
40,south,False,,yes
50,north,True,140,yes
60,south,?,150,no
70,north,False,160,yes
80,south,True,170,no
"""
RANGES = {"age": [0, 100], "pressure": [100, 200]}
DECLARED = {"numeric": ["age"], "categorical": ["smoker"], "categories": {"smoker": [True, False]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ward.csv").write_text(ROWS)
    return tmp_path


def load(folder: Path, **options: object) -> tuple[Examples, Examples | None]:
    task = load_task("table", data_dir=folder, options={"target": "ill", **options})
    return task.train_data(), task.test_data()


def refusal(kind: type[PrivetError], folder: Path, **options: object) -> str:
    with pytest.raises(kind) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everybody(folder: Path, **options: object) -> Examples:
    train, test = load(folder, **{"file": "ward.csv", "test_fraction": 0, **options})
    assert test is None
    return train


def test_columns_are_scaled_by_range_marked_where_missing_and_spread_over_values(
    folder: Path,
) -> None:
    read = everybody(folder, ranges=RANGES)
    # age, pressure, is each missing, ward (north, south, missing), smoker (False, True, missing)
    assert read.inputs[:4].tolist() == [
        pytest.approx([-0.4, -0.6, 0, 0, 1, 0, 0, 0, 1, 0]),
        pytest.approx([-0.2, 0.0, 0, 1, 0, 1, 0, 1, 0, 0]),
        pytest.approx([0.0, -0.2, 0, 0, 1, 0, 0, 0, 1, 0]),
        pytest.approx([0.2, 0.0, 0, 0, 0, 1, 0, 0, 0, 1]),
    ]
    assert read.targets.tolist() == [0, 1, 1, 0, 1, 0]
    assert read.silo is None


def test_values_beyond_a_public_range_are_clipped_to_it(folder: Path) -> None:
    read = everybody(folder, numeric=["age"], ranges={"age": [40, 60]})
    assert read.inputs[:, 0].tolist() == [-1, -1, 0, 1, 1, 1]


def test_without_a_range_each_silo_is_scaled_by_its_own_rows(folder: Path) -> None:
    read = everybody(folder, silo="ward", numeric=["age"])
    assert read.silo_names == ("north", "south")
    assert read.silo is not None
    for silo in range(2):
        ages = read.inputs[torch.from_numpy(read.silo == silo), 0]
        assert ages.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], abs=1e-6)


def test_one_silos_rows_do_not_touch_another_silos_inputs(folder: Path) -> None:
    before = everybody(folder, silo="ward", numeric=["age"]).take([0, 2, 4]).inputs
    (folder / "ward.csv").write_text(ROWS.replace("80,south", "18,south"))
    after = everybody(folder, silo="ward", numeric=["age"]).take([0, 2, 4]).inputs
    assert torch.equal(before, after)


def test_test_rows_do_not_touch_the_scale(folder: Path) -> None:
    (folder / "later.csv").write_text("age,ill\n1000,yes\n20,no\n")
    train, test = load(folder, file="ward.csv", test_file="later.csv", numeric=["age"])
    assert test is not None
    assert train.inputs[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert test.inputs[:, 0].tolist() == pytest.approx([945 / 17.0783, -35 / 17.0783], rel=1e-4)


def test_statistics_come_with_a_note_and_ranges_without(folder: Path) -> None:
    options = {"file": "ward.csv", "target": "ill"}

    def notes(**more: object) -> str:
        task = load_task("table", data_dir=folder, options={**options, **more})
        return " ".join(uncovered(task))

    said = {"numeric": ["age", "pressure"], "categorical": [], "classes": ["no", "yes"]}
    assert notes(ranges=RANGES, **said) == ""
    assert "is read from the records" in notes(ranges=RANGES)
    assert notes(ranges=RANGES, **said | {"classes": None}) == notes(ranges=RANGES)
    assert "(pressure) are scaled by the whole file's" in notes(ranges={"age": [0, 100]})
    assert "each silo's own" in notes(silo="ward")


def test_rows_with_missing_values_are_dropped_or_refused_on_request(folder: Path) -> None:
    read = everybody(folder, missing="drop", ranges=RANGES)
    assert read.inputs.shape == (4, 6)
    message = refusal(DataError, folder, file="ward.csv", missing="refuse")
    assert "ward.csv, column 'pressure': 1 of 6 values are missing" in message


def test_a_missing_target_is_dropped_or_refused_but_never_guessed(folder: Path) -> None:
    (folder / "ward.csv").write_text(ROWS.replace("160,yes", "160,"))
    assert "column 'ill': 1 of 6" in refusal(DataError, folder, file="ward.csv")
    assert len(everybody(folder, missing="drop")) == 3


def test_each_file_can_be_a_silo_by_pattern_or_by_list(folder: Path) -> None:
    (folder / "wing.csv").write_text(ROWS.replace("no", "yes", 1).replace("north", "west"))
    for files in ("w*.csv", ["ward.csv", "wing.csv"]):
        read = everybody(folder, file=None, files=files, ranges=RANGES)
        assert read.silo_names == ("ward", "wing")
        assert read.silo is not None
        assert read.silo.tolist() == [0] * 6 + [1] * 6
    train, test = load(folder, files="w*.csv")
    assert test is not None
    assert test.silo is not None
    assert set(test.silo.tolist()) <= {0, 1}
    assert len(train) + len(test) == 12


def test_a_category_is_the_same_word_in_every_file(folder: Path) -> None:
    (folder / "a.csv").write_text("kind,ill\n1,0\n2,1\n,1\n")
    (folder / "b.csv").write_text("kind,ill\n1,0\n2,1\n1,1\n")
    read = everybody(
        folder, file=None, files=["a.csv", "b.csv"], categorical=["kind"], missing="drop"
    )
    assert read.inputs.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]


def test_parquet_semicolons_and_tabs_read_like_commas(folder: Path) -> None:
    table = pd.read_csv(folder / "ward.csv", skipinitialspace=True, na_values="?")
    table.columns = table.columns.str.strip()
    table.to_parquet(folder / "ward.parquet")
    (folder / "ward.tsv").write_text(ROWS.replace(",", "\t"))
    (folder / "semi.csv").write_text(ROWS.replace(",", ";"))
    expected = everybody(folder).inputs
    for name in ("ward.parquet", "ward.tsv", "semi.csv"):
        assert torch.equal(everybody(folder, file=name).inputs, expected), name


ROW = st.tuples(st.floats(-9, 9, width=32), st.sampled_from("ab"), st.sampled_from([0, 1]))


@given(rows=st.lists(ROW, min_size=20, max_size=60), gone=st.integers(0, 19))
@settings(max_examples=25, deadline=None)
def test_a_row_more_or_less_moves_no_other_from_training_to_testing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, str, int]], gone: int
) -> None:
    """Epsilon is about one record: it may not decide where others go, or what they are."""
    folder = tmp_path_factory.mktemp("split")
    declared = {
        "numeric": ["x"],
        "categorical": ["kind"],
        "categories": {"kind": ["a", "b"]},
        "ranges": {"x": [-9, 9]},
        "classes": ["0", "1"],
        "target": "ill",
        "test_fraction": 0.3,
    }

    def trained(name: str, kept: list[tuple[float, str, int]]) -> Counter[bytes]:
        lines = [f"{x!r},{kind},{ill}" for x, kind, ill in kept]
        (folder / name).write_text("x,kind,ill\n" + "\n".join(lines) + "\n")
        task = load_task("table", model=None, data_dir=folder, options={"file": name, **declared})
        found = task.train_data()
        pairs = zip(found.inputs.numpy(), found.targets.numpy(), strict=True)
        return Counter(row.tobytes() + target.tobytes() for row, target in pairs)

    whole, without = trained("all.csv", rows), trained("less.csv", rows[:gone] + rows[gone + 1 :])
    assert not without - whole
    assert (whole - without).total() <= 1


def test_about_a_fraction_of_the_rows_is_kept_for_testing(tmp_path: Path) -> None:
    """1,000 coins of 0.2: between 150 and 250 heads but for one time in ten thousand."""
    lines = [f"{i},{'abc'[i % 3]},{i % 2}" for i in range(1000)]
    (tmp_path / "all.csv").write_text("x,who,ill\n" + "\n".join(lines) + "\n")
    options = {"file": "all.csv", "silo": "who", "numeric": ["x"]}
    train, test = load(tmp_path, **options, test_fraction=0.2)
    assert test is not None
    assert 150 < len(test) < 250
    assert len(train) + len(test) == 1000
    again, _ = load(tmp_path, **options, test_fraction=0.2)
    assert torch.equal(train.inputs, again.inputs)


def test_a_fully_declared_table_has_a_model_before_any_file_is_there(tmp_path: Path) -> None:
    options = {"file": "none.csv", "target": "ill", "classes": ["no", "yes"], **DECLARED}
    for name in ("linear", "mlp"):
        model = load_task("table", model=name, data_dir=tmp_path, options=options).model()
        assert model(torch.zeros(2, 5)).shape == (2, 2)


def test_declared_columns_mean_the_same_whatever_a_file_holds(folder: Path) -> None:
    declared = {**DECLARED, "classes": ["no", "yes"], "ranges": {"age": [0, 100]}}
    (folder / "one.csv").write_text("smoker,ill,age\nFalse,yes,40\n")
    assert everybody(folder, file="one.csv", **declared).inputs.tolist() == [
        pytest.approx(everybody(folder, **declared).inputs[1].tolist())
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one of data.file and data.files"),
        ({"file": "a", "files": ["b"]}, "exactly one of data.file and data.files"),
        ({"file": "a", "tagret": "x"}, "unknown key 'data.tagret'. Did you mean 'target'?"),
        ({"file": "a", "missing": "guess"}, "data.missing = 'guess': input should be 'impute'"),
        ({"file": "a", "test_fraction": 1.5}, "data.test_fraction = 1.5"),
        ({"file": "a", "test_fraction": 0.1, "test_file": "b"}, "exclude each other"),
        ({"files": ["a"], "silo": "ward"}, "each file is a silo"),
        ({"file": "a", "numeric": "age"}, "data.numeric = 'age': input should be a valid list"),
        ({"file": "a", "numeric": ["ill"]}, "'ill' cannot be a feature and the target"),
        ({"file": "a", "numeric": ["x"], "categorical": ["x"]}, "'x' is in data.numeric and in"),
        ({"file": "a", "ranges": {"age": [5, 5]}}, "data.ranges.age = [5.0, 5.0]"),
        ({"file": "a", "ranges": {"age": [0, float("inf")]}}, "data.ranges.age"),
        ({"file": "a", "classes": ["yes", "yes"]}, "'classes' lists too few"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_file_is_read(
    tmp_path: Path, options: Mapping[str, object], said: str
) -> None:
    assert said in refusal(ExperimentError, tmp_path, **options)


def test_a_table_without_target_setting_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"needs 'data.target'"):
        load_task("table", options={"file": "a.csv"})


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "x.csv is empty (0 rows)"),
        ("age,ill\n", {}, "x.csv has 2 columns and 0 rows"),
        ("age,ill\n1,a\n2,b,3,4\n", {}, "x.csv cannot be read"),
        ("age,ill\n1,a\n2,a\n", {}, "target 'ill': 2 rows of 1 class"),
        ("age,sick\n1,a\n2,b\n", {}, "no column 'ill'; its 2 rows have age, sick"),
        ("age,ill\n1,a\n2,b\n", {"numeric": ["aeg"]}, "no column 'aeg'; its 2 rows"),
        ("age,ill\n1,a\n2,b\n", {"silo": "who"}, "no column 'who'"),
        ("age,ill\n1,a\ninf,b\n", {}, "column 'age': 1 of 2 values are infinite"),
        ("age,ill\n1,a\n1e999,b\n", {}, "column 'age': 1 of 2 values are infinite"),
        ("age,ill\n1,a\n2,b\n3,b\nold,a\n", {}, "column 'age': 1 of 4 values are not numbers"),
        ("age,ill\n1,a\nold,b\n", {"numeric": ["age"]}, "column 'age': 1 of 2 values are not num"),
        ("age,who,ill\n1,,a\n2,n,b\n", {"silo": "who"}, "column 'who': 1 of 2 values are missing"),
        ("age,ill\n?,a\n,b\n", {"missing": "drop"}, "every one of 2 rows lacks a value"),
        ("age,ill\n1,a\n2,b\n", {"classes": ["a", "c"]}, "column 'ill': 1 of 2 values are none of"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_file_column_and_count(
    tmp_path: Path, text: str, options: Mapping[str, object], said: str
) -> None:
    (tmp_path / "x.csv").write_text(text)
    message = refusal(DataError, tmp_path, file="x.csv", **options)
    assert said in message
    assert "x.csv" in message


def test_a_number_to_predict_and_a_column_of_names_are_refused(tmp_path: Path) -> None:
    rows = "\n".join(f"person-{i},{i / 7},{i % 2}" for i in range(150))
    (tmp_path / "x.csv").write_text(f"name,price,ill\n{rows}\n")
    assert "150 different texts in 150 rows" in refusal(DataError, tmp_path, file="x.csv")
    message = refusal(DataError, tmp_path, file="x.csv", target="price", categorical=[])
    assert "target 'price': 150 different values in 150 rows" in message


def test_dates_are_refused(tmp_path: Path) -> None:
    dates = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=4), "ill": [0, 1, 0, 1]})
    dates.to_parquet(tmp_path / "x.parquet")
    for options in ({}, {"numeric": ["day"]}):
        assert "column 'day'" in refusal(DataError, tmp_path, file="x.parquet", **options)


def test_bytes_that_are_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(bytes(range(128, 256)) * 3)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    for name in ("x.csv", "x.parquet"):
        assert f"{name} cannot be read" in refusal(DataError, tmp_path, file=name)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    message = refusal(DataError, tmp_path, file="x.csv")
    assert str(tmp_path / "x.csv") in message
    assert "--data-dir" in message
    assert "nothing in" in refusal(DataError, tmp_path, files="*.csv")


def test_test_rows_without_a_silo_need_public_ranges(folder: Path) -> None:
    (folder / "later.csv").write_text("age,ill\n35,yes\n20,no\n")
    options = {"files": ["ward.csv"], "test_file": "later.csv", "numeric": ["age"]}
    assert "give data.ranges for age" in refusal(DataError, folder, **options)
    train, test = load(folder, **options, ranges={"age": [0, 100]})
    assert test is not None
    assert test.inputs[:, 0].tolist() == pytest.approx([-0.3, -0.6])
    assert test.silo is None
    assert train.silo is not None


def test_test_rows_of_an_unknown_silo_are_refused(folder: Path) -> None:
    (folder / "later.csv").write_text("age,ward,ill\n35,west,yes\n")
    message = refusal(
        DataError, folder, file="ward.csv", test_file="later.csv", silo="ward", numeric=["age"]
    )
    assert "silo 'west' has no rows to train on" in message
