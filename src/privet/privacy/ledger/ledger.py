"""The ledger of one silo: what its data sets have spent, and nobody can spend it twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from privet.privacy.dp_events import DpEvent
from privet.privacy.ledger import database
from privet.privacy.ledger.costs import covers, event_text, parts_of
from privet.privacy.ledger.entries import (
    Clock,
    Draft,
    Entry,
    Head,
    beside,
    canonical,
    exclusive,
    utc_now,
    written,
)
from privet.privacy.ledger.errors import LedgerError, LedgerRefusal
from privet.privacy.ledger.history import (
    BudgetExceeded,
    History,
    JobDecision,
    JobTerms,
    Limit,
    Projection,
    TermsRefused,
)
from privet.privacy.ledger.keys import PARTS, Fingerprint, SiloKey
from privet.privacy.ledger.log import SignedLog
from privet.privacy.ledger.reservation import Reservation

Use = Literal["training", "evaluation"]

LONGEST_NAME = 200

EXPORT_PREFIX = b"privet ledger export 1\n"


class Ledger:
    """An open ledger; made by `create` or `open`, closed by `close` or a `with` block.

    Several processes and threads of one silo may have it open; a process that was forked must open
    it anew. Another silo, with another key, is refused.

    Whatever instant a process dies at, a reservation whose `reserve` returned is in the file and
    charged in full until its commit is in the file. Every method raises LedgerError, and nothing
    is recorded, when the file cannot be trusted or written: disk full, read-only, damaged, written
    by a newer privet, replaced by an older copy or another file, its end cut off, or a clock that
    lies more than CLOCK_TOLERANCE (5 minutes) before the last entry. Within that tolerance an entry
    carries the time as the clock gives it; `sequence` gives the order.
    """

    def __init__(
        self, path: Path, key: SiloKey, *, clock: Clock = utc_now, durable: bool = True
    ) -> None:
        self.path = path
        self._key = key
        self._log = SignedLog(path, key, clock, durable=durable)

    @classmethod
    def create(
        cls, path: Path, key: SiloKey, *, clock: Clock = utc_now, durable: bool = True
    ) -> Ledger:
        """A new ledger at `path`, signed by `key`; LedgerError when one is or was there.

        `durable` = False is for simulations: what was written survives the death of its process,
        but not of the machine.
        """
        with database.sqlite_errors(path), exclusive(beside(path, ".lock")):
            database.demand_free(path)
            database.write_new(path, key, written(clock))
        return cls(path, key, clock=clock, durable=durable)

    @classmethod
    def open(
        cls, path: Path, key: SiloKey, *, clock: Clock = utc_now, durable: bool = True
    ) -> Ledger:
        """The ledger at `path`. Cheap: version, tables, key, last signature and .head are checked.

        The whole chain is checked when the entries are first used; every signature, by `verify`.
        """
        if not path.exists():
            raise LedgerError(f"there is no ledger at {path}")
        return cls(path, key, clock=clock, durable=durable)

    def register(
        self,
        dataset: str,
        fingerprint: Fingerprint,
        *,
        change: Literal["grown"] | None = None,
        who: str = "operator",
    ) -> None:
        """Say what `dataset` is; nothing is recorded when that is known already.

        LedgerRefusal when the fingerprint differs from the known one, unless the operator says that
        the data set has "grown": all that was spent then stays charged, which is safe whatever
        changed. Other people's records get a new name. LedgerRefusal as well for records that are
        registered under another name: a second name would be a second budget.
        """
        _check_names(dataset=dataset, who=who)
        if change not in (None, "grown"):
            raise LedgerRefusal(f"change = {change!r} must be 'grown' or left out")
        sealed = fingerprint.sealed(self._key)
        # Without the lock first: nearly every call finds that nothing is new.
        with self._log.reading() as known:
            if not _is_news(known, dataset, sealed, change):
                return

        def draft(history: History, _time: str) -> Draft | None:
            if not _is_news(history, dataset, sealed, change):
                return None
            detail = canonical({"fingerprint": sealed, "change": change}).decode()
            return Draft(kind="note", who=who, dataset=dataset, detail=detail)

        self._log.append(draft)

    def let_grow(self, dataset: str, *, who: str = "operator") -> None:
        """The operator's word that the records of `dataset` have grown or were corrected.

        The next registration may then bring another fingerprint, once; all that was spent stays
        charged. LedgerRefusal for a data set that is not registered.
        """
        _check_names(dataset=dataset, who=who)
        detail = canonical({"growing": True}).decode()
        word = Draft(kind="note", who=who, dataset=dataset, detail=detail)

        def draft(history: History, _time: str) -> Draft:
            if dataset not in history.fingerprints:
                raise LedgerRefusal(f"data set {dataset!r} is not registered in this ledger")
            return word

        self._log.append(draft)

    def reserve(
        self,
        *,
        dataset: str,
        job: str,
        round: int,
        event: DpEvent,
        who: str,
        limits: Sequence[Limit] = (),
        use: Use = "training",
        encrypted: bool = False,
        terms: JobTerms | None = None,
    ) -> Reservation:
        """Charge `event`, the worst case of the coming round; on disk when this returns.

        All `limits`, and the job's `terms`, are checked in the transaction that records it:
        BudgetExceeded or TermsRefused, with nothing recorded, when one would not hold.
        LedgerRefusal for a data set that is not registered, PrivacyError for an event that cannot
        be accounted. `use` and `encrypted`, whether what
        leaves is encrypted, are for whoever reads the ledger.
        """
        _check_names(dataset=dataset, job=job, who=who)
        _check_round(round)
        event_ = event_text(event)

        wish = Draft(
            kind="reserve",
            who=who,
            dataset=dataset,
            job=job,
            round=round,
            event=event_,
            detail=_used(use, terms, encrypted=encrypted),
        )

        # Inside the transaction: of two rounds that would fit one by one, the second is refused.
        def draft(history: History, time: str) -> Draft:
            _demand_terms(history, wish, time, terms, use)
            for projection in _projections(history, wish, time, limits):
                if not projection.fits:
                    raise BudgetExceeded(projection)
            return wish

        return Reservation(_one(self._log.append(draft)), self._end)

    def project(
        self, *, dataset: str, job: str, event: DpEvent, who: str, limits: Sequence[Limit]
    ) -> tuple[Projection, ...]:
        """What `reserve` would find now, for each limit; records nothing and promises nothing."""
        wish = Draft(kind="reserve", who=who, dataset=dataset, job=job, event=event_text(event))
        with self._log.reading() as history:
            return _projections(history, wish, self._log.time(), limits)

    def note(self, text: str, *, who: str, clock_set_back: bool = False) -> None:
        """Record a remark. With `clock_set_back`, the operator vouches that the clock is right now.

        That is the way out when the clock ran ahead and was put right: the entry may then lie
        before the last one.
        """
        _check_names(who=who)
        content = {"text": text, **({"clock_set_back": True} if clock_set_back else {})}
        remark = Draft(kind="note", who=who, detail=canonical(content).decode())
        self._log.append(lambda _history, _time: remark, any_time=clock_set_back)

    def decide(
        self, job: str, decision: JobDecision, text: str, *, who: str, order: str | None = None
    ) -> bool:
        """Record that somebody let a job in or ended it; False where that is known already.

        `text` says so to people; `order`, the SHA-256 of the order that is approved. LedgerRefusal
        for the approval of a job that was ended: that is final.
        """
        _check_names(job=job, who=who)
        content = {"decision": decision, "text": text} | ({"order": order} if order else {})
        word = Draft(kind="note", who=who, job=job, detail=canonical(content).decode())

        def draft(history: History, _time: str) -> Draft | None:
            ended = history.ended(job)
            if ended and decision == "approved":
                raise LedgerRefusal(f"job {job}: {ended}, and that is final")
            return None if ended or history.approved(job, order) else word

        return self._log.append(draft) is not None

    def ended(self, job: str) -> str | None:
        """Who ended a job for good, if anybody did."""
        with self._log.reading() as history:
            return history.ended(job)

    def approved(self, job: str, order: str) -> bool:
        """Whether the holder has let this order in."""
        with self._log.reading() as history:
            return history.approved(job, order)

    def note_job(self, text: str, *, dataset: str, job: str, who: str) -> None:
        """Record a remark about a job, unless it stands there already: repeating costs no entry."""
        _check_names(dataset=dataset, job=job, who=who)
        detail = canonical({"text": text}).decode()
        remark = Draft(kind="note", who=who, dataset=dataset, job=job, detail=detail)

        def draft(history: History, _time: str) -> Draft | None:
            return None if history.holds_note(dataset, job, detail) else remark

        self._log.append(draft)

    def note_files(self, digests: Mapping[str, str], *, job: str, who: str) -> None:
        """Record the SHA-256, hexadecimal, of what a job left, by the names of files."""
        _check_names(job=job, who=who)
        detail = canonical({"files": dict(digests)}).decode()
        remark = Draft(kind="note", who=who, job=job, detail=detail)
        self._log.append(lambda _history, _time: remark)

    def note_evaluation(
        self, text: str, *, dataset: str, job: str, round: int, who: str, terms: JobTerms
    ) -> None:
        """Record an evaluation that is charged nothing; TermsRefused unless its terms allow it."""
        _check_names(dataset=dataset, job=job, who=who)
        _check_round(round)
        detail = _used("evaluation", terms, text=text)
        use = Draft(kind="note", who=who, dataset=dataset, job=job, round=round, detail=detail)

        def draft(history: History, time: str) -> Draft:
            _demand_terms(history, use, time, terms, "evaluation")
            return use

        self._log.append(draft)

    def count_failure(
        self, text: str, *, dataset: str, job: str, who: str, once: bool = False
    ) -> None:
        """Count an answer to `who` that tells of a failure, which may hang on records.

        With `once` the same text about the same job counts once: it tells nothing new.
        """
        _check_names(dataset=dataset, job=job, who=who)
        detail = canonical({"counted": True, "text": text}).decode()
        remark = Draft(kind="note", who=who, dataset=dataset, job=job, detail=detail)

        def draft(history: History, _time: str) -> Draft | None:
            return None if once and history.holds_note(dataset, job, detail) else remark

        self._log.append(draft)

    def failures(self, *, dataset: str, who: str) -> int:
        """How many were counted for `who` since the data holder last forgave them."""
        with self._log.reading() as history:
            return history.failures(dataset, who)

    def forgive(self, *, dataset: str, requester: str, who: str = "operator") -> int:
        """Count a requester's failures from zero again; how many there were.

        LedgerRefusal for a data set that the ledger does not hold.
        """
        _check_names(dataset=dataset, requester=requester, who=who)
        text = f"the failures of {requester} are counted from zero again"
        detail = canonical({"forgiven": requester, "text": text}).decode()
        remark = Draft(kind="note", who=who, dataset=dataset, detail=detail)
        found = 0

        def draft(history: History, _time: str) -> Draft | None:
            nonlocal found
            if dataset not in history.datasets and not history.failures(dataset, requester):
                raise LedgerRefusal(f"data set {dataset!r} is not registered in this ledger")
            found = history.failures(dataset, requester)
            return remark if found else None

        self._log.append(draft)
        return found

    def holds(self, *, dataset: str, job: str, round: int, event: DpEvent) -> bool:
        """Whether `event` was reserved for this round of the job before, and not released."""
        text = event_text(event)
        with self._log.reading() as history:
            charges = history.charged_for(dataset, job, round)
            return any(charge.reserve.event == text for charge in charges)

    def training_noise(self, *, dataset: str, job: str) -> float:
        """The largest noise multiplier with which the job has trained on `dataset`; 0 before."""
        with self._log.reading() as history:
            charges = [c for c in history.charged(dataset, job=job) if c.use == "training"]
        return max((p.noise_multiplier for c in charges for p in c.parts), default=0.0)

    def entries(self, dataset: str | None = None) -> list[Entry]:
        """All entries, or those of one data set, in order."""
        with self._log.reading() as history:
            return [e for e in history.entries if dataset is None or e.dataset == dataset]

    def events(self, dataset: str) -> list[DpEvent]:
        """What `dataset` is charged for: committed events and reservations that stand."""
        with self._log.reading() as history:
            return history.events(dataset)

    def spent(
        self,
        dataset: str,
        *,
        delta: float,
        job: str | None = None,
        month: str | None = None,
        who: str | None = None,
    ) -> float:
        """Epsilon at `delta` of those events, where asked only of one job, month or requester.

        A pure function of the entries, whatever their order. `month` is as 2025-01.
        """
        with self._log.reading() as history:
            return history.spent(dataset, delta=delta, job=job, month=month, who=who)

    @property
    def public_key(self) -> str:
        """The silo's public key, 64 hexadecimal digits."""
        return self._key.public

    def chain(self) -> tuple[list[Entry], list[Head]]:
        """All entries, and the signed heads up to the last of them."""
        entries = self.entries()
        return entries, self._log.heads(until=len(entries))

    def sign_export(self, content: bytes) -> str:
        """The silo's signature of an export's content."""
        return self._key.sign(EXPORT_PREFIX + content)

    def close(self) -> None:
        """Put everything into the one file and sign how its pages look; may be called twice."""
        self._log.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    def _end(
        self, reserve: Entry, kind: Literal["commit", "release"], event: DpEvent | None
    ) -> Entry:
        """Append the commit or release of a reservation."""
        event_ = None if event is None else event_text(event)

        def draft(history: History, _time: str) -> Draft:
            if not history.charges[reserve.sequence].open:
                raise LedgerRefusal(f"reservation {reserve.sequence} was closed before")
            if event_ and not covers(parts_of(reserve.event or ""), parts_of(event_)):
                raise LedgerRefusal(
                    f"what ran is not within reservation {reserve.sequence}, which stands in full"
                )
            return Draft(
                kind=kind,
                who=reserve.who,
                dataset=reserve.dataset,
                job=reserve.job,
                round=reserve.round,
                reservation=reserve.sequence,
                event=event_,
            )

        return _one(self._log.append(draft))


