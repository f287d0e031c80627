"""Between a job and the records: the policy decides, the ledger is charged, then they are used.

A real silo's node configuration names four things, and without them nothing runs:

    policy    the data holder's policy file         ledger    the silo's ledger
    key       the key that signs the ledger         dataset   the data set's name in both

Records are loaded before, because they must be counted and recognised by their fingerprint; nothing
that could leave is computed from them until the worst case of the round is on disk. The share of a
simulation's records that a simulated silo holds is not guarded; see `open_guard`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from dp_accounting import DpEvent
from flwr.app import Context

from privet.client.plan import LocalPlan
from privet.client.silo import Silo
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.privacy.ledger import Ledger, Limit, Reservation, SiloKey, fingerprint_of
from privet.privacy.policy import Decision, Policy, Request
from privet.tasks import Examples

_SETTINGS = ("policy", "ledger", "key", "dataset")


class Refused(PrivetError):  # noqa: N818 - it is the answer, not a fault
    """The data holder's rules do not allow what was asked; says which rule, nothing about data."""


class Admission(Protocol):
    """Leave to use the records once."""

    def records(self) -> Examples:
        """The records; from here on the reservation stands whatever happens."""

    def commit(self, event: DpEvent | None) -> None:
        """Charge what really ran instead of the worst case, before anything is sent."""


class Guard(Protocol):
    """What stands before a silo's records."""

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> None:
        """Raise Refused when the policy would not allow a round of `plan`; charges nothing."""

    def admit(
        self, experiment: Experiment, silo: Silo, plan: LocalPlan, *, round_: int
    ) -> AbstractContextManager[Admission]:
        """A context in which the records may be used once, already charged in the ledger."""


def open_guard(context: Context) -> Guard:
    """The guard that the node's own configuration asks for; Refused when it is incomplete.

    A node that holds a share of one place's records ("num-partitions") is a simulation: whoever
    runs it has all records anyway. Its noise is still the system's unless `simulated` is set.
    """
    node = context.node_config
    if "num-partitions" in node:
        return Unguarded()
    missing = [name for name in _SETTINGS if name not in node]
    if missing:
        raise Refused(
            f"this silo has no {', '.join(missing)} in its node configuration, so nothing may run; "
            "begin with: privet policy init policy.toml"
        )
    return LedgerGuard(
        policy=Path(str(node["policy"])),
        ledger=Path(str(node["ledger"])),
        key=Path(str(node["key"])),
        dataset=str(node["dataset"]),
        requester=str(node.get("requester", "unknown")),
        job=str(context.run_id),
    )


class Unguarded:
    """A simulation's guard: its records belong to whoever runs it."""

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> None:  # noqa: ARG002
        """Nothing is refused."""
        return

    @contextmanager
    def admit(
        self,
        experiment: Experiment,  # noqa: ARG002
        silo: Silo,
        plan: LocalPlan,  # noqa: ARG002
        *,
        round_: int,  # noqa: ARG002
    ) -> Iterator[Admission]:
        """The records, charged to nobody."""
        yield _Free(silo.examples)


@dataclass(frozen=True)
class LedgerGuard:
    """The data holder's policy and ledger for one job; files are opened anew for every message."""

    policy: Path
    ledger: Path
    key: Path
    dataset: str
    requester: str
    job: str

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> None:
        """Raise Refused for what the policy forbids, and for records that are not the data set."""
        self._decide(experiment, plan)
        with self._open() as ledger:
            self._register(ledger, silo)

    @contextmanager
    def admit(
        self, experiment: Experiment, silo: Silo, plan: LocalPlan, *, round_: int
    ) -> Iterator[Admission]:
        """Charge the round's worst case, on disk, then hand out the records.

        Raises Refused by the policy and BudgetExceeded by the ledger before a record is used.
        A reservation that is not committed stays spent.
        """
        decision = self._decide(experiment, plan)
        with self._open() as ledger:
            self._register(ledger, silo)
            if plan.mechanism is None:
                ledger.note(f"training without privacy, round {round_}", who=self.requester)
                yield _Free(silo.examples)
                return
            limits = [Limit(limit.epsilon, limit.delta, limit.scope) for limit in decision.limits]
            with ledger.reserve(
                dataset=self.dataset,
                job=self.job,
                round=round_,
                event=plan.mechanism.event(),
                who=self.requester,
                limits=limits,
            ) as reservation:
                yield _Charged(reservation, lambda: silo.examples)

    def _open(self) -> Ledger:
        return Ledger.open(self.ledger, SiloKey.load(self.key))

    def _register(self, ledger: Ledger, silo: Silo) -> None:
        inputs, targets = silo.examples.inputs.numpy(), silo.examples.targets.numpy()
        ledger.register(self.dataset, fingerprint_of(inputs, targets), who="guard")

    def _decide(self, experiment: Experiment, plan: LocalPlan) -> Decision:
        mechanism = plan.mechanism
        decision = Policy.from_file(self.policy).decide(
            Request(
                dataset=self.dataset,
                task=experiment.task,
                code_hash=code_hash(experiment.task),
                requester=self.requester,
                job=self.job,
                kind="train",
                at=datetime.now(UTC),
                unit=experiment.privacy.unit if experiment.privacy and mechanism else None,
                mechanism="dp-sgd" if mechanism else None,
                noise_multiplier=mechanism.noise_multiplier if mechanism else None,
                sampling_rate=mechanism.sampling_rate if mechanism else None,
                clip=mechanism.clip if mechanism else None,
            )
        )
        if not decision.allowed:
            raise Refused(decision.reason)
        if not decision.records_public:
            raise Refused(
                "sending.records_public: an update's weight and sampling rate tell the number of "
                "records; allowed: no"
            )
        return decision


def code_hash(task: str) -> str | None:
    """SHA-256 of the file that defines a task "module:Class"; None for a built-in task.

    It covers that one file, not what the file imports.
    """
    module, colon, _ = task.partition(":")
    if not colon:
        return None
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return "sha256:" + hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Free:
    examples: Examples

    def records(self) -> Examples:
        return self.examples

    def commit(self, event: DpEvent | None) -> None:
        pass


@dataclass(frozen=True)
class _Charged:
    reservation: Reservation
    examples: Callable[[], Examples]

    def records(self) -> Examples:
        return self.reservation.records(self.examples)

    def commit(self, event: DpEvent | None) -> None:
        if event is None:
            raise Refused("what ran reports no mechanism, though one was reserved")
        self.reservation.commit(event)
