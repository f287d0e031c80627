"""A line to a tracker in a process of its own: the run speaks, and never waits for an answer.

The tracker may be slow, hang, fail or die: what was said to it is then lost, a person is told once
on stderr, and nothing else happens. It ends with the process that opened the line.
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

PATIENCE = 30.0
"""Seconds that the tracker has, once the run is over, to pass on what it was told."""
_LOCK_PATIENCE = 5.0
_LONGEST = 300


@dataclass(frozen=True)
class TrackerPipe:
    """Where processes of a run or a sweep say what happens; it can be handed to a new process."""

    writer: Connection
    lock: Any

    def say(self, method: str, *arguments: object) -> None:
        """Have the tracker's `method` called; what cannot be said is lost."""
        if not self.lock.acquire(timeout=_LOCK_PATIENCE):  # its holder was killed
            return
        try:
            with contextlib.suppress(OSError):
                self.writer.send((method, arguments))
        finally:
            self.lock.release()


@contextmanager
def open_pipe(tracking: Tracking, folder: Path) -> Iterator[TrackerPipe]:
    """A line while the context is open. When it ends, the tracker has PATIENCE seconds.

    The tracker is a new interpreter: what this process has open or has locked is not its concern.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(reader.fileno())],
        pass_fds=[reader.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the run's to answer
    )
    reader.close()
    line = TrackerPipe(writer, multiprocessing.Lock())
    line.say("open", tracking, folder.absolute())
    try:
        yield line
    finally:
        line.say("close")
        writer.close()
        _see_off(process, tracking)


def _see_off(process: subprocess.Popen[bytes], tracking: Tracking) -> None:
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        _tell(tracking, f"it was not ready within {PATIENCE:g} s, and the rest is lost")
        return
    if code:
        _tell(tracking, f"its process died with exit code {code}")


def main(descriptor: int) -> None:
    """The tracker's life: until it is told to close, or everybody is gone."""
    reader = Connection(descriptor, writable=False)
    _, (tracking, folder) = reader.recv()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(reader, told), daemon=True).start()
    stderr = _hush()
    try:
        _pass_on(told, tracking, folder)
    except Exception as error:
        _tell(tracking, f"{type(error).__name__}: {error}", stderr=stderr)


def _listen(reader: Connection, told: queue.SimpleQueue[Any]) -> None:
    """Take everything off the line at once, so that nobody at the other end has to wait."""
    try:
        while (message := reader.recv())[0] != "close":
            told.put(message)
    except Exception:  # everybody is gone, or one was killed in the middle of a word
        threading.Timer(PATIENCE, os._exit, [1]).start()
    told.put(None)


def _pass_on(told: queue.SimpleQueue[Any], tracking: Tracking, folder: Path) -> None:
    tracker: Tracker | None = None
    under_way: dict[str, None] = {}
    while (message := told.get()) is not None:
        method, (key, *rest) = message
        if method == "begin":
            tracker = tracker or open_tracker(tracking, folder)
            under_way[key] = None
        if tracker and key in under_way:
            getattr(tracker, method)(key, *rest)
        if method == "end":
            under_way.pop(key, None)
    for key in reversed(under_way):  # of processes that were killed
        if tracker:
            tracker.end(key, "KILLED", ())


def _hush() -> int:
    """Nothing that a tracker's library prints is seen; what is left of stderr is for us."""
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return ours


def _tell(tracking: Tracking, why: str, *, stderr: int = 2) -> None:
    """One line, without the passwords that addresses may hold."""
    said = re.sub(r"://[^/\s@]+@", "://", " ".join(why.split()))[:_LONGEST]
    line = f"warning: tracking with {tracking.kind} has ended: {said}. The run goes on.\n"
    with contextlib.suppress(OSError):
        os.write(stderr, line.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
