"""Runs a server's jobs one after the other, and goes on with one that a restart cut off.

A job that has to wait (for silos, for a holder's approval, for room on a disk) lets the others go
first.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flwr.app import Context, RecordDict

from privet.deployment.parties.orders import ORDER_KEY
from privet.deployment.server.flower import Link, allowance
from privet.deployment.server.grid import Cancelled, LinkGrid, Notifier
from privet.deployment.server.jobs import OVER, Job, JobStore, State
from privet.deployment.server.membership import Membership
from privet.errors import ExperimentError, PrivetError
from privet.experiment import Experiment
from privet.record.folder import SETTINGS, RunFolder
from privet.record.history import RoundRecord, Watch, look_away
from privet.record.summary import read_summary
from privet.server import app
from privet.server.cohort import Absent, Unapproved
from privet.wire.errors import CODES

# Flower's own number for the server's side of a run.
_SERVER_NODE = 1
_LOOK_AROUND = 0.2
_LONGEST_IDLE = 5.0
"""Seconds; a new job is told of."""
_PAUSE = 5.0
_AWAY = 1.0
"""Seconds between two looks at a job that waits while others may run."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
_FIRST_REST, _LONGEST_REST = 1.0, 30.0
"""Seconds between two questions whether a job has been approved."""

log = logging.getLogger("privet.server")


