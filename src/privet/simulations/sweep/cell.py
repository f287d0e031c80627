"""One cell: run it in a folder of its own and say what came of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privet.errors import DataError, PrivacyError
from privet.experiment import Experiment
from privet.privacy.ledger import read_history
from privet.server.folder import RunFolder
from privet.server.rounds import Watch
from privet.simulations.ledger import LEDGER, settle
from privet.simulations.prepare import prepare
from privet.simulations.run import Engine, Execution, run_prepared
from privet.simulations.sweep.results import Cell, cell_from_plain, to_plain
from privet.simulations.sweep.tracked import tracked_cell
from privet.simulations.tracking.line import Line

CELL = "cell.json"


@dataclass(frozen=True)
class Job:
    """A cell that is to be run, with all that its process must be told."""

    cell: Cell
    experiment: Experiment
    folder: Path
    engine: Engine = "auto"
    data_dir: Path | None = None


def run_cell(job: Job, line: Line | None = None) -> Cell:
    """Run it and leave a finished run folder, which appears whole or not at all.

    A tracker at the other end of `line` follows. Raises whatever the run raises; its folder is then
    gone.
    """
    with tracked_cell(line, job.cell, job.experiment, folder=job.folder) as watch:
        return _run(job, watch)


def _run(job: Job, watch: Watch) -> Cell:
    part = job.folder.with_name(f".{job.folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        start = time.perf_counter()
        prepared = prepare(job.experiment, data_dir=job.data_dir)
        execution = Execution(workers=1, engine=job.engine)
        summary = run_prepared(prepared, out=part, execution=execution, resume=False, watch=watch)
        _demand_agreement(summary)
        done = _outcome(job.cell, summary, RunFolder(part), seconds=time.perf_counter() - start)
        settle(part)
        RunFolder(part).save_json(CELL, to_plain(done))
        part.rename(job.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def finished(cell: Cell, folder: Path) -> Cell | None:
    """What was found out about `cell` before, as it is named now; None when it has not been run."""
    try:
        raw = json.loads((folder / CELL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / CELL} cannot be read: {error}; delete {folder}") from None
    return replace(cell_from_plain(raw), baseline=cell.baseline, settings=cell.settings)


def _demand_agreement(summary: Mapping[str, Any]) -> None:
    checks = summary["epsilon"] and summary["epsilon"]["cross_checks"]
    if checks and not checks["agree"]:
        raise PrivacyError(f"epsilon is not confirmed: {'; '.join(checks['problems'])}")


def _outcome(cell: Cell, summary: Mapping[str, Any], folder: RunFolder, *, seconds: float) -> Cell:
    history = folder.history()
    spent = _spent(summary["epsilon"], folder.path / LEDGER)
    return replace(
        cell,
        status="done",
        epsilon=max(spent.values()) if spent else None,
        epsilon_per_silo=spent,
        accuracy=summary["accuracy"],
        loss=summary["loss"],
        accuracy_per_silo=_per_silo(summary, history[-1]),
        accuracies=tuple(entry["accuracy"] for entry in history),
        seconds=seconds,
        bytes_up=sum(entry["bytes"]["up"] for entry in history),
        bytes_down=sum(entry["bytes"]["down"] for entry in history),
    )


def _spent(claimed: Mapping[str, Any] | None, ledger: Path) -> dict[str, float] | None:
    """Epsilon of every silo by the ledger alone; None without differential privacy."""
    if claimed is None:
        return None
    books = read_history(ledger)
    return {silo: books.spent(silo, delta=claimed["delta"]) for silo in claimed["per_silo"]}


def _per_silo(summary: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, float] | None:
    measured = (summary["evaluation"] or {}).get("per_silo") or last["per_silo"] or {}
    found = {silo: metrics.get("accuracy") for silo, metrics in measured.items() if metrics}
    return {silo: value for silo, value in found.items() if value is not None} or None
