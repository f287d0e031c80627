"""`privet silo`: answers what the server passes on, until a signal ends it."""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

from privet.client.own_files import forget_ended
from privet.client.task_code import code_hash, top_level
from privet.deployment.monitoring import SILO, new_registry, serving_health, serving_metrics
from privet.deployment.parties import PartiesError, PartiesFile, SiloKit
from privet.deployment.parties.errors import OtherProtocol
from privet.deployment.parties.orders import read_cancellation
from privet.deployment.parties.requests import Denied, Signing
from privet.deployment.parties.transport import check_hello, client
from privet.deployment.silo import approvals
from privet.deployment.silo.connection import (
    Connection,
    NotTrusted,
    RunOver,
    ServerRefused,
    Stopped,
    Unreachable,
    judge,
)
from privet.deployment.silo.metrics import Outcome, SiloMetrics, outcome_of
from privet.deployment.silo.orders import OWN_PARTS, OrderedJob, believed, node_config
from privet.deployment.silo.worker import ComputeOn, Died, Work, Worker
from privet.devices import options
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.files import only_process, write_whole
from privet.privacy.ledger import Ledger, LedgerError, SiloKey
from privet.privacy.ledger.entries import head_path, parse_head
from privet.privacy.ledger.keys import refuse_open_key
from privet.privacy.policy import Policy
from privet.wire import REFUSED, WAITING, ErrorReply, Failure

_DOWNLOAD_TIMEOUT = 600.0
"""Seconds that a message may take to come."""
_LONGEST_WORK = 86400.0
"""Seconds that a message may be worked on, however long the server would wait."""
_ROSTER = "roster-{}.toml"
STANDING = "standing.json"
"""In the state folder: whether the silo is online, and why not."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_LONG = 60.0
"""Seconds online after which a silo that is refused comes back soon."""

log = logging.getLogger("privet.silo")


def serve(kit: SiloKit, *, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop` is set; `ready` is called when the silo is online for the first time.

    Whatever the server says, or does not say, is waited for to pass, and the silo registers anew.
    Raises PrivetError when the kit is not complete (no policy, no ledger, another process at work
    in its folder), when the silo is revoked on the signed list, when the server speaks as another
    version does, and when the ledger is an older one than the server has seen.
    """
    # Only to say what is wrong before the silo is online; each message reads both files anew, so
    # that a change of either counts from the next one on.
    Policy.from_file(kit.policy)
    identity = SiloKey.load(kit.identity)
    if kit.node_key.exists():
        refuse_open_key(kit.node_key)
    with Ledger.open(kit.ledger, identity):
        pass
    kit.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two of one silo would answer for each other, and each take the other's messages.
    with only_process(kit.state / "silo.pid"):
        auth = Signing(project=kit.project, name=kit.name, identity=identity)
        connection = Connection(kit.server, ca=kit.ca, node_key=kit.node_key, auth=auth, stop=stop)
        registry = new_registry()
        metrics = SiloMetrics(registry, connection, ledger=kit.ledger, policy=kit.policy)
        silo = _Silo(kit, connection, auth, stop, metrics.done)
        try:
            with (
                serving_metrics(kit.metrics, registry),
                serving_health(kit.health, SILO) as health,
                health.following(lambda: connection.online),
            ):
                silo.stay(ready)
        except Stopped:
            log.info("silo %s goes offline", kit.name)
        finally:
            # First: an answer that nobody will send need not be worked out.
            silo.worker.stop()
            connection.close()


def standing(kit: SiloKit) -> dict[str, str]:
    """Whether a silo is at its server, why not, and since when (ISO 8601), as it wrote it down."""
    try:
        told = json.loads((kit.state / STANDING).read_bytes())
        since = datetime.fromtimestamp(told["since"], UTC).isoformat(timespec="seconds")
        return {"state": str(told["state"]), "why": str(told["why"]), "since": since}
    except (OSError, ValueError, TypeError, KeyError):
        raise PrivetError(f"{kit.state / STANDING}: no silo has run in this kit") from None


