"""A run as its folder tells it: frozen records, the only thing that the page is made from.

The data holder's policy that every silo of a run kept to: `policy.toml`.

How a run was encrypted: what its settings asked for, and what came of it.

Values out of files that may hold anything: of the kind that is wanted, or nothing.

The ledger of a run folder: `ledger.sqlite`, read and checked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from privet.charts.formatting import shortened
from privet.errors import PrivetError
from privet.files import demand_file
from privet.privacy.ledger import History, read_history, verify
from privet.privacy.policy import Policy, PolicyError, explain

POLICY = "policy.toml"


@dataclass(frozen=True)
class Rule:
    """A sentence, and the keys of the file that it is about."""

    text: str
    keys: str


@dataclass(frozen=True)
class Chapter:
    """The rules of one data set; the first chapter is about the file and has no heading."""

    heading: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class ExplainedPolicy:
    """A policy in plain words; without one, `problem` says why it cannot be read."""

    policy: Policy | None
    problem: str | None = None

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """What the policy means, data set by data set."""
        return tuple(_chapters(self.policy)) if self.policy else ()

    @property
    def stands_in(self) -> str | None:
        """The only data set that the policy names, whose rules then hold for every silo."""
        names = list(self.policy.data) if self.policy else []
        return names[0] if len(names) == 1 and names != ["*"] else None

    def tells_count(self, silo: str) -> bool:
        """Whether the number of records may leave a silo; yes where nothing is known."""
        if self.policy is None:
            return True
        rules = self.policy.for_everyone().rules(silo)
        return rules is not None and rules.sending.records_public


def read_rules(folder: Path) -> ExplainedPolicy | None:
    """The policy in a run folder; None when the simulation's own was used, which allows all."""
    path = folder / POLICY
    if not path.exists():
        return None
    try:
        return ExplainedPolicy(Policy.from_file(demand_file(path)))
    except PolicyError as error:
        return ExplainedPolicy(None, str(error).replace(str(path), POLICY))


def _chapters(policy: Policy) -> Iterator[Chapter]:
    """Blank lines part the chapters; a line ends with its keys in brackets, a heading does not."""
    lines = [line.replace(policy.source, POLICY) for line in explain(policy)]
    for blank, group in groupby(lines, key=lambda line: not line):
        if not blank:
            chapter = list(group)
            heading = "" if chapter[0].endswith(")") else chapter.pop(0).removesuffix(":")
            heading = "Every data set" if heading and set(policy.data) == {"*"} else heading
            yield Chapter(heading, tuple(map(_rule, chapter)))


def _rule(line: str) -> Rule:
    text, _, keys = line.rpartition(" (")
    return Rule(text, keys.removesuffix(")"))


def clean(value: object) -> str:
    """`value` as text that can be shown and encoded: no control characters, no lone surrogates."""
    text = str(value).replace("\n", " ").replace("\t", " ")
    bad = {character for character in set(text) if unicodedata.category(character) in ("Cc", "Cs")}
    return text.translate({ord(character): "\N{REPLACEMENT CHARACTER}" for character in bad})


def number(value: object) -> float | None:
    """A number, which may be NaN or infinite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def count(value: object) -> int | None:
    """A whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def numbers(found: Mapping[str, object] | None) -> dict[str, float]:
    """The entries that are numbers."""
    read = {clean(name): number(value) for name, value in (found or {}).items()}
    return {name: value for name, value in read.items() if value is not None}


def counts(found: Mapping[str, object] | None) -> dict[str, int]:
    """The entries that are whole numbers."""
    read = {clean(name): count(value) for name, value in (found or {}).items()}
    return {name: value for name, value in read.items() if value is not None}


def names(found: Iterable[object] | None) -> frozenset[str]:
    """Every entry as text."""
    return frozenset(clean(name) for name in found or ())


def dicts(found: object) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


LENGTH = 120


@dataclass(frozen=True)
class Summary:
    """What `summary.json` says; None for what it does not say."""

    degree: int | None
    modulus_bits: int | None
    security_bits: int | None
    upload_bytes: float | None
    """The largest upload, for each parameter of the model."""
    epochs: int | None
    clipped: int | None
    """Values that silos cut off because the encoding has no room for them."""
    held_by: str | None
    """Who can read the model."""


