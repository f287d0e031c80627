"""An honest run passes; each planted fault fails exactly the claims that it breaks."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from audits.planted import Row, history, rewritten, summary
from privet.audits import Report, audit
from privet.errors import DataError
from privet.privacy.accounting import decode_event, dp_sgd_event, encode_event
from privet.privacy.accounting.spending import epsilon
from privet.privacy.ledger import Ledger, SiloKey, export
from privet.privacy.ledger.costs import event_text

pytestmark = pytest.mark.usefixtures("tried_once")


def audited(*paths: Path, **options: object) -> Report:
    return audit(paths, base=paths[0].parent, **options)  # type: ignore[arg-type]


def failed(*paths: Path, **options: object) -> set[str]:
    """But for `record.files`: these faults are an insider's, whose ledger names what it likes."""
    found = {c.id for c in audited(*paths, **options).claims if c.verdict == "FAIL"}
    return found - {"record.files"}


def anchor(folder: Path) -> dict[str, str]:
    return {"simulation": SiloKey.load(folder / "ledger.key").public}


@pytest.mark.parametrize(
    "name", ["experiment.toml", "history.jsonl", "summary.json", "model.safetensors", "silos.json"]
)
def test_a_file_that_is_not_the_one_that_was_signed(run: Path, name: str) -> None:
    path = run / name
    if name == "model.safetensors":
        save_file({key: value + 1 for key, value in load_file(path).items()}, path)
    elif name == "history.jsonl":
        history(run, lambda lines: lines[1]["seconds"].update(total=9.5))
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    (claim,) = (c for c in audited(run).claims if c.id == "record.files")
    assert (claim.verdict, claim.evidence[0]) == ("FAIL", f"{name}: it is another file")


def test_a_model_that_is_gone_and_canaries_of_another_run(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "canaries").mkdir(exist_ok=True)
    (run / "canaries" / "silo-9.jsonl").write_text("")
    (claim,) = (c for c in audited(run).claims if c.id == "record.files")
    assert claim.evidence == (
        "model.safetensors: it is not there",
        "canaries/silo-9.jsonl: it was not there",
    )


def insider(folder: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    rewritten(folder / "ledger.sqlite", folder / "ledger.key", change)


def of(rows: list[Row], silo: str, round_: int, kind: str = "commit") -> Row:
    """The training entry of a silo's round."""
    trained = [r for r in rows if r["event"] is None or "poisson" in r["event"]]
    return next(r for r in trained if (r["dataset"], r["round"], r["kind"]) == (silo, round_, kind))


@pytest.mark.parametrize("name", ["clear", "sealed"])
def test_an_honest_run_passes_every_claim(golden: Path, name: str) -> None:
    report = audited(golden / name, keys=anchor(golden / name))
    unknown = {claim.id for claim in report.claims if claim.verdict == "UNKNOWN"}
    assert (report.verdict, unknown) == ("PASS", {"mechanism.canaries"})
    assert audited(golden / name).verdict == "UNANCHORED"
    ids = [claim.id for claim in report.claims]
    assert len(ids) == len(set(ids))
    assert ("encryption.sums" in ids) == (name == "sealed")


def test_a_ledger_that_is_rewritten_without_a_change_still_passes(run: Path) -> None:
    """What follows rests on it: the insider's ledgers are found by what they say alone."""
    insider(run, lambda rows: rows)
    assert failed(run) == set()


def test_a_removed_entry_breaks_the_chain(run: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(run / "ledger.sqlite")
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DELETE FROM entries WHERE sequence = 9")
    connection.commit()
    connection.close()
    assert failed(run) == {"record.chain"}


def test_a_round_without_an_entry(run: Path) -> None:
    def without(rows: list[Row]) -> list[Row]:
        gone = of(rows, "silo-0", 1, "reserve")["sequence"]
        return [r for r in rows if gone not in (r["sequence"], r["reservation"])]

    insider(run, without)
    assert failed(run) == {"record.complete", "sum.recomputed"}


def test_an_entry_without_a_round(run: Path) -> None:
    def one_more(rows: list[Row]) -> list[Row]:
        reserve, commit = (copy.deepcopy(of(rows, "silo-1", 1, k)) for k in ("reserve", "commit"))
        for row in (reserve, commit):
            row.pop("sequence")
            row |= {"round": 9, "time": rows[-1]["time"]}
        return [*rows, reserve, commit | {"reservation": reserve}]

    insider(run, one_more)
    assert failed(run) == {"record.complete", "budget.target", "sum.accountants"}


def test_an_interrupted_round_is_no_fault_and_is_counted(run: Path) -> None:
    spent = audited(run).sums

    def uncommitted(rows: list[Row]) -> list[Row]:
        reserve = copy.deepcopy(of(rows, "silo-1", 1, "reserve"))
        reserve.pop("sequence")
        return [*rows, reserve | {"round": 3, "time": rows[-1]["time"]}]

    insider(run, uncommitted)
    report = audited(run, keys=anchor(run))
    assert report.verdict == "PASS"
    complete = next(c for c in report.claims if c.id == "record.complete")
    assert any("never committed: interrupted" in line for line in complete.evidence)
    (before,) = (each.epsilon for each in spent if each.silo == "silo-1")
    (after,) = (each for each in report.sums if each.silo == "silo-1")
    assert after.epsilon > before
    assert after.interrupted == 1


def _lied(folder: Path, change: Callable[[Row], Row], *, ledger: bool = False) -> None:
    """Every event of silo-1 is told otherwise, in history and summary, with the epsilon of that."""
    events = []

    def lines(found: list[Row]) -> None:
        for line in found:
            told = line["events"].get("silo-1")
            if told:
                line["events"]["silo-1"] = change(told)
                events.append(line["events"]["silo-1"])
            measured = (line["evaluation"] or {}).get("events", {}).get("silo-1")
            events.extend([measured] if measured else [])
            spent = line["epsilon"]["per_silo"]
            spent["silo-1"] = epsilon([decode_event(each) for each in events], delta=1e-5)
            line["epsilon"]["max"] = max(spent.values())

    history(folder, lines)
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])["epsilon"]
    summary(folder, lambda found: found["epsilon"].update(last))


