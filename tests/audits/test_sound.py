"""What no epsilon holds for fails, whatever its record says; what is not known is said first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from privet import Execution, Experiment
from privet.audits import audit
from privet.audits.claims import EXIT_CODES
from privet.audits.deep.record import DeepOptions
from privet.client import silo
from privet.commands.cli import main
from privet.privacy.ledger import SiloKey
from privet.reports.audit import write_pages
from privet.simulations.run import simulate

SETTINGS = {
    "rounds": 2,
    "federation": {"silos": 2},
    "training": {"batch_size": 64, "steps": 2},
    "privacy": {"epsilon": 3.0},
}


def trained(out: Path, task: str, *, canaries: int = 40) -> Path:
    """A run whose silos did not look at what they trained."""
    with patch.object(silo, "check_training", lambda *_, **__: None):
        experiment = Experiment.from_mapping({"task": task, **SETTINGS})
        simulate(experiment, out=out, execution=Execution(canaries=canaries))
    return out


def command(*arguments: object) -> int:
    try:
        main(["audit", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    ("task", "word"), [("Weighted", "class weights"), ("Coupled", "depends on the others")]
)
@pytest.mark.parametrize("deep", [None, DeepOptions(models=40)])
def test_an_unsound_loss_or_model_fails_in_every_mode(
    tmp_path: Path, task: str, word: str, deep: DeepOptions | None
) -> None:
    run = trained(tmp_path / "run", f"audits.unsound:{task}")
    report = audit([run], base=tmp_path, deep=deep)
    assert report.verdict == report.headline == "FAIL"
    (claim,) = (each for each in report.claims if each.id == "mechanism.sound")
    assert claim.verdict == "FAIL"
    assert word in claim.evidence[0]


def test_a_task_that_is_not_here_is_unknown_and_said_first(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(golden / "clear", tmp_path / "run"))
    settings = (run / "experiment.toml").read_text()
    (run / "experiment.toml").write_text(settings.replace('"digits"', '"nowhere.at:All"'))
    out = tmp_path / "audit"
    command(run, "--out", out)
    told = json.loads((out / "audit.json").read_text())
    (claim,) = (each for each in told["claims"] if each["id"] == "mechanism.sound")
    assert claim["verdict"] == "UNKNOWN"
    assert "nowhere" in claim["evidence"][0]
    assert capsys.readouterr().out.splitlines()[0] == told["headline"]


def test_what_the_verdict_leans_on_is_said_first_and_strict_asks_for_it(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run had no canaries."""
    out = tmp_path / "audit"
    key = f"simulation={SiloKey.load(golden / 'clear' / 'ledger.key').public}"
    assert command(golden / "clear", "--anchor", key, "--out", out) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("PASS: of what could be decided nothing fails; UNKNOWN: mechanism.can")
    told = json.loads((out / "audit.json").read_text())
    assert next(iter(told)) == "headline"
    assert told["headline"] == first
    page = write_pages(out / "audit.json").html.read_text()
    assert "PASS, and 1 claim UNKNOWN" in page
    assert command(golden / "clear", "--anchor", key, "--strict") == 1


def test_strict_passes_a_run_of_which_nothing_is_open(tmp_path: Path) -> None:
    run = tmp_path / "run"
    experiment = Experiment.from_mapping({"task": "digits", **SETTINGS})
    simulate(experiment, out=run, execution=Execution(canaries=40))
    key = f"simulation={SiloKey.load(run / 'ledger.key').public}"
    assert command(run, "--anchor", key, "--strict") == 0


def test_who_signed_a_ledger_is_asked_for_and_has_an_exit_code_of_its_own(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ledger.sqlite", "ledger.sqlite.head"):
        shutil.copy(golden / "clear" / name, tmp_path / name)
    key = SiloKey.load(golden / "clear" / "ledger.key").public
    assert command(tmp_path / "ledger.sqlite") == EXIT_CODES["UNANCHORED"]
    assert key in capsys.readouterr().out.splitlines()[0]
    assert command(tmp_path / "ledger.sqlite", "--anchor", f"north={key}") == 0
    assert command(tmp_path / "ledger.sqlite", "--anchor", f"north={'ab' * 32}") == 1


def test_a_run_without_its_ledger_is_incomplete(golden: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(golden / "clear", tmp_path / "run"))
    key = SiloKey.load(run / "ledger.key").public
    for file in run.glob("ledger.*"):
        file.unlink()
    for given in ((), ("--anchor", f"simulation={key}")):
        assert command(run, *given) == EXIT_CODES["INCOMPLETE"]


def test_a_report_for_a_machine_is_all_that_is_printed(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(golden / "clear", "--json", "-") == EXIT_CODES["UNANCHORED"]
    assert json.loads(capsys.readouterr().out)["verdict"] == "UNANCHORED"


def test_a_report_whose_page_was_edited_is_found(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(golden / "clear", tmp_path / "run")
    out = tmp_path / "audit"
    command(tmp_path / "run", "--out", out)
    assert command("--verify", out / "audit.json") == EXIT_CODES["UNANCHORED"]
    page = out / "audit.html"
    page.write_text(page.read_text().replace("UNANCHORED", "PASS"))
    assert command("--verify", out / "audit.json") == 1
    assert "audit.html beside it" in capsys.readouterr().out
