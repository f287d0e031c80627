"""Jobs on disk: a folder each, with the signed order, what became of it, and its run.

jobs/<id>/order.json   as the administrator signed it
jobs/<id>/cancel.json  the word that ended it, as an administrator signed that, for the silos
jobs/<id>/state.json   queued, waiting, running, or how it ended
jobs/<id>/log.txt      a line for everything that a person may want to know
jobs/<id>/run/         the run folder
broken/<name>          what lay among the jobs and is none: no server stops at it
removed/<id>/          order and cancel of a job that was removed, for silos that have not heard yet
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from privet.deployment.parties.orders import Order, read_cancellation, read_order
from privet.deployment.parties.parties import Parties
from privet.deployment.parties.requests import Denied
from privet.files import locked, sync, write_whole
from privet.record.history import HISTORY, HistoryTail

State = Literal["queued", "waiting", "running", "finished", "stopped early", "failed", "cancelled"]
OVER: frozenset[State] = frozenset({"finished", "stopped early", "failed", "cancelled"})
RUN = "run"
BROKEN, _REMOVED = "broken", "removed"
_ORDER, _STATE, _CANCEL = "order.json", "state.json", "cancel.json"
_PATIENCE = 60.0
_NO_JOB = (
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    ValueError,
    TypeError,
    KeyError,
)
"""What reading says of files that are no job's; any other error may pass."""