def _with(event: Row, *, noise: float = 1.0, rate: float = 1.0) -> Row:
    changed = copy.deepcopy(event)
    changed["event"]["sampling_rate"] *= rate
    changed["event"]["event"]["noise_multiplier"] *= noise
    return changed


@pytest.mark.parametrize("lie", [{"noise": 1.5}, {"rate": 0.5}], ids=["noise", "sampling rate"])
def test_a_history_that_claims_less_than_the_ledger_charged(
    run: Path, lie: dict[str, float]
) -> None:
    _lied(run, lambda event: _with(event, **lie))
    found = failed(run)
    # The largest epsilon is another silo's now, and the summary's cross-checks are of the true one.
    assert found == {"sum.events", "sum.recomputed"}


def test_a_claimed_epsilon_that_is_too_low(run: Path) -> None:
    def lower(found: list[Row]) -> None:
        for line in found:
            spent = line["epsilon"]["per_silo"]
            spent["silo-1"] *= 0.999
            line["epsilon"]["max"] = max(spent.values())

    history(run, lower)
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])["epsilon"]
    summary(run, lambda found: found["epsilon"].update(last))
    assert failed(run) == {"sum.recomputed"}


def test_a_sampling_rate_that_the_records_do_not_give(run: Path) -> None:
    """Ledger, history and summary agree on it; batch size and number of records do not."""

    def rarer(event: Row) -> Row:
        return _with(event, rate=0.5)

    def rewrite(rows: list[Row]) -> list[Row]:
        for row in rows:
            if row["dataset"] == "silo-1" and row["event"] and "poisson" in row["event"]:
                row["event"] = event_text(decode_event(rarer(json.loads(row["event"]))))
        return rows

    _lied(run, rarer)
    insider(run, rewrite)
    summary(run, lambda found: found["epsilon"].update(cross_checks=None))
    assert failed(run) == {"mechanism.settings"}


@pytest.mark.parametrize("missing", [1, -1])
def test_other_steps_than_the_settings_give(run: Path, missing: int) -> None:
    """Ledger, history and summary agree on them; the settings do not."""

    def other(event: Row) -> Row:
        return {**event, "times": event["times"] - missing}

    def rewrite(rows: list[Row]) -> list[Row]:
        for row in rows:
            if row["dataset"] == "silo-1" and row["event"] and "poisson" in row["event"]:
                row["event"] = event_text(decode_event(other(json.loads(row["event"]))))
        return rows

    _lied(run, other)
    insider(run, rewrite)
    summary(run, lambda found: found["epsilon"].update(cross_checks=None))
    assert "mechanism.settings" in failed(run)


