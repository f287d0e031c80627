"""Faults in the code that trains, as a simulation runs it, and what the audit makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binom

from audits.mechanism.planted import FAULTS, planted
from privet import Execution, Experiment
from privet.audits.laws import Conformance
from privet.audits.mechanism import conformance
from privet.privacy.mechanisms.canaries import CANARIES, read_observations
from privet.simulations import Engine
from privet.simulations.run import simulate

NAMES = {
    "no noise": "noise",
    "noise / 10": "noise",
    "noise / 2": "noise",
    "clip x 5": "clipping",
    "batch clipped": "clipping",
    "rate x 2": "sampling",
    "all participate": "sampling",
    "same noise each step": "independent-steps",
    "noise repeats per round": "independent-rounds",
    "noise twice in a row": "independent-steps",
    "noise shared by silos": "independent-silos",
    "one number for all coordinates": "independent-coordinates",
    "noise of two values": "normality",
    "noise cut off": "tail",
    "no clipping": "clipping",
    "records take turns": "sampling-steps",
}
"""The test that is made for each fault; others may fail with it."""


def experiment(seed: int, rounds: int = 4) -> Experiment:
    return Experiment.from_mapping({"task": "digits"}).with_settings(
        {
            "model": "linear",
            "rounds": rounds,
            "seed": seed,
            "federation.silos": 4,
            "training.batch_size": 32,
            "privacy.epsilon": 4.0,
        }
    )


def audited(folder: Path, engine: Engine, fault: str | None, *, seed: int = 1) -> Conformance:
    with planted(fault):
        execution = Execution(engine=engine, canaries=64)
        simulate(experiment(seed), out=folder / "run", execution=execution)
    seen = read_observations(folder / "run" / CANARIES)
    assert len(seen) == 4 * 4  # no silo failed
    return conformance(seen)


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
def test_without_a_fault_it_conforms(tmp_path: Path, engine: Engine) -> None:
    found = audited(tmp_path, engine, None)
    assert found.conforms
    assert found.values == 4 * 4 * 12 * 64


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found(tmp_path: Path, fault: str) -> None:
    found = audited(tmp_path, "vectorised", fault)
    assert NAMES[fault] in [check.name for check in found.failed]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_with_any_seed(tmp_path: Path, fault: str) -> None:
    for seed in range(2, 7):
        for engine in ("in-process", "vectorised"):
            found = audited(tmp_path / f"{seed}-{engine}", engine, fault, seed=seed)
            assert NAMES[fault] in [check.name for check in found.failed]


@pytest.mark.slow
def test_correct_runs_pass(tmp_path: Path) -> None:
    failed = 0
    for seed in range(100):
        failed += not audited(tmp_path / str(seed), "vectorised", None, seed=seed).conforms
    # At a level of 0.01 more than this would come once in 1,000 such tests.
    assert failed <= binom.isf(1e-3, 100, 0.01)
