"""A run as its folder tells it: frozen records, the only thing that the page is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privet.simulations.report.books import Books
from privet.simulations.report.rules import Rules
from privet.simulations.report.sealing import Sealing

KEYS_STAGE = "keys"
"""Where a silo fails when it is given a key, and in the steps of masks."""
DECRYPT_STAGE = "decrypt"
"""Where a silo fails when it cannot open the model that it is sent."""


@dataclass(frozen=True)
class Silo:
    """One place that holds data. `sampling_rate` is None where training is not private."""

    name: str
    records: int
    labels: Mapping[str, int] | None
    sampling_rate: float | None
    steps_per_round: int | None
    noise_multiplier: float | None


@dataclass(frozen=True)
class Failure:
    """Why something that was asked of a silo did not happen."""

    silo: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """One evaluation of the model on records that the silos keep out of training."""

    means: Mapping[str, float]
    """By metric, over the silos that let it out."""
    per_silo: Mapping[str, Mapping[str, float]]
    released: Mapping[str, Mapping[str, str]]
    """By silo and metric: "exact", "noised" or "withheld"."""
    events: Mapping[str, str | None]
    """What the noise cost, as in `Round.events`."""
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Round:
    """What one line of `history.jsonl` says; epsilon is spent up to and including this round."""

    number: int
    loss: float | None
    accuracy: float | None
    silo_accuracy: Mapping[str, float]
    participants: frozenset[str]
    dropped: frozenset[str]
    failures: tuple[Failure, ...]
    refused: Mapping[str, str]
    """By silo whose holder's rules or budget did not allow the round: the reason."""
    affordable: Mapping[str, int]
    """Before the first round, by silo that tells: the rounds that its budget has room for."""
    events: Mapping[str, str | None] | None
    """By silo: the mechanism that ran, as the ledger would write it, or None where the silo keeps
    its account. None altogether when the run keeps no account of training."""
    measured: Measured | None
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
class CrossChecks:
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
    checks: CrossChecks | None


@dataclass(frozen=True)
class Run:
    """Everything the page needs. `guarantee` is None when no epsilon was ever computed."""

    settings: Mapping[str, Any]
    settings_text: str
    silos: tuple[Silo, ...]
    labels: tuple[str, ...]
    test_records: int | None
    notes: tuple[str, ...]
    rounds: tuple[Round, ...]
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
    books: Books | None
    """The ledger; None in a folder without one."""
    rules: Rules | None
    """The data holder's policy; None where none was used."""
    job: str | None = None
    """The job on real silos; None for a simulation."""

    def section(self, name: str) -> Mapping[str, Any]:
        """The settings under `[name]`, empty when there are none."""
        found = self.settings.get(name)
        return found if isinstance(found, Mapping) else {}

    @property
    def trained(self) -> tuple[Round, ...]:
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
    def measured(self) -> tuple[int, Measured] | None:
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