@dataclass
class _Silo:
    kit: SiloKit
    connection: Connection
    auth: Signing
    stop: threading.Event
    done: Callable[[str, Outcome, float], None] = lambda *_: None
    """Told of every message: its type, what became of it, and the seconds that it took."""
    worker: Worker = field(default_factory=Worker)
    _jobs: dict[int, OrderedJob | str] = field(default_factory=dict)
    """What each Flower run turned out to be: a job, or where the log says why it is none."""
    _admitted: tuple[str, bool] | None = None
    """The order that was not ended and needs nobody's approval, or (True) has it."""
    _code: dict[str, str | None] = field(default_factory=dict)
    """The hash of every task's code that the worker may have imported, by top-level module."""
    _memories: dict[str, RecordDict] = field(default_factory=dict)
    """What the ClientApp keeps between the rounds of the present job."""

    def __post_init__(self) -> None:
        self._parties = PartiesFile(self.kit.parties, project_key=self.kit.project_key)
        self._cancels = 0
        self._unanswered = self.kit.state / "unanswered.message"
        self._begun = self.kit.state / "unanswered.job"

    def stay(self, ready: Callable[[], None]) -> None:
        """Be online and work, and come back whenever that ends, until asked to stop."""
        pause, first = _FIRST_PAUSE, True
        while True:
            met = time.monotonic()
            try:
                self.greet()
                self._check_ledger()
                self.connection.activate()
                log.info("silo %s is online at %s", self.kit.name, self.kit.server)
                self._say("online")
                if first:
                    ready()
                first = False
                self.work()
            except OtherProtocol:
                raise
            except (ServerRefused, NotTrusted, RunOver, Unreachable, PartiesError) as error:
                self._demand_membership()
                if time.monotonic() - met > _LONG:
                    pause = _FIRST_PAUSE
                log.warning("offline: %s; again in %.0f s", error, pause)
                self._say("offline", str(error))
            if self.stop.wait(random.uniform(pause / 2, pause)):  # noqa: S311 - spreads silos
                raise Stopped("asked to end")
            pause = min(1.7 * pause, _LONGEST_PAUSE)

    def _say(self, state: str, why: str = "") -> None:
        """For `privet silo status`, on this machine."""
        told = {"state": state, "why": why, "since": time.time()}
        try:
            write_whole(self.kit.state / STANDING, json.dumps(told).encode())
        except OSError as error:
            log.warning("%s cannot be written: %s", self.kit.state / STANDING, error)

    def _demand_membership(self) -> None:
        """PartiesError when the signed list itself says that this silo is revoked."""
        party = self._parties.current().named(self.kit.name)
        if party is not None and party.revoked:
            self._say("ended", f"{party} is revoked")
            raise PartiesError(f"{party} is revoked on the project's list")

    def _check_ledger(self) -> None:
        """LedgerError for a ledger that lacks what the server has in this silo's own signature."""
        with client(self.kit.server, ca=self.kit.ca, auth=self.auth, quiet=10.0) as http:
            try:
                answer = http.get("/privet/v1/ledger")
                answer.raise_for_status()
                seen = answer.text
            except httpx.HTTPError as error:
                judge(error)
                raise Unreachable(f"what the server knows of the ledger: {error}") from error
        try:
            with self._ledger() as ledger:
                fault = went_back(ledger, seen)
        except LedgerError as error:  # its holder may be reading it
            raise Unreachable(f"the ledger: {error}") from error
        if fault:
            self._say("ended", fault)
            raise LedgerError(f"{self.kit.ledger}: {fault}")
        self.connection.ledger = self._head

    def _head(self) -> str:
        try:
            return head_path(self.kit.ledger).read_text(encoding="utf-8")
        except (OSError, ValueError):  # the ledger's own check says it, before anything is spent
            return ""

    def greet(self) -> None:
        """Wait for the server and see that it is this project's and speaks as this silo does."""
        # Before the server is waited for: its imports need not be waited for afterwards.
        self.worker.start()
        if options(self.kit.device, self.kit.precision):  # the CPU is there
            where = self.worker.choose(ComputeOn(self.kit.device, self.kit.precision))
            log.info("silo %s computes on %s", self.kit.name, where)
        with client(self.kit.server, ca=self.kit.ca, auth=self.auth, quiet=10.0) as http:
            told = self._hello(http)
            check_hello(told, project=self.kit.project, server=self.kit.server)
            self._update_parties(http)
        self._forget_own_parts()

    def work(self) -> None:
        """Answer messages, for ever."""
        self._answer_for_the_lost()
        while True:
            found = self.connection.next()
            self._hear_cancels()
            if found is None:
                continue
            head, tree = found
            until = time.monotonic() + _seconds(head.metadata.ttl)
            # Before anything else: whatever ends this process from here on, the server hears of at
            # the next start.
            self._remember(head)
            start = time.monotonic()
            outcome: Outcome = "over"
            try:
                reply = self._answered(head, tree, until)
                self.connection.reply(reply, to=head)
                outcome = outcome_of(reply)
            except RunOver as over:
                log.info("%s: %s", head.metadata.message_type, over)
            except (Unreachable, ObjectPullError) as error:
                outcome = "lost"
                log.warning("%s is lost: %s", head.metadata.message_type, error)
            self.done(head.metadata.message_type, outcome, time.monotonic() - start)
            self._forget()

    def _remember(self, head: Message) -> None:
        """Note what is begun, for `_answer_for_the_lost`; the ledger refuses if a disk is full."""
        try:
            self._unanswered.write_bytes(message_to_proto(head).SerializeToString())
        except OSError as error:
            log.warning("%s cannot be written: %s", self._unanswered, error)

    def _forget(self) -> None:
        for path in (self._unanswered, self._begun):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed: %s", path, error)

    def _answered(self, head: Message, tree: ObjectTree, until: float) -> Message:
        try:
            return self._answer(head, tree, until)
        except OSError as error:  # this machine's disk, memory or files: the next may go well
            return _failed(head, _logged("ledger", f"{type(error).__name__}: {error}"))

    def _answer(self, head: Message, tree: ObjectTree, until: float) -> Message:
        run, kind = head.metadata.run_id, head.metadata.message_type
        job = self._job(run)
        if isinstance(job, str):
            return _failed(head, ErrorReply(REFUSED, "order", reference=job))
        if told := self._not_admitted(job):
            return _failed(head, told)
        timeout = min(_DOWNLOAD_TIMEOUT, until - time.monotonic())
        message = self.connection.fetch(head, tree, timeout=timeout)
        # From here on the job's code may end this process too, and its end may hang on a record.
        place = self._place(job)
        try:
            self._begun.write_text(json.dumps(place))
        except OSError as error:
            return _failed(head, _logged("ledger", f"{self._begun} cannot be written: {error}"))
        start = time.monotonic()
        roster = self._roster()
        self._let_code_be_new(Experiment.from_run_config(job.run_config).task)
        work = Work(
            message=message,
            run=job.number,
            node=self.connection.node,
            node_config=node_config(self.kit, job, roster=roster),
            run_config=dict(job.run_config),
            state=self._memories.get(job.id, RecordDict()),
        )
        try:
            reply, state = self.worker.answer(work, until=until)
        except Died as died:
            self.worker.start()
            told = ErrorReply("worker", "worker", reference=secrets.token_hex(4))
            log.error("%s: %s of job %s: %s", told.reference, kind, job.id, died)
            return _failed(head, self._counted(told, kind, place))
        # After the answer: a worker that died leaves the state from before the message.
        self._memories = {job.id: state}
        took = time.monotonic() - start
        if reply.has_error():
            said = Failure.parse(reply.error.reason, silo="")
            log.warning("%s of job %s: %s (%s)", kind, job.id, said.reason, said.reference)
        else:
            log.info("%s of job %s: answered in %.2f s", kind, job.id, took)
        return reply

    def _job(self, run: int) -> OrderedJob | str:
        """What the run is; asked again whenever the list of parties has changed."""
        # A run may begin with the very list that lets its requester order it.
        if self.connection.parties_version > self._parties.current().version:
            with client(self.kit.server, ca=self.kit.ca, auth=self.auth, quiet=10.0) as http:
                self._update_parties(http)
            self._jobs.clear()
        if run not in self._jobs:
            try:
                job = believed(self.connection.settings(run), self._parties.current())
                log.info("job %s of %s, as run %s", job.id, job.requester, run)
                # One at a time, as the server runs them; a silo that is up for a year keeps no
                # list.
                self._jobs = {run: job}
                self._forget_own_parts()
            except PrivetError as denied:
                # These say nothing of the order.
                if isinstance(denied, RunOver | Stopped):
                    raise
                self._jobs = {run: self._refuse(run, str(denied))}
        return self._jobs[run]

    def _forget_own_parts(self) -> None:
        """Remove what this silo has of its own of models whose jobs are over."""
        try:
            policy = Policy.from_file(self.kit.policy)
            forget_ended(self.kit.state / OWN_PARTS, partial(_keeps_own_parts, policy))
        except (PrivetError, OSError) as error:
            log.warning("parts of models of jobs that are over stay here: %s", error)

    def _let_code_be_new(self, task: str) -> None:
        """End a worker that has other code of this task in its memory than what lies there now."""
        name = top_level(task)
        if name is None:
            return
        now = code_hash(task)
        if self._code.setdefault(name, now) != now:
            log.info("the code of %s has changed: a new worker begins", task)
            self.worker.stop()
            self.worker.start()
            self._code = {name: now}

    def _not_admitted(self, job: OrderedJob) -> ErrorReply | None:
        """The answer to a job that was ended here, or waits for the holder's approval."""
        try:
            dataset, _ = self.kit.meant(Experiment.from_run_config(job.run_config))
            rules = Policy.from_file(self.kit.policy).rules(dataset)
            admitted = job.order, bool(rules and rules.asks_about(job.requester))
            # Once: what is decided later the guard finds in the ledger before records are used.
            if admitted == self._admitted:
                return None
            with self._ledger() as ledger:
                if ended := ledger.ended(job.id):
                    place = {"dataset": dataset, "job": job.id, "who": job.requester}
                    ledger.note_job(f"refused: {ended}", **place)
                    return _logged("ended", f"job {job.id}: {ended}")
                waits = admitted[1] and not ledger.approved(job.id, job.order)
            if waits and approvals.keep(self.kit, job):
                log.info("job %s waits: privet silo approve %s", job.id, job.id)
        except PrivetError as error:
            return _logged("setup", str(error))
        if waits:
            return ErrorReply(WAITING, "approval")
        self._admitted = admitted
        return None

    def _hear_cancels(self) -> None:
        """Keep what administrators have cancelled since the last look, before anything is done."""
        told = self.connection.cancels
        if told == self._cancels:
            return
        try:
            with client(self.kit.server, ca=self.kit.ca, auth=self.auth, quiet=10.0) as http:
                answer = http.get("/privet/v1/cancelled")
                answer.raise_for_status()
                texts = answer.json()
        except (ValueError, RecursionError, httpx.HTTPError) as error:
            log.warning("what was cancelled could not be had: %s", error)
            return
        try:
            with self._ledger() as ledger:
                for text in texts if isinstance(texts, list) else []:
                    self._cancel(ledger, str(text))
        except LedgerError as error:  # nothing is trained on such a ledger either
            log.error("what was cancelled cannot be kept: %s", error)
            return
        self._cancels = told
        self._jobs.clear()
        self._admitted = None

    def _cancel(self, ledger: Ledger, text: str) -> None:
        try:
            word = read_cancellation(text, self._parties.current())
        except Denied as denied:
            log.warning("a cancel is passed over: %s", denied)
            return
        who = word.requester
        if ledger.decide(word.job, "cancelled", f"cancelled by {who}", who=who):
            log.info("job %s is cancelled by %s", word.job, who)

    def _ledger(self) -> Ledger:
        return Ledger.open(self.kit.ledger, SiloKey.load(self.kit.identity))

    def _place(self, job: OrderedJob) -> dict[str, str]:
        """Where the ledger counts the job's failures: the guard looks them up by these."""
        dataset, _ = self.kit.meant(Experiment.from_run_config(job.run_config))
        return {"dataset": dataset, "job": job.id, "who": job.requester}

    def _counted(self, told: ErrorReply, kind: str, place: Mapping[str, str]) -> ErrorReply:
        """`told`, once it is counted: that a process ended may hang on a record."""
        try:
            with self._ledger() as ledger:
                ledger.count_failure(
                    f"{kind} failed at {told.stage}: {told.code} (log: {told.reference})",
                    dataset=place["dataset"],
                    job=place["job"],
                    who=place["who"],
                )
        except PrivetError as error:
            log.error("%s: it cannot be counted: %s", told.reference, error)
            # As in the ClientApp: what cannot be counted may not be told.
            return ErrorReply(REFUSED, "ledger", reference=told.reference)
        return told

    def _refuse(self, run: int, reason: str) -> str:
        """Note the reason; the reference under which it is logged."""
        reference = secrets.token_hex(4)
        log.warning("%s: run %s is refused: %s", reference, run, reason)
        with suppress(LedgerError), self._ledger() as ledger:  # it stands, noted or not
            ledger.note_job(
                f"refused: {reason}", dataset=self.kit.dataset, job="unknown", who="server"
            )
        return reference

    def _hello(self, http: httpx.Client) -> object:
        while not self.stop.is_set():
            try:
                answer = http.get("/privet/v1/hello")
                answer.raise_for_status()
                return answer.json()
            except (ValueError, RecursionError):
                return None
            except httpx.HTTPError as error:
                judge(error)
                log.warning("the server does not answer yet (%s)", error)
                self._say("offline", f"the server does not answer: {error}")
                self.stop.wait(2.0)
        raise Stopped("asked to end")

    def _update_parties(self, http: httpx.Client) -> None:
        try:
            answer = http.get("/privet/v1/parties")
            answer.raise_for_status()
            self._parties.replace(answer.content)
        except PartiesError as error:
            log.warning("the server's list of parties is passed over: %s", error)
        except httpx.HTTPError as error:
            judge(error)
            log.warning("the list of parties could not be had: %s", error)

    def _roster(self) -> Path:
        """The silos' identity keys as encryption reads them; a new file for every version."""
        parties = self._parties.current()
        path = self.kit.state / _ROSTER.format(parties.version)
        # A roster of one is none; without encryption nobody reads it.
        if not path.exists() and len(parties.silos()) > 1:
            write_whole(path, parties.roster().to_toml().encode())
        return path

    def _answer_for_the_lost(self) -> None:
        """Tell the server of the message that this silo was at when it last ended.

        It is not delivered again, and the server would wait for it in vain.
        """
        if not self._unanswered.exists():
            return
        try:
            proto = ProtoMessage()
            proto.ParseFromString(self._unanswered.read_bytes())
            head = message_from_proto(proto)
            kind = head.metadata.message_type
            told = ErrorReply("restart", "restarted", reference=secrets.token_hex(4))
            # Without it nothing of a job was begun, and there is nothing to count.
            if self._begun.exists():
                told = self._counted(told, kind, json.loads(self._begun.read_bytes()))
            self.connection.reply(_failed(head, told), to=head)
            log.info("%s: told the server that a %s is lost", told.reference, kind)
        except Stopped:
            raise
        except Exception as error:  # a torn file, a run that is over: nobody waits then
            log.debug("nobody waits for the message that was lost: %s", error)
        self._forget()


