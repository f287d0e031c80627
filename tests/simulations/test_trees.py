"""Whole runs of tasks whose examples are dicts, tuples, bytes or sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from privet import Execution, Experiment
from privet.audits import audit
from privet.errors import DataError
from privet.simulations.prepare import prepare
from privet.simulations.run import engine_warnings, simulate
from tree_tasks import KINDS, Tokens


def experiment(kind: type[Tokens], **settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": f"tree_tasks:{kind.__name__}",
        "rounds": 2,
        "seed": 5,
        "federation.silos": 3,
        "training.batch_size": 10,
        "training.lr": 0.2,
    }
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **settings})


PRIVATE = {
    "privacy.noise_multiplier": 1.0,
    "evaluation.holdout": 0.3,
    "validation.share": 0.1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_private_run_goes_through_with_canaries_and_passes_its_audit(
    kind: type[Tokens], tmp_path: Path
) -> None:
    setup = experiment(kind, **PRIVATE)
    summary = simulate(setup, out=tmp_path, execution=Execution(canaries=8))
    assert summary["rounds"] == 2
    assert 0 <= summary["accuracy"] <= 1
    report = audit([tmp_path], base=tmp_path)
    assert report.verdict == "PASS", report.headline
    claims = {claim.id: claim.verdict for claim in report.claims}
    assert "FAIL" not in claims.values()
    assert load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_any_number_of_workers(kind: type[Tokens], tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / str(workers)
        simulate(experiment(kind, **PRIVATE), out=out, execution=Execution(workers=workers))
    one, two = (tmp_path / name / "model.safetensors" for name in ("1", "2"))
    assert one.read_bytes() == two.read_bytes()


def test_what_the_vectorised_engine_does_not_take_trains_one_by_one(tmp_path: Path) -> None:
    setup = experiment(Tokens, **{"federation.silos": 5})
    assert "one by one" in engine_warnings(prepare(setup), "vectorised")[0]
    for engine in ("vectorised", "in-process"):
        simulate(setup, out=tmp_path / engine, execution=Execution(engine=engine))
    models = [tmp_path / name / "model.safetensors" for name in ("vectorised", "in-process")]
    assert len({path.read_bytes() for path in models}) == 1


def test_targets_that_are_no_classes_cannot_be_dealt_by_class() -> None:
    setup = experiment(KINDS[2], **{"federation.partition": "dirichlet"})
    with pytest.raises(DataError, match="not one number for each record; allowed are iid"):
        prepare(setup)
