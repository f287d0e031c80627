"""`privet compare`: what stands side by side, what may not, and what is said of differences."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.commands.cli import main
from privet.errors import DataError, PrivetError
from privet.privacy.ledger import read_history
from privet.reports.compare import Comparison, compare
from privet.reports.compare.comparison import differing_keys, groups_of, pairs_of, warnings
from privet.reports.compare.entries import ComparisonEntry, read_entries
from privet.sweeps.statistics import half_width
from privet.sweeps.store import read_sweep


def _compare(home: Path, *names: str, target: float | None = None) -> Comparison:
    return compare([home / name for name in names], target=target)


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def command(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`privet compare` among the folders, in this process."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as end:
            main(["compare", *map(str, arguments)])
        told = capsys.readouterr()
        return Done(int(end.value.code or 0), told.out, told.err)

    return run


def test_a_run_says_what_its_folder_holds(folders: Path) -> None:
    entry = _compare(folders, "avg-3", "plain", target=0.3).entries[0]
    summary = json.loads((folders / "avg-3" / "summary.json").read_text())
    history = [
        json.loads(line) for line in (folders / "avg-3" / "history.jsonl").read_text().splitlines()
    ]
    ledger = read_history(folders / "avg-3" / "ledger.sqlite")
    assert entry.values == {3: summary["accuracy"]}
    assert entry.epsilon == max(ledger.spent(name, delta=1e-5) for name in ledger.datasets)
    assert entry.curve == {line["round"]: line["accuracy"] for line in history}
    assert entry.rounds_to_target == (
        next(line["round"] for line in history if line["accuracy"] >= 0.3),
    )
    assert entry.bytes_up == sum(line["bytes"]["up"] for line in history)
    assert entry.seconds == summary["seconds"]["total"]


def test_reading_leaves_folders_as_they_were(folders: Path, tmp_path: Path) -> None:
    for name in ("slow-3", "slow"):
        shutil.copytree(folders / name, tmp_path / name)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    _compare(tmp_path, "slow-3", "slow")
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


def test_a_sweep_gives_its_estimates(folders: Path) -> None:
    sweep = read_sweep(folders / "fast")
    found = _compare(folders, "fast", "avg-3", target=0.5)
    for entry, estimate in zip(found.entries, sweep.estimates, strict=False):
        assert (entry.value, entry.half_width) == (estimate.mean, estimate.half_width)
        assert (entry.epsilon, entry.seeds, entry.kind) == (
            estimate.epsilon,
            estimate.seeds,
            estimate.kind,
        )
        assert entry.task == "digits"
    of_first = [c for c in sweep.cells if c.settings == sweep.estimates[0].settings]
    assert found.entries[0].rounds_to_target == tuple(c.rounds_to(0.5) for c in of_first)


def test_only_settings_that_differ_are_shown(folders: Path) -> None:
    assert _compare(folders, "avg-3", "slow-3").differs == ("training.lr",)
    assert _compare(folders, "avg-3", "avg-4").differs == ()
    # Without [privacy] its other keys say nothing; pooled data's settings are the sweep's own.
    assert _compare(folders, "avg-3", "plain").differs == ("rounds", "privacy.epsilon")
    assert _compare(folders, "fast", "slow").differs == ("training.lr", "privacy.epsilon")


def test_one_run_against_one_run_is_no_claim(folders: Path) -> None:
    [pair] = _compare(folders, "avg-3", "slow-3").pairs
    assert pair.seeds == 1
    assert pair.p is pair.p_holm is None
    assert pair.words.endswith("with one seed, which shows nothing: no claim")
    [other] = _compare(folders, "avg-3", "slow-4").pairs
    assert other.difference is None
    assert other.words.endswith("no seed in common, so no claim")


def test_runs_that_differ_by_their_seed_are_one_group(folders: Path) -> None:
    names = [f"{kind}-{seed}" for kind in ("avg", "slow") for seed in (3, 4, 5)]
    found = _compare(folders, *names)
    accuracies = [entry.value for entry in found.entries]
    assert None not in accuracies
    differences = [b - a for a, b in zip(accuracies[:3], accuracies[3:], strict=True)]  # type: ignore[operator]
    [pair] = found.pairs
    assert pair.seeds == 3
    assert pair.difference == pytest.approx(sum(differences) / 3)
    assert pair.half_width == pytest.approx(half_width(differences))
    assert pair.p_holm is not None
    assert pair.p_holm < 0.05
    assert "avg-3" in pair.words.split(" is better than ")[0]
    assert [note.count("together") for note in found.notes] == [1, 1]


def test_sweeps_are_compared_where_they_swept_the_same(folders: Path) -> None:
    found = _compare(folders, "fast", "slow")
    told = [(pair.first.split(": ")[1], pair.second.split(": ")[1]) for pair in found.pairs]
    assert told == [("epsilon 4", "epsilon 4"), ("epsilon 8", "epsilon 8")]
    p = sorted((pair.p or 1.0, pair.p_holm or 1.0) for pair in found.pairs)
    assert p[0][1] == pytest.approx(2 * p[0][0])  # the smaller of two, by Holm
    assert p[1][1] == pytest.approx(max(p[1][0], p[0][1]))
    assert p[1][1] < 0.05
    assert all("Holm over 2 comparisons" in pair.words for pair in found.pairs)


def test_the_same_setting_as_run_and_in_a_sweep_is_one_group(folders: Path) -> None:
    found = _compare(folders, "avg-3", "fast")
    assert found.pairs == ()  # a sweep compares its own settings itself
    [note] = found.notes
    assert "over 3 seeds" in note
    assert found.entries[0].value == found.entries[1].values[3]


@given(order=st.permutations(["avg-3", "avg-4", "slow-3", "slow-4", "plain", "fast"]))
def test_the_order_of_folders_changes_no_test(folders: Path, order: list[str]) -> None:
    def tests(names: Sequence[str]) -> set[tuple[int, float, float]]:
        entries = [entry for name in names for entry in _entries(folders / name)]
        assert set(differing_keys(entries)) == {"training.lr", "rounds", "privacy.epsilon"}
        return {
            (pair.seeds, round(abs(pair.difference or 0), 9), round(pair.p_holm or 0, 9))
            for pair in pairs_of(groups_of(entries))
        }

    assert tests(order) == tests(sorted(order))


@cache
def _entries(folder: Path) -> list[ComparisonEntry]:
    return read_entries(folder, name=folder.name, target=None)


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (("avg-3", "hospitals"), "not the same task: digits beside heart-disease"),
        (("avg-3", "guarded"), "not the same data: 585 beside 1,437 records"),
        (
            ("avg-3", "delta"),
            "not the same delta: epsilons cannot be compared (1e-05",
        ),
        (("guarded", "withheld"), "accuracies of silos: they cannot be compared (exact and noised"),
        (("avg-3", "cut"), "cut: unfinished: 5 of 40 rounds so far"),
        (("avg-3", "hospitals"), "hospitals: no ledger: epsilon is what the summary says"),
    ],
)
def test_what_cannot_be_compared_is_said(
    folders: Path, names: tuple[str, ...], warning: str
) -> None:
    told = _compare(folders, *names).warnings
    assert any(warning in each for each in told), told


def test_what_can_be_compared_has_no_warning(folders: Path) -> None:
    assert _compare(folders, "avg-3", "slow-4", "plain", "fast", "slow").warnings == ()


@pytest.mark.parametrize("other", ["hospitals", "cut"])
def test_other_tasks_and_unfinished_runs_are_not_tested(folders: Path, other: str) -> None:
    assert _compare(folders, "avg-3", other).pairs == ()


def test_accuracies_on_other_records_are_neither_pooled_nor_tested(folders: Path) -> None:
    (entry,) = _entries(folders / "avg-3")
    own = replace(entry, name="own", source="own", measured_on="silos' own records")
    groups = groups_of([entry, own])
    assert [group.entries for group in groups] == [(entry,), (own,)]
    assert pairs_of(groups) == ()
    (told,) = warnings([entry, own])
    assert told.startswith("not the same records: accuracies cannot be compared")
    same = replace(own, measured_on=entry.measured_on)
    assert len(groups_of([entry, same])) == 1
    faster = replace(same, settings={**same.settings, "training.lr": 0.25})
    assert len(pairs_of(groups_of([entry, faster]))) == 1


def test_a_changed_ledger_is_said(folders: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folders / "avg-3", tmp_path / "changed")
    with closing(sqlite3.connect(changed / "ledger.sqlite")) as database, database:
        for name, table in database.execute(
            "select name, tbl_name from sqlite_master where type = 'trigger'"
        ).fetchall():
            if "entries" in table:
                database.execute(f"drop trigger {name}")
        database.execute("update entries set who = 'nobody' where sequence = 2")
    told = compare([changed, folders / "slow-3"]).warnings
    assert any("the ledger is not whole" in each for each in told), told


def test_the_command_prints_what_the_library_finds(command: Command, folders: Path) -> None:
    done = command("fast", "slow", "plain", "--target", "0.5")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    found = _compare(folders, "fast", "slow", "plain", target=0.5)
    for entry in found.entries:
        assert f"{entry.value:.4f}" in done.stdout
    for finding in found.findings:
        assert finding.replace(f"{folders}/", "") in done.stdout
    assert "to 0.5" in done.stdout
    assert "delta = 1e-5" in done.stdout


def test_many_settings_have_a_row_each(command: Command, folders: Path) -> None:
    done = command("avg-3", "hospitals")
    differs = _compare(folders, "avg-3", "hospitals").differs
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert len(differs) > 5
    assert [row for row in rows if row in differs] == list(differs)
    assert "2 hospitals" in done.stdout


def test_json_is_the_record(command: Command, folders: Path) -> None:
    done = command("avg-3", "delta", "--json")
    told = json.loads(done.stdout)
    found = _compare(folders, "avg-3", "delta").to_plain()
    assert told.keys() == found.keys()
    assert [entry["value"] for entry in told["entries"]] == [
        entry["value"] for entry in found["entries"]
    ]
    assert told["warnings"] == found["warnings"] != []
    assert told["schema"] == 2


def test_warnings_are_on_stderr(command: Command) -> None:
    done = command("avg-3", "delta")
    assert done.code == 0
    assert "warning: not the same delta" in done.stderr


def test_csv_holds_plain_numbers(command: Command, folders: Path, tmp_path: Path) -> None:
    done = command("fast", "plain", "--target", "0.99", "--out", str(tmp_path / "a" / "b"))
    assert done.code == 0, done.stderr
    assert str(tmp_path / "a" / "b" / "compare.html") in done.stdout
    with (tmp_path / "a" / "b" / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    entries = _compare(folders, "fast", "plain").entries
    assert [float(row["accuracy"]) for row in rows] == [entry.value for entry in entries]
    assert [row["privacy.epsilon"] for row in rows] == ["4.0", "8.0", "", ""]
    assert rows[0]["seeds"] == "3 4 5"
    assert rows[0]["rounds_to_target"] == "never never never"


def test_folders_that_are_neither_are_refused(
    command: Command, folders: Path, tmp_path: Path
) -> None:
    done = command("avg-3", str(tmp_path))
    assert done.code == 2
    assert f"{tmp_path} is neither a run's folder nor a sweep's" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(DataError, match="neither"):
        compare([folders / "avg-3", folders / "nowhere"])
    raw = json.loads((folders / "fast" / "sweep.json").read_text()) | {"estimates": []}
    (tmp_path / "sweep.json").write_text(json.dumps(raw | {"comparisons": []}))
    with pytest.raises(DataError, match="nothing to compare yet"):
        compare([folders / "avg-3", tmp_path])
    with pytest.raises(PrivetError, match="at least two"):
        compare([folders / "avg-3"])
    with pytest.raises(PrivetError, match="named twice"):
        compare([folders / "avg-3", folders / "slow-3" / ".." / "avg-3"])


def test_an_out_that_cannot_be_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command("avg-3", "plain", "--out", str(tmp_path / "file" / "x"))
    assert done.code == 2
    assert "cannot be written" in done.stderr