def _used(use: Use, terms: JobTerms | None, **facts: object) -> str:
    """The detail of an entry that is a use of the records."""
    order = {"order": terms.order} if terms and terms.order else {}
    return canonical({"use": use, **facts, **order}).decode()


def _demand_terms(
    history: History, wish: Draft, time: str, terms: JobTerms | None, use: Use
) -> None:
    if terms is None:
        return
    reason = history.objection(
        terms,
        dataset=wish.dataset or "",
        job=wish.job or "",
        use=use,
        round_=wish.round or 0,
        time=time,
    )
    if reason:
        raise TermsRefused(reason)


def _projections(
    history: History, wish: Draft, time: str, limits: Sequence[Limit]
) -> tuple[Projection, ...]:
    """What each limit has to say about the reservation `wish` at `time`."""
    dataset = wish.dataset or ""
    if dataset not in history.fingerprints:
        raise LedgerRefusal(f"data set {dataset!r} is not registered in this ledger")
    found = history.project(
        limits,
        dataset=dataset,
        job=wish.job or "",
        who=wish.who,
        month=time[:7],
        parts=parts_of(wish.event or ""),
    )
    return tuple(found)


def _is_news(
    history: History, dataset: str, fingerprint: dict[str, str], change: str | None
) -> bool:
    """Whether a registration says anything new; LedgerRefusal when it may not say it."""
    owner = history.owner(fingerprint["content"])
    if owner not in (None, dataset):
        raise LedgerRefusal(
            f"data set {dataset!r} holds the records that are registered as {owner!r}: "
            "a second name would be a second budget"
        )
    known = history.fingerprints.get(dataset)
    if known is None or known == fingerprint:
        return known is None
    if change is None and not history.may_grow(dataset):
        changed = " and ".join(part for part in PARTS if known[part] != fingerprint[part])
        raise LedgerRefusal(
            f"data set {dataset!r} has changed ({changed}): keep what it spent with 'privet ledger "
            "grown', or register other people's records under a new name"
        )
    return True


def _one(entry: Entry | None) -> Entry:
    if entry is None:
        raise AssertionError("a draft that always says something was not written")
    return entry


def _check_names(**names: str) -> None:
    for what, name in names.items():
        if not (isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise LedgerRefusal(
                f"{what} = {name!r:.60} must be 1 to {LONGEST_NAME} printable characters"
            )


def _check_round(round_: int) -> None:
    if not isinstance(round_, int) or isinstance(round_, bool) or not 0 <= round_ < 2**63:
        raise LedgerRefusal(f"round = {round_!r} must be a whole number from 0")
