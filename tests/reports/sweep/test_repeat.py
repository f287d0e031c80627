"""The command on the page, run as it stands there; and the file that it names."""

from __future__ import annotations

import html
import math
import re
import shlex
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.commands.cli import main
from privet.experiment import Experiment, read_toml
from privet.sweeps.request import SweepRequest, sweep_toml
from privet.sweeps.results import Sweep
from privet.sweeps.store import read_sweep

FILE = """\
task = "digits"
rounds = 1
seed = 3
[federation]
silos = 2
[training]
lr = 0.5
[encryption]
colluding = 0
[sweep]
seeds = 2
baselines = ["pooled"]
axes.training.steps = [1, 2]
cells = [{ rounds = 2, training.lr = 0.25 }]
"""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.just(math.inf)
)
KEYS = st.from_regex(r"[a-z_]{1,8}(\.[a-z0-9_-]{1,8})?", fullmatch=True)
DATA = st.dictionaries(
    TEXTS, VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(TEXTS, VALUES, max_size=2),
    max_size=3,
)  # fmt: skip


@given(
    data=DATA,
    axes=st.dictionaries(KEYS, st.lists(VALUES, min_size=1, max_size=3), max_size=2),
    cells=st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=2), max_size=2),
    seeds=st.none() | st.lists(st.integers(0, 99), min_size=1, max_size=3),
    steps=st.none() | st.integers(1, 9),
)
def test_the_file_asks_for_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    data: dict[str, object],
    axes: dict[str, list[object]],
    cells: list[dict[str, object]],
    seeds: list[int] | None,
    steps: int | None,
) -> None:
    training = {} if steps is None else {"steps": steps}
    experiment = Experiment.from_mapping(
        {"task": "digits", "data": data, "training": training, "evaluation": {}}
    )
    asked = SweepRequest(axes, cells, seeds, None if seeds is None else "none")  # type: ignore[arg-type]
    path = tmp_path_factory.getbasetemp() / "again.toml"
    path.write_text(sweep_toml(experiment, asked), encoding="utf-8", newline="")
    again = Experiment.from_file(path)
    assert again == experiment
    assert again.model_fields_set >= {"task", "evaluation"}
    assert again.training.model_fields_set == experiment.training.model_fields_set
    assert SweepRequest.from_table(read_toml(path).get("sweep", {})) == asked


def run(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """The sweep that comes of the command on the page, run in the sweep's folder."""
    page = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    found = re.search(r"<code>privet (sweep .*?)</code>", page)
    assert found
    monkeypatch.chdir(folder)
    assert run(*shlex.split(found[1]), "--quiet") == 0
    return read_sweep(folder / "again")


@pytest.mark.parametrize(
    ("file", "options"),
    [
        (FILE, ("--engine", "in-process", "--set", "training.momentum=0.5")),
        pytest.param(
            FILE.replace("seeds = 2\n", "").replace('baselines = ["pooled"]', "")
            + "[privacy]\nepsilon = 4.0\n",
            ("--private-tuning", "geometric:2"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_command_on_the_page_repeats_every_cell(
    file: str,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tiny.toml").write_text(file)
    monkeypatch.chdir(tmp_path)
    assert run("sweep", "tiny.toml", "--workers", "1", *options) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Report: runs/tiny-sweep/report.html"
    folder = tmp_path / "runs" / "tiny-sweep"
    first, second = read_sweep(folder), repeated(folder, monkeypatch)
    assert [(cell.address, cell.accuracy) for cell in second.cells] == [
        (cell.address, cell.accuracy) for cell in first.cells
    ]
    runs = first.selection.runs if first.selection else 3 * 2 + 3 * 2
    assert len(first.cells) == runs
    assert second.comparisons == first.comparisons
    assert second.selection == first.selection


def test_an_interrupted_sweep_has_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(FILE.replace("rounds = 1", "rounds = 5"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tiny-sweep"
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.01):
            if list(folder.glob("cells/[!.]*")):
                signal.raise_signal(signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = run("sweep", "tiny.toml", "--workers", "1", "--quiet")
    ended.set()
    thread.join()
    assert code == 130
    waiting = sum(cell.status == "waiting" for cell in read_sweep(folder).cells)
    assert 0 < waiting < 12
    assert f"Not finished: {waiting} cell" in (folder / "report.html").read_text(encoding="utf-8")
