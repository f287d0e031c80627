"""The public functions leave behind what the commands of the same names do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from privet import Experiment, PrivetError, audit, report, simulate, sweep
from privet.commands.cli import main
from privet.record.history import RoundRecord

TINY = Experiment.from_mapping(
    {
        "task": "toy_tasks:Tiny",
        "rounds": 2,
        "federation": {"silos": 2},
        "training": {"batch_size": 4},
        "privacy": {"noise_multiplier": 1.0},
    }
)
AXES = {"training.lr": [0.5, 0.3]}
OF_LEDGER = {"ledger.key", "ledger.sqlite", "ledger.sqlite.head", "ledger.sqlite.lock"}
"""Another key signs each ledger, so no two are equal."""


def command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments), "--quiet"])
    assert not end.value.code


def without_times(path: Path) -> Any:
    """What must be equal in two runs of one experiment."""
    if path.suffix in (".json", ".jsonl"):
        return [_untimed(json.loads(line)) for line in _documents(path)]
    if path.suffix == ".html":
        text = path.read_text()
        text = re.sub(r"last [0-9a-f]{12}", "last ...", text)
        text = re.sub(r"(Client updates per second</th>.*?>)[\d.,]+", r"\1", text)
        return re.sub(r"[\d.,e-]+ (ms|s)\b", "", text)
    return path.read_bytes()


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _untimed(value: Any) -> Any:
    if isinstance(value, Mapping):
        timed = {"seconds", "client_updates_per_second"}
        return {key: _untimed(each) for key, each in value.items() if key not in timed}
    return [_untimed(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "run"
    summary = simulate(TINY, out=folder)
    assert summary == json.loads((folder / "summary.json").read_text())
    return folder


def test_a_run_from_python_leaves_what_the_command_leaves(run: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    folder = tmp_path / "run"
    command("simulate", tmp_path / "tiny.toml", "--out", folder)
    names = {path.name for path in run.iterdir()}
    assert names == {path.name for path in folder.iterdir()}
    assert "report.html" in names
    assert names > OF_LEDGER
    assert "ledger.sqlite-wal" not in names  # one file again, after the page was drawn from it
    for name in names - OF_LEDGER:
        assert without_times(run / name) == without_times(folder / name), name


def test_a_run_that_is_interrupted_leaves_a_page_of_the_rounds_so_far(tmp_path: Path) -> None:
    def stop(entry: RoundRecord) -> None:
        if entry.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(TINY, out=tmp_path / "run", watch=stop)
    assert "interrupted" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "ledger.sqlite-wal").exists()


def test_a_sweep_from_python_leaves_what_the_command_leaves(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    same = Experiment.from_file(tmp_path / "tiny.toml")
    sweep(same, axes=AXES, seeds=1, baselines="none", out=tmp_path / "a", workers=1)
    options = ["--axis", "training.lr=0.5,0.3", "--seeds", "1", "--baselines", "none"]
    command("sweep", tmp_path / "tiny.toml", *options, "--out", tmp_path / "b", "--workers", 1)
    names, others = ({path.name for path in (tmp_path / each).iterdir()} for each in "ab")
    assert names == others
    assert "report.html" in names
    for name in ("report.html", "sweep.json", "sweep.toml"):
        assert without_times(tmp_path / "a" / name) == without_times(tmp_path / "b" / name), name


def test_a_report_is_written_again(run: Path, tmp_path: Path) -> None:
    page = run / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert report(run) == page
    assert page.read_bytes() == before
    assert (run / "plots" / "epsilon.png").exists()
    with pytest.raises(PrivetError, match="is not a run folder"):
        report(tmp_path)


def test_an_audit_writes_nothing(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    assert audit([run], base=run.parent).verdict == "UNANCHORED"
    assert {path.name for path in run.iterdir()} - before <= {
        "ledger.sqlite-shm",
        "ledger.sqlite-wal",
    }


def test_the_public_names_are_these() -> None:
    import privet

    assert len(privet.__all__) == len(set(privet.__all__)) == 12
