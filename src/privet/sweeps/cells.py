"""One cell, run in a folder of its own by one of several long-lived processes.

A worker is forked where the system can fork, so what the parent has imported and read is there at
once. A cell whose process dies has failed, and the process is replaced. Workers end with their
parent, however it ends, so that nobody writes into the folder of a sweep that goes on.

A tracker follows every cell, and a run of the sweep's own that the cells belong to.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from privet.client.task_code import code_hash
from privet.devices import CPU, Device, may_fork
from privet.errors import DataError, PrivacyError, PrivetError, nearest
from privet.experiment import Experiment, dotted
from privet.files import read_file
from privet.metrics import ACCURACY, Metric, metric_named
from privet.privacy.ledger import read_history
from privet.record.folder import RunFolder
from privet.record.history import (
    RoundRecord,
    Watch,
    all_figures,
    headline_of,
    look_away,
    mended_rounds,
)
from privet.record.summary import ClaimedEpsilon, RunSummary, read_summary
from privet.simulations import Engine
from privet.simulations.ledger import LEDGER, settle
from privet.simulations.prepare import prepare
from privet.simulations.run import Execution, run_prepared
from privet.sweeps.results import Cell, Measured, Sweep, cell_from_plain, title, to_plain
from privet.sweeps.statistics import with_estimates
from privet.tasks.registry import kept_tasks
from privet.tracking.following import REPORT, ended, followed
from privet.tracking.pipe import TrackerPipe, open_pipe
from privet.tracking.tracker import About, Tracking

_SWEEP = "sweep"
_FILES = ("sweep.json", "cells.csv", REPORT)


@contextmanager
def tracked_cell(
    tracker: TrackerPipe | None, cell: Cell, experiment: Experiment, *, folder: Path
) -> Iterator[Watch]:
    """A watch for a cell, in the process that runs it; without a tracker it watches nothing."""
    if tracker is None:
        yield look_away
        return
    settings = dotted(experiment.model_dump(exclude_none=True)) if cell.kind == "federated" else {}
    own = {"kind": cell.kind, "seed": cell.seed} | ({"silo": cell.silo} if cell.silo else {})
    about = About(f"{title(cell)}, seed {cell.seed}", {**settings, **cell.settings, **own}, _SWEEP)
    with followed(tracker, cell.address, about, folder) as watch:
        yield watch


@dataclass(frozen=True)
class SweepTracking:
    """A sweep's own run, which its cells belong to, and the pipe that all of them write to."""

    pipe: TrackerPipe

    def begin(self, sweep: Sweep, *, folder: Path) -> None:
        """Begin the sweep's run, with its settings and axes."""
        axes = {f"axis.{axis.key}": to_plain(axis.values) for axis in sweep.axes}
        settings = dotted(sweep.experiment) | axes | {"seeds": list(sweep.seeds)}
        self.pipe.send("begin", _SWEEP, About(folder.absolute().name, settings, cells=True))


@contextmanager
def tracked_sweep(track: str | None, *, folder: Path) -> Iterator[SweepTracking | None]:
    """The tracker that `track` names while the context is open; None without.

    At the end the results and, if there is one, the report are passed on.
    """
    if track is None:
        yield None
        return
    with (
        open_pipe(Tracking.parse(track), folder) as pipe,
        ended(pipe, _SWEEP, [folder / name for name in _FILES]),
    ):
        yield SweepTracking(pipe)


CELL = "cell.json"


@dataclass(frozen=True)
class CellJob:
    """A cell that is to be run, with all that its process needs."""

    cell: Cell
    experiment: Experiment
    folder: Path
    engine: Engine = "auto"
    data_dir: Path | None = None
    device: Device = CPU


def run_cell(job: CellJob, tracker: TrackerPipe | None = None) -> Cell:
    """Run it and leave a finished run folder, which appears whole or not at all.

    A tracker at the other end of the pipe `tracker` follows. Raises whatever the run raises; its
    folder is then gone.
    """
    with tracked_cell(tracker, job.cell, job.experiment, folder=job.folder) as watch:
        return _run(job, watch)


