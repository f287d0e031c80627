"""Runs on a device that is not the CPU and refuses to mix with it: the very model of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import paper_device as paper
from privet import Execution, Experiment, PrivetError, audit, devices, sweep
from privet.commands.cli import main
from privet.devices import Device
from privet.simulations import Engine
from privet.simulations.run import simulate
from privet.sweeps.results import Sweep
from rounds_written import history

paper.register()  # before anything trains


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> None:
    paper.calls.clear()


ON_PAPER = {"task": "device_tasks:OnPaper", "model": None}
"""Processes that begin anew import the task, which makes the device."""
PRIVATE = {"privacy.noise_multiplier": 1.0}
SEALED = {"encryption.scheme": "bfv", "encryption.colluding": 0}
RELEASED = """
version = 1
[data."*"]
requesters = ["*"]
tasks = ["*"]
[data."*".budget]
epsilon = inf
delta = 1e-5
[data."*".training]
plain = true
[data."*".metrics]
accuracy = { release = "noised", noise_multiplier = 5.0 }
loss = { release = "exact" }
"""


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "model": "mlp",
        "rounds": 2,
        "seed": 5,
        "federation.silos": 4,
        "training.lr": 0.5,
    }
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **settings})


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def told(folder: Path) -> list[dict[str, Any]]:
    return [{**entry, "seconds": 0} for entry in history(folder)]


def on_both(folder: Path, settings: Experiment, *, policy: Path | None = None, **how: Any) -> None:
    """Run on the CPU and on paper: the same model, and the same history."""
    simulate(settings, out=folder / "cpu", execution=Execution(**how), policy=policy)
    assert not paper.calls
    execution = Execution(device=paper.NAME, **how)
    simulate(settings, out=folder / "paper", execution=execution, policy=policy)
    assert len(paper.calls) > 300
    assert weights(folder / "paper") == weights(folder / "cpu")
    assert told(folder / "paper") == told(folder / "cpu")
    assert not any(entry["failures"] for entry in history(folder / "paper"))


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        PRIVATE,
        {"training.optimizer": "adam", "training.lr": 0.01, "training.weight_decay": 0.1},
        {**PRIVATE, "training.optimizer": "adam", "training.lr": 0.01},
        {**PRIVATE, "strategy.name": "scaffold"},
        {**PRIVATE, "strategy.name": "fedprox", "strategy.proximal_mu": 0.1},
        {**PRIVATE, **SEALED},
        {**PRIVATE, "training.class_weights": [1.0] * 9 + [3.0]},
        {"federation.dropout": 0.3, "validation.share": 0.2},
    ],
    ids=[
        "plain",
        "private",
        "adam",
        "private adam",
        "scaffold",
        "fedprox",
        "sealed",
        "class weights",
        "validation",
    ],
)
def test_a_run_is_the_run_on_the_cpu_to_the_bit(
    tmp_path: Path, engine: Engine, settings: dict[str, Any]
) -> None:
    on_both(tmp_path, experiment(**settings), engine=engine)


@pytest.mark.parametrize("settings", [{}, PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("task", ["Head", "Constant", "Drawn", "Adapters"])
def test_a_base_lies_there_too(tmp_path: Path, task: str, settings: dict[str, Any]) -> None:
    run = {"task": f"frozen_tasks:{task}", "model": None, "training.batch_size": 10}
    on_both(tmp_path, experiment(**run, **settings))


def test_figures_with_noise_are_those_of_the_cpu(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(RELEASED)
    measured = {"evaluation.holdout": 0.2, "strategy.weighting": "uniform", "training.steps": 4}
    on_both(tmp_path, experiment(**PRIVATE, **measured), policy=policy)
    assert history(tmp_path / "paper")[-1]["evaluation"]["metrics"]["accuracy"] is not None


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
def test_an_audit_of_such_a_run_finds_nothing(tmp_path: Path, engine: Engine) -> None:
    on_both(tmp_path, experiment(**PRIVATE), engine=engine, canaries=32)
    for name in ("canaries/silo-1.jsonl", "canaries/steps/silo-1.jsonl"):
        files = [tmp_path / device / name for device in ("cpu", "paper")]
        assert files[0].read_bytes() == files[1].read_bytes()
    report = audit([tmp_path / "paper"])
    assert report.verdict in ("PASS", "UNANCHORED"), report.headline


def arrays(folder: Path) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("Convolutions", {}),
        ("Convolutions", PRIVATE),
        ("Attention", {}),
        ("Attention", PRIVATE),
        ("Recurrent", PRIVATE),
    ],
)
def test_layers_of_every_kind_are_there(
    tmp_path: Path, task: str, settings: dict[str, Any]
) -> None:
    run = {"task": f"device_tasks:{task}", "model": None, "training.batch_size": 10}
    on_both(tmp_path, experiment(**run, **settings))


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
def test_records_that_do_not_fit_follow_batch_by_batch(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, memory in {"whole": 1 << 30, "half": 2 * 4 * 65 * 300, "batches": 0}.items():
        monkeypatch.setattr(paper, "MEMORY", memory)
        execution = Execution(device=paper.NAME, engine=engine)
        simulate(experiment(**PRIVATE), out=tmp_path / name, execution=execution)
    assert weights(tmp_path / "whole") == weights(tmp_path / "half")
    assert weights(tmp_path / "whole") == weights(tmp_path / "batches")


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
@pytest.mark.parametrize("settings", [{}, PRIVATE], ids=["plain", "private"])
def test_a_device_without_float64_leaves_sums_to_the_cpu(
    tmp_path: Path, engine: Engine, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "double", False)
    monkeypatch.setattr(devices, "_WITHOUT_DOUBLE", {paper.NAME})
    on_both(tmp_path, experiment(**settings), engine=engine, canaries=8 if settings else 0)


class Stop(Exception):
    pass


@pytest.mark.parametrize("then", [paper.NAME, "cpu"])
def test_a_run_goes_on_where_it_was_or_elsewhere(tmp_path: Path, then: str) -> None:
    settings = experiment(**PRIVATE, **{"rounds": 3, "strategy.name": "scaffold"})
    simulate(settings, out=tmp_path / "whole")

    def stop(entry: Any) -> None:
        if entry.round == 2:
            raise Stop

    out, there = tmp_path / "run", Execution(device=paper.NAME)
    with pytest.raises(Stop):
        simulate(settings, out=out, execution=there, watch=stop)
    simulate(settings, out=out, execution=Execution(device=then), resume=True)
    assert weights(out) == weights(tmp_path / "whole")
    assert json.loads((out / "summary.json").read_text())["computed"]["device"] == then


def test_a_process_owns_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out = experiment(**ON_PAPER, **PRIVATE), tmp_path / "run"
    two = Execution(device=paper.NAME, workers=2)
    with pytest.raises(PrivetError, match=r"workers = 2: a process owns a device.* \(paper:0\)"):
        simulate(settings, out=out, execution=two)
    assert not out.exists()
    monkeypatch.setattr(paper._Module, "device_count", lambda _: 2)
    simulate(settings, out=out, execution=two)
    simulate(settings, out=tmp_path / "cpu", execution=Execution(workers=2))
    assert weights(out) == weights(tmp_path / "cpu")
    with pytest.raises(PrivetError, match="Ray gives out devices; write 'paper'"):
        simulate(settings, out=out, execution=Execution(device="paper:0", engine="ray"))


def test_code_that_mixes_devices_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the tests above see it: batches that stay on the CPU."""
    monkeypatch.setattr(paper, "MEMORY", 0)
    monkeypatch.setattr(Device, "moved", lambda _device, tree: tree)
    there = Execution(device=paper.NAME)
    with pytest.raises(PrivetError, match="fails on paper"):
        simulate(experiment(), out=tmp_path / "run", execution=there)
    monkeypatch.setattr("privet.client.silo.LocalData.try_out", lambda *_: None)
    with pytest.raises(PrivetError, match=r"paper:0 and cpu|of cpu among those of paper"):
        simulate(experiment(), out=tmp_path / "run", execution=there)


