"""Runs that begin from weights of a file: which file, what fits, and where it is told."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import nn

from privet import Experiment, PrivetError, sweep
from privet.audits import audit
from privet.experiment import StartSettings
from privet.record.history import RoundRecord
from privet.reports.run import write_report
from privet.server.app import initial_model
from privet.server.start import begin_from, ordered, with_digest
from privet.simulations.prepare import prepare
from privet.simulations.run import simulate

WEIGHTS, BIAS = "1.weight", "1.bias"


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "rounds": 2,
        "seed": 5,
        "federation.silos": 3,
        "training.lr": 0.5,
        "training.batch_size": 64,
    }
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": "digits", "model": "linear"}).with_settings(
        {**base, **named}
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final model of another run."""
    folder = tmp_path_factory.mktemp("before") / "run"
    simulate(experiment(rounds=3), out=folder)
    return folder / "model.safetensors"


def test_a_run_from_anothers_final_model_is_a_loop_that_goes_on_with_it(
    before: Path, tmp_path: Path
) -> None:
    """One silo and one batch a round, of all records, so that their order does not matter."""
    whole = {"federation__silos": 1, "training__batch_size": 100_000}
    setup = experiment(start__file=str(before), **whole)
    place = prepare(setup).place
    model, (records,) = place.task.model(), place.silos
    model.load_state_dict({name: torch.from_numpy(t) for name, t in load_file(before).items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(records.inputs), records.targets).backward()
        optimizer.step()
    simulate(setup, out=tmp_path / "run")
    ended = load_file(tmp_path / "run/model.safetensors")
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(ended[name], tensor.numpy(), atol=1e-5)


def test_digest_and_what_they_have_seen_stand_in_experiment_summary_and_report(
    before: Path, tmp_path: Path
) -> None:
    seen = "<i>3 rounds</i> of digits"
    setup = experiment(
        start__file=str(before), start__seen=seen, privacy__noise_multiplier=1.0, rounds=1
    )
    summary = simulate(setup, out=tmp_path / "run")
    assert summary["start"] == {"sha256": digest(before), "seen": seen}
    told = Experiment.from_file(tmp_path / "run/experiment.toml").start
    assert told == StartSettings(file=str(before), sha256=digest(before), seen=seen)
    page = write_report(tmp_path / "run").read_text()
    assert "are said to have seen: &lt;i&gt;3 rounds&lt;/i&gt; of digits." in page
    assert "Epsilon says nothing of the records that they have seen." in page
    assert digest(before) in page
    assert seen not in page
    assert audit([tmp_path / "run"], base=tmp_path).verdict == "UNANCHORED"
    written = json.loads((tmp_path / "run/summary.json").read_text())
    written["start"]["seen"] = "nothing"
    (tmp_path / "run/summary.json").write_text(json.dumps(written))
    assert audit([tmp_path / "run"], base=tmp_path).verdict == "FAIL"
    plain = simulate(experiment(rounds=1, start__file=str(before)), out=tmp_path / "plain")
    assert plain["start"]["seen"] is None
    page = write_report(tmp_path / "plain").read_text()
    assert "may have seen anything." in page
    assert "Epsilon says nothing of" not in page


def test_a_run_without_a_start_says_nothing_of_one(tmp_path: Path) -> None:
    assert simulate(experiment(rounds=1), out=tmp_path / "run")["start"] is None
    assert "It began from weights" not in write_report(tmp_path / "run").read_text()


def changed(before: Path, path: Path, change: Any) -> Path:
    tensors = load_file(before)
    change(tensors)
    save_file(tensors, path)
    return path


def spoilt(tensors: dict[str, np.ndarray]) -> None:
    tensors[BIAS][3] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(BIAS), f"tensor '{BIAS}' is missing: the model has float32 of shape (10,"),
        (lambda t: t.clear(), f"tensor '{WEIGHTS}' is missing"),
        (
            lambda t: t.update({BIAS: np.zeros(11, np.float32)}),
            f"tensor '{BIAS}' is float32 of shape (11,); the model has float32 of shape (10,)",
        ),
        (
            lambda t: t.update({WEIGHTS: t[WEIGHTS].astype(np.float16)}),
            f"tensor '{WEIGHTS}' is float16 of shape (10, 64); the model has float32 of shape",
        ),
        (
            lambda t: t.update({"1.weigth": t[BIAS]}),
            "tensor '1.weigth' is none of the model's. Did you mean '1.weight'?",
        ),
        (spoilt, f"tensor '{BIAS}' has values that are infinite or not a number"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named_before_anything_is_written(
    before: Path, tmp_path: Path, change: Any, message: str
) -> None:
    path = changed(before, tmp_path / "w.safetensors", change)
    with pytest.raises(PrivetError) as refusal:
        simulate(experiment(start__file=str(path)), out=tmp_path / "run")
    assert f"start.file = '{path}': {message}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\xff" * 9, b"{}", b"\x02" + b"\0" * 7])
