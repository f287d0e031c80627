"""From paths to a report: read the evidence, run the CHECKS over it, add up what it says.

Each check judges its own claims (`privet.audits.claims`); the verdict of the whole is given by
`privet.audits.claims.outcome`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import privet
from privet.audits import (
    compliance,
    epsilon,
    evidence,
    leaks,
    ledgers,
    mechanism,
    record,
    sound,
    spent,
)
from privet.audits.claims import Claim, headline, judged, outcome
from privet.audits.deep.record import Deep, DeepOptions
from privet.audits.evidence import Evidence
from privet.audits.ledgers import Account
from privet.audits.report import File, Options, Report, differences, read, to_json
from privet.errors import DataError
from privet.privacy.ledger.history import CLOCK_TOLERANCE, moment
from privet.privacy.policy import Policy

Check = Callable[[Evidence], Iterable[Claim]]
Watch = Callable[[str, int], None]
"""Called, in a deep audit, with a run and with how many of its models are done."""


def look_away(_run: str, _done: int) -> None:
    """A Watch that does nothing."""


CHECKS: tuple[Check, ...] = (
    record.claims,
    epsilon.claims,
    compliance.claims,
    compliance.claims_of_sums,
    leaks.claims,
    sound.claims,
    mechanism.claims,
    sound.claims_of_steps,
    sound.claims_of_code,
)
"""What every run is held against, in the order of the report."""

_OF_DEEP = (
    "Deep: models were trained by privet as it is installed, with the settings that the ledger "
    "charges, of the silo that claims most and with no other silo. It shows what this mechanism "
    "gives away, not what the process that ran did.",
)

_ASSUMPTIONS = (
    "Epsilon is about one record: add-or-remove adjacency, each mechanism as its entry says. That "
    "the mechanism that ran is that one, no ledger can show; canaries, "
    "steps and dry runs show what was looked at of it. Each claim about them fails for a correct "
    "mechanism once in 1,000 audits, at most.",
    "Composition by privacy loss distributions fixes the mechanisms beforehand; noise that is "
    "chosen by looking at earlier outputs leaves that ground.",
    "The number of records of a silo, hyperparameters and preprocessing are outside of epsilon.",
    "A person in g silos: the g silos that spent most, composed one after the other.",
    "A person with g records of one silo: a mixture of Gaussians with sensitivities Binomial(g, q) "
    '("mixture"), or the mechanism that takes all g whenever one is drawn ("domination"), which is '
    "larger. Held-out records count as well.",
    "The history is not signed: it is held against the ledgers, which are. Whoever holds a silo's "
    "key can write another ledger.",
    "Enrolment, keys and masks are not counted among what left.",
)


def audit(
    paths: Sequence[Path],
    *,
    base: Path,
    delta: float = 1e-5,
    policy: Path | None = None,
    keys: Mapping[str, str] | None = None,
    anchors: Sequence[str] = (),
    at: datetime | None = None,
    checks: Sequence[Check] = CHECKS,
    deep: DeepOptions | None = None,
    watch: Watch = look_away,
) -> Report:
    """Audit run folders, folders of them, ledgers and exports; nothing is written.

    The report names everything relative to `base`. `keys` are public keys by silo, `anchors` those
    that vouched for some of them, which the report repeats; `policy` takes the place of the runs'
    own, `delta` is for what no run names one for, `at` is now. With `deep` every run is trained
    again, many times; `watch` is called as models are done.
    Raises DataError for a path with nothing to audit (to train), PolicyError for a policy that is
    none, and PrivacyError for too few models.
    """
    now, found = at or datetime.now(UTC), _gathered(paths, base, policy, keys or {})
    if deep and not found.runs:
        raise DataError("a deep audit trains runs again, and no path is a run or has one")
    runs = _without_fault(found.runs)
    trained = [_deep_claims(run, deep, watch) for run in runs] if deep else []
    claims = [
        *_of_accounts(found.accounts, now),
        *_of_runs(found.runs, checks),
        *_of_policy(found),
        *(claim for of_run, _ in trained for claim in of_run),
    ]
    return Report(
        headline=headline(claims),
        schema=3,
        privet=privet.__version__,
        audited_at=now.isoformat(timespec="microseconds"),
        options=Options(
            delta,
            dict(keys or {}),
            tuple(anchors),
            _relative(policy, base) if policy else None,
            deep,
        ),
        paths=tuple(_relative(path, base) for path in paths),
        verdict=outcome(claims),
        files=tuple(_digests(found.files, base)),
        claims=tuple(claims),
        sums=(*spent.sums_of_runs(runs, delta), *spent.sums_of_accounts(found.known, delta)),
        persons=tuple(spent.persons_of(runs, delta)),
        leaks=tuple(left for run in runs for left in leaks.leaks(run)),
        assumptions=(*_ASSUMPTIONS, *(_OF_DEEP if deep else ())),
        deep=tuple(record for _, record in trained if record),
    )


def verify_report(path: Path, *, watch: Watch = look_away) -> list[str]:
    """Where an audit of the same files now differs from the report in `path`; empty: nowhere.

    A deep one trains as long as it did, from the same seed. The file has to be the text that
    `privet` writes of the report: what a reader of JSON passes over, such as a key that stands
    there twice, another reader may not.

    Raises DataError when the report cannot be read, or what it is about is gone.
    """
    before, base = read(path), path.parent
    if path.read_text(encoding="utf-8") != to_json(before):
        return ["its text (keys, order or spaces)"]
    at = _moment_of(before.audited_at, path)
    if at > datetime.now(UTC) + CLOCK_TOLERANCE:
        return ["audited_at, which lies in the future,"]
    again = audit(
        [base / each for each in before.paths],
        base=base,
        delta=before.options.delta,
        policy=base / before.options.policy if before.options.policy else None,
        keys=before.options.public_keys,
        anchors=before.options.anchors,
        at=at,
        deep=before.options.deep,
        watch=watch,
    )
    now = {file.path: file.sha256 for file in again.files}
    files = [f"the file {f.path}" for f in before.files if now.get(f.path) != f.sha256]
    return files + [each for each in differences(before, again) if not each.startswith("files[")]


def _moment_of(text: str, path: Path) -> datetime:
    try:
        return moment(text)
    except (ValueError, TypeError):
        raise DataError(f"{path} is no report of an audit: audited_at is {text!r}") from None


@dataclass(frozen=True)
class _Inputs:
    """What the paths hold."""

    runs: list[Evidence]
    accounts: list[Account]
    """The ledgers of those runs, then ledgers and exports by themselves."""
    known: list[Account]
    """Of ledgers and exports by themselves the longest of each."""
    policy: Policy | None
    files: list[Path]
    """Everything that was looked at."""


def _gathered(
    paths: Sequence[Path], base: Path, policy: Path | None, keys: Mapping[str, str]
) -> _Inputs:
    given = Policy.from_file(policy).for_everyone() if policy else None
    folders, files = _found(paths)
    named = {path: _relative(path, base) for path in (*folders, *files)}
    accounts = [ledgers.read_account(f, subject=named[f], keys=keys) for f in files]
    known = ledgers.longest(accounts)
    own = {f: evidence.read_own(f, subject=named[f], keys=keys) for f in folders}
    shared: dict[str, object] = {}
    runs = [
        evidence.read_run(
            f, subject=named[f], others=known, own=own[f], policy=given, shared=shared
        )
        for f in folders
    ]
    looked_at = [each for folder in folders for each in evidence.files_of(folder)]
    looked_at += [each for file in files for each in ledgers.files_of(file)]
    return _Inputs(
        runs=runs,
        accounts=[*filter(None, own.values()), *accounts],
        known=known,
        policy=given,
        files=[*looked_at, *([policy] if policy else [])],
    )


def _found(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run folders, and ledgers and exports outside of them, each once."""
    folders: dict[Path, None] = {}
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
        if path.is_file():
            if not ledgers.is_ledger(path):
                raise DataError(f"{path} is neither a ledger nor an export of one")
            files[path.resolve()] = None
            continue
        runs, accounts = evidence.run_folders(path), evidence.ledger_files(path)
        if not runs and not accounts:
            raise DataError(f"{path}: there is no run folder in it, no ledger and no export")
        folders |= dict.fromkeys(each.resolve() for each in runs)
        files |= dict.fromkeys(each.resolve() for each in accounts)
    return list(folders), list(files)