def test_an_edited_history(run: Path) -> None:
    history(run, lambda lines: lines[2]["participants"].remove("silo-1"))
    assert failed(run) == {"record.summary"}
    history(run, lambda lines: lines[2]["events"].pop("silo-1"))
    assert failed(run) == {"record.complete", "record.summary", "sum.recomputed"}


def test_a_history_of_which_a_round_is_gone(run: Path) -> None:
    history(run, lambda lines: lines.pop(2))
    assert failed(run) == {"record.readable"}


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(accuracy=0.99),
        lambda found: found["evaluation"]["per_silo"]["silo-0"].update(accuracy=0.99),
        lambda found: found.update(client_updates=3),
        lambda found: found.update(rounds=2),
        lambda found: found["epsilon"].update(delta=1e-3),
    ],
)
def test_an_edited_summary(run: Path, change: Callable[[Row], None]) -> None:
    summary(run, change)
    assert failed(run) == {"record.summary"}


def test_a_summary_with_a_smaller_epsilon(run: Path) -> None:
    summary(run, lambda found: found["epsilon"]["per_silo"].update({"silo-0": 0.5}))
    assert failed(run) == {"record.summary", "sum.recomputed"}


def test_records_that_stand_under_two_names(run: Path) -> None:
    def same(rows: list[Row]) -> list[Row]:
        notes = [r for r in rows if r["kind"] == "note" and "fingerprint" in (r["detail"] or "")]
        first, second = (json.loads(note["detail"]) for note in notes[:2])
        second["fingerprint"]["content"] = first["fingerprint"]["content"]
        notes[1]["detail"] = json.dumps(second)
        return rows

    insider(run, same)
    assert failed(run) == {"record.once"}


def test_a_silo_with_two_ledgers(tmp_path: Path) -> None:
    key = SiloKey.create(tmp_path / "key")
    for name in ("one", "two"):
        Ledger.create(tmp_path / f"{name}.sqlite", key).close()
    assert failed(tmp_path / "one.sqlite") == set()
    assert failed(tmp_path / "one.sqlite", tmp_path / "two.sqlite") == {"record.once"}


def test_a_copy_of_a_ledger_is_no_second_one(run: Path, tmp_path: Path) -> None:
    copy_ = tmp_path / "bundle.json"
    with Ledger.open(run / "ledger.sqlite", SiloKey.load(run / "ledger.key")) as ledger:
        export(ledger, copy_)
    assert failed(run, copy_) == set()


def test_an_export_with_a_wrong_signature(run: Path, tmp_path: Path) -> None:
    copy_ = tmp_path / "bundle.json"
    with Ledger.open(run / "ledger.sqlite", SiloKey.load(run / "ledger.key")) as ledger:
        export(ledger, copy_)
    found = json.loads(copy_.read_text())
    found["signature"] = found["signature"][:-1] + ("0" if found["signature"][-1] != "0" else "1")
    copy_.write_text(json.dumps(found))
    assert failed(copy_) == {"record.chain"}


def test_a_ledger_signed_by_another_key_than_the_silos(run: Path) -> None:
    report = audited(run, keys=anchor(run))
    assert report.verdict == "PASS"
    assert {c.id for c in report.claims if c.verdict != "PASS"} == {"mechanism.canaries"}
    assert failed(run, keys={"simulation": "ab" * 32}) == {"record.signer"}


def test_the_key_of_one_silo_vouches_for_no_other(run: Path) -> None:
    """One ledger of a run whose key is a silo's, with entries for all: its own are believed."""
    report = audited(run, keys={"silo-0": anchor(run)["simulation"]})
    assert report.verdict == "INCOMPLETE"
    (claim,) = (c for c in report.claims if c.id == "sum.recomputed")
    assert "silo-1, silo-2" in claim.evidence[0]
    assert "silo-0" not in claim.evidence[0]


def test_what_a_terminal_would_obey_is_written_out(run: Path) -> None:
    (run / "history.jsonl").write_text('{"round": "\x1b[2J"}\n')
    (claim,) = (c for c in audited(run).claims if c.verdict == "FAIL")
    assert claim.evidence[0].isprintable()


