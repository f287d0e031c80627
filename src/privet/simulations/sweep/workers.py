"""Cells in long-lived processes, one cell after the other in each.

A worker is forked where the system can fork, so what the parent has imported and read is there at
once. A cell whose process dies has failed, and the process is replaced. Workers end with their
parent, however it ends, so that nobody writes into the folder of a sweep that goes on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from privet.errors import PrivetError
from privet.simulations.sweep.cell import Job, run_cell
from privet.simulations.sweep.results import Cell
from privet.simulations.tracking.line import Line
from privet.tasks.keeping import kept_tasks

_LONGEST_REASON = 300


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


def run_jobs(jobs: Sequence[Job], *, workers: int, line: Line | None = None) -> Iterator[Cell]:
    """Each cell as it is done or has failed, in the order of the clock.

    A tracker at the other end of `line` is told of every round.
    When the caller stops listening, or is interrupted, all processes are ended.
    """
    waiting = list(reversed(jobs))
    _import_what_is_imported_late()
    with _staff(min(workers, len(jobs)), line) as staff:
        for worker in staff:
            _give(worker, waiting)
        while busy := [worker for worker in staff if worker.job is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe not in ready or worker.job is None:
                    continue
                cell = _take(worker) or _bury(worker, worker.job.cell)
                if not worker.process.is_alive():
                    staff.remove(worker)
                    staff.append(worker := _start(line))
                _give(worker, waiting)
                yield cell


def _import_what_is_imported_late() -> None:
    """Here, once, and not in every process: torch's first optimizer imports for seconds."""
    import torch

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@contextmanager
def _staff(count: int, line: Line | None) -> Iterator[list[_Worker]]:
    staff: list[_Worker] = []
    try:
        staff.extend(_start(line) for _ in range(count))
        yield staff
    finally:
        for worker in staff:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _start(line: Line | None) -> _Worker:
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if can_fork else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid(), line), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Job]) -> None:
    worker.job = waiting.pop() if waiting else None
    if worker.job is not None:
        with contextlib.suppress(OSError):  # one that died meanwhile is found by `_take`
            worker.pipe.send(worker.job)


def _take(worker: _Worker) -> Cell | None:
    try:
        cell: Cell = worker.pipe.recv()
    except (EOFError, OSError):
        return None
    return cell


def _bury(worker: _Worker, cell: Cell) -> Cell:
    worker.process.join(timeout=1)
    code = worker.process.exitcode
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    return replace(cell, status="failed", reason=f"its process died with exit code {code}")


def _serve(pipe: Connection, parent: int, line: Line | None) -> None:
    """A worker's life: run cells until the parent is gone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError), kept_tasks():
        while True:
            pipe.send(_run(pipe.recv(), line))


def _end_with(parent: int) -> None:
    """End this process at once when `parent` has ended: another takes over then."""
    while os.getppid() == parent:
        threading.Event().wait(0.2)
    os._exit(1)


def _run(job: Job, line: Line | None) -> Cell:
    try:
        return run_cell(job, line)
    except PrivetError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    told = " ".join(reason.split())[:_LONGEST_REASON]
    return replace(job.cell, status="failed", reason=told)
