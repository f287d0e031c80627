"""Jobs on disk: a folder each, with the signed order, what became of it, and its run.

jobs/<id>/order.json   as the administrator signed it
jobs/<id>/cancel.json  the word that ended it, as an administrator signed that, for the silos
jobs/<id>/state.json   queued, waiting, running, finished, failed or cancelled
jobs/<id>/log.txt      a line for everything that a person may want to know
jobs/<id>/run/         the run folder
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from privet.deployment.parties.orders import Order, read_cancellation, read_order
from privet.deployment.parties.parties import Parties
from privet.deployment.parties.requests import Denied
from privet.files import locked, write_whole
from privet.record.history import HISTORY, HistoryTail

State = Literal["queued", "waiting", "running", "finished", "failed", "cancelled"]
OVER: frozenset[State] = frozenset({"finished", "failed", "cancelled"})
RUN = "run"
_CANCEL = "cancel.json"
_PATIENCE = 60.0


@dataclass(frozen=True)
class JobState:
    """What became of a job so far."""

    state: State
    detail: str = ""
    """Why, in a line."""
    since: float = 0.0
    """Seconds since 1970."""
    starts: int = 0
    """How often it was begun or gone on with."""


class Job:
    """One job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self.run = folder / RUN
        self.history = HistoryTail(self.run / HISTORY)
        """Its rounds, for everybody who follows it."""

    def order_text(self) -> str:
        """The order as it was signed."""
        return (self.folder / "order.json").read_text(encoding="utf-8")

    def order(self, parties: Parties) -> Order:
        """The order, checked once more; Denied when who gave it may not order any more."""
        return read_order(self.order_text(), parties)

    def lasts(self) -> bool:
        """Whether its order has not ended yet; nobody's right to order is looked at."""
        return float(json.loads(self.order_text())["order"].get("until", 0.0)) > time.time()

    @property
    def standing(self) -> JobState:
        """What became of it so far."""
        return JobState(**json.loads((self.folder / "state.json").read_text(encoding="utf-8")))

    def become(self, state: State, detail: str = "", *, start: bool = False) -> bool:
        """Note a new state, durably, and in the log; False, and no change, for a job that is over.

        The runner's thread and an administrator's request ask for states at any time: whoever ends
        the job first has ended it.
        """
        # Reading and writing under one lock: else a job could be finished after it was cancelled.
        with locked(self.folder, seconds=_PATIENCE, flags=os.O_DIRECTORY):
            before = self.standing if (self.folder / "state.json").exists() else None
            if before and before.state in OVER:
                return False
            now = JobState(state, detail, time.time(), (before.starts if before else 0) + start)
            write_whole(self.folder / "state.json", json.dumps(asdict(now)).encode())
        self.note(f"{state}: {detail}" if detail else state)
        return True

    def note(self, line: str) -> None:
        """Add a line to the job's log."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{at} {line}\n")

    def log(self, start: int = 0) -> str:
        """The log from byte `start` on."""
        path = self.folder / "log.txt"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(start)
            return file.read().decode("utf-8", errors="replace")


class JobStore:
    """All jobs of a server."""

    def __init__(self, folder: Path) -> None:
        """Take `folder`, with what a server that died was about to add swept away."""
        self._folder, self._lock = folder, threading.Lock()
        self._known: dict[Path, Job] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its order was never acknowledged, so whoever gave it knows that it has to be given again.
        for building in folder.glob(".*"):
            shutil.rmtree(building, ignore_errors=True)
        words = [job.folder / _CANCEL for job in self.all()]
        self.cancelled = max((int(w.stat().st_mtime * 1e6) for w in words if w.exists()), default=0)
        """Another number after every job that is cancelled: microseconds since 1970."""

    def cancel(self, job: Job, text: str, parties: Parties) -> None:
        """Keep the word that ends a job; Denied unless an administrator signed it for this one."""
        if read_cancellation(text, parties).job != job.id:
            raise Denied("a cancel of another job")
        with self._lock:
            write_whole(job.folder / _CANCEL, text.encode(), durable=True)
            # After the file: who hears of it finds it.
            self.cancelled = max(self.cancelled + 1, int(time.time() * 1e6))

    def cancellations(self) -> list[str]:
        """All such words whose orders have not ended by themselves."""
        files = [job.folder / _CANCEL for job in self.all() if job.lasts()]
        return [file.read_text(encoding="utf-8") for file in files if file.exists()]

    def add(self, text: str, parties: Parties) -> Job:
        """A new job from a signed order; Denied for one that is not valid or known already."""
        order = read_order(text, parties)
        job = self._job(self._folder / order.job)
        # Built beside and renamed: a folder without a leading dot is a whole job, whenever a server
        # dies.
        building = self._folder / f".{order.job}"
        with self._lock:
            if job.folder.exists():
                raise Denied(f"job {order.job} is known already")
            try:
                building.mkdir(mode=0o700)
                write_whole(building / "order.json", text.encode())
                Job(building).become("queued", f"by {order.requester}")
                building.rename(job.folder)
            except OSError as error:
                shutil.rmtree(building, ignore_errors=True)
                raise Denied(f"the order cannot be written down: {error.strerror}") from None
        return job

    def get(self, name: str) -> Job | None:
        """The job with this id, or None."""
        # Among those that are there: a name from a URL never becomes a path.
        return next((job for job in self.all() if job.id == name), None)

    def all(self) -> list[Job]:
        """Every job, in the order in which they came."""
        folders = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        return [self._job(path) for path in sorted(folders, key=_age)]

    def _job(self, folder: Path) -> Job:
        """The same one every time: it knows how far its history was read."""
        return self._known.setdefault(folder, Job(folder))

    def pending(self) -> list[Job]:
        """Those that are not over, in the order in which they came."""
        return [job for job in self.all() if job.standing.state not in OVER]


def _age(folder: Path) -> tuple[float, str]:
    # Written once, when the job came; the folder's own time changes with every file in it.
    return (folder / "order.json").stat().st_mtime, folder.name
