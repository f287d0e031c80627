"""Silos in a pool of worker processes.

A worker is forked where the system can fork, so the records that the parent has loaded are shared
and not copied. A silo whose worker dies, or exceeds the time limit, becomes an error reply, as do
those that train together with it, and the worker is replaced. At most two messages (or groups that
train together) a worker are in flight or waiting for their turn, so memory does not grow with the
number of silos.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from privet.devices import CPU, Device, may_fork
from privet.simulations.grid import BatchedTraining, answer, assume_identity, failed, in_groups

_Answer = tuple[Message, RecordDict]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: tuple[int, list[Message]] | None = None
    deadline: float = float("inf")


class WorkerPool:
    """Answers messages in `workers` processes; an `Executor` of the in-process grid."""

    def __init__(
        self,
        make_client_app: Callable[[], ClientApp],
        silos: Mapping[int, Context],
        *,
        workers: int,
        time_limit: float,
        together: BatchedTraining | None = None,
        device: Device = CPU,
    ) -> None:
        """`time_limit` in seconds for one message, or for a group that trains `together`.

        Every worker makes a ClientApp of its own, and owns a device: the n-th of `device`'s kind.
        """
        self._device = device
        self._can_fork = may_fork()
        self._make_client_app = make_client_app
        self._contexts = silos
        self._time_limit = time_limit
        self._together = together
        self._workers: list[_Worker] = []
        for number in range(workers):
            self._workers.append(self._start(number))

    def answers(
        self, messages: Iterable[Message], states: Callable[[int], RecordDict]
    ) -> Iterator[_Answer]:
        """The reply to each message with the silo's new state, in the order of the messages."""
        waiting = enumerate(in_groups(messages, self._together))
        done: dict[int, list[_Answer]] = {}
        sent = turn = 0
        window = 2 * len(self._workers)
        exhausted = False
        while True:
            while not exhausted and sent < turn + window and (worker := self._idle()) is not None:
                job = next(waiting, None)
                if job is None:
                    exhausted = True
                else:
                    sent += 1
                    self._send(worker, job, states)
            while turn in done:
                yield from done.pop(turn)
                turn += 1
            if exhausted and turn == sent:
                return
            if turn not in done and self._busy():
                done |= self._receive(states)

    def close(self) -> None:
        """Stop all workers."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _start(self, number: int) -> _Worker:
        processes = (
            multiprocessing.get_context("fork")
            if self._can_fork
            else multiprocessing.get_context("spawn")
        )
        ours, theirs = processes.Pipe()
        # A forked worker must not hold our ends of the pipes, or it would outlive us.
        inherited = [ours, *(worker.pipe for worker in self._workers)] if self._can_fork else []
        process = processes.Process(
            target=_serve,
            args=(
                theirs,
                self._make_client_app,
                self._together,
                dict(self._contexts),
                inherited,
                partial(self._device.enter, number),
            ),
            daemon=True,
        )
        process.start()
        # Else the pipe would not end when the worker does.
        theirs.close()
        return _Worker(process, ours)

    def _idle(self) -> _Worker | None:
        return next((worker for worker in self._workers if worker.job is None), None)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def _send(
        self, worker: _Worker, job: tuple[int, list[Message]], states: Callable[[int], RecordDict]
    ) -> None:
        worker.job = job
        # From here: a worker is given one job at a time, so that none waits in its pipe.
        worker.deadline = time.monotonic() + self._time_limit
        asked = [(message, states(message.metadata.dst_node_id)) for message in job[1]]
        with contextlib.suppress(OSError):  # a worker that died meanwhile is found by _receive
            worker.pipe.send(asked)

    def _receive(self, states: Callable[[int], RecordDict]) -> dict[int, list[_Answer]]:
        """Answers of at least one busy worker."""
        busy = self._busy()
        left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        # The system takes no timeout of centuries, and who hears nothing asks again.
        ready = wait([worker.pipe for worker in busy], timeout=min(left, 3600.0))
        answers = {}
        for worker in busy:
            if worker.job is None or not (
                worker.pipe in ready or time.monotonic() >= worker.deadline
            ):
                continue
            number, messages = worker.job
            found = self._read(worker) if worker.pipe in ready else None
            if found is None:
                replies = self._replace(worker, messages, in_time=worker.pipe in ready)
                found = [(reply, states(reply.metadata.src_node_id)) for reply in replies]
            worker.job = None
            answers[number] = found
        return answers

    def _read(self, worker: _Worker) -> list[_Answer] | None:
        try:
            answers: list[_Answer] = worker.pipe.recv()
        except (EOFError, OSError):
            return None
        return answers

    def _replace(self, worker: _Worker, messages: list[Message], *, in_time: bool) -> list[Message]:
        # A pipe closes a moment before there is an exit code.
        worker.process.join(timeout=1 if in_time else 0)
        code = worker.process.exitcode
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        place = self._workers.index(worker)
        del self._workers[place]
        self._workers.insert(place, self._start(place))
        reason = (
            f"its process died with exit code {code}"
            if in_time
            else f"no answer within {self._time_limit:g} s"
        )
        return [failed(each, reason, stage="worker") for each in messages]


def _serve(
    pipe: Connection,
    make_client_app: Callable[[], ClientApp],
    together: BatchedTraining | None,
    silos: dict[int, Context],
    inherited: list[Connection],
    enter: Callable[[], None],
) -> None:
    """A worker's life: answer messages until the pipe closes."""
    import torch

    for connection in inherited:
        connection.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # As the parent has it (`one_thread`), which a process that was not forked does not know.
    torch.set_num_threads(1)
    enter()
    assume_identity(next(iter(silos.values())).run_id)
    client_app = make_client_app()
    with contextlib.suppress(EOFError, OSError):
        while True:
            asked = []
            for message, state in pipe.recv():
                context = silos[message.metadata.dst_node_id]
                context.state = state
                asked.append((message, context))
            replies = answer(client_app, together, asked)
            states = [context.state for _, context in asked]
            pipe.send(list(zip(replies, states, strict=True)))
