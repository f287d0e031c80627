"""The warm process in which a silo's ClientApp answers, one message after the other.

It has everything imported and the records loaded, so a round costs what it trains. One that is late
goes on, for a first round takes longest and would be late again in a new process; its answer is
dropped. It is replaced when it dies, or has not come to an end within the time of a second message.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from flwr.app import Context, Message, RecordDict

from privet.devices import DeviceError

_TO_TAKE = 1.0
"""Seconds to take a message, at least."""


class Died(Exception):  # noqa: N818 - says what happened
    """The process was late, ended, or was ended, before it answered; says how."""


@dataclass(frozen=True)
class Work:
    """A message, and what the ClientApp is told of its place."""

    message: Message
    run: int
    node: int
    node_config: dict[str, Any]
    run_config: dict[str, Any]
    state: RecordDict


@dataclass(frozen=True)
class ComputeOn:
    """Asks for a device; answered with its words and None, or None and what is wrong with it."""

    device: str
    precision: str


class Worker:
    """Owns one process at a time; not for several threads."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._late = False
        """It is at a message whose answer nobody waits for any more."""

    def start(self) -> None:
        """Have a process ready, or on its way to be."""
        if self._process is not None and self._process.is_alive():
            return
        # Spawned, not forked: this process has threads.
        processes = multiprocessing.get_context("spawn")
        self._pipe, theirs = processes.Pipe()
        self._process = processes.Process(target=_serve, args=(theirs,), name="worker")
        self._process.start()
        # Or this process would hold the other end open, and never see that the worker is gone.
        theirs.close()

    def choose(self, asked: ComputeOn) -> str:
        """What the process will compute on; DeviceError, in one line, where that is not here."""
        self.start()
        assert self._pipe is not None
        try:
            self._pipe.send(asked)
            chosen, fault = self._pipe.recv()
        except (EOFError, OSError):
            fault = f"its process ended with exit code {self._buried()}"
        if fault is not None:
            raise DeviceError(fault)
        return str(chosen)

    def answer(self, work: Work, *, until: float) -> tuple[Message, RecordDict]:
        """The ClientApp's reply and new state; Died if it has none by `until` (monotonic)."""
        self.start()
        assert self._pipe is not None
        try:
            if self._late:
                if not self._pipe.poll(max(0.0, until - time.monotonic())):
                    self.stop()
                    raise Died("it was at an earlier message for too long and was ended")
                self._pipe.recv()
            self._send(work, until)
            self._late = not self._pipe.poll(max(0.0, until - time.monotonic()))
            if self._late:
                raise Died("it had no answer in time")
            reply, state, records = self._pipe.recv()
        except (EOFError, OSError):
            code = self._buried()
            raise Died(f"its process ended with exit code {code}") from None
        for record in records:
            logging.getLogger(record.name).handle(record)
        return reply, state

    def _send(self, work: Work, until: float) -> None:
        """Hand the message over; Died if the process has not taken it by `until`."""
        pipe = self._pipe
        assert pipe is not None
        failed: list[BaseException] = []

        def send() -> None:
            try:
                pipe.send(work)
            except BaseException as error:
                failed.append(error)

        # A pipe takes a few kB: for more, somebody must read.
        sending = threading.Thread(target=send, daemon=True, name="to the worker")
        sending.start()
        sending.join(max(_TO_TAKE, until - time.monotonic()))
        if sending.is_alive():
            self.stop()
            raise Died("it did not take the message and was ended")
        if failed:
            raise failed[0]

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            # It ignores SIGTERM, as it must not end before the silo has what it is at.
            self._process.kill()
            self._buried()

    def _buried(self) -> int | None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        self._late = False
        if process is None or pipe is None:
            return None
        process.join(timeout=5)
        if process.is_alive():
            process.kill()
            process.join()
        pipe.close()
        return process.exitcode


def _end_with_parent() -> None:
    """Go at once when the silo's process is gone: a successor may be at work already."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _chosen(asked: ComputeOn) -> tuple[str | None, str | None]:
    from privet.client.silo import device_of

    try:
        return str(device_of({"device": asked.device, "precision": asked.precision})), None
    except DeviceError as error:
        return None, str(error)


def _serve(pipe: Connection) -> None:
    """The worker's life: it ends when its silo does, however that ends."""
    # Ctrl-C goes to every process of the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the silo ends it when it is done with it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Here and not above: torch is loaded in this process only.
    from privet.client.app import app

    # What the app does not tell the server, it tells the silo's log: it goes with the answer.
    said: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger("privet").addHandler(QueueHandler(said))

    with contextlib.suppress(EOFError, OSError):
        while True:
            work: Work | ComputeOn = pipe.recv()
            if isinstance(work, ComputeOn):
                pipe.send(_chosen(work))
                continue
            context = Context(
                run_id=work.run,
                node_id=work.node,
                node_config=work.node_config,
                state=work.state,
                run_config=work.run_config,
            )
            # What the app does not catch ends the process: the silo reports it, and a new one
            # begins clean.
            reply = app(work.message, context)
            records = [said.get() for _ in range(said.qsize())]
            pipe.send((reply, context.state, records))
