"""The report: its schema, what it says of the same files again, and the way to it by hand."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audits.planted import history
from privet import api
from privet.audits import CHECKS, Report, audit, verify_report
from privet.audits.claims import EXIT_CODES
from privet.audits.report import SCHEMA_FILE, read, schema_text, to_json, write
from privet.commands.cli import main
from privet.deployment.parties import reading
from privet.deployment.trial import Trial
from privet.errors import DataError, PrivetError
from privet.privacy.ledger import Ledger, SiloKey, export, read_history
from privet.privacy.ledger.costs import event_of
from privet.privacy.ledger.keys import Fingerprint

pytestmark = pytest.mark.usefixtures("tried_once")


def run_command(*arguments: object) -> int:
    try:
        main(["audit", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_schema_beside_the_code_is_that_of_the_report() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()


def test_a_report_is_read_as_it_was_written(golden: Path, tmp_path: Path) -> None:
    report = audit([golden], base=tmp_path)
    write(report, tmp_path / "audit.json")
    assert read(tmp_path / "audit.json") == report
    required = json.loads(SCHEMA_FILE.read_text())["required"]
    assert set(json.loads(to_json(report))) == {*required, "deep"}


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    for text in ("", "[]", '{"schema": 1}'):
        file.write_text(text)
        with pytest.raises(DataError, match="no report of an audit"):
            read(file)
    assert run_command("--verify", file) == 2


def test_a_sweep_and_its_report(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = golden / "out" / "audit.json"
    assert run_command(golden, "--out", golden / "out") == EXIT_CODES["UNANCHORED"]
    assert "runs 2, ledgers and exports 2" in capsys.readouterr().out
    told = json.loads(file.read_text())
    assert told["paths"] == [".."]
    assert {each["path"] for each in told["files"]} >= {
        "../clear/history.jsonl",
        "../sealed/ledger.sqlite",
        "../sealed/ledger.sqlite.head",
    }
    shutil.rmtree(golden / "out")


def test_verify_finds_what_changed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.parent / "audit.json"
    assert run_command(run, "--json", file) == EXIT_CODES["UNANCHORED"]
    assert run_command("--verify", file) == EXIT_CODES["UNANCHORED"]
    assert verify_report(file) == []
    moved = run.parent / "elsewhere"
    moved.mkdir()
    shutil.move(run, moved / "run")
    shutil.move(file, moved / "audit.json")
    assert verify_report(moved / "audit.json") == []
    history(moved / "run", lambda lines: lines[1]["participants"].pop())
    capsys.readouterr()
    assert run_command("--verify", moved / "audit.json") == 1
    told = capsys.readouterr().out
    assert "the file run/history.jsonl is not what an audit gives now" in told
    assert "verdict" in told


def test_verify_finds_another_policy(run: Path) -> None:
    """Even one that changes no verdict: the report names what the run was held against."""
    policy, file = run.parent / "theirs.toml", run.parent / "audit.json"
    shutil.copyfile(run / "policy.toml", policy)
    assert run_command(run, "--policy", policy, "--json", file) == EXIT_CODES["UNANCHORED"]
    assert verify_report(file) == []
    policy.write_text(policy.read_text() + "# looked through again\n")
    assert verify_report(file) == ["the file theirs.toml"]


def test_a_report_that_was_edited_is_found(run: Path) -> None:
    file = run.parent / "audit.json"
    run_command(run, "--json", file)
    told = json.loads(file.read_text())
    told["sums"][0]["epsilon"] *= 0.9
    file.write_text(json.dumps(told))
    assert verify_report(file) == ["its text (keys, order or spaces)"]
    write(read(file), file)
    assert verify_report(file) == ["sums[0].epsilon"]


def test_the_command_says_what_fails(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    history(run, lambda lines: lines[2]["participants"].remove("silo-1"))
    assert run_command(run) == 1
    told = capsys.readouterr().out
    assert told.index("record.summary") < told.index("record.chain")
    assert "client_updates: it does not follow" in " ".join(told.split())


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("absent",),
        ("{run}/experiment.toml",),
        ("{run}/plots-that-are-not",),
        ("{run}", "--public-key", "north"),
        ("{run}", "--anchor", "=" + "ab" * 32),
        ("{run}", "--anchor", "ab" * 32),
        ("{run}", "--public-key", "north=12"),
        ("{run}", "--policy", "absent.toml"),
        ("{run}", "--out", "a", "--json", "b"),
        ("{run}", "--verify", "audit.json"),
    ],
)
def test_a_users_mistake_is_one_line(
    run: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(*(each.format(run=run) for each in arguments)) == 2
    told = capsys.readouterr().err
    assert told.startswith("privet: ")
    assert len(told.splitlines()) == 1


def test_by_hand_gives_the_same_epsilon(golden: Path) -> None:
    (told,) = (s for s in audit([golden / "clear"], base=golden).sums if s.silo == "silo-0")
    assert "privet" not in told.by_hand
    assert len(told.by_hand.splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", told.by_hand], capture_output=True, text=True, check=True
    )
    assert math.isclose(float(done.stdout), told.epsilon, rel_tol=1e-3)
    assert sum(steps for _, rate, steps in told.segments if rate < 1) % 4 == 0


def test_evidence_is_left_as_it_was(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    audit([run], base=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_check_that_cannot_be_made_is_a_claim_that_fails(golden: Path) -> None:
    def broken(run: object) -> list[object]:
        raise LookupError("nothing there")

    report = audit([golden / "clear"], base=golden, checks=(*CHECKS, broken))  # type: ignore[arg-type]
    (claim,) = (each for each in report.claims if each.verdict == "FAIL")
    assert claim.id == "record.checkable"
    assert "LookupError" in claim.evidence[0]


FLIPPED = ("history.jsonl", "summary.json", "ledger.sqlite", "ledger.sqlite.head")


@pytest.fixture(scope="module")
def spoilt(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(golden / "clear", tmp_path_factory.mktemp("flips") / "run"))


@pytest.fixture(scope="module")
def honest(spoilt: Path) -> Report:
    return audit([spoilt], base=spoilt)


@settings(max_examples=120)
@given(
    name=st.sampled_from(FLIPPED),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_fails_or_changes_nothing(
    spoilt: Path, honest: Report, name: str, place: float, bit: int
) -> None:
    file = spoilt / name
    content = file.read_bytes()
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    try:
        file.write_bytes(changed)
        report = audit([spoilt], base=spoilt)
    finally:
        file.write_bytes(content)
    if report.verdict != "FAIL":
        assert (report.claims, report.sums, report.leaks) == (
            honest.claims,
            honest.sums,
            honest.leaks,
        )


JOB = "00ab"


@pytest.fixture
def project(golden: Path, tmp_path: Path) -> Path:
    """The same run as a job of real silos: a folder that was fetched, and a ledger at each silo.

    The silos' data sets are called "records"; silo-3 gave an export.
    """
    folder = Path(shutil.copytree(golden / "clear", tmp_path / "job"))
    told = read_history(folder / "ledger.sqlite")
    for file in ("ledger.sqlite", "ledger.sqlite.head", "ledger.key", "silos.json"):
        (folder / file).unlink()
    (folder / "job.json").write_text(json.dumps({"id": JOB, "project": "p", "requester": "me"}))
    for silo in told.datasets:
        key = SiloKey.create(tmp_path / f"{silo}.key")
        with Ledger.create(tmp_path / f"{silo}.sqlite", key) as ledger:
            ledger.register("records", Fingerprint(10, "schema", silo))
            for charge in told.charged(silo):
                event = event_of(charge.event or "")
                ledger.reserve(
                    dataset="records",
                    job=JOB,
                    round=charge.reserve.round or 0,
                    event=event,
                    who="me",
                    use=charge.use,  # type: ignore[arg-type]
                ).commit(event)
            if silo == "silo-3":
                export(ledger, tmp_path / "silo-3.json")
    (tmp_path / "silo-3.sqlite").unlink()
    return tmp_path


def keys_of(project: Path) -> dict[str, str]:
    return {key.stem: SiloKey.load(key).public for key in sorted(project.glob("*.key"))}


def test_a_job_of_real_silos(project: Path) -> None:
    report = audit([project], base=project, keys=keys_of(project))
    verdicts = {(claim.id, claim.subject): claim.verdict for claim in report.claims}
    assert report.verdict == "PASS"
    assert {id_ for (id_, _), v in verdicts.items() if v != "PASS"} == {
        "mechanism.canaries",
        "record.files",
    }
    assert {s.silo for s in report.sums if s.job == JOB} == {f"silo-{i}" for i in range(4)}


def test_a_job_of_which_a_silo_gave_no_ledger(project: Path) -> None:
    (project / "silo-1.sqlite").unlink()
    report = audit([project], base=project, keys=keys_of(project))
    assert report.verdict == "INCOMPLETE"
    unknown = {claim.id: claim for claim in report.claims if claim.verdict == "UNKNOWN"}
    assert {"record.complete", "sum.recomputed", "budget.target"} <= set(unknown)
    assert "silo-1" in unknown["record.complete"].evidence[0]


def test_the_ledger_of_one_silo_cannot_stand_for_anothers(project: Path) -> None:
    keys = keys_of(project)
    keys["silo-0"], keys["silo-1"] = keys["silo-1"], keys["silo-0"]
    report = audit([project], base=project, keys=keys)
    assert {c.id for c in report.claims if c.verdict == "FAIL"} >= {"sum.events", "sum.recomputed"}


def test_the_keys_of_a_projects_signed_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = Trial.create(tmp_path / "project")
    kits = tmp_path / "project" / "kits"
    ledgers = sorted(kits.glob("*/ledger.sqlite"))
    parties, key = kits / "parties.json", SiloKey.load(kits / "project.key").public
    file = tmp_path / "audit.json"
    assert len(ledgers) == len(trial.silos)
    assert run_command(*ledgers, parties, "--public-key", f"project={key}", "--json", file) == 0
    told = read(file)
    signers = [claim for claim in told.claims if claim.id == "record.signer"]
    assert [claim.verdict for claim in signers] == ["PASS"] * len(ledgers)
    assert set(told.options.public_keys) == {"project", *trial.silos}
    capsys.readouterr()
    assert run_command(*ledgers, parties, "--public-key", f"project={'ab' * 32}") == 2
    assert "signed by none of the keys" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [("simulation", "signs for all silos"), ("north", "not the one that was given")],
)
def test_a_list_gives_no_silo_a_key_for_others_and_none_in_place_of_a_given_one(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    silo = SimpleNamespace(name=name, identity="ab" * 32, role="silo")
    listed = SimpleNamespace(members=[silo])
    monkeypatch.setattr(reading, "load_parties", lambda *_, **__: listed)
    parties = tmp_path / "parties.json"
    parties.write_text('{"signed": {}}')
    with pytest.raises(PrivetError, match=said):
        api.audit([golden / "clear", parties], keys={"north": "cd" * 32}, anchors=["ef" * 32])