def test_a_folder_whose_name_no_report_can_hold_is_refused(run: Path) -> None:
    other = run.rename(run.with_name("run\x1b[2J"))
    with pytest.raises(DataError, match=r"x1b\[2J': its name is not printable"):
        audited(other)


def test_a_budget_that_was_passed_for_a_moment(run: Path) -> None:
    dear = event_text(dp_sgd_event(noise_multiplier=0.6, sampling_rate=1.0, steps=20))

    def for_a_moment(rows: list[Row]) -> list[Row]:
        reserve = copy.deepcopy(of(rows, "silo-1", 1, "reserve"))
        reserve.pop("sequence")
        reserve |= {"job": "other", "event": dear, "time": rows[-1]["time"]}
        release = {**reserve, "kind": "release", "event": None, "detail": None}
        return [*rows, reserve, release | {"reservation": reserve}]

    insider(run, for_a_moment)
    report = audited(run)
    (claim,) = (each for each in report.claims if each.verdict == "FAIL")
    assert claim.id == "budget.every-moment"
    assert "the limit is epsilon 8" in claim.evidence[0]
    (spent,) = (each.epsilon for each in report.sums if each.silo == "silo-1")
    assert spent < 8


def _moved(rows: list[Row], where: int, by: timedelta) -> None:
    rows[where]["time"] = (datetime.fromisoformat(rows[where]["time"]) + by).isoformat(
        timespec="microseconds"
    )


def test_a_clock_that_was_set_back(run: Path) -> None:
    def back(rows: list[Row]) -> list[Row]:
        for where in range(20, len(rows)):
            _moved(rows, where, -timedelta(hours=2))
        return rows

    insider(run, back)
    # Chain and clock both say it, and a ledger that breaks the rules is not relied on any further.
    assert failed(run) == {"record.chain", "record.clock"}


def test_a_time_beyond_its_round_and_one_after_the_audit(run: Path) -> None:
    late = timedelta(hours=1)

    def stretched(rows: list[Row]) -> list[Row]:
        for where in range(of(rows, "silo-1", 2)["sequence"] - 1, len(rows)):
            _moved(rows, where, late)
        return rows

    insider(run, stretched)
    now = datetime.fromisoformat(audited(run).audited_at)
    assert failed(run, at=now + 2 * late) == {"record.times"}
    assert failed(run, at=now) == {"record.times", "record.clock"}


def test_a_clock_that_jumped_ahead_is_named(run: Path) -> None:
    def ahead(rows: list[Row]) -> list[Row]:
        first = next(where for where, row in enumerate(rows) if row["round"] == 2)
        for where in range(first, len(rows)):
            _moved(rows, where, timedelta(hours=1))
        return rows

    insider(run, ahead)
    later = datetime.fromisoformat(audited(run).audited_at) + timedelta(hours=2)
    report = audited(run, at=later, keys=anchor(run))
    (times,) = (claim for claim in report.claims if claim.id == "record.times")
    assert report.verdict == "PASS"
    assert any(line.startswith("silo-1, round 2") for line in times.evidence)


def test_versions_that_changed_in_the_middle_of_a_job(run: Path) -> None:
    def newer(rows: list[Row]) -> list[Row]:
        for row in rows[30:]:
            row["versions"] = row["versions"].replace('"opacus":"', '"opacus":"9.')
        return rows

    insider(run, newer)
    assert failed(run) == {"record.versions"}


@pytest.mark.parametrize(
    ("before", "after", "claims"),
    [
        (
            "smallest_noise_multiplier = 0.5",
            "smallest_noise_multiplier = 5.0",
            {"policy.respected"},
        ),
        ("epsilon = 8.0", "epsilon = 1.0", {"budget.every-moment"}),
        ('release = "exact"', 'release = "withheld"', {"policy.respected"}),
        ("noise_multiplier = 20.0", "noise_multiplier = 30.0", {"policy.respected"}),
        ('tasks = ["*"]', 'tasks = ["adult"]', {"policy.respected"}),
    ],
)
def test_a_policy_that_is_stricter_than_what_ran(
    run: Path, before: str, after: str, claims: set[str]
) -> None:
    text = (run / "policy.toml").read_text()
    assert before in text
    stricter = run.parent / "stricter.toml"
    stricter.write_text(text.replace(before, after))
    assert failed(run, policy=stricter) == claims
    shutil.copyfile(stricter, run / "policy.toml")
    assert failed(run) == claims