Told = TypeVar("Told")
log = logging.getLogger("privet.server")


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
        self._standing: tuple[object, JobState] | None = None

    def order_text(self) -> str:
        """The order as it was signed."""
        return (self.folder / _ORDER).read_text(encoding="utf-8")

    def order(self, parties: Parties) -> Order:
        """The order, checked once more; Denied when who gave it may not order any more."""
        return read_order(self.order_text(), parties)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the order says, whoever signed it; one of _NO_JOB for what is no order."""
        found = json.loads(self.order_text())["order"]
        if not isinstance(found["experiment"], dict):
            raise TypeError("an order without an experiment")
        _ = found["project"], found["requester"], float(found["at"])
        return {**found, "until": float(found.get("until", 0.0))}

    @cached_property
    def came(self) -> tuple[float, str]:
        """Jobs in the order of this came one after the other."""
        # Written once, when the job came; the folder's own time changes with every file in it.
        return (self.folder / _ORDER).stat().st_mtime, self.id

    def lasts(self) -> bool:
        """Whether its order has not ended yet; nobody's right to order is looked at."""
        return bool(self.facts["until"] > time.time())

    @property
    def standing(self) -> JobState:
        """What became of it so far."""
        path = self.folder / _STATE
        facts = path.stat()
        stamp = facts.st_mtime_ns, facts.st_size, facts.st_ino
        known = self._standing
        if known is None or known[0] != stamp:
            found = JobState(**json.loads(path.read_text(encoding="utf-8")))
            if found.state not in get_args(State):
                raise ValueError(f"state {found.state!r}")
            known = self._standing = stamp, found
        return known[1]

    def become(self, state: State, detail: str = "", *, start: bool = False) -> bool:
        """Note a new state, durably, and in the log; False, and no change, for a job that is over.

        The runner's thread and an administrator's request ask for states at any time: whoever ends
        the job first has ended it.
        """
        # Reading and writing under one lock: else a job could be finished after it was cancelled.
        with locked(self.folder, seconds=_PATIENCE, flags=os.O_DIRECTORY):
            before = self.standing if (self.folder / _STATE).exists() else None
            if before and before.state in OVER:
                return False
            now = JobState(state, detail, time.time(), (before.starts if before else 0) + start)
            write_whole(self.folder / _STATE, json.dumps(asdict(now)).encode(), durable=True)
        self.note(f"{state}: {detail}" if detail else state)
        return True

    def note(self, line: str) -> None:
        """Add a line to the job's log."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(f"{at} {line}\n")
        except OSError as error:  # what the line tells of has happened all the same
            log.warning("job %s: %s (its log cannot be written: %s)", self.id, line, error.strerror)

    def log(self, start: int = 0) -> str:
        """The log from byte `start` on."""
        return self.log_bytes(start).decode("utf-8", errors="replace")

    def log_bytes(self, start: int = 0) -> bytes:
        """The same as it is written: who goes on reading later begins behind these bytes."""
        path = self.folder / "log.txt"
        if not path.exists():
            return b""
        with path.open("rb") as file:
            # A place far behind the end is none to some file systems.
            file.seek(min(start, os.fstat(file.fileno()).st_size))
            return file.read()


class JobStore:
    """All jobs of a server. Only this process changes them."""

    def __init__(self, folder: Path) -> None:
        """Take `folder`, with what a server that died was about to add swept away."""
        self._folder, self._lock = folder, threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._over: set[str] = set()
        """Of jobs that are over; no job begins again."""
        self.broken: dict[str, str] = {}
        """What was no job and was set aside, by its path below the state folder, and why."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its order was never acknowledged, so whoever gave it knows that it has to be given again.
        for building in folder.glob(".*"):
            shutil.rmtree(building, ignore_errors=True)
        for path in sorted(self._beside(BROKEN).glob("*")):
            self.broken[f"{BROKEN}/{path.name}"] = "set aside at an earlier start"
        self._end_what_was_cancelled()
        words = [path / _CANCEL for path in self._words()]
        self.cancelled = max((int(w.stat().st_mtime * 1e6) for w in words if w.exists()), default=0)
        """Another number after every job that is cancelled: microseconds since 1970."""

    def cancel(self, job: Job, text: str, parties: Parties) -> None:
        """Keep the word that ends a job; Denied unless an administrator signed it for this one."""
        if read_cancellation(text, parties).job != job.id:
            raise Denied("a cancel of another job")
        with self._lock:
            try:
                write_whole(job.folder / _CANCEL, text.encode(), durable=True)
            except OSError as error:
                raise Denied(f"the cancel cannot be written down: {error.strerror}") from None
            self._news()

    def cancellations(self) -> list[str]:
        """All such words whose orders have not ended by themselves."""
        files = [path / _CANCEL for path in self._words() if Job(path).lasts()]
        words = [file.read_text(encoding="utf-8") for file in files if file.exists()]
        return list(dict.fromkeys(words))

    def add(self, text: str, parties: Parties) -> Job:
        """A new job from a signed order; Denied for one that is not valid or known already."""
        order = read_order(text, parties)
        job = Job(self._folder / order.job)
        # Built beside and renamed: a folder without a leading dot is a whole job, whenever a server
        # dies.
        building = self._folder / f".{order.job}"
        with self._lock:
            if job.folder.exists():
                raise Denied(f"job {order.job} is known already")
            try:
                building.mkdir(mode=0o700)
                write_whole(building / _ORDER, text.encode())
                Job(building).become("queued", f"by {order.requester}")
                building.rename(job.folder)
                # It is acknowledged: a power cut must not take it back.
                sync(self._folder)
            except OSError as error:
                shutil.rmtree(building, ignore_errors=True)
                raise Denied(f"the order cannot be written down: {error.strerror}") from None
            self._jobs[job.id] = job
        return job

    def remove(self, job: Job) -> None:
        """Delete a job that is over, with its run; Denied for one that is not.

        Of a cancelled one the word stays until its order ends: silos that are away must hear it.
        """
        if job.standing.state not in OVER:
            raise Denied(f"job {job.id} is {job.standing.state}: cancel it first")
        with self._lock:
            if (job.folder / _CANCEL).exists() and job.lasts():
                self._keep_word(job)
            # Under a name that the next start sweeps away, whenever this process dies.
            going = job.folder.rename(job.folder.with_name(f".{job.id}"))
            self._jobs.pop(job.id, None)
        shutil.rmtree(going, ignore_errors=True)

    def _keep_word(self, job: Job) -> None:
        kept = self._beside(_REMOVED) / job.id
        if kept.exists():  # since a removal that this process's predecessor died at
            return
        building = kept.with_name(f".{job.id}")
        building.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (_ORDER, _CANCEL):
            write_whole(building / name, (job.folder / name).read_bytes())
        sync(building)
        building.rename(kept)
        sync(kept.parent)

    def get(self, name: str) -> Job | None:
        """The job with this id, or None."""
        # Among those that are there: a name from a URL never becomes a path.
        return next((job for job in self.all() if job.id == name), None)

    def all(self) -> list[Job]:
        """Every job, in the order in which they came."""
        with self._lock:
            names = [path.name for path in self._folder.iterdir() if path.name[0] != "."]
            for name in names:
                if name not in self._jobs:
                    self._take_in(Job(self._folder / name))
            for gone in self._jobs.keys() - set(names):
                del self._jobs[gone]
            return sorted(self._jobs.values(), key=lambda job: job.came)

    def each(self, look: Callable[[Job], Told]) -> list[Told]:
        """What `look` says of every job, in the order in which they came.

        A job that it cannot read is set aside: it keeps nobody from the others.
        """
        told = []
        for job in self.all():
            try:
                told.append(look(job))
            except _NO_JOB:
                # Only for what the files are at fault for: a job that runs must stay where it is.
                if self._take_in(job):
                    log.exception("job %s is left out of a list", job.id)
        return told

    def pending(self) -> list[Job]:
        """Those that are not over, in the order in which they came."""
        self._over |= {job.id for job in self.all() if job.id not in self._over and _is_over(job)}
        return [job for job in self.all() if job.id not in self._over]

    def _take_in(self, job: Job) -> bool:
        """Whether the job can be read; one that cannot is set aside."""
        try:
            _ = job.facts, job.came, job.standing
        except _NO_JOB as error:
            self._set_aside(job, error)
        except OSError as error:  # it may be read at the next look
            log.error("job %s cannot be read: %s", job.id, error)
        else:
            self._jobs[job.id] = job
            return True
        return False

    def _set_aside(self, job: Job, error: Exception) -> None:
        what = Path(str(error.filename)).name if isinstance(error, OSError) else error
        why = f"{type(error).__name__}: {what}"
        with self._lock:
            self._jobs.pop(job.id, None)
            if not job.folder.exists():
                return
            folder = self._beside(BROKEN)
            numbered = (folder / f"{job.id}{f'.{n}' if n else ''}" for n in count())
            place = next(path for path in numbered if not path.exists())
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                job.folder.rename(place)
            except OSError as failed:
                place = job.folder
                why = f"{why}; it cannot be moved: {failed.strerror}"
        name = f"{place.parent.name}/{place.name}"
        if self.broken.setdefault(name, why) is why:
            log.error("%s is no job and is set aside: state/%s: %s", job.id, name, why)

    def _end_what_was_cancelled(self) -> None:
        """A server may have died between the word and the state."""
        for job in self.pending():
            if (job.folder / _CANCEL).exists():
                job.become("cancelled")

    def _words(self) -> list[Path]:
        return [*(job.folder for job in self.all()), *self._beside(_REMOVED).glob("[!.]*")]

    def _news(self) -> None:
        # After the file: who hears of it finds it.
        self.cancelled = max(self.cancelled + 1, int(time.time() * 1e6))

    def _beside(self, name: str) -> Path:
        return self._folder.with_name(name)


def _is_over(job: Job) -> bool:
    return job.standing.state in OVER