def _relative(path: Path, base: Path) -> str:
    name = Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    # A report names files in UTF-8, and a page of it is read by whoever gets both.
    if not name.isprintable():
        raise DataError(f"{name!a}: its name is not printable text in UTF-8; rename it")
    return name


def _digests(files: Sequence[Path], base: Path) -> Iterator[File]:
    for path in files:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        yield File(_relative(path, base), digest, path.stat().st_size)


def _of_accounts(accounts: Sequence[Account], now: datetime) -> Iterator[Claim]:
    for account in accounts:
        yield from _claims_of(account.subject, ledgers.claims_of, account, now)
    if accounts:
        yield ledgers.uniqueness(accounts)


def _of_runs(runs: Sequence[Evidence], checks: Sequence[Check]) -> Iterator[Claim]:
    statement = "Settings, history and summary are what privet writes."
    yield from mechanism.claims_across(_without_fault(runs))
    for run in runs:
        faults = [run.fault] if run.fault else []
        yield judged("record.readable", run.subject, statement, faults=faults)
        for check in checks if run.fault is None else ():
            yield from _claims_of(run.subject, check, run)


def _of_policy(found: _Inputs) -> Iterator[Claim]:
    """Ledgers by themselves against the policy that was given; runs were held against it before."""
    for account in found.known if found.policy else ():
        if account.sound:
            check = compliance.claims_of_account
            yield from _claims_of(account.subject, check, account, found.policy)


def _claims_of(
    subject: str, check: Callable[..., Iterable[Claim]], *evidence: object
) -> list[Claim]:
    """The claims of one check; one that could not be made is a claim that fails."""
    try:
        return list(check(*evidence))
    except Exception as error:  # what was read can hold anything
        name = check.__module__.rpartition(".")[2]
        fault = f"{name}: {type(error).__name__}: {error}"[:300]
        statement = "Every check could be made."
        return [judged("record.checkable", subject, statement, faults=[fault])]


def _deep_claims(
    run: Evidence, options: DeepOptions, watch: Watch
) -> tuple[Sequence[Claim], Deep | None]:
    # Here, so that torch and all that trains is loaded for a deep audit alone.
    from privet.audits.deep.again import claim_of_another_run
    from privet.audits.deep.claims import deep_audit

    watch(run.subject, 0)
    claims, found = deep_audit(run, options, partial(watch, run.subject))
    again = [claim_of_another_run(run)] if run.settings.privacy else []
    return [*claims, *again], found


def _without_fault(runs: Sequence[Evidence]) -> list[Evidence]:
    return [run for run in runs if run.fault is None]
