"""New records and the model that a run left: the same answers, or a word on why there are none."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

import privet
from privet import Experiment, PrivetError, simulate
from privet.commands.cli import main
from privet.tasks import load_task
from served_tables import DECLARED, Run, patients

PRIVACY = {"noise_multiplier": 1.0}


def predicted(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["predict", *map(str, arguments)])
    return int(end.value.code or 0)


def metadata(run: Path) -> dict[str, Any]:
    with safe_open(run / "model.safetensors", "np") as file:
        return dict(json.loads(file.metadata()["privet"]))


@pytest.mark.parametrize("declared", [{}, DECLARED], ids=["found", "declared"])
def test_answers_are_those_of_the_evaluation_to_the_bit(
    run: Run, data: Path, tmp_path: Path, declared: dict[str, Any]
) -> None:
    folder = run(data=declared)
    assert predicted(folder, data / "new.csv", "--out", tmp_path / "scored.csv") == 0
    scored = pd.read_csv(tmp_path / "scored.csv", dtype={"probability_yes": np.float32})
    evaluated = Experiment.from_file(folder / "experiment.toml")
    task = load_task("table", data_dir=data, options=evaluated.data)
    test, module = task.test_data(), task.model()
    assert test is not None
    weights = load_file(folder / "model.safetensors")
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    outputs = module(test.inputs).detach()
    assert scored["probability_yes"].tolist() == torch.softmax(outputs, 1)[:, 1].tolist()
    right = (scored["prediction"] == scored["outcome"]).to_numpy(dtype=np.float32)
    told = json.loads((folder / "summary.json").read_text())["accuracy"]
    assert told == torch.from_numpy(right).mean().item()
    assert scored[["age", "site"]].equals(patients()[450:][["age", "site"]].reset_index(drop=True))


def test_a_file_may_be_written_in_any_way(run: Run, data: Path, tmp_path: Path) -> None:
    folder, rows = run(), pd.read_csv(data / "new.csv")
    rows.to_parquet(tmp_path / "new.parquet")
    rows.to_csv(tmp_path / "new.tsv", index=False, sep="\t")
    rows.to_csv(tmp_path / "neu.csv", index=False, sep=";", decimal=",", encoding="latin-1")
    answers = privet.load(folder).predict(rows[["site", "bmi", "ward", "age"]])
    ways = {
        "new.parquet": [],
        "new.tsv": [],
        "neu.csv": ["--decimal", ",", "--encoding", "latin-1"],
    }
    for name, options in ways.items():
        out = tmp_path / "out.parquet"
        assert predicted(folder, tmp_path / name, "--out", out, *options) == 0
        assert pd.read_parquet(out)[list(answers)].equals(answers), name
    assert (
        predicted(folder, tmp_path / "neu.csv", *ways["neu.csv"], "--out", tmp_path / "aus.csv")
        == 0
    )
    first = (tmp_path / "aus.csv").read_text("latin-1").splitlines()[1]
    assert first.startswith((tmp_path / "neu.csv").read_text("latin-1").splitlines()[1] + ";")


def test_one_table_written_in_any_way_gives_one_model(run: Run, data: Path, tmp_path: Path) -> None:
    whole = pd.read_csv(data / "train.csv")
    ways: dict[str, dict[str, Any]] = {
        "train.csv": {},
        "train.tsv": {"sep": "\t"},
        "deutsch.csv": {"sep": ";", "decimal": ",", "encoding": "latin-1"},
        "quoted.csv": {"quoting": csv.QUOTE_ALL},
        "train.parquet": {},
    }
    models = []
    for name, how in ways.items():
        if name.endswith("parquet"):
            whole.to_parquet(data / name)
        else:
            whole.to_csv(data / name, index=False, **how)
        said = {key: value for key, value in how.items() if key in ("decimal", "encoding")}
        options = {"file": name, "test_file": None, "exclude": ["site"], **said}
        models.append(load_file(run(name, data=options) / "model.safetensors"))
    for model in models[1:]:
        assert {key: value.tobytes() for key, value in model.items()} == {
            key: value.tobytes() for key, value in models[0].items()
        }


@pytest.mark.parametrize("objective", ["squared", "absolute", "poisson"])
def test_numbers_are_answered_in_their_own_unit(run: Run, data: Path, objective: str) -> None:
    number = {"objective": objective, "target": "age", "ranges": {"age": [0, 110]}}
    columns = {"numeric": ["bmi"], "categorical": ["ward", "outcome"]}
    folder = run(data={**number, **columns})
    rows = pd.read_csv(data / "new.csv")
    said = privet.load(folder).predict(rows.drop(columns="age"))["prediction"]
    told = json.loads((folder / "summary.json").read_text())["metrics"]
    assert np.sqrt(np.mean((said - rows["age"]) ** 2)) == pytest.approx(told["rmse"], rel=1e-6)
    assert np.mean(np.abs(said - rows["age"])) == pytest.approx(told["mae"], rel=1e-6)


def test_classes_in_an_order_and_times_are_answered(run: Run) -> None:
    order = {"objective": "ordinal", "target": "ward", "classes": ["north", "süd", "east"]}
    ordered = run("order", data={**order, "missing": "drop", "exclude": ["site"]})
    answers = privet.load(ordered).predict(patients(9))
    assert set(answers["prediction"].dropna()) <= {"north", "süd", "east"}
    when = {"objective": "survival", "target": "age", "event": "died", "intervals": [40, 60, 80]}
    rows = patients().assign(died=lambda each: (each["outcome"] == "yes").astype(int))
    rows.to_csv(ordered / "times.csv", index=False)
    told = {
        **when,
        "file": str(ordered / "times.csv"),
        "test_file": None,
        "exclude": ["site", "outcome"],
    }
    curves = privet.load(run("times", data=told)).predict(rows[:9].drop(columns=["age", "died"]))
    alive = curves.filter(like="survival_").to_numpy()
    assert (np.diff(alive, axis=1) <= 0).all()


def test_standard_input_and_output(run: Run, data: Path) -> None:
    command = [sys.executable, "-m", "privet", "predict", str(run()), "-"]
    with (data / "new.csv").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 151
    assert lines[0] == "age,ward,bmi,site,outcome,prediction,probability_no,probability_yes"
    assert done.stderr.decode() == "150 rows\n"


def test_what_a_model_has_no_input_for_is_refused_unless_it_is_said(run: Run) -> None:
    model = privet.load(run())
    rows = patients(4)[["age", "ward", "bmi"]].assign(ward="north", bmi=25.0)
    usual = model.predict(rows)
    odd = rows.astype({"age": object})
    odd.loc[1, "ward"] = "west"
    odd.loc[2, "age"] = "old"
    with pytest.raises(
        PrivetError, match="'age': 1 of 4 values are no number, such as 'old' in row 3"
    ):
        model.predict(odd)
    skipped = model.predict(odd, unfit="skip")
    assert skipped.isna().all(axis=1).tolist() == [False, True, True, False]
    assert skipped.loc[[0, 3]].equals(usual.loc[[0, 3]])
    missing = rows.astype({"age": object})
    missing.loc[1, "ward"], missing.loc[2, "age"] = None, None
    assert model.predict(odd, unfit="missing").equals(model.predict(missing))
    with pytest.raises(PrivetError, match="no column 'bmi'"):
        model.predict(rows[["age", "ward"]], unfit="skip")
    without = model.predict(rows[["age", "ward"]], unfit="missing")
    assert without.equals(model.predict(rows.assign(bmi=np.nan)))


def test_frames_of_any_kind_and_size_are_read(run: Run) -> None:
    model, rows = privet.load(run()), patients(12)
    usual = model.predict(rows)
    assert model.predict(rows[:0]).shape == (0, usual.shape[1])
    assert model.predict(rows[:1]).equals(usual[:1])
    assert model.predict(rows.astype({"age": "Int64", "ward": "category"})).equals(usual)
    assert (
        model.predict(rows[::-1].set_index("age", drop=False))
        .iloc[::-1]
        .reset_index(drop=True)
        .equals(usual)
    )
    odd = {"age": [np.inf, "1e999", pd.Timestamp("2020-01-01")], "ward": [["x"], 7, {}]}
    for column, values in odd.items():
        for value in values:
            with pytest.raises(PrivetError, match=f"column '{column}': 12 of 12 values are no"):
                model.predict(rows.assign(**{column: [value] * 12}))
    for bad in (rows.to_numpy(), None, rows.set_axis(["age", "age", *rows.columns[2:]], axis=1)):
        with pytest.raises(PrivetError, match=r"takes a pandas DataFrame|two columns"):
            model.predict(bad)


def test_rows_with_gaps_have_no_answer_from_a_model_that_knows_no_gaps(run: Run) -> None:
    model = privet.load(run(data={"missing": "drop"}))
    rows = patients(30)
    gaps = rows[["ward", "bmi"]].isna().any(axis=1)
    assert gaps.any()
    assert model.predict(rows)["prediction"].isna().equals(gaps)


def test_each_silo_s_rows_are_scaled_as_its_own_were(run: Run) -> None:
    model = privet.load(run(data={"silo": "site", "test_file": None, "exclude": []}, federation={}))
    rows = patients(20)
    own = model.predict(rows)
    as_a = model.predict(rows.drop(columns="site"), silo="a")
    assert own[rows.site == "a"].equals(as_a[rows.site == "a"])
    assert not own[rows.site == "b"].equals(as_a[rows.site == "b"])
    with pytest.raises(PrivetError, match="say whose the rows are with --silo"):
        model.predict(rows.drop(columns="site"))


def test_a_private_model_s_file_has_nothing_of_the_records_but_the_weights(
    run: Run, data: Path, tmp_path: Path
) -> None:
    folder = run(data=DECLARED, privacy=PRIVACY)
    told = metadata(folder)
    assert {key: told["data"][key] for key in DECLARED} == DECLARED
    assert (told["scaling"], told["withheld"]) == ({}, [])
    claim = told["claim"]
    epsilon = json.loads((folder / "summary.json").read_text())["epsilon"]
    assert claim["epsilon"] == epsilon["max"]
    assert (claim["unit"], claim["delta"], claim["simulated"]) == ("record", 1e-5, True)
    # Of other records of the same number the file says the same, but for the weights.
    other = tmp_path / "other"
    other.mkdir()
    rows = patients()
    rows.loc[:449, ["age", "bmi", "ward"]] = [109.0, 59.0, "east"]
    rows[:450].to_csv(other / "train.csv", index=False)
    rows[450:].to_csv(other / "new.csv", index=False)
    settings = Experiment.from_file(folder / "experiment.toml")
    simulate(settings, out=tmp_path / "another", data_dir=other)
    assert metadata(tmp_path / "another") == told


def test_what_was_read_from_records_is_withheld_under_privacy(run: Run, data: Path) -> None:
    folder = run(privacy={**PRIVACY, "uncovered_preprocessing": True})
    told = metadata(folder)
    assert (told["data"], told["scaling"], len(told["withheld"])) == (None, {}, 2)
    text = (folder / "model.safetensors").read_bytes()
    assert "süd".encode() not in text
    assert len(told["claim"]["uncovered"]) == 2
    with pytest.raises(PrivetError, match=r"epsilon does not cover .* experiment.toml of the run"):
        privet.load(folder, data_dir=folder)
    assert len(privet.load(folder, data_dir=data).predict(patients(9))) == 9


def test_a_model_of_which_parts_stay_in_silos_is_one_silo_s(tmp_path: Path) -> None:
    settings = {"task": "digits", "rounds": 2, "federation": {"silos": 2, "local": ["*bias"]}}
    simulate(Experiment.from_mapping(settings), out=tmp_path)
    with pytest.raises(PrivetError, match="--silo, one of silo-0, silo-1"):
        privet.load(tmp_path)
    first, second = (privet.load(tmp_path, silo=name) for name in ("silo-0", "silo-1"))
    records = np.zeros((3, 8, 8))
    assert not first.predict(records).equals(second.predict(records))
    whole = {**load_file(tmp_path / "model.safetensors")}
    own = load_file(tmp_path / "own-parts.safetensors")
    for name, value in first.module.state_dict().items():
        expected = whole[name] if name in whole else own[f"silo-0/{name}"]
        assert value.numpy().tobytes() == expected.tobytes()


def test_equal_runs_leave_equal_files(run: Run) -> None:
    files = [run(name) / "model.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_pictures_and_arrays_are_taken_as_the_data_set_has_them(tmp_path: Path) -> None:
    simulate(Experiment.from_mapping({"task": "digits", "rounds": 2}), out=tmp_path / "run")
    images, numbers = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    np.savez(tmp_path / "images.npz", images)
    assert predicted(tmp_path / "run", tmp_path / "images.npz", "--out", tmp_path / "a.csv") == 0
    answers = pd.read_csv(tmp_path / "a.csv")
    assert (answers["prediction"] == numbers).mean() > 0.7
    (tmp_path / "scans").mkdir()
    for place in range(3):
        Image.fromarray(images[place].astype(np.uint8)).save(tmp_path / f"scans/{place}.png")
    assert predicted(tmp_path / "run", tmp_path / "scans", "--out", tmp_path / "b.csv") == 0
    named = pd.read_csv(tmp_path / "b.csv")
    assert named["file"].tolist() == ["0.png", "1.png", "2.png"]
    assert named.drop(columns="file").equals(answers[:3].drop(columns="row"))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    assert predicted(tmp_path / "run", tmp_path / "pickled.npy") == 2
    np.save(tmp_path / "odd.npy", np.zeros((3, 7)))
    assert predicted(tmp_path / "run", tmp_path / "odd.npy") == 2


def test_images_of_folders_are_answered_by_their_files(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    for label, light in (("dark", 40), ("light", 200)):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for place in range(12):
            pixels = draw.integers(0, 50, (20, 24, 3)) + light
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "scans" / label / f"{place}.png")
    options = {"folder": "scans", "size": 8, "test_fraction": 0.3}
    settings = {"task": "images", "rounds": 2, "data": options, "federation": {"silos": 2}}
    given = Experiment.from_mapping(settings)
    simulate(given, out=tmp_path / "run", data_dir=tmp_path)
    out = tmp_path / "answers.csv"
    assert predicted(tmp_path / "run", tmp_path / "scans" / "light", "--out", out) == 0
    answers = pd.read_csv(out)
    assert answers["file"].tolist()[:2] == ["0.png", "1.png"]
    assert set(answers["prediction"]) == {"light"}
    assert list(answers)[2:] == ["probability_dark", "probability_light"]
    change = {"base": "os:system", "classes": ["dark", "light"]}
    _rewritten(tmp_path / "run", lambda card: card.update(data=change))
    with pytest.raises(PrivetError, match="code of someone's own"):
        privet.load(tmp_path / "run")


def test_code_of_someone_s_own_runs_only_where_it_is_named(tmp_path: Path) -> None:
    task = "toy_tasks:Tiny"
    settings = {"task": task, "rounds": 1, "federation": {"silos": 2}}
    simulate(Experiment.from_mapping(settings), out=tmp_path)
    with pytest.raises(PrivetError, match="--task toy_tasks:Tiny"):
        privet.load(tmp_path)
    answers = privet.load(tmp_path, task=task).predict(np.eye(2))
    assert list(answers) == ["output_0", "output_1"]


def _rewritten(run: Path, change: Any, **tensors: np.ndarray) -> None:
    path, card = run / "model.safetensors", metadata(run)
    change(card)
    save_file({**load_file(path), **tensors}, path, metadata={"privet": json.dumps(card)})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda card: card.pop("claim"), "claim: Field required"),
        (lambda card: card.update(more=1), "more: Extra inputs"),
        (lambda card: card.update(card=2), "card: Input should be 1"),
        (lambda card: card.update(task="no such"), "no such"),
        (lambda card: card.update(task="os:system"), "--task os:system"),
        (lambda card: card["data"].update(classes=["a"]), "too few values"),
        (lambda card: card.update(data={"file": "/etc/passwd", "target": "x"}), "names files"),
        (lambda card: card.update(data={"target": "x"}), "exactly one of data.file"),
        (lambda card: card["data"].update(numeric=["age"]), "does not fit|does not use"),
        (lambda card: card.update(scaling={"": {"foot": [0.0, 1.0]}}), "does not use"),
        (lambda card: card.update(base="0" * 64), "another base"),
    ],
)
def test_a_stranger_s_file_is_compared_with_a_schema(run: Run, change: Any, why: str) -> None:
    folder = run()
    _rewritten(folder, change)
    with pytest.raises(PrivetError, match=why):
        privet.load(folder)


def test_a_damaged_or_old_file_is_refused_in_a_line(run: Run, tmp_path: Path) -> None:
    folder = run()
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    for torn in (b"", whole[:50], whole[: size + 12], struct.pack("<Q", 2**62) + whole[8:]):
        path.write_bytes(torn)
        with pytest.raises(PrivetError, match="is no safetensors file"):
            privet.load(folder)
    path.write_bytes(whole)
    save_file(load_file(path), path, metadata={"format": "pt"})
    with pytest.raises(PrivetError, match="does not say how to use it"):
        privet.load(path)
    with pytest.raises(PrivetError, match=r"has no model\.safetensors"):
        privet.load(tmp_path)
