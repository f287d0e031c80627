"""Faults planted into the code that runs, and what an audit finds of each afterwards."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from audits.faults import CANARIES, FAULTS, planted
from audits.mechanism import planted as whole
from privet import Execution, Experiment
from privet.audits import CHECKS, audit, evidence
from privet.audits.deep.again import claim_of_another_run
from privet.audits.mechanism import claims
from privet.audits.sound import claims_of_code, claims_of_steps
from privet.client.silo import Silo
from privet.privacy.ledger import SiloKey
from privet.randomness import stream
from privet.simulations import Engine
from privet.simulations.run import simulate

POLICY = """\
version = 1
[data.my-data]
requesters = ["*"]
tasks = ["*"]
[data.my-data.budget]
epsilon = 50.0
delta = 1e-5
[data.my-data.sending]
records_public = true
[data.my-data.metrics]
accuracy = { release = "noised", noise_multiplier = 10.0 }
loss = { release = "exact" }
"""
SETTINGS = {
    "task": "digits",
    "model": "mlp",
    "rounds": 3,
    "federation": {"silos": 4},
    "training": {"batch_size": 64, "steps": 5},
    "privacy": {"epsilon": 8.0},
    "evaluation": {"every": 1},
}
OWN = [name for name in FAULTS if not name.startswith("whole: ")]
"""Those that spare the canaries; the others are what tests/audits/mechanism finds by these."""
RAN = (claims, claims_of_steps)
MECHANISM = (
    *("settings", "sound", "canaries", "conformance", "lower-bound"),
    *("steps", "dry-run", "evaluation", "code"),
)


def ran(folder: Path, fault: str | None, *, seed: int = 5, engine: Engine = "vectorised") -> Path:
    """A run with the fault in the code."""
    policy, run = folder / "policy.toml", folder / "run"
    policy.write_text(POLICY)
    experiment = Experiment.from_mapping({**SETTINGS, "seed": seed})
    execution = Execution(engine=engine, canaries=CANARIES)
    with planted(fault):
        simulate(experiment, out=run, policy=policy, execution=execution)
    return run


def failed(run: Path, checks: tuple[object, ...] = RAN) -> set[str]:
    report = audit([run], base=run.parent, checks=checks)  # type: ignore[arg-type]
    return {claim.id for claim in report.claims if claim.verdict == "FAIL"}


@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
def test_without_a_fault_a_run_passes(tmp_path: Path, engine: Engine) -> None:
    run = ran(tmp_path, None, engine=engine)
    key = {"simulation": SiloKey.load(run / "ledger.key").public}
    report = audit([run], base=tmp_path, keys=key)
    assert report.headline == "PASS"
    told = {claim.id: claim.verdict for claim in report.claims if "mechanism" in claim.id}
    assert told == {f"mechanism.{name}": "PASS" for name in MECHANISM}


@pytest.mark.parametrize("fault", OWN)
def test_a_fault_in_what_ran_is_found(tmp_path: Path, fault: str) -> None:
    """It is in the code while the run lasts, and not in the auditor's."""
    assert failed(ran(tmp_path, fault))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["in-process", "vectorised"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_other_seeds_and_engines(
    tmp_path: Path, fault: str, engine: Engine
) -> None:
    for seed in (6, 7):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert failed(ran(folder, fault, seed=seed, engine=engine))


@pytest.mark.parametrize(
    "fault",
    [
        "whole: noise / 2",
        "no noise in the last 10 (biases)",
        "first record not clipped",
        "records twice as often",
        "a step without noise at the end",
        "evaluation with half the noise",
    ],
)
def test_a_fault_in_the_installed_code_is_found_for_a_run_without_canaries(
    golden: Path, fault: str
) -> None:
    run = golden / "clear"
    assert failed(run, (claims_of_code,)) == set()
    with planted(fault):
        assert failed(run, (claims_of_code,)) == {"mechanism.code"}


def test_the_faults_are_those_of_the_mechanism_and_others() -> None:
    assert len(OWN) >= 25
    assert {f"whole: {name}" for name in whole.FAULTS} | {*OWN} == {*FAULTS}
    assert {*RAN, claims_of_code} < {*CHECKS}


@pytest.mark.slow
def test_correct_runs_pass(tmp_path: Path) -> None:
    """Of 400 correct runs at most 4 fail; each of the claims fails once in 1,000, at most."""
    wrong, small = 0, {"model": "linear", "rounds": 2, "federation.silos": 2}
    for seed in range(400):
        out = tmp_path / str(seed)
        experiment = Experiment.from_mapping(SETTINGS).with_settings({**small, "seed": seed})
        simulate(experiment, out=out, execution=Execution(canaries=CANARIES, engine="vectorised"))
        wrong += audit([out], base=tmp_path).verdict == "FAIL"
    assert wrong <= 4


def test_two_runs_with_the_same_noise_fail_together(tmp_path: Path) -> None:
    """Streams that are named by the seed alone are those of the next run of other settings."""
    for name, epsilon in (("one", 8.0), ("two", 4.0)):
        experiment = Experiment.from_mapping(SETTINGS).with_settings({"privacy.epsilon": epsilon})
        with patch.object(Silo, "entropy", _by_seed_alone):
            simulate(experiment, out=tmp_path / name, execution=Execution(canaries=CANARIES))
    report = audit([tmp_path], base=tmp_path, checks=RAN)
    assert {c.id for c in report.claims if c.verdict == "FAIL"} == {"mechanism.across"}


def _by_seed_alone(self: Silo, round_: int, use: str = "training") -> np.random.SeedSequence:
    assert self.seed is not None
    return stream(self.seed, use, self.index, round_)


def test_runs_of_other_settings_have_other_noise_and_the_same_run_twice_has_its_own(
    tmp_path: Path,
) -> None:
    for name, epsilon in (("one", 8.0), ("again", 8.0), ("two", 4.0)):
        experiment = Experiment.from_mapping(SETTINGS).with_settings({"privacy.epsilon": epsilon})
        simulate(experiment, out=tmp_path / name, execution=Execution(canaries=CANARIES))
    report = audit([tmp_path], base=tmp_path, checks=RAN)
    assert {c.id: c.verdict for c in report.claims}["mechanism.across"] == "PASS"


def test_a_deep_audit_runs_an_experiment_again_that_is_all_warmup(tmp_path: Path) -> None:
    settings = {"rounds": 4, "training.warmup": 3}
    simulate(Experiment.from_mapping(SETTINGS).with_settings(settings), out=tmp_path / "run")
    found = evidence.read_run(tmp_path / "run", subject="run", others=(), own=None, policy=None)
    assert claim_of_another_run(found).verdict == "PASS"


def test_a_deep_audit_runs_the_experiment_again(golden: Path) -> None:
    """The run had no canaries: what happens on the way to the server its own record cannot say."""
    found = evidence.read_run(golden / "clear", subject="run", others=(), own=None, policy=None)
    assert claim_of_another_run(found).verdict == "PASS"
    with planted("changed when sent"):
        claim = claim_of_another_run(found)
    assert claim.verdict == "FAIL"
    assert "mechanism.steps: silo-" in claim.evidence[0]
