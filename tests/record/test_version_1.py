"""Run folders that an older version wrote, with lines that do not say their schema.

`version1.tar.xz` holds two runs of digits, each interrupted after round 2 of 3 and whole: a private
one (`cut`, `whole`) and one without privacy (`clear`, `clear-whole`).
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from privet.audits import audit
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.record.history import HISTORY, read_rounds
from privet.record.reading import read_run
from privet.record.summary import read_summary
from privet.reports.compare import compare
from privet.reports.run import write_report
from privet.simulations.run import simulate


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).with_name("version1.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    assert '"schema"' not in (tmp_path / "whole" / HISTORY).read_text()
    return tmp_path


def test_both_readers_read_the_same(old: Path) -> None:
    rounds = read_rounds(old / "whole", finished=True)
    assert rounds == read_run(old / "whole").rounds
    assert [entry.round for entry in rounds] == [0, 1, 2, 3]
    assert rounds[0].affordable == {"silo-0": 3, "silo-1": 3}
    assert rounds[1].affordable is rounds[1].skipped is rounds[1].seconds.encryption is None
    assert rounds[2].evaluation is not None


def test_the_summary_is_read(old: Path) -> None:
    summary, run = read_summary(old / "whole"), read_run(old / "whole")
    assert summary is not None
    assert summary.epsilon is not None
    assert summary.epsilon == run.guarantee
    assert (run.finished, run.accuracy) == (True, summary.accuracy)


@pytest.mark.parametrize("name", ["whole", "cut"])
def test_report_and_audit_open_it(old: Path, name: str) -> None:
    assert "Accuracy" in write_report(old / name).read_text(encoding="utf-8")
    report = audit([old / name], base=old)
    assert report.verdict == {"whole": "UNANCHORED", "cut": "INCOMPLETE"}[name]
    assert {c.verdict for c in report.claims if c.id == "record.readable"} == {"PASS"}


def test_compare_opens_it(old: Path) -> None:
    whole, cut = compare([old / "whole", old / "cut"]).entries
    assert [len(entry.curve) for entry in (whole, cut)] == [4, 3]
    assert whole.epsilon is not None
    assert cut.remarks == ("unfinished: 2 of 3 rounds so far",)


def test_an_edited_line_is_still_a_fault(old: Path) -> None:
    path = old / "whole" / HISTORY
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[1]["participants"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert audit([old / "whole"], base=old).verdict == "FAIL"


def test_a_private_run_cannot_be_gone_on_with(old: Path) -> None:
    """Its noise had other names: the rounds to come would not be those of the run."""
    before = {path: path.read_bytes() for path in (old / "cut").iterdir() if path.is_file()}
    experiment = Experiment.from_file(old / "cut" / "experiment.toml")
    with pytest.raises(ExperimentError, match="version of privet that did not keep its canaries"):
        simulate(experiment, out=old / "cut", resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_without_privacy_goes_on_and_its_old_lines_stay_as_they_are(old: Path) -> None:
    before = (old / "clear" / HISTORY).read_bytes()
    experiment = Experiment.from_file(old / "clear" / "experiment.toml")
    simulate(experiment, out=old / "clear", resume=True)
    after = (old / "clear" / HISTORY).read_bytes()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["schema"] == 2
    # Not by bytes: they were written on another processor, whose sums round in other places.
    cut, whole = (load_file(old / n / "model.safetensors") for n in ("clear", "clear-whole"))
    assert {name: (value.shape, value.dtype) for name, value in cut.items()} == {
        name: (value.shape, value.dtype) for name, value in whole.items()
    }
    for name, value in cut.items():
        np.testing.assert_allclose(value, whole[name], rtol=0, atol=1e-6)
    assert audit([old / "clear"], base=old).verdict == "UNANCHORED"
