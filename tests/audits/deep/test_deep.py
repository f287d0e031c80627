"""A deep audit of runs that are right, of planted faults, and of what it cannot train again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from audits.deep.runs import Claims, attacked, deep, run
from audits.mechanism.planted import planted
from privet.audits import verify_report
from privet.audits.claims import EXIT_CODES
from privet.audits.deep.record import Deep
from privet.audits.report import read, write
from privet.commands.cli import main
from privet.errors import PrivacyError

SILO = "silo-3"
"""Whose records are few, and whose epsilon is therefore, by a little, the largest."""
PASS, FAIL, UNKNOWN = (["PASS"] * 2, ["FAIL"] * 2, ["UNKNOWN"] * 2)


def slow(*values: object) -> ParameterSet:
    """A case of the slow suite."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def found(honest: Path) -> tuple[Claims, Deep]:
    return attacked(honest, models=200)


def verdicts(claims: Claims) -> list[str]:
    return [claim.verdict for claim in claims]


def test_a_right_run_passes(found: tuple[Claims, Deep]) -> None:
    claims, record = found
    assert verdicts(claims) == PASS
    assert all(bound.epsilon <= 4.0 for bound in record.bounds)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 2.0, 8.0])
def test_a_right_run_is_never_bounded_above_its_claim(tmp_path: Path, epsilon: float) -> None:
    claims, record = attacked(run(tmp_path, **{"privacy.epsilon": epsilon}))
    assert verdicts(claims) == PASS
    assert all(bound.epsilon <= epsilon for bound in record.bounds)


@pytest.mark.parametrize(
    ("fault", "models"),
    [
        ("no noise", 100),
        ("noise / 2", 1000),
        slow("clip x 5", 300),
        slow("rate x 2", 1000),
    ],
)
def test_a_planted_fault_fails(honest: Path, fault: str, models: int) -> None:
    with planted(fault):
        claims, _ = attacked(honest, models=models)
    assert verdicts(claims) == FAIL
    for claim in claims:
        faults = [line for line in claim.evidence if "ledger charges gives no attack" in line]
        assert faults[0] in claim.evidence[:2]


def test_missing_noise_lets_every_attack_see_the_canary(tmp_path: Path) -> None:
    folder = run(tmp_path, **{"privacy.epsilon": 1.0})
    with planted("no noise"):
        claims, record = attacked(folder)
    pure, gaussian = record.bounds[:2]
    assert pure.false_positives + pure.false_negatives < 5
    assert pure.epsilon > 2.0  # the most that 50 models a side can show is 2.57
    assert gaussian.epsilon > 10.0
    assert claims[0].evidence[0].startswith(f"epsilon is at least {pure.epsilon:.2f} with 95%")


def test_without_noise_worth_its_name_models_are_told_apart(tmp_path: Path) -> None:
    settings = {"privacy.epsilon": None, "privacy.noise_multiplier": 1e-3}
    claims, record = attacked(run(tmp_path, **settings))
    assert verdicts(claims) == UNKNOWN
    assert "no bound is claimed; epsilon is at least 2." in claims[0].evidence[0]
    assert record.claimed is None
    assert max(curve.true_positive_rates[0] for curve in record.curves) > 0.9


def test_the_record_is_what_there_is_to_draw(found: tuple[Claims, Deep]) -> None:
    _, record = found
    assert (record.silo, record.models, record.delta) == (SILO, 200, 1e-5)
    assert record.claimed == pytest.approx(4.0, rel=0.01)
    assert {(curve.observer, curve.canary, curve.score) for curve in record.curves} == {
        (observer, canary, score)
        for canary in ("mislabelled", "outlier")
        for observer, scores in (
            ("updates", ("dot product",)),
            ("model", ("loss", "likelihood ratio")),
        )
        for score in scores
    }
    for curve in (*record.curves, record.allowed):
        false, true = np.array(curve.false_positive_rates), np.array(curve.true_positive_rates)
        assert (np.diff(false) > 0).all()
        assert (np.diff(true) >= 0).all()
        assert (false[-1], true[-1]) == (1.0, 1.0)
    assert [bound.assumes is None for bound in record.bounds] == [True, False] * 2
    assert all(bound.out == bound.inside == 50 for bound in record.bounds)


def test_a_bounds_threshold_lies_on_its_curve(found: tuple[Claims, Deep]) -> None:
    _, record = found
    for bound in record.bounds:
        place = bound.observer, bound.canary, bound.score
        (curve,) = (c for c in record.curves if (c.observer, c.canary, c.score) == place)
        at = curve.false_positive_rates.index(bound.false_positives / bound.out)
        seen = bound.inside - bound.false_negatives
        assert curve.true_positive_rates[at] >= round(seen / bound.inside, 6)


def test_the_claim_names_its_silo_its_confidence_and_its_attack(found: tuple[Claims, Deep]) -> None:
    claims, record = found
    assert claims[0].statement == (
        "No attack on the silo's updates, as the server gets them, shows epsilon of "
        f"{SILO} to be above {record.claimed:.4g}."
    )
    assert all("with 95% confidence" in line for each in claims for line in each.evidence)
    assert "if the attack's errors" in claims[0].evidence[1]