def _keeps_own_parts(policy: Policy, dataset: str) -> bool:
    rules = policy.rules(dataset)
    return rules is not None and rules.training.keep_own_parts


def went_back(ledger: Ledger, seen: str) -> str | None:
    """Why a ledger is older than the head `seen`, which its own key signed; None when it holds it.

    A head that the key did not sign says nothing.
    """
    try:
        head = parse_head(seen)
    except ValueError:
        return None
    if not head.is_signed_by(ledger.public_key):
        return None
    entries = ledger.entries()
    here = entries[head.sequence - 1].hash if 0 < head.sequence <= len(entries) else None
    if here == head.hash:
        return None
    return (
        f"it ends at entry {len(entries)}, and this silo has signed for entry {head.sequence} "
        f"({head.hash[:12]}), which is not in it: an older copy was put back, and what was spent "
        "since is forgotten. Put the newest copy back, with its .head; if it is lost, see "
        '"Backup, upgrade, loss" in docs/deploy.md'
    )


def _seconds(ttl: float) -> float:
    """A time that one can wait for, whatever a server says."""
    # In this order a NaN comes out as the longest.
    return max(0.0, min(_LONGEST_WORK, ttl))


def _logged(code: str, reason: str) -> ErrorReply:
    told = ErrorReply(REFUSED, code, reference=secrets.token_hex(4))
    log.warning("%s: refused: %s", told.reference, reason)
    return told


def _failed(head: Message, told: ErrorReply) -> Message:
    return Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason=str(told)), reply_to=head)