@dataclass(frozen=True)
class Sealing:
    """The settings of `[encryption]`, and how silos weigh."""

    scheme: str
    profile: str
    smallest_sum: int
    masks: bool
    colluding: int
    """Silos on the server's side that masks withstand."""
    rotate_every: int | None
    by_records: bool
    """Silos count by their numbers of records, which they tell at enrolment."""
    outcome: Summary | None
    """None until the run ends."""

    @property
    def exact(self) -> bool:
        """Whether a decrypted sum is what was added, to the bit."""
        return self.scheme == "bfv"


def read_sealing(settings: Mapping[str, Any], described: object) -> Sealing | None:
    """`described` is what the summary says of it; None for a run without encryption."""
    asked = _section(settings, "encryption")
    told = described if isinstance(described, Mapping) else {}
    if not (asked or told) or asked.get("scheme") == "none":
        return None
    merged = {**asked, **told}
    return Sealing(
        scheme=shortened(clean(merged.get("scheme", "bfv")).lower(), LENGTH),
        profile=clean(merged.get("profile", "default")),
        smallest_sum=count(merged.get("smallest_sum")) or 2,
        masks=merged.get("pairwise_masks") is True,
        colluding=count(asked.get("colluding")) or 1,
        rotate_every=count(asked.get("rotate_every")),
        by_records=_section(settings, "strategy").get("weighting", "examples") != "uniform",
        outcome=_outcome(told) if told else None,
    )


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def _outcome(told: Mapping[str, Any]) -> Summary:
    holders = told.get("model_held_by")
    return Summary(
        degree=count(told.get("ring_degree")),
        modulus_bits=count(told.get("modulus_bits")),
        security_bits=count(told.get("security_bits")),
        upload_bytes=number(told.get("upload_bytes_per_parameter")),
        epochs=count(told.get("epochs")),
        clipped=count(told.get("clipped")),
        held_by=shortened(clean(holders), LENGTH) if holders else None,
    )


LEDGER = "ledger.sqlite"
MOST_SIGNATURES = 20_000
"""A check takes about 0.15 ms a signature; in a longer ledger only the chain of hashes is."""


@dataclass(frozen=True)
class LedgerReading:
    """What the ledger says, and what is wrong with it; `history` is None if it cannot be read."""

    history: History | None
    findings: tuple[str, ...] = ()
    signatures_checked: bool = False

    def spent(self, silo: str, *, delta: float | None) -> float | None:
        """Epsilon of all that the ledger charges the silo; None where that cannot be known."""
        if self.history is None or delta is None:
            return None
        try:
            return self.history.spent(silo, delta=delta)
        except PrivetError:
            return None


def read_books(folder: Path, *, most_signatures: int = MOST_SIGNATURES) -> LedgerReading | None:
    """The ledger in a run folder, None if there is none; damage of any kind becomes a finding.

    Hashes are always checked; signatures, and whether the end is the one that was signed, in
    ledgers of up to `most_signatures` entries.
    """
    path = folder / LEDGER
    if not path.exists():
        return None
    try:
        history = read_history(path)
        checked = len(history.entries) <= most_signatures
        found = tuple(str(finding) for finding in verify(path)) if checked else ()
    except Exception as error:  # a damaged file can hold anything
        return LedgerReading(None, (_told(error, path),))
    return LedgerReading(history, tuple(text.replace(str(path), LEDGER) for text in found), checked)


def _told(error: Exception, path: Path) -> str:
    if isinstance(error, PrivetError):
        return str(error).removeprefix(f"{path}: ").replace(str(path), LEDGER)
    return f"the file is damaged ({type(error).__name__}: {error})"


KEYS_STAGE = "keys"
"""Where a silo fails when it is given a key, and in the steps of masks."""
DECRYPT_STAGE = "decrypt"
"""Where a silo fails when it cannot open the model that it is sent."""


@dataclass(frozen=True)
class SiloRecord:
    """One place that holds data. `sampling_rate` is None where training is not private."""

    name: str
    records: int
    labels: Mapping[str, int] | None
    sampling_rate: float | None
    steps_per_round: int | None
    noise_multiplier: float | None


@dataclass(frozen=True)
class RecordedFailure:
    """Why something that was asked of a silo did not happen."""

    silo: str
    stage: str
    reason: str