def test_a_ledger_alone_against_a_policy(run: Path) -> None:
    ledger, policy = run / "ledger.sqlite", run / "policy.toml"
    text = policy.read_text()
    assert failed(ledger, policy=policy) == set()
    policy.write_text(text.replace("epsilon = 8.0", "epsilon = 8.0\nepsilon_per_month = 1.0"))
    assert failed(ledger, policy=policy) == {"budget.every-moment"}
    policy.write_text(text.replace('requesters = ["*"]', 'requesters = ["somebody"]'))
    assert failed(ledger, policy=policy) == {"policy.respected"}


def test_an_encrypted_sum_of_other_silos_than_the_ledgers_say(sealed_run: Path) -> None:
    def fewer(lines: list[Row]) -> None:
        for each in (lines[1]["participants"], lines[1]["events"], lines[1]["arrived"]):
            each.pop("silo-1") if isinstance(each, dict) else each.remove("silo-1")

    history(sealed_run, fewer)
    summary(sealed_run, lambda found: found.update(client_updates=found["client_updates"] - 1))
    assert failed(sealed_run) == {"encryption.sums", "record.complete", "sum.recomputed"}


def test_the_last_sum_says_itself_whose_it_is(sealed_run: Path) -> None:
    told = next(c for c in audited(sealed_run).claims if c.id == "encryption.sums")
    assert told.evidence[0] == "2 silos of round 3 signed for the model in the checkpoint"
    history(sealed_run, lambda lines: lines[-1]["participants"].pop())
    told = next(c for c in audited(sealed_run).claims if c.id == "encryption.sums")
    assert any("the model in the checkpoint was confirmed by" in each for each in told.evidence)


def test_an_encrypted_sum_of_fewer_silos_than_were_asked_for(sealed_run: Path) -> None:
    settings = sealed_run / "experiment.toml"
    settings.write_text(settings.read_text().replace("smallest_sum = 2", "smallest_sum = 4"))
    report = audited(sealed_run)
    failing = {each.id: each for each in report.claims if each.verdict == "FAIL"}
    assert set(failing) == {"encryption.sums", "record.files"}
    assert "encryption.smallest_sum = 4" in failing["encryption.sums"].evidence[0]


def test_a_loss_that_left_beside_a_private_update(run: Path) -> None:
    history(run, lambda lines: lines[1]["arrived"]["silo-1"].update({"metrics.loss": 1}))
    assert failed(run) == {"leaks.listed"}
    history(run, lambda lines: lines[1]["arrived"]["silo-1"].update({"diary.text": 1}))
    report = audited(run)
    (claim,) = (each for each in report.claims if each.id == "leaks.listed")
    assert any("diary.text" in line for line in claim.evidence)


def test_updates_of_which_one_has_other_parts(run: Path) -> None:
    history(run, lambda lines: lines[1]["arrived"]["silo-1"].update({"update.more": 650}))
    assert failed(run) == {"leaks.listed"}


def test_a_history_that_did_not_count_what_arrived(run: Path) -> None:
    def older(lines: list[Row]) -> None:
        for line in lines:
            line.pop("schema")
            line.pop("arrived")

    history(run, older)
    report = audited(run, keys=anchor(run))
    assert failed(run) == set()
    assert "leaks.listed" in {c.id for c in report.claims if c.verdict == "UNKNOWN"}


def test_an_interrupted_run_is_audited_as_far_as_it_got(run: Path) -> None:
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text("".join(lines[:3]) + lines[3][:50])
    (run / "summary.json").unlink()
    report = audited(run, keys=anchor(run))
    assert report.verdict == "INCOMPLETE"
    claims = {claim.id: claim for claim in report.claims}
    assert claims["record.summary"].verdict == "UNKNOWN"
    assert any("interrupted in" in line for line in claims["record.complete"].evidence)


def test_encoded_events_are_what_the_planted_lies_are_made_of() -> None:
    event = encode_event(dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=2))
    assert _with(event, noise=2.0, rate=0.5)["event"]["sampling_rate"] == 0.05
