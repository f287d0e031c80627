"""Runs with canaries: what the command makes of them, with the mechanism right and wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audits.mechanism.planted import planted
from privet import Execution, Experiment
from privet.audits import Report, audit, verify_report
from privet.audits.report import write
from privet.privacy.mechanisms.canaries import CANARIES
from privet.simulations.run import simulate

SETTINGS = {
    "task": "digits",
    "rounds": 3,
    "federation": {"silos": 4, "dropout": 0.2},
    "training": {"lr": 0.5, "batch_size": 64, "steps": 4},
    "privacy": {"epsilon": 3.0},
    "evaluation": {"every": 2},
}
MECHANISM = {"mechanism.canaries", "mechanism.conformance", "mechanism.lower-bound"}


def made(folder: Path, fault: str | None = None) -> Path:
    with planted(fault):
        experiment = Experiment.from_mapping(SETTINGS)
        simulate(experiment, out=folder, execution=Execution(canaries=64))
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("canaries") / "run")


def of(report: Report, verdict: str) -> set[str]:
    return {claim.id for claim in report.claims if claim.verdict == verdict}


def test_an_honest_run_passes_and_its_report_can_be_verified(honest: Path, tmp_path: Path) -> None:
    report = audit([honest], base=tmp_path)
    assert of(report, "PASS") >= MECHANISM
    assert of(report, "FAIL") == set()
    (bound,) = (claim for claim in report.claims if claim.id == "mechanism.lower-bound")
    assert "epsilon is at least" in bound.evidence[0]
    write(report, tmp_path / "audit.json")
    assert verify_report(tmp_path / "audit.json") == []
    seen = sorted((honest / CANARIES).glob("*.jsonl"))[0]
    before = seen.read_bytes()
    seen.write_bytes(before[: len(before) // 2])
    assert any(seen.name in each for each in verify_report(tmp_path / "audit.json"))
    seen.write_bytes(before)


def test_the_steps_of_adamw_are_followed_and_told_from_those_of_adam(tmp_path: Path) -> None:
    settings = {"training.optimizer": "adamw", "training.weight_decay": 1.0, "training.lr": 0.05}
    experiment = Experiment.from_mapping(SETTINGS).with_settings(settings)
    simulate(experiment, out=tmp_path / "run", execution=Execution(canaries=64))
    assert "mechanism.steps" in of(audit([tmp_path / "run"], base=tmp_path), "PASS")
    written = tmp_path / "run/experiment.toml"
    written.write_text(written.read_text().replace('"adamw"', '"adam"'))
    assert "mechanism.steps" in of(audit([tmp_path / "run"], base=tmp_path), "FAIL")


def test_half_the_noise_fails_what_looks_at_what_ran_and_nothing_else(tmp_path: Path) -> None:
    report = audit([made(tmp_path / "run", "noise / 2")], base=tmp_path)
    ran = {f"mechanism.{name}" for name in ("conformance", "steps", "dry-run")}
    assert of(report, "FAIL") == ran


def test_canaries_of_another_mechanism_than_the_ledgers_prove_nothing(
    honest: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(honest, tmp_path / "run"))
    seen = sorted((run / CANARIES).glob("*.jsonl"))[0]
    lines = [json.loads(line) for line in seen.read_text().splitlines()]
    for line in lines:
        line["plan"]["noise_multiplier"] *= 2
    seen.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "mechanism.canaries" in of(audit([run], base=tmp_path), "FAIL")


def test_a_file_that_is_not_of_canaries_is_a_check_that_cannot_be_made(
    honest: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(honest, tmp_path / "run"))
    (run / CANARIES / "silo-0.jsonl").write_text("junk\n")
    assert of(audit([run], base=tmp_path), "FAIL") == {"record.checkable", "record.files"}
