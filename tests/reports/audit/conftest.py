"""One honest run with canaries, one encrypted, one spoilt; audited by the command, once."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from audits.conftest import EXPERIMENT, POLICY
from audits.planted import history, summary
from privet import Execution, Experiment
from privet.audits.report import Report, read
from privet.commands.cli import main
from privet.simulations.run import simulate


@dataclass(frozen=True)
class Audited:
    """A folder with the runs, and the report beside them in `out`."""

    folder: Path
    out: Path
    said: str
    code: int

    @property
    def report(self) -> Report:
        return read(self.out / "audit.json")


def run_command(*arguments: object) -> tuple[int, str]:
    """`privet audit` with these arguments: its exit status, and what it said."""
    said, code = io.StringIO(), 0
    with redirect_stdout(said):
        try:
            main(["audit", *map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs "clear", with canaries, and "sealed", both under one policy."""
    folder = tmp_path_factory.mktemp("audited")
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    clear = Experiment.from_mapping(EXPERIMENT)
    sealed = Experiment.from_mapping({**EXPERIMENT, "encryption": {"scheme": "bfv"}})
    simulate(clear, out=folder / "clear", policy=policy, execution=Execution(canaries=64))
    simulate(sealed, out=folder / "sealed", policy=policy)
    policy.unlink()
    return folder


@pytest.fixture(scope="session")
def honest(runs: Path) -> Audited:
    code, said = run_command(runs / "clear", runs / "sealed", "--out", runs / "report")
    return Audited(runs, runs / "report", said, code)


@pytest.fixture(scope="session")
def spoilt(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A run whose summary and whose claimed epsilon are not what they should be."""
    folder = tmp_path_factory.mktemp("spoilt")
    run = shutil.copytree(runs / "clear", folder / "run")
    history(run, lambda lines: lines[1]["epsilon"]["per_silo"].update({"silo-0": 0.2}))
    summary(run, lambda told: told["epsilon"].update(max=1.0))
    code, said = run_command(run, "--out", folder / "report")
    return Audited(folder, folder / "report", said, code)
