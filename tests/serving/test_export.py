"""Files of a model for other programs answer as torch does, or are not written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import privet
from privet import Experiment, simulate
from privet.commands.cli import main
from served_tables import DECLARED, Run, patients

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def exported(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["export", *map(str, arguments)])
    return int(end.value.code or 0)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("declared", [{}, DECLARED], ids=["found", "declared"])
def test_a_table_s_graph_takes_its_columns(
    run: Run, data: Path, declared: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(data=declared, model="mlp")
    assert exported(folder, "--data-dir", data) == 0
    told = capsys.readouterr().out
    accuracy = json.loads((folder / "summary.json").read_text())["accuracy"]
    assert f"accuracy            {accuracy:.4f}, by torch {accuracy:.4f}" in told
    graph = session(folder / "model.onnx")
    assert {(each.name, each.type) for each in graph.get_inputs()} == {
        ("age", "tensor(double)"),
        ("bmi", "tensor(double)"),
        ("ward", "tensor(string)"),
    }
    rows = patients(300)
    rows.loc[0, "age"] = 1e6  # beyond a declared range
    columns = {
        "age": rows["age"].to_numpy(),
        "bmi": rows["bmi"].to_numpy(),
        "ward": rows["ward"].where(rows["ward"].notna(), "").to_numpy(dtype=object),
    }
    said, shares = graph.run(["prediction", "probabilities"], columns)
    ours = privet.load(folder).predict(rows)
    assert said.tolist() == ours["prediction"].tolist()
    assert np.abs(shares[:, 1] - ours["probability_yes"].to_numpy()).max() < 1e-6
    columns["ward"][5] = "a word that it does not know"
    odd = rows.assign(ward=columns["ward"]).replace({"ward": {"": None}})
    counted = privet.load(folder).predict(odd, unfit="missing")["prediction"].tolist()
    assert graph.run(["prediction"], columns)[0].tolist() == counted


@pytest.mark.parametrize("objective", ["squared", "poisson"])
def test_a_graph_answers_numbers_in_their_own_unit(
    run: Run, data: Path, objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = {"objective": objective, "target": "age", "ranges": {"age": [0, 110]}}
    folder = run(data={**number, "numeric": ["bmi"], "categorical": ["ward"]})
    assert exported(folder, "--data-dir", data) == 0
    told = capsys.readouterr().out
    assert "on 150 test records" in told
    assert "\nrmse " in told
    rows = patients(9)[["bmi", "ward"]]
    columns = {
        "bmi": rows["bmi"].to_numpy(),
        "ward": rows["ward"].where(rows["ward"].notna(), "").to_numpy(dtype=object),
    }
    said = session(folder / "model.onnx").run(["prediction"], columns)[0]
    ours = privet.load(folder).predict(rows)["prediction"].to_numpy()
    assert np.abs(said - ours).max() < 1e-4


def test_int8_is_smaller_and_says_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"task": "digits", "model": "cnn", "rounds": 1, "federation": {"silos": 2}}
    simulate(Experiment.from_mapping(settings), out=tmp_path)
    for option in ((), ("--int8",)):
        assert exported(tmp_path, *option) == 0
    whole, small = ((tmp_path / f"model{i}.onnx").stat().st_size for i in ("", ".int8"))
    assert small < 0.5 * whole
    told = capsys.readouterr().out
    assert "other answers       0.00%" in told
    assert "on 360 test records" in told
    held = onnx.load(tmp_path / "model.int8.onnx")
    large = [t for t in held.graph.initializer if len(t.dims) > 1 and np.prod(t.dims) >= 64]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}


def test_without_the_records_made_up_ones_are_compared(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(data=DECLARED)
    assert exported(folder / "model.safetensors", "--data-dir", folder) == 0
    assert "on 256 made-up records" in capsys.readouterr().out


def test_torchscript_and_state_dict_hold_the_module(run: Run, data: Path) -> None:
    folder = run()
    for name in ("torchscript", "state-dict"):
        assert exported(folder, "--format", name, "--data-dir", data) == 0
    model = privet.load(folder)
    inputs, _ = model.inputs(patients(40))
    facts = {"privet.json": ""}
    scripted = torch.jit.load(folder / "model.ts", _extra_files=facts)
    assert scripted(inputs).equal(model.outputs(inputs))
    assert json.loads(facts["privet.json"])["task"] == "table"
    state = torch.load(folder / "model.pt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        name: tuple(value.shape) for name, value in model.module.state_dict().items()
    }


def test_one_silo_s_scales_go_into_a_graph(run: Run, data: Path) -> None:
    folder = run(data={"silo": "site", "test_file": None, "exclude": []}, federation={})
    assert exported(folder, "--data-dir", data) == 2
    assert exported(folder, "--data-dir", data, "--silo", "b") == 0
    rows = patients(20).assign(ward="east", bmi=25.0)
    columns = {"age": rows["age"].to_numpy(), "bmi": rows["bmi"].to_numpy()}
    columns["ward"] = rows["ward"].to_numpy(dtype=object)
    said = session(folder / "model.onnx").run(["prediction"], columns)[0].tolist()
    assert said == privet.load(folder).predict(rows, silo="b")["prediction"].tolist()


def test_what_a_private_model_withholds_is_in_no_graph(run: Run, data: Path) -> None:
    privacy = {"noise_multiplier": 1.0, "uncovered_preprocessing": True}
    folder = run(privacy=privacy)
    model = privet.load(folder, data_dir=data)
    assert model.card.withheld
    assert exported(folder, "--data-dir", data) == 2
    assert not (folder / "model.onnx").exists()
    assert exported(folder, "--data-dir", data, "--format", "torchscript") == 0


def test_a_graph_that_answers_otherwise_is_not_written(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run()
    monkeypatch.setattr(
        "privet.serving.onnx_graph.run", lambda *_: np.zeros((150, 2), dtype=np.float32)
    )
    assert exported(folder, "--data-dir", data) == 2
    assert not (folder / "model.onnx").exists()
    assert exported(folder, "--format", "state-dict", "--int8") == 2
