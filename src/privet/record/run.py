"""A run as its folder shows it: frozen, the only thing that a page is made from.

Beside rounds and summary: the silos' data, the policy that they kept to, how updates were
encrypted, and the ledger, checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from privet.charts.formatting import shortened
from privet.devices import options
from privet.errors import DataError, PrivetError, nearest
from privet.files import demand_file
from privet.metrics import ACCURACY, Metric, metric_named, names_in_order
from privet.privacy.ledger import History, read_history, verify
from privet.privacy.policy import Policy, PolicyError, explain
from privet.record.history import Figures, RoundRecord, SiloEvaluation, all_figures
from privet.record.schema import Recorded
from privet.record.summary import (
    ChosenModel,
    ClaimedEpsilon,
    ComputedOn,
    DrawnCounts,
    EncryptionFacts,
    ModelFacts,
    SpentSeconds,
)

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


LENGTH = 120


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
    """Silos count by their numbers of records, which they tell each other through the server."""
    outcome: EncryptionFacts | None
    """None until the run ends."""

    @property
    def exact(self) -> bool:
        """Whether a decrypted sum is what was added, to the bit."""
        return self.scheme == "bfv"


class _EncryptionSettings(Recorded):
    colluding: int | None
    rotate_every: int | None


def read_sealing(settings: Mapping[str, Any], described: object) -> Sealing | None:
    """`described` is what the summary says of it; None for a run without encryption."""
    asked = _section(settings, "encryption")
    told = described if isinstance(described, Mapping) else {}
    if not (asked or told) or asked.get("scheme") == "none":
        return None
    facts = EncryptionFacts.mended({"scheme": "bfv", "profile": "default", **asked, **told})
    more = _EncryptionSettings.mended(asked)
    return Sealing(
        scheme=shortened(facts.scheme.lower(), LENGTH),
        profile=facts.profile,
        smallest_sum=facts.smallest_sum or 2,
        masks=facts.pairwise_masks,
        colluding=1 if more.colluding is None else more.colluding,
        rotate_every=more.rotate_every,
        by_records=_section(settings, "strategy").get("weighting", "examples") != "uniform",
        outcome=facts if told else None,
    )


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


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


class SiloRecord(Recorded):
    """One place that holds data. `sampling_rate` is None where training is not private."""

    name: str
    records: int
    labels: dict[str, int] | None
    sampling_rate: float | None
    steps_per_round: int | None
    noise_multiplier: float | None


class HeldRecords(Recorded):
    """What a simulation's host knows of the data: `silos.json`."""

    silos: list[SiloRecord]
    labels: list[str] | None
    test_records: int | None
    notes: list[str]
    first_rounds: int | None
    """With which the run was begun, before it was given more; unknown in older folders."""


@dataclass(frozen=True)
class Run:
    """Everything the page needs."""

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
    guarantee: ClaimedEpsilon | None
    """Of the silos that are known; None when no epsilon was ever computed."""
    sealing: Sealing | None
    """None for a run without encryption."""
    seconds: SpentSeconds
    client_updates: int
    client_updates_per_second: float | None
    books: LedgerReading | None
    """The ledger; None in a folder without one."""
    rules: ExplainedPolicy | None
    """The data holder's policy; None where none was used."""
    job: str | None = None
    """The job on real silos; None for a simulation."""
    first_rounds: int | None = None
    """Rounds with which a simulation was begun, where that is known."""
    chosen: ChosenModel | None = None
    """Of a finished run with [validation]: whose model its figures are about."""
    model: ModelFacts | None = None
    """What of the model trained; unknown before the end and in older folders."""
    metric: Metric = ACCURACY
    """What a page shows first: the task's headline, unless another was asked for."""
    metrics: Figures = field(default_factory=dict)
    """Beside accuracy and loss, of the result or after the last round so far."""
    declared: tuple[Metric, ...] = ()
    baselines: Figures = field(default_factory=dict)
    """Of one answer for every test record."""
    pictures: DrawnCounts | None = None
    computed: ComputedOn | None = None
    """Where a simulation was; unknown before the end and in older folders."""

    def section(self, name: str) -> Mapping[str, Any]:
        """The settings under `[name]`, empty when there are none."""
        found = self.settings.get(name)
        return found if isinstance(found, Mapping) else {}

    @property
    def figures(self) -> Figures:
        """Everything that was measured on test records."""
        return all_figures(self.accuracy, self.loss, self.metrics)

    @property
    def value(self) -> float | None:
        """The metric on test records."""
        return self.figures.get(self.metric.name)

    @property
    def own_value(self) -> float | None:
        """Its last mean on the silos' own records."""
        return self.measured[1].metrics.get(self.metric.name) if self.measured else None

    def showing(self, name: str) -> Self:
        """The run by another metric; DataError for one that nobody measured."""
        own = {n for e in self.rounds if e.evaluation for n in e.evaluation.metrics}
        known = names_in_order({*self.figures, *own}, self.metric)
        if name not in known:
            raise DataError(
                f"no metric {name!r} was measured; there is {', '.join(known) or 'nothing'}."
                f"{nearest(name, known)}"
            )
        return replace(self, metric=metric_named(name, self.declared))

    @property
    def command(self) -> str:
        """What repeats a simulation, in its folder."""
        where = options(self.computed.device, self.computed.precision) if self.computed else []
        return " ".join(["privet simulate experiment.toml", *where])

    @property
    def trained(self) -> tuple[RoundRecord, ...]:
        """The rounds in which silos trained: all but round 0, the untrained model."""
        return tuple(entry for entry in self.rounds if entry.round > 0)

    @property
    def last_round(self) -> int:
        return self.rounds[-1].round if self.rounds else 0

    @property
    def planned(self) -> int | None:
        """How many rounds the experiment asked for."""
        asked = self.settings.get("rounds")
        return asked if isinstance(asked, int) else None

    @property
    def planned_at_first(self) -> int | None:
        """The same before the run was given more rounds, if it was."""
        return self.planned if self.first_rounds is None else self.first_rounds

    @property
    def measured(self) -> tuple[int, SiloEvaluation] | None:
        """The last evaluation on the silos' own records, and its round."""
        found = ((e.round, e.evaluation) for e in reversed(self.rounds) if e.evaluation)
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