@dataclass(frozen=True)
class SiloEvaluation:
    """One evaluation of the model on records that the silos keep out of training."""

    means: Mapping[str, float]
    """By metric, over the silos that let it out."""
    per_silo: Mapping[str, Mapping[str, float]]
    released: Mapping[str, Mapping[str, str]]
    """By silo and metric: "exact", "noised" or "withheld"."""
    events: Mapping[str, str | None]
    """What the noise cost, as in `RoundRecord.events`."""
    failures: tuple[RecordedFailure, ...]


@dataclass(frozen=True)
class RoundRecord:
    """What one line of `history.jsonl` says; epsilon is spent up to and including this round."""

    number: int
    loss: float | None
    accuracy: float | None
    silo_accuracy: Mapping[str, float]
    participants: frozenset[str]
    dropped: frozenset[str]
    failures: tuple[RecordedFailure, ...]
    refused: Mapping[str, str]
    """By silo whose holder's rules or budget did not allow the round: the reason."""
    affordable: Mapping[str, int]
    """Before the first round, by silo that tells: the rounds that its budget has room for."""
    events: Mapping[str, str | None] | None
    """By silo: the mechanism that ran, as the ledger would write it, or None where the silo keeps
    its account. None altogether when the run keeps no account of training."""
    measured: SiloEvaluation | None
    epsilon: float | None
    silo_epsilon: Mapping[str, float]
    kept: frozenset[str]
    """The silos that keep their account: their epsilon is not in the history."""
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    skipped: str | None
    """Why the strategy left the model as it was, if it did."""

    @property
    def arrived(self) -> frozenset[str]:
        """The silos whose update reached the server in this round.

        One that fails later, when masks are taken out, has sent its update all the same.
        """
        failed = {failure.silo for failure in self.failures if failure.stage != KEYS_STAGE}
        return self.participants - self.dropped - self.refused.keys() - failed


@dataclass(frozen=True)
class CrossCheckFigures:
    """What two other accountants say of the events of the silo that spent most."""

    rdp: float | None
    prv: float | None
    agree: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta) over all rounds; `epsilon` is the largest of the silos, None if unknown."""

    unit: str
    epsilon: float | None
    per_silo: Mapping[str, float]
    delta: float | None
    accountant: str
    checks: CrossCheckFigures | None


@dataclass(frozen=True)
class Run:
    """Everything the page needs. `guarantee` is None when no epsilon was ever computed."""

    settings: Mapping[str, Any]
    settings_text: str
    silos: tuple[SiloRecord, ...]
    labels: tuple[str, ...]
    test_records: int | None
    notes: tuple[str, ...]
    rounds: tuple[RoundRecord, ...]
    finished: bool
    stopped: str | None
    """Why a finished run ended before its last round, if it did."""
    accuracy: float | None
    loss: float | None
    guarantee: Guarantee | None
    sealing: Sealing | None
    """None for a run without encryption."""
    seconds: Mapping[str, float]
    client_updates: int
    client_updates_per_second: float | None
    books: LedgerReading | None
    """The ledger; None in a folder without one."""
    rules: ExplainedPolicy | None
    """The data holder's policy; None where none was used."""
    job: str | None = None
    """The job on real silos; None for a simulation."""

    def section(self, name: str) -> Mapping[str, Any]:
        """The settings under `[name]`, empty when there are none."""
        found = self.settings.get(name)
        return found if isinstance(found, Mapping) else {}

    @property
    def trained(self) -> tuple[RoundRecord, ...]:
        """The rounds in which silos trained: all but round 0, the untrained model."""
        return tuple(entry for entry in self.rounds if entry.number > 0)

    @property
    def last_round(self) -> int:
        return self.rounds[-1].number if self.rounds else 0

    @property
    def planned(self) -> int | None:
        """How many rounds the experiment asked for."""
        asked = self.settings.get("rounds")
        return asked if isinstance(asked, int) else None

    @property
    def measured(self) -> tuple[int, SiloEvaluation] | None:
        """The last evaluation on the silos' own records, and its round."""
        found = ((e.number, e.measured) for e in reversed(self.rounds) if e.measured)
        return next(found, None)

    @property
    def kept(self) -> frozenset[str]:
        """The silos that keep their account to themselves."""
        return frozenset(name for entry in self.rounds for name in entry.kept)

    @property
    def counts_kept(self) -> frozenset[str]:
        """The silos whose policy keeps their number of records from the server."""
        if self.rules is None:
            return frozenset()
        return frozenset(s.name for s in self.silos if not self.rules.tells_count(s.name))