def test_a_model_that_makes_its_tensors_on_the_cpu_is_told_before_anything_is_written(
    tmp_path: Path,
) -> None:
    settings = experiment(task="device_tasks:Stubborn", model=None)
    simulate(settings, out=tmp_path / "cpu")
    with pytest.raises(PrivetError, match=r"fails on paper, float32 .*device_tasks.py:\d+"):
        simulate(settings, out=tmp_path / "run", execution=Execution(device=paper.NAME))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--device", "cuda:3"], "device = 'cuda:3' is not here: there is cpu"),
        (["--device", "gpu"], "device = 'gpu' is not here: there is cpu"),
        (["--device", "cudda"], "Did you mean 'cuda'?"),
        (["--device", "paper", "--precision", "bf16"], "precision = 'bf16': paper has float32"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_a_line(
    tmp_path: Path, option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\nrounds = 1\n')
    for command in ("simulate", "sweep"):
        more = ["--epsilon", "3"] if command == "sweep" else []
        with pytest.raises(SystemExit) as ended:
            main([command, str(file), "--out", str(tmp_path / "run"), *more, *option])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1, error
    assert not (tmp_path / "run").exists()


def test_auto_says_what_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\nrounds = 1\nfederation.silos = 2\n')
    with pytest.raises(SystemExit) as ended:
        main(["simulate", str(file), "--out", str(tmp_path / "run"), "--device", "auto"])
    assert not ended.value.code
    took = devices.chosen("auto").name
    assert f"Computed on {took}, float32" in capsys.readouterr().out
    computed = json.loads((tmp_path / "run/summary.json").read_text())["computed"]
    assert computed == {"device": took, "precision": "float32"}


def test_no_experiment_says_where_it_is_computed() -> None:
    for key in ("device", "precision", "training.device", "training.precision"):
        with pytest.raises(PrivetError, match=key.rpartition(".")[2]):
            experiment(**{key: "cuda"})


def test_the_page_says_where_a_run_was_and_how_to_repeat_it(tmp_path: Path) -> None:
    from privet.reports.run import write_report

    there = Execution(device=paper.NAME)
    simulate(experiment(rounds=1), out=tmp_path, execution=there)
    page = write_report(tmp_path).read_text()
    assert '<th scope="row">Device</th><td class="number">paper</td>' in page
    assert "forward and backward passes in float32" in page
    assert "privet simulate experiment.toml --device paper" in page


def test_a_sweep_has_its_cells_there(tmp_path: Path) -> None:
    def swept(name: str, device: str) -> Sweep:
        return sweep(
            experiment(**ON_PAPER, rounds=1),
            axes={"privacy.epsilon": [3.0]},
            seeds=1,
            baselines="no-dp",
            out=tmp_path / name,
            workers=1,
            device=device,
        )

    here, there = swept("cpu", "cpu"), swept("paper", paper.NAME)
    assert (here.device, there.device, there.workers) == ("cpu", "paper", 1)
    assert [cell.accuracy for cell in here.cells] == [cell.accuracy for cell in there.cells]
    assert not {cell.address for cell in here.cells} & {cell.address for cell in there.cells}
    page = (tmp_path / "paper/report.html").read_text()
    assert "sweep.toml --device paper" in page


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
@pytest.mark.parametrize(
    "settings",
    [{}, PRIVATE, {"model": "cnn", "training.steps": 2, **PRIVATE}],
    ids=["plain", "private", "private cnn"],
)
def test_bf16_is_in_the_passes_alone(
    tmp_path: Path, engine: Engine, settings: dict[str, Any]
) -> None:
    """Weights are not rounded to it, and the noise is the same numbers."""
    for precision in ("float32", "bf16"):
        execution = Execution(precision=precision, engine=engine)  # type: ignore[arg-type]
        run = experiment(**settings)
        simulate(run, out=tmp_path / precision, execution=execution)
    whole, short = arrays(tmp_path / "float32"), arrays(tmp_path / "bf16")
    assert short.dtype == np.float32
    assert (short.view(np.uint32) & 0xFFFF != 0).mean() > 0.9
    assert 0 < np.abs(short - whole).max() < 0.05
    assert not any(entry["failures"] for entry in history(tmp_path / "bf16"))


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
def test_an_audit_of_a_run_in_bf16_finds_nothing(tmp_path: Path, engine: Engine) -> None:
    execution = Execution(precision="bf16", engine=engine, canaries=64)
    simulate(experiment(**PRIVATE), out=tmp_path / "run", execution=execution)
    report = audit([tmp_path / "run"])
    assert report.verdict in ("PASS", "UNANCHORED"), report.headline
