"""Ledgers and exports as an auditor reads them, and what can be said of them by themselves."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from privet.audits.claims import SIGNER, Claim, judged, unknown
from privet.errors import PrivetError
from privet.files import demand_file
from privet.privacy.ledger import Charge, Entry, Finding, History, database, verify, verify_bundle
from privet.privacy.ledger.entries import beside
from privet.privacy.ledger.history import CLOCK_TOLERANCE, moment
from privet.privacy.ledger.verification import read_bundle

_EXPORT = b'"privet ledger export'
SIMULATION = "simulation"
"""The name of a key that signs for all silos of a run; also of such a run's job."""
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Account:
    """One ledger or export. `subject` is how the report names the file.

    `silo` is the name under which the auditor has its public key; None when he does not have it, as
    `keyless` says, or when it is signed by none of those that he has.
    """

    subject: str
    entries: tuple[Entry, ...]
    findings: tuple[str, ...]
    public_key: str
    silo: str | None = None
    keyless: bool = True

    @property
    def sound(self) -> bool:
        """Whether the entries are as they were signed, by a known silo where keys were given."""
        return not self.findings and (self.keyless or self.silo is not None)

    def vouches_for(self, silo: str) -> bool:
        """Whether its key may speak for a silo: for itself alone, as far as keys are known.

        In a simulation one key signs for all silos. That a ledger is a simulation's is for the
        auditor to say, by the name of its key: the file itself may be anybody's.
        """
        return self.sound and (self.keyless or self.silo in (silo, SIMULATION))

    @cached_property
    def history(self) -> History:
        """The entries, replayed."""
        return History(self.entries)

    @property
    def ledger(self) -> str:
        """The ledger's own number, which its copies share; its key where it has none."""
        try:
            return str(json.loads(self.entries[0].detail or "")["created"]["ledger"])
        except (LookupError, ValueError, TypeError, RecursionError):
            return self.public_key

    def charges(self, dataset: str, job: str) -> list[Charge]:
        """What the data set is charged for by one job."""
        return list(self.history.charged(dataset, job=job))


def is_ledger(path: Path) -> bool:
    """Whether a file begins as a ledger or an export does; what follows may be damaged."""
    with path.open("rb") as stream:
        start = stream.read(len(_SQLITE))
        if start == _SQLITE:
            return True
        # Anywhere in it: JSON's keys may come in any order.
        return start[:1] == b"{" and _EXPORT in start + stream.read()


def files_of(path: Path) -> list[Path]:
    """The file at `path` and, of a ledger, those beside it that belong to it."""
    parts = (path, beside(path, ".head"), beside(path, "-wal"))
    there = [demand_file(each) for each in parts if each.exists()]
    return [each for each in there if each == path or each.stat().st_size]


def read_account(path: Path, *, subject: str, keys: Mapping[str, str]) -> Account:
    """The ledger or export at `path`, verified; damage of any kind becomes a finding.

    `keys` are public keys by the names of silos, as far as the auditor has them.
    """
    with TemporaryDirectory() as folder:
        # A reader of SQLite leaves files beside the ledger, and evidence is to stay as it is.
        copy = Path(folder) / path.name
        for each in files_of(path):
            shutil.copyfile(each, beside(copy, each.name.removeprefix(path.name)))
        entries, own = _entries(copy)
        findings = _findings(copy)
    silo = next((name for name, key in keys.items() if key == own), None)
    texts = tuple(str(finding).replace(str(copy), subject) for finding in findings)
    return Account(subject, entries, texts, own, silo, keyless=not keys)


def claims_of(account: Account, until: datetime) -> Iterator[Claim]:
    """What one file says for itself; `until` is the moment of the audit."""
    yield judged(
        "record.chain",
        account.subject,
        "Every entry is in place, unchanged, and signed; the end was not cut off.",
        faults=account.findings,
        notes=(f"{len(account.entries):,} entries",),
    )
    yield _signer(account)
    yield _clock(account, until)
    yield _versions(account)


def uniqueness(accounts: Sequence[Account]) -> Claim:
    """No silo has two ledgers, and no records stand under two names.

    Digests of records are sealed with the silo's key, so equal records are seen under one key only.
    """
    sound = [account for account in accounts if account.sound]
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    ledgers: dict[str, set[str]] = defaultdict(set)
    for account in sound:
        ledgers[account.public_key].add(account.ledger)
        for dataset, content in _registered(account):
            names[account.public_key, content].add(dataset)
    faults = [
        f"the records of {' and '.join(sorted(found))} are the same: two names are two budgets"
        for found in names.values()
        if len(found) > 1
    ]
    faults += [
        f"the key {key[:16]}... signs {len(found)} ledgers: two ledgers are two budgets"
        for key, found in ledgers.items()
        if len(found) > 1
    ]
    faults += _forks(sound)
    return judged(
        "record.once",
        "all ledgers",
        "No silo has two ledgers, and no records of one silo stand under two names.",
        faults=faults,
        notes=("records that two silos share cannot be seen: their digests are sealed",),
    )