def test_the_seed_decides_everything(honest: Path) -> None:
    one, same, other = (attacked(honest, models=40, seed=seed)[1] for seed in (1, 1, 2))
    assert one == same
    assert replace(other, seed=1) != one


def test_too_few_models_are_refused(honest: Path) -> None:
    with pytest.raises(PrivacyError, match="39 models are too few"):
        deep(honest, models=39)


def test_an_encrypted_run_is_attacked_at_its_model_alone(tmp_path: Path) -> None:
    claims, record = attacked(run(tmp_path, rounds=2, **{"encryption.scheme": "bfv"}), models=60)
    assert verdicts(claims) == ["UNKNOWN", "PASS"]
    assert "encrypted" in claims[0].evidence[0]
    assert {each.observer for each in (*record.bounds, *record.curves)} == {"model"}


@pytest.mark.parametrize(
    "settings",
    [
        slow({"strategy.name": "fedavgm", "training.schedule": "cosine"}),
        {"strategy.name": "scaffold", "federation.participation": 0.7},
        slow({"strategy.name": "krum"}),
        {"strategy.name": "fedadam", "training.optimizer": "adam", "training.lr": 0.01},
        slow({"strategy.name": "fedprox", "training.momentum": 0.5, "model": "mlp"}),
    ],
)
def test_strategies_optimizers_and_absences_are_followed(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    claims, _ = attacked(run(tmp_path, rounds=2, **settings), models=60)
    assert verdicts(claims) == PASS


class TestWhatCannotBeDone:
    """Each is UNKNOWN, with the reason."""

    @staticmethod
    def _why(folder: Path) -> str:
        claims, record = deep(folder, models=60)
        assert verdicts(claims) == UNKNOWN
        assert record is None
        return claims[0].evidence[0]

    @pytest.fixture
    def copy(self, honest: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(honest, tmp_path / "run"))

    def test_a_model_outside_of_the_engine(self, tmp_path: Path) -> None:
        folder = run(tmp_path, model="cnn", rounds=1, **{"training.steps": 1})
        assert "cannot be trained many at once: layer" in self._why(folder)

    def test_no_privacy(self, tmp_path: Path) -> None:
        folder = run(tmp_path, rounds=1, **{"privacy.epsilon": float("inf")})
        assert self._why(folder) == "the run claims no epsilon"

    def test_silos_that_are_real(self, copy: Path) -> None:
        (copy / "silos.json").unlink()
        assert "its records are with the silos" in self._why(copy)

    def test_other_records(self, copy: Path) -> None:
        plans = json.loads((copy / "silos.json").read_text())
        for silo in plans["silos"]:
            silo["records"] -= 1
        (copy / "silos.json").write_text(json.dumps(plans))
        assert f"no longer those that {SILO} was trained on" in self._why(copy)

    def test_data_that_are_not_there(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PRIVET_DATA", str(copy))
        settings = (copy / "experiment.toml").read_text().replace('"digits"', '"mnist"')
        (copy / "experiment.toml").write_text(settings.replace('"linear"', '"mlp"'))
        assert "mnist" in self._why(copy)

    def test_a_ledger_that_is_gone(self, copy: Path) -> None:
        for file in copy.glob("ledger.sqlite*"):
            file.unlink()
        assert f"no sound ledger of {SILO}" in self._why(copy)


def answer(*arguments: object) -> int:
    try:
        main(["audit", *map(str, arguments)])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


class TestTheCommand:
    """Options and reports as a person has them."""

    @pytest.fixture(scope="class")
    def report(self, honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("report")
        shutil.copytree(honest, folder / "run")
        file = folder / "audit.json"
        assert (
            answer(folder / "run", "--deep", "--models", 41, "--seed", 9, "--json", file)
            == EXIT_CODES["UNANCHORED"]
        )
        return file

    def test_the_report_says_what_was_asked_and_found(self, report: Path) -> None:
        told = json.loads(report.read_text())
        assert told["options"]["deep"] == {"models": 41, "seed": 9}
        # Of an odd number of models the last half is the larger: 21, ten of them with the canary.
        (record,) = told["deep"]
        assert {(bound["inside"], bound["out"]) for bound in record["bounds"]} == {(10, 11)}
        assert told["assumptions"][-1].startswith("Deep:")

    def test_it_is_verified_by_training_again(self, report: Path) -> None:
        assert answer("--verify", report) == EXIT_CODES["UNANCHORED"]
        told = json.loads(report.read_text())
        told["deep"][0]["bounds"][0]["threshold"] += 0.01
        other = report.with_name("other.json")
        other.write_text(json.dumps(told))
        write(read(other), other)
        assert verify_report(other) == ["deep[0].bounds[0].threshold"]

    def test_a_ledger_alone_cannot_be_trained(
        self, honest: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert answer(honest / "ledger.sqlite", "--deep") == 2
        assert "no path is a run" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--deep", "--models", 39), "--models 39: a deep audit needs 40 or more"),
            (("--deep", "--models", -1), "--models -1"),
            (("--deep", "--seed", -1), "--seed -1: it must lie in"),
            (("--models", 100), "--models and --seed are for --deep"),
            (("--seed", 1), "--models and --seed are for --deep"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self,
        honest: Path,
        options: tuple[object, ...],
        said: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert answer(honest, *options) == 2
        assert said in capsys.readouterr().err