def test_what_is_no_safetensors_file_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(PrivetError, match=r"is no safetensors file|is missing") as refusal:
        simulate(experiment(start__file=str(path)), out=tmp_path / "run")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_or_is_another_one_is_refused(
    before: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrivetError, match=r"start.file = 'w.safetensors': /.* cannot be read"):
        prepare(experiment(start__file="w.safetensors"), data_dir=tmp_path)
    with pytest.raises(PrivetError, match="paths are relative to the data folder"):
        prepare(experiment(start__file="w.safetensors"), data_dir=tmp_path)
    shutil.copyfile(before, tmp_path / "w.safetensors")
    found = prepare(experiment(start__file="w.safetensors"), data_dir=tmp_path).experiment.start
    assert found is not None
    assert found.sha256 == digest(before)
    other = experiment(start__file="w.safetensors", start__sha256="0" * 64)
    with pytest.raises(PrivetError, match=f"its SHA-256 is {digest(before)}, and start.sha256 = 0"):
        prepare(other, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"file": "model.pt"}, "start.file: 'model.pt': allowed are names that end in .safetensor"),
        ({"seen": "ImageNet"}, "the experiment has no 'start.file'"),
        ({"file": "w.safetensors", "sha256": "AB"}, "start.sha256 = 'AB': "),
        ({"file": "w.safetensors", "seen": "a\nb"}, "allowed is one line of text"),
        ({"file": "w.safetensors", "seem": "x"}, "unknown key 'start.seem'. Did you mean 'seen'?"),
    ],
)
def test_a_wrong_start_is_named(start: dict[str, str], message: str) -> None:
    with pytest.raises(PrivetError) as refusal:
        Experiment.from_mapping({"task": "digits", "start": start})
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Stop(Exception):
    pass


def test_a_stopped_run_goes_on_and_other_weights_are_no_going_on(
    before: Path, tmp_path: Path
) -> None:
    def stop(entry: RoundRecord) -> None:
        if entry.round == 1:
            raise Stop

    path = tmp_path / "w.safetensors"
    shutil.copyfile(before, path)
    setup = experiment(start__file=str(path))
    simulate(setup, out=tmp_path / "whole")
    with pytest.raises(Stop):
        simulate(setup, out=tmp_path / "cut", watch=stop)
    changed(before, path, lambda t: t.update({BIAS: t[BIAS] + 1}))
    with pytest.raises(PrivetError, match=r"was begun with start\.sha256 = .*, not with start"):
        simulate(setup, out=tmp_path / "cut", resume=True)
    shutil.copyfile(before, path)
    simulate(setup, out=tmp_path / "cut", resume=True)
    ended = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert ended[0] == ended[1]


def test_encrypted_silos_begin_from_it_too(before: Path, tmp_path: Path) -> None:
    setup = experiment(start__file=str(before), rounds=1)
    simulate(setup, out=tmp_path / "clear")
    simulate(setup.with_settings({"encryption.scheme": "bfv"}), out=tmp_path / "sealed")
    ours, theirs = (load_file(tmp_path / f"{n}/model.safetensors") for n in ("sealed", "clear"))
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor, atol=2**-11)


def test_all_cells_of_a_sweep_begin_from_it(before: Path, tmp_path: Path) -> None:
    path, axes = tmp_path / "w.safetensors", {"privacy.epsilon": (4, math.inf)}
    shutil.copyfile(before, path)
    setup = experiment(start__file="w.safetensors", rounds=1, privacy__epsilon=4.0)
    result = sweep(setup, axes=axes, seeds=1, out=tmp_path / "sweep", data_dir=tmp_path, workers=1)
    assert {cell.status for cell in result.cells} == {"done"}
    assert {cell.kind for cell in result.cells} == {"federated", "alone", "pooled"}
    for cell in result.cells:
        told = json.loads((tmp_path / "sweep" / cell.folder / "summary.json").read_text())
        assert told["start"]["sha256"] == digest(before)
    # Other weights under the same name are other cells.
    changed(before, path, lambda t: t.update({BIAS: t[BIAS] + 1}))
    again = sweep(
        setup, axes=axes, seeds=1, out=tmp_path / "sweep", data_dir=tmp_path, workers=1, resume=True
    )
    assert not {cell.folder for cell in again.cells} & {cell.folder for cell in result.cells}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight


@pytest.mark.parametrize("name", ["first.weight", "last.weight"])
def test_tied_weights_need_one_of_their_names_and_counters_none(tmp_path: Path, name: str) -> None:
    model = Tied()
    tensors = {key: torch.rand_like(t).numpy() for key, t in model.norm.named_parameters("norm")}
    tensors |= {f"norm.running_{key}": np.full(3, 2, np.float32) for key in ("mean", "var")}
    tensors[name] = np.full((3, 3), 7, np.float32)
    save_file(tensors, path := tmp_path / "w.safetensors")
    start = StartSettings(file=str(path), sha256=digest(path))
    begin_from(start, model.state_dict(keep_vars=True), data_dir=None, held=False)
    assert model.last.weight is model.first.weight
    assert bool((model.first.weight == 7).all())
    assert bool((model.norm.running_var == 2).all())


def test_an_order_needs_the_digest_and_not_the_file(before: Path, tmp_path: Path) -> None:
    told = experiment(start__file="w.safetensors", start__sha256=digest(before))
    assert ordered(told, data_dir=tmp_path) is told
    with pytest.raises(PrivetError, match=r"cannot be read .*; or set start\.sha256"):
        ordered(experiment(start__file="w.safetensors"), data_dir=tmp_path)
    shutil.copyfile(before, tmp_path / "w.safetensors")
    found = ordered(experiment(start__file="w.safetensors"), data_dir=tmp_path)
    assert found == told
    assert with_digest(found, data_dir=tmp_path) is found
    with pytest.raises(PrivetError, match=r"start\.sha256 is needed with start\.file"):
        initial_model(
            prepare(experiment()).place.task,
            experiment(start__file="w.safetensors"),
            data_dir=tmp_path,
        )