def longest(accounts: Sequence[Account]) -> list[Account]:
    """Of copies of one ledger, the one that reaches furthest; sound ones first."""
    best: dict[tuple[str, str], Account] = {}
    for account in accounts:
        place = account.public_key, account.ledger
        known = best.get(place)
        if known is None or (account.sound, len(account.entries)) > (
            known.sound,
            len(known.entries),
        ):
            best[place] = account
    return list(best.values())


def versions_of(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """The first entry of each run of entries that one set of software wrote, with its versions."""
    found: list[tuple[Entry, str]] = []
    for entry in entries:
        if not found or found[-1][1] != entry.versions:
            found.append((entry, entry.versions))
    return found


def files_named(entries: Sequence[Entry]) -> dict[str, str] | None:
    """The digests of files behind the last charge, by name; None where it is the last entry."""
    named: dict[str, str] | None = None
    for entry in entries:
        if entry.kind != "note":
            named = None
        elif '"files"' in (entry.detail or ""):
            named = dict(json.loads(entry.detail or "")["files"])
    return named


def _entries(path: Path) -> tuple[tuple[Entry, ...], str]:
    """The entries and the key that the file names, nothing verified; nothing where damaged."""
    try:
        if path.read_bytes()[:1] == b"{":
            bundle = read_bundle(path)
            return bundle.entries, bundle.public_key
        with closing(database.connect_to_read(path)) as connection:
            entries = tuple(database.read_entries(connection))
        return entries, str(json.loads(entries[0].detail or "")["created"]["public_key"])
    except Exception:  # a damaged file can hold anything; `verify` says what is wrong with it
        return (), ""


def _findings(path: Path) -> Sequence[Finding]:
    try:
        if path.read_bytes()[:1] == b"{":
            return verify_bundle(path)
        return verify(path)
    except Exception as error:  # as above
        text = str(error) if isinstance(error, PrivetError) else type(error).__name__
        return [Finding(None, f"the file is damaged ({text})")]


def _signer(account: Account) -> Claim:
    statement = "It is signed by the key that the auditor has for a silo."
    if account.keyless:
        why = (
            "no key was given as an anchor: the one that the file names was believed, "
            f"{account.public_key}"
        )
        return unknown(SIGNER, account.subject, statement, why)
    if account.silo is None:
        faults, notes = ["it is signed by none of the keys that were given"], []
    else:
        faults, notes = [], [f"the key of {account.silo}: {account.public_key}"]
    return judged(SIGNER, account.subject, statement, faults=faults, notes=notes)


def _registered(account: Account) -> Iterator[tuple[str, str]]:
    """Every data set with every sealed digest that its records ever had."""
    for entry in account.entries:
        if entry.kind == "note" and entry.dataset and '"fingerprint"' in (entry.detail or ""):
            yield entry.dataset, str(json.loads(entry.detail or "")["fingerprint"]["content"])


def _forks(accounts: Sequence[Account]) -> Iterator[str]:
    """Copies of one ledger of which neither continues the other."""
    for number, one in enumerate(accounts):
        for other in accounts[number + 1 :]:
            if (one.ledger, one.public_key) == (other.ledger, other.public_key):
                common = min(len(one.entries), len(other.entries))
                if common and one.entries[common - 1].hash != other.entries[common - 1].hash:
                    yield f"{one.subject} and {other.subject} are two continuations of one ledger"


def _clock(account: Account, until: datetime) -> Claim:
    faults: list[str] = []
    notes: list[str] = []
    before: Entry | None = None
    for entry in account.entries:
        try:
            late, back = moment(entry.time) - until, before and moment(before.time)
            if late > CLOCK_TOLERANCE:
                faults.append(f"entry {entry.sequence} is of {entry.time}, after this audit")
            if back and moment(entry.time) < back - CLOCK_TOLERANCE:
                text = f"entry {entry.sequence} is of {entry.time}, before the entry before it"
                vouched = "clock_set_back" in (entry.detail or "")
                (notes if vouched else faults).append(f"{text} (vouched for)" if vouched else text)
        except (ValueError, TypeError):
            faults.append(f"entry {entry.sequence} has no time: {str(entry.time)[:40]!r}")
        before = entry
    return judged(
        "record.clock",
        account.subject,
        "Times rise from entry to entry, up to five minutes, and none lies in the future.",
        faults=faults,
        notes=notes,
    )


def _versions(account: Account) -> Claim:
    faults, notes = [], set()
    jobs: dict[tuple[str | None, str | None], list[Entry]] = defaultdict(list)
    for entry in account.entries:
        if entry.job and entry.kind != "note":
            jobs[entry.dataset, entry.job].append(entry)
    for (dataset, job), entries in jobs.items():
        first, *changes = versions_of(entries)
        notes.add(f"software: {first[1]}")
        faults += [
            f"{dataset}, job {job}: from entry {entry.sequence} on another software: {versions}"
            for entry, versions in changes
        ]
    return judged(
        "record.versions",
        account.subject,
        "All entries of a job were written by the same software.",
        faults=faults,
        notes=sorted(notes),
    )
