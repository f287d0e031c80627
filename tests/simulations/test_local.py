"""`federation.local`: parts of a model that stay in their silo, trained there and never sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file

from local_tasks import SILOS, Turned
from privet import Execution, Experiment, PrivetError
from privet.audits import audit
from privet.reports.run import write_report
from privet.server.rounds import Coordinator
from privet.simulations.run import simulate
from privet.vectors import FlatModel
from rounds_written import history

LOCAL = ["head*", "norm*"]
PRIVATE = {"privacy.noise_multiplier": 0.5}
SEALED = {"encryption.scheme": "bfv", "encryption.colluding": 0}


def experiment(task: str = "Turned", **settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": f"local_tasks:{task}",
        "rounds": 3,
        "seed": 5,
        "federation.local": LOCAL,
        "training.lr": 0.3,
        "training.batch_size": 15,
    }
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **settings})


def files(folder: Path) -> list[bytes]:
    names = ("model.safetensors", "own-parts.safetensors")
    return [(folder / name).read_bytes() for name in names]


def test_silos_that_differ_learn_heads_of_their_own(tmp_path: Path) -> None:
    """One head for all cannot be right where half of the silos turn the answer round."""
    longer = {"rounds": 10, "training.epochs": 2}
    together = experiment(**longer).model_dump(exclude_unset=True)
    del together["federation"]
    alike = simulate(Experiment.from_mapping(together), out=tmp_path / "one")
    apart = simulate(experiment(**longer), out=tmp_path / "own")
    assert alike["accuracy"] < 0.65
    assert apart["accuracy"] > 0.85
    last = history(tmp_path / "own")[-1]["per_silo"]
    assert set(last) == {*SILOS}
    assert min(each["accuracy"] for each in last.values()) > 0.8


@pytest.mark.parametrize("more", [{}, PRIVATE], ids=["plain", "private"])
def test_every_engine_and_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    for name, execution in {
        "one": Execution(),
        "two": Execution(workers=2),
        "wire": Execution(isolate=True),
    }.items():
        simulate(experiment(**more), out=tmp_path / name, execution=execution)
        assert files(tmp_path / name) == files(tmp_path / "one"), name
    simulate(experiment(**more), out=tmp_path / "rows", execution=Execution(engine="vectorised"))
    for file in ("model.safetensors", "own-parts.safetensors"):
        one, rows = load_file(tmp_path / "one" / file), load_file(tmp_path / "rows" / file)
        assert {*one} == {*rows}
        for name, tensor in one.items():
            torch.testing.assert_close(rows[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [PRIVATE, {"federation.participation": 0.6}, SEALED])
def test_a_killed_run_goes_on_with_every_silos_own_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    settings = experiment(**more)
    simulate(settings, out=tmp_path / "whole")
    round_ = Coordinator._round

    def killed(self: Coordinator, number: int, cohort: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt
        round_(self, number, cohort)

    monkeypatch.setattr(Coordinator, "_round", killed)
    with pytest.raises(KeyboardInterrupt):
        simulate(settings, out=tmp_path / "killed")
    monkeypatch.undo()
    simulate(settings, out=tmp_path / "killed", resume=True)
    whole, resumed = (
        load_file(tmp_path / n / "own-parts.safetensors") for n in ("whole", "killed")
    )
    if "encryption.scheme" not in more:  # whose keys, and roundings, are new
        assert files(tmp_path / "killed") == files(tmp_path / "whole")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-2)


def test_what_stays_is_named_and_neither_sent_nor_in_the_model(tmp_path: Path) -> None:
    summary = simulate(experiment(), out=tmp_path)
    shared, own = 8 * 6 + 6, 6 * 2 + 2 + 12
    names = ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert summary["model"]["local"] == names
    assert (summary["model"]["trained"], summary["model"]["sent"]) == (shared + own, shared)
    assert {*load_file(tmp_path / "model.safetensors")} == {"body.weight", "body.bias"}
    parts = load_file(tmp_path / "own-parts.safetensors")
    assert {*parts} == {f"{silo}/{name}" for silo in SILOS for name in names}
    assert not torch.equal(parts["east/head.weight"], parts["north/head.weight"])
    sent = history(tmp_path)[-1]["bytes"]["up"] / len(SILOS)
    assert sent < 4 * shared + 1500
    page = write_report(tmp_path).read_text()
    assert "head.weight" in page
    assert "stay" in page


def test_an_encrypted_vector_is_shorter_by_what_stays(tmp_path: Path) -> None:
    summary = simulate(experiment(**SEALED, rounds=1), out=tmp_path)
    assert summary["model"]["sent"] == 54
    assert not any(each["failures"] for each in history(tmp_path))
    assert {*load_file(tmp_path / "model.safetensors")} == {"body.weight", "body.bias"}


def test_an_audit_holds_the_shared_part_against_the_updates(tmp_path: Path) -> None:
    """And finds a model that is none of theirs, though silos have parts of their own."""
    simulate(experiment(**PRIVATE), out=tmp_path, execution=Execution(canaries=20))
    told = {claim.id: claim for claim in audit([tmp_path], base=tmp_path).claims}
    assert [claim for claim in told.values() if claim.verdict == "FAIL"] == []
    assert told["mechanism.steps"].verdict == "PASS"
    file = tmp_path / "model.safetensors"
    with safe_open(file, "np") as model:
        tensors = {name: model.get_tensor(name) for name in model.keys()}  # noqa: SIM118
        metadata = model.metadata()
    tensors["body.bias"] = tensors["body.bias"] + 1
    save_file(tensors, file, metadata)
    told = {claim.id: claim for claim in audit([tmp_path], base=tmp_path).claims}
    assert told["mechanism.steps"].verdict == "FAIL"


def test_statistics_of_a_norm_stay_with_it(tmp_path: Path) -> None:
    simulate(experiment("Statistics", **{"federation.local": ["norm*"]}), out=tmp_path)
    parts = load_file(tmp_path / "own-parts.safetensors")
    assert "east/norm.running_mean" in parts
    assert not torch.equal(parts["east/norm.running_mean"], parts["west/norm.running_mean"])


@pytest.mark.parametrize("strategy", ["fedprox", "scaffold"])
def test_corrections_know_the_shared_part_alone(tmp_path: Path, strategy: str) -> None:
    options = {"strategy.proximal_mu": 0.1} if strategy == "fedprox" else {}
    settings = experiment(**{"strategy.name": strategy, **options})
    summary = simulate(settings, out=tmp_path)
    assert not any(each["failures"] for each in history(tmp_path))
    assert summary["accuracy"] > 0.6


def test_silos_measure_their_own_models(tmp_path: Path) -> None:
    settings = experiment(**{"evaluation.holdout": 0.3, "rounds": 10, "training.epochs": 2})
    summary = simulate(settings, out=tmp_path)
    assert summary["evaluation"]["metrics"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"federation.local": ["tail*"]}, "'tail*' is the name of nothing that trains"),
        ({"federation.local": ["*"]}, "every parameter that trains would stay"),
        ({"federation.local": []}, "federation.local"),
        ({"validation.share": 0.1}, "federation.local with [validation]"),
        ({"start.file": "a.safetensors"}, "federation.local with [start]"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(PrivetError) as refused:
        simulate(experiment(**settings), out=tmp_path / "run")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_parts_of_a_vector_are_put_together_as_they_were() -> None:
    flat = FlatModel(Turned(model=None, data_dir=None).model(), local=LOCAL)
    vector = np.arange(80, dtype=np.float32)
    shared, own = flat.shared(vector), flat.own(vector)
    assert (len(shared), len(own)) == (54, 26)
    np.testing.assert_array_equal(flat.joined(shared, own), vector)
    with pytest.raises(ValueError, match="54 values are expected"):
        flat.joined(vector)
    assert json.dumps(flat.local) == '["norm.weight", "norm.bias", "head.weight", "head.bias"]'
