"""A pipe to a tracker in a process of its own: the run writes, and never waits for an answer.

The tracker may be slow, hang, fail or die: what was sent is then lost, one warning goes to stderr,
and nothing else happens. It ends with the process that opened the pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from privet.tracking.tracker import Tracker, Tracking, open_tracker

GRACE_SECONDS = 30.0
"""Seconds that the tracker has, once the run is over, to pass on what it was sent."""
_LOCK_SECONDS = 5.0
_LONGEST_WARNING = 300


@dataclass(frozen=True)
class TrackerPipe:
    """Where processes of a run or a sweep write what happens; it can be handed to a new process."""

    writer: Connection
    lock: Any

    def send(self, method: str, *arguments: object) -> None:
        """Have the tracker's `method` called; what cannot be sent is lost."""
        # Cells of a sweep share the pipe, and a message longer than PIPE_BUF is not written in one
        # piece. A holder that was killed never gives the lock back: then the message is lost.
        if not self.lock.acquire(timeout=_LOCK_SECONDS):
            return
        try:
            with contextlib.suppress(OSError):
                self.writer.send((method, arguments))
        finally:
            self.lock.release()


@contextmanager
def open_pipe(tracking: Tracking, folder: Path) -> Iterator[TrackerPipe]:
    """A line while the context is open. When it ends, the tracker has GRACE_SECONDS.

    The tracker is a new interpreter: what this process has open or has locked is not its concern.
    """
    # One way: nothing that a tracker says can hold up or change a run.
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = subprocess.Popen(
        # -P: no module of the working directory takes the place of one that a tracker imports.
        [sys.executable, "-P", "-m", __name__, str(reader.fileno())],
        # This end alone: with the other one open in its own process, the tracker would never see
        # the end.
        pass_fds=[reader.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the run's to answer
    )
    # Or writing to a tracker that died would fill the pipe and wait, instead of failing at once.
    reader.close()
    pipe = TrackerPipe(writer, multiprocessing.Lock())
    pipe.send("open", tracking, folder.absolute())
    try:
        yield pipe
    finally:
        pipe.send("close")
        writer.close()
        _await_end(process, tracking)


def _await_end(process: subprocess.Popen[bytes], tracking: Tracking) -> None:
    try:
        code = process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        _warn(tracking, f"it was not ready within {GRACE_SECONDS:g} s, and the rest is lost")
        return
    if code:
        _warn(tracking, f"its process died with exit code {code}")


def main(descriptor: int) -> None:
    """The tracker's process: until the pipe is closed, or everybody at its other end is gone."""
    reader = Connection(descriptor, writable=False)
    _, (tracking, folder) = reader.recv()
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(reader, messages), daemon=True).start()
    stderr = _silence()
    try:
        _forward(messages, tracking, folder)
    except Exception as error:
        _warn(tracking, f"{type(error).__name__}: {error}", stderr=stderr)


def _receive(reader: Connection, messages: queue.SimpleQueue[Any]) -> None:
    """Take everything out of the pipe at once: a full one would make the run wait."""
    try:
        while (message := reader.recv())[0] != "close":
            messages.put(message)
    except Exception:  # everybody is gone, or one was killed in the middle of a message
        # Nobody waits for this process any more; a library that hangs must not keep it for ever.
        threading.Timer(GRACE_SECONDS, os._exit, [1]).start()
    messages.put(None)


def _forward(messages: queue.SimpleQueue[Any], tracking: Tracking, folder: Path) -> None:
    tracker: Tracker | None = None
    under_way: dict[str, None] = {}
    while (message := messages.get()) is not None:
        method, (key, *rest) = message
        if method == "begin":
            tracker = tracker or open_tracker(tracking, folder)
            under_way[key] = None
        # A run that was refused before its first round has an end and no beginning.
        if tracker and key in under_way:
            getattr(tracker, method)(key, *rest)
        if method == "end":
            under_way.pop(key, None)
    # A sweep's own run began first and ends last: its cells are nested in it.
    for key in reversed(under_way):  # of processes that were killed
        if tracker:
            tracker.end(key, "KILLED", ())


def _silence() -> int:
    """Nothing that a tracker's library prints is seen; the stderr that was, for warnings."""
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return ours


def _warn(tracking: Tracking, why: str, *, stderr: int = 2) -> None:
    """One line, without the passwords that addresses may hold."""
    reason = re.sub(r"://[^/\s@]+@", "://", " ".join(why.split()))[:_LONGEST_WARNING]
    warning = f"warning: tracking with {tracking.kind} has ended: {reason}. The run goes on.\n"
    with contextlib.suppress(OSError):
        os.write(stderr, warning.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