def _run(job: CellJob, watch: Watch) -> Cell:
    part = job.folder.with_name(f".{job.folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        start = time.perf_counter()
        prepared = prepare(job.experiment, data_dir=job.data_dir)
        where = job.device
        execution = Execution(
            workers=1, engine=job.engine, device=where.name, precision=where.precision
        )
        summary = run_prepared(prepared, out=part, execution=execution, resume=False, watch=watch)
        _require_agreement(summary)
        _require_training(summary)
        done = _outcome(job.cell, summary, RunFolder(part), seconds=time.perf_counter() - start)
        # The ledger was read above, which leaves SQLite's own files beside it.
        settle(part)
        RunFolder(part).save_json(CELL, to_plain(done))
        part.rename(job.folder)  # at once, so that a folder without a leading dot is a whole cell
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def finished(cell: Cell, folder: Path) -> Cell | None:
    """What was found out about `cell` before, as it is named now; None when it has not been run."""
    try:
        raw = json.loads(read_file(folder / CELL))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / CELL} cannot be read: {error}; delete {folder}") from None
    return replace(cell_from_plain(raw), baseline=cell.baseline, settings=cell.settings)


def _require_agreement(summary: RunSummary) -> None:
    checks = summary.epsilon and summary.epsilon.cross_checks
    if checks and not checks.agree:
        raise PrivacyError(f"epsilon is not confirmed: {'; '.join(checks.problems)}")


def _require_training(summary: RunSummary) -> None:
    if not summary.client_updates:
        raise PrivetError(next(iter(summary.problems), "nobody trained"))
    if summary.model and summary.model.nothing_trained:
        raise PrivetError(summary.model.nothing_trained)


def _outcome(cell: Cell, summary: RunSummary, folder: RunFolder, *, seconds: float) -> Cell:
    rounds, metric = folder.rounds(), headline_of(folder.rounds())
    spent = _spent(summary.epsilon, folder.path / LEDGER)
    return replace(
        cell,
        status="done",
        epsilon=max(spent.values()) if spent else None,
        epsilon_per_silo=spent,
        accuracy=summary.accuracy,
        validation=summary.validation.accuracy if summary.validation else None,
        loss=summary.loss,
        accuracy_per_silo=_per_silo("accuracy", summary, rounds[-1]),
        accuracies=tuple(entry.accuracy for entry in rounds),
        metrics=summary.metrics,
        measured=None if metric == ACCURACY else measured_in(metric, summary, rounds),
        seconds=seconds,
        bytes_up=sum(entry.bytes.up for entry in rounds),
        bytes_down=sum(entry.bytes.down for entry in rounds),
    )


def _spent(claimed: ClaimedEpsilon | None, ledger: Path) -> dict[str, float] | None:
    """Epsilon of every silo by the ledger alone; None without differential privacy."""
    if claimed is None:
        return None
    charged = read_history(ledger)
    return {silo: charged.spent(silo, delta=claimed.delta or 0.0) for silo in claimed.per_silo}


def measured_in(metric: Metric, summary: RunSummary, rounds: Sequence[RoundRecord]) -> Measured:
    """One figure of a finished run, in the form that a sweep compares."""
    found = all_figures(summary.accuracy, summary.loss, summary.metrics)
    chosen = summary.validation
    scores = all_figures(chosen.accuracy, chosen.loss, chosen.metrics) if chosen else {}
    return Measured(
        metric,
        found.get(metric.name),
        scores.get(metric.name),
        _per_silo(metric.name, summary, rounds[-1]),
        tuple(entry.figures.get(metric.name) for entry in rounds),
    )


def showing(sweep: Sweep, name: str, folder: Path) -> Sweep:
    """The same sweep with estimates and comparisons of another metric, out of its run folders.

    DataError for one that no cell has measured.
    """
    if name == sweep.metric.name:
        return sweep
    if name not in sweep.metrics:
        known = ", ".join(sweep.metrics) or "nothing"
        raise DataError(
            f"no metric {name!r} was measured; there is {known}.{nearest(name, sweep.metrics)}"
        )
    cells = tuple(
        _showing(cell, name, folder / cell.folder) if cell.status == "done" else cell
        for cell in sweep.cells
    )
    release = sweep.selection
    if release is not None:
        value = next((cell.value for cell in cells if cell.address == release.chosen), None)
        release = replace(release, accuracy=value)
    return with_estimates(replace(sweep, cells=cells, selection=release))


def _showing(cell: Cell, name: str, folder: Path) -> Cell:
    summary, rounds = read_summary(folder), mended_rounds(folder)
    if summary is None or not rounds:
        raise DataError(f"{folder} has no summary")
    metric = metric_named(name, [each.metric for each in summary.declared])
    return replace(cell, measured=measured_in(metric, summary, rounds))