@dataclass
class Runner:
    """A thread that works off the jobs; every job's folder says how far it is."""

    store: JobStore
    members: Membership
    link: Link
    notifier: Notifier
    tasks: Sequence[str] = ()
    """Custom tasks whose code may run on the server, "package.module:Class"."""
    patience: float = 60.0
    """Seconds to wait for silos that are away before a job begins without them."""
    longest: float = 0.0
    """Seconds from a job's beginning after which it is stopped; 0: only its order's end does."""
    observe: Watch = look_away
    """Told of every entry of a history that is new, and not gone back to after a restart."""
    _down: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _more: threading.Event = field(default_factory=threading.Event)
    _job: Job | None = None
    _grid: LinkGrid | None = None
    _thread: threading.Thread | None = None
    failures: int = 0
    """Turns of the loop that went wrong."""
    _failed: str | None = None
    """How the last turn went wrong, if it did."""
    _resting: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Jobs that wait for approval: when they are tried again (monotonic), and the pause before."""
    _away: dict[str, float] = field(default_factory=dict)
    """Jobs that let others go first: when they are looked at again (monotonic)."""
    _waits: dict[str, float] = field(default_factory=dict)
    """Since when jobs wait for silos (monotonic)."""

    def start(self) -> None:
        """Begin, with jobs from an earlier start of the server first."""
        # Before the thread: it begins a run at once, which must not be taken for an old one.
        self.link.end_old_runs()
        self._thread = threading.Thread(target=self._work, daemon=True, name="jobs")
        self._thread.start()

    def stop(self) -> None:
        """Leave the present job as it is, to be gone on with at the next start."""
        self._down.set()
        self._interrupt()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def wake(self) -> None:
        """There is a new job."""
        self._more.set()

    def cancel(self, job: Job) -> bool:
        """End a job, unless it is over; its run folder stays as it is."""
        cancelled = job.become("cancelled")
        if cancelled and self._job is not None and self._job.id == job.id:
            self._interrupt()
        return cancelled

    def waiting_for(self) -> dict[str, str]:
        """By silo: the message whose answer the present job waits for."""
        waiting = dict(self._grid.waiting_for) if self._grid else {}
        return {self.members.identify(node).silo: kind for node, kind in waiting.items()}

    def _interrupt(self) -> None:
        self._stop.set()
        self._more.set()
        self.notifier.notify_reply()

    def fault(self) -> str | None:
        """Why no job would go on, or None."""
        if self._thread is None or not self._thread.is_alive():
            return "their thread does not run"
        return self._failed

    def _work(self) -> None:
        while not self._down.is_set():
            # Whatever happens (no file left, a full disk, a fault here): the next turn may go well.
            try:
                self._turn()
            except Exception as error:
                self.failures += 1
                self._failed = f"{type(error).__name__}: {error}"
                log.exception("the jobs go on in %.0f s", _PAUSE)
                self._down.wait(_PAUSE)
            else:
                self._failed = None
            finally:
                self._job = self._grid = None

    def _turn(self) -> None:
        job = self._next()
        if job is None:
            self._more.wait(timeout=self._idle())
            self._more.clear()
            return
        self._job = job
        self._try(job)

    def _idle(self) -> float:
        """Seconds until a job that rests is to be looked at again."""
        now = time.monotonic()
        ends = [*(until for until, _ in self._resting.values()), *self._away.values()]
        return max(0.0, min([_LONGEST_IDLE, *(end - now for end in ends)]))

    def _next(self) -> Job | None:
        """The first job that is not over, but for those whose time to be looked at will come."""
        ready = self._ready()
        return ready[0] if ready else None

    def _ready(self) -> list[Job]:
        now, pending = time.monotonic(), self.store.pending()
        there = {job.id for job in pending}
        # Those that were ended meanwhile are nobody's business any more.
        self._resting = {name: each for name, each in self._resting.items() if name in there}
        self._away = {name: each for name, each in self._away.items() if name in there}
        self._waits = {name: each for name, each in self._waits.items() if name in there}
        rest, away = self._resting, self._away
        return [
            job
            for job in pending
            if rest.get(job.id, (0.0, 0.0))[0] <= now and away.get(job.id, 0.0) <= now
        ]

    def _let_others_go(self, job: Job, why: str, pause: float = _AWAY) -> None:
        if job.standing.state != "waiting" or job.standing.detail != why:
            job.become("waiting", why)
        self._away[job.id] = time.monotonic() + pause

    def _rest(self, job: Job, why: str) -> None:
        if job.standing.detail != why:  # once in the log, however long it takes
            job.become("waiting", why)
        pause = min(_LONGEST_REST, 1.5 * self._resting.get(job.id, (0.0, _FIRST_REST))[1])
        self._resting[job.id] = time.monotonic() + pause, pause

    def _try(self, job: Job) -> None:
        # Cleared before the look: who stops or cancels writes that down first and sets this after,
        # so one of the two is seen.
        self._stop.clear()
        if self._down.is_set() or job.standing.state in OVER:  # told so a moment ago
            return
        before = job.standing.state
        try:
            with self._limited(job):
                self._run(job)
            end = _end_of(job)
        except Cancelled:
            log.info("job %s: interrupted", job.id)
        except Unapproved as waits:
            self._rest(job, str(waits))
        except _Waits as waits:
            self._let_others_go(job, str(waits))
        except Absent as absent:  # a silo went away since it was waited for
            job.become("waiting", str(absent))
            self._away[job.id] = time.monotonic() + _AWAY
        except Exception as error:
            self._fail(job, error)
        else:
            job.become(*end)
        if job.standing.state != before:  # a job that waits is looked at every second
            log.info("job %s is %s", job.id, job.standing.state)

    def _fail(self, job: Job, error: Exception) -> None:
        if full := _is_full(error):  # nothing is wrong with the job
            log.error("job %s waits: %s", job.id, full)
            self._let_others_go(job, f"for room on the server ({full})", _PAUSE)
        elif isinstance(error, PrivetError):
            job.become("failed", str(error))
        else:
            log.exception("job %s failed", job.id, exc_info=error)
            job.become("failed", f"{type(error).__name__}: {error}")

    @contextmanager
    def _limited(self, job: Job) -> Iterator[None]:
        """Stop the job when its order ends, or it has run for too long."""
        end, why = float(job.facts["until"]), "its order ended"
        if self.longest and (limit := _begun(job) + self.longest) < end:
            end, why = limit, f"it ran for {self.longest / 3600:g} h, longest_job_hours"
        left = min(threading.TIMEOUT_MAX, max(0.0, end - time.time()))
        timer = threading.Timer(left, self._end, [job, f"{why} ({_moment(end)})"])
        timer.daemon = True
        if left:
            timer.start()
        else:
            self._end(job, f"{why} ({_moment(end)})")
        try:
            if self._stop.is_set():
                raise Cancelled
            yield
        finally:
            timer.cancel()

    def _end(self, job: Job, why: str) -> None:
        """Stop a job, whatever it is at."""
        if job.become("stopped early", why):
            self._interrupt()

    def _run(self, job: Job) -> None:
        # Signature and requester are checked again at every start, so that revoking somebody ends
        # jobs that wait.
        order = job.order(self.members.current())
        experiment = order.settings()
        self._check_task(experiment)
        self._wait_for_silos(job, experiment)
        # One that rests runs when its silos have enrolled: until then it is only asked about.
        rests = job.id in self._resting
        if not rests:
            self._begin(job)
        self.link.allowance = allowance(0)
        with self.link.run({ORDER_KEY: job.order_text()}) as live:
            self._grid = LinkGrid(live, self.notifier, stop=self._stop)
            encrypted = experiment.encryption is not None
            # A resumed run tells its earlier rounds again; they are counted and logged already.
            known = RunFolder(job.run).last_whole()

            def watch(entry: RoundRecord) -> None:
                nonlocal rests
                if rests:
                    self._begin(job)
                    rests = False
                self._watch(job, experiment, entry, new=entry.round > known)

            hosting = app.Hosting(
                run=job.id,
                folder=job.run,
                resume=True,
                watch=watch,
                sized=self._size,
                identify=self.members.identify,
                roster=self.members.roster() if encrypted else None,
            )
            context = Context(
                live.id, _SERVER_NODE, {}, RecordDict(), {**experiment.to_run_config()}
            )
            app.run(self._grid, context, hosting)
        summary = read_summary(job.run)
        if summary and summary.model and summary.model.nothing_trained:
            raise PrivetError(summary.model.nothing_trained)

    def _size(self, values: int) -> None:
        self.link.allowance = allowance(values)

    def _begin(self, job: Job) -> None:
        if not job.become("running", start=True):
            raise Cancelled

    def _check_task(self, experiment: Experiment) -> None:
        if ":" in experiment.task and experiment.task not in self.tasks:
            raise ExperimentError(
                f'task = "{experiment.task}" is code that this server does not run; its operator '
                "can allow it in server.toml (tasks)"
            )

    def _wait_for_silos(self, job: Job, experiment: Experiment) -> None:
        """Until all are here, or as many as the job needs and `patience` is over."""
        least = experiment.federation.min_silos
        if experiment.encryption is not None:
            # With fewer, silos would refuse to open any sum.
            least = max(least, experiment.encryption.least_sum)
        begin, said = self._waits.setdefault(job.id, time.monotonic()), ""
        while True:
            nodes = self.members.nodes
            status = self.link.status(nodes.values())
            away = [name for name, node in nodes.items() if not status[node].online]
            here = len(nodes) - len(away)
            if not away or (here >= least and time.monotonic() - begin > self.patience):
                self._waits.pop(job.id, None)
                return
            text = f"for {', '.join(away)} ({here} of {len(nodes)} silos are here)"
            if [each.id for each in self._ready()] not in ([], [job.id]):
                raise _Waits(text)
            if text != said:
                if not job.become("waiting", text):
                    raise Cancelled
                said = text
            self._stop.wait(_LOOK_AROUND)
            if self._stop.is_set():
                raise Cancelled
            # Nobody else may ask while all silos are away, and a new list may end the waiting.
            self.members.current()

    def _watch(self, job: Job, experiment: Experiment, entry: RoundRecord, *, new: bool) -> None:
        if not new:  # it stands in the log, from an earlier start
            return
        self.observe(entry)
        job.note(f"round {entry.round}/{experiment.rounds}  {entry.describe()}")
        for failure in entry.failures:
            job.note(f"  {failure.silo}, {failure.stage}: {failure.reason}")
        for silo, reason in entry.refused.items():
            job.note(f"  {silo} refuses: {reason}")
        for silo, reference in entry.references.items():
            job.note(f"  the log of {silo} says more at {reference}")
        if self._stop.is_set():
            raise Cancelled


class _Waits(Exception):  # noqa: N818 - says for what
    """The job cannot begin yet, and another one may."""


def _end_of(job: Job) -> tuple[State, str]:
    """What became of a job whose run came to its end."""
    summary = read_summary(job.run)
    if summary is None or summary.stopped is None:
        return "finished", ""
    rounds = RunFolder(job.run).rounds()
    refused = rounds[-1].refused
    why = summary.stopped.reason
    if refused:
        kinds = Counter(map(_kind, refused.values()))
        said = ", ".join(kind for kind, _ in kinds.most_common())
        silos = set().union(*(entry.silos for entry in rounds))
        why = f"{len(refused)} of {len(silos)} silos refused ({said})"
    planned = job.facts["experiment"].get("rounds")
    of = f" of {planned}" if planned else ""
    return "stopped early", f"{why}, after round {summary.stopped.round}{of}"


def _kind(reason: str) -> str:
    """The word for a silo's reason, which begins with one of those that a silo can give."""
    return next((code for code, words in CODES.items() if reason.startswith(words)), "other")


def _is_full(error: BaseException | None) -> str | None:
    """What there is too little of on this machine, if that is why."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return str(error.strerror)
        if isinstance(error, sqlite3.OperationalError):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _begun(job: Job) -> float:
    """When a job's run began, seconds since 1970; now for one that has not."""
    try:
        return (job.run / SETTINGS).stat().st_mtime
    except OSError:
        return time.time()


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
