"""What the keeper of a ledger sees."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privet.commands.ledger import ledger_cli
from privet.errors import PrivetError
from privet.privacy.accounting import dp_sgd_event, epsilon
from privet.privacy.accounting.events import plain_event
from privet.privacy.ledger import Ledger, LedgerError, LedgerRefusal, SiloKey, verify


def call(*arguments):
    return CliRunner(env={"COLUMNS": "140"}).invoke(ledger_cli, [str(a) for a in arguments])


def steps(count):
    return dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=count)


@pytest.fixture
def used(ledger, records, clock):
    ledger.register("lung", records(1))
    for number in range(4):
        clock.forward(hours=7)
        with ledger.reserve(
            dataset="heart", job=f"trial-{number % 2}", round=number, event=steps(10), who="lab"
        ) as reservation:
            reservation.records(lambda: None)
            if number != 3:
                reservation.commit(steps(8))
    ledger.close()


def test_show_tells_committed_reserved_and_left(used, path):
    done = call("show", path, "--budget", 10)
    assert done.exit_code == 0, done.output
    line = next(row for row in done.output.splitlines() if "heart" in row)
    spent = epsilon([steps(34)], delta=1e-5)
    for figure in (epsilon([steps(24)], delta=1e-5), spent, 10 - spent):
        assert f"{figure:.3f}" in line
    assert "all jobs" in line
    assert "trial-0" in done.output
    assert "trial-1" in done.output
    assert "lung" in done.output
    assert "lung" not in call("show", path, "--dataset", "heart").output


def test_show_draws_epsilon_over_time(used, path, tmp_path):
    done = call("show", path, "--plot", tmp_path / "plot.png", "--budget", 5)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_job_looks_the_same_in_every_panel_and_what_is_infinite_is_not_drawn(
    ledger, records, path, clock, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        "privet.reports.ledger.picture", lambda charts, *_, **__: drawn.extend(charts) or b""
    )
    ledger.register("lung", records(1))
    for dataset, job, event in (
        ("heart", "one", steps(10)),
        ("heart", "two", steps(10)),
        ("lung", "two", steps(10)),
        ("lung", "plain", plain_event()),
    ):
        clock.forward(hours=7)
        with ledger.reserve(dataset=dataset, job=job, round=1, event=event, who="lab") as reserved:
            reserved.records(lambda: None)
    ledger.close()
    assert call("show", path, "--plot", tmp_path / "plot.png").exit_code == 0
    heart, lung = ({key.name: key.style for key in chart.legend} for chart in drawn)
    assert heart["two"] == lung["two"]
    assert len({heart["one"], heart["two"], lung["plain"]}) == 3
    level = {shape.style: shape.parts for shape in drawn[1].shapes}
    assert level[f"curve {lung['plain']}"] == []
    assert all(0 <= y <= 100 for part in level["curve total"] for _, y in part)


def test_show_names_the_nearest_data_set(used, path):
    with pytest.raises(PrivetError, match="Did you mean 'heart'"):
        raise call("show", path, "--dataset", "hearth").exception


def test_verify_says_well_and_exits_1_when_not(used, path, key, other_key):
    assert "every entry is in place" in call("verify", path, "--public-key", key.public).output
    bad = call("verify", path, "--public-key", other_key.public)
    assert bad.exit_code == 1
    assert "another key" in bad.output


def test_export_and_verify_against_it(used, path, key, my_key, tmp_path):
    bundle = tmp_path / "bundle.json"
    done = call("export", path, bundle, "--key", my_key)
    assert done.exit_code == 0, done.output
    assert key.public in done.output.replace("\n", "")
    assert call("verify", bundle, "--public-key", key.public).exit_code == 0
    assert call("verify", path, "--against", bundle).exit_code == 0


def test_the_commands_load_nothing_heavy():
    heavy = "torch flwr matplotlib opacus sklearn scipy pandas dp_accounting numpy"
    probe = f"import privet.commands.ledger, sys; print(*set({heavy.split()!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_init_begins_a_ledger_and_a_key_once(tmp_path: Path) -> None:
    ledger, key = tmp_path / "ledger.sqlite", tmp_path / "silo.key"
    done = CliRunner().invoke(ledger_cli, ["init", str(ledger), "--key", str(key)])
    assert done.exit_code == 0
    assert SiloKey.load(key).public in done.output
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes().hex() not in done.output
    again = CliRunner().invoke(ledger_cli, ["init", str(ledger), "--key", str(key)])
    assert isinstance(again.exception, LedgerError)
    assert verify(ledger, SiloKey.load(key).public) == []


@pytest.fixture
def my_key(key, tmp_path_factory):
    """The file of `key`."""
    return next(
        p for p in tmp_path_factory.getbasetemp().glob("silo*/silo.key")
        if SiloKey.load(p).public == key.public
    )  # fmt: skip


def test_show_tells_what_was_refused(ledger, path):
    for number in range(30):
        job = {"dataset": "heart", "job": f"trial-{number}", "who": "mallory"}
        ledger.note_job("refused: training.plain", **job)
    ledger.close()
    output = call("show", path).output
    assert "The last 20 of 30 remarks" in output
    assert "heart, job trial-29 of mallory: refused: training.plain" in output
    assert "trial-9 " not in output


def test_changed_records_are_taken_once_the_operator_says_so(used, path, key, my_key, records):
    with (
        Ledger.open(path, key) as ledger,
        pytest.raises(LedgerRefusal, match="privet ledger grown"),
    ):
        ledger.register("heart", records(7))
    done = call("grown", path, "heart", "--key", my_key)
    assert done.exit_code == 0, done.output
    with Ledger.open(path, key) as ledger:
        before = ledger.spent("heart", delta=1e-5)
        ledger.register("heart", records(7))
        assert ledger.spent("heart", delta=1e-5) == before > 0
        with pytest.raises(LedgerRefusal, match="has changed"):
            ledger.register("heart", records(8))
    assert isinstance(call("grown", path, "liver", "--key", my_key).exception, LedgerRefusal)
    assert verify(path, key.public) == []


def test_a_clock_that_ran_ahead_is_vouched_for(path, key, my_key, records):
    ahead = datetime.now(UTC) + timedelta(days=3)
    with Ledger.create(path, key, clock=lambda: ahead) as ledger:
        ledger.register("heart", records(0))
    refused = call("note", path, "now it is right", "--key", my_key)
    assert "--clock-set-back" in str(refused.exception)
    done = call("note", path, "now it is right", "--key", my_key, "--clock-set-back")
    assert done.exit_code == 0, done.output
    with Ledger.open(path, key) as ledger:
        ledger.note("and goes on", who="operator")
    assert verify(path, key.public) == []


def test_a_plot_of_nothing_and_an_unknown_kind_of_picture_are_one_line(used, path, tmp_path):
    empty = tmp_path / "empty.sqlite"
    made = call("init", empty, "--key", tmp_path / "new.key")
    assert made.exit_code == 0, made.output
    for ledger, name, said in ((empty, "a.png", "nothing to draw"), (path, "a.foo", "'foo'")):
        done = call("show", ledger, "--plot", tmp_path / name)
        assert isinstance(done.exception, PrivetError | SystemExit)
        assert said in f"{done.exception} {done.output}"
        assert not (tmp_path / name).exists()