def _per_silo(name: str, summary: RunSummary, last: RoundRecord) -> dict[str, float] | None:
    measured = (summary.evaluation and summary.evaluation.per_silo) or last.per_silo or {}
    return {silo: each[name] for silo, each in measured.items() if name in each} or None


_LONGEST_REASON = 300


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    number: int
    job: CellJob | None = None


def run_jobs(
    jobs: Sequence[CellJob],
    *,
    workers: int,
    tracker: TrackerPipe | None = None,
    device: Device = CPU,
) -> Iterator[Cell]:
    """Each cell as it is done or has failed, in the order of the clock.

    Every process owns one device of the kind of `device`. Every round goes to the tracker at the
    other end of the pipe `tracker`. When the caller stops listening, or is interrupted, all
    processes are ended.
    """
    # Taken from the end, which costs nothing however many there are.
    waiting = list(reversed(jobs))
    _load_what_is_loaded_late({job.experiment.task for job in jobs})
    start = partial(_start, tracker, device)
    with _processes(min(workers, len(jobs)), start) as running:
        for worker in running:
            _assign(worker, waiting)
        while busy := [worker for worker in running if worker.job is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe not in ready or worker.job is None:
                    continue
                cell = _outcome_of(worker) or _lost(worker, worker.job.cell)
                if not worker.process.is_alive():
                    running.remove(worker)
                    running.append(worker := start(worker.number))
                _assign(worker, waiting)
                # After the next one is given out: the worker is not idle while the caller writes
                # results.
                yield cell


def _load_what_is_loaded_late(tasks: Iterable[str]) -> None:
    """Here, once, and not in every process: both take seconds.

    torch's first optimizer imports much, and the first hash of a task's code parses its package.
    """
    import torch

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    for task in tasks:
        code_hash(task)


@contextmanager
def _processes(count: int, start: Callable[[int], _Worker]) -> Iterator[list[_Worker]]:
    running: list[_Worker] = []
    try:
        running.extend(map(start, range(count)))
        yield running
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _start(tracker: TrackerPipe | None, device: Device, number: int) -> _Worker:
    context: Any = multiprocessing.get_context("fork" if may_fork() else "spawn")
    ours, theirs = context.Pipe()
    # A daemon, so that an interpreter which ends in the ordinary way takes its workers along.
    enter = partial(device.enter, number)
    args = theirs, os.getpid(), tracker, enter
    process = context.Process(target=_worker, args=args, daemon=True)
    process.start()
    # Or the end of a worker would not be seen here: this process would hold its side open.
    theirs.close()
    return _Worker(process, ours, number)


def _assign(worker: _Worker, waiting: list[CellJob]) -> None:
    worker.job = waiting.pop() if waiting else None
    if worker.job is not None:
        with contextlib.suppress(OSError):  # one that died meanwhile is found by `_outcome_of`
            worker.pipe.send(worker.job)


def _outcome_of(worker: _Worker) -> Cell | None:
    try:
        cell: Cell = worker.pipe.recv()
    except (EOFError, OSError):
        return None
    return cell


def _lost(worker: _Worker, cell: Cell) -> Cell:
    worker.process.join(timeout=1)
    code = worker.process.exitcode
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    return replace(cell, status="failed", reason=f"its process died with exit code {code}")


def _worker(
    pipe: Connection, parent: int, tracker: TrackerPipe | None, enter: Callable[[], None]
) -> None:
    """In a worker: run cells until the parent is gone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)  # workers share the cores: one each
    enter()
    with contextlib.suppress(EOFError, OSError), kept_tasks():
        while True:
            pipe.send(_work_on(pipe.recv(), tracker))


def _exit_with(parent: int) -> None:
    """End this process at once when `parent` has ended: another takes over then."""
    # By looking and not by a pipe: its other end would be open in every worker that was forked
    # later.
    while os.getppid() == parent:
        threading.Event().wait(0.2)
    # In the middle of whatever it does: what is unfinished is in a folder that is swept away.
    os._exit(1)


def _work_on(job: CellJob, tracker: TrackerPipe | None) -> Cell:
    try:
        return run_cell(job, tracker)
    except PrivetError as error:
        reason = str(error)
    # One cell's fault must not end the others; the reason stands in the results.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    line = " ".join(reason.split())[:_LONGEST_REASON]
    return replace(job.cell, status="failed", reason=line)
