"""Between a job and the records: the policy decides, the ledger is charged, then they are used.

A real silo's node configuration names four things, and without them nothing runs:

    policy    the data holder's policy file         ledger    the silo's ledger
    key       the key that signs the ledger         dataset   the data set's name in both
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context

from privet.client.permits import (
    EvaluationPermit,
    Guard,
    Project,
    Prospect,
    Prospects,
    RefusedByPolicy,
    RequestOrigin,
    TrainingPermit,
    Unguarded,
    exceeded,
    fitted,
    judge,
    judge_training,
    limits_of,
    what_if,
    without_size,
)
from privet.client.silo import Silo, is_simulated
from privet.client.task_code import CodeRefused, code_hash, import_only
from privet.client.training import LocalPlan
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.privacy.accounting import gaussian_event
from privet.privacy.dp_events import DpEvent, dpa
from privet.privacy.ledger import (
    BudgetExceeded,
    JobTerms,
    Ledger,
    Reservation,
    SiloKey,
    TermsRefused,
    forecast,
    repeated,
)
from privet.privacy.ledger.ledger import Use
from privet.privacy.policy import Decision, MetricRule, Policy
from privet.tasks import Examples

__all__ = [
    "EvaluationPermit",
    "Guard",
    "LedgerFiles",
    "Prospect",
    "RefusedByPolicy",
    "RequestOrigin",
    "TrainingPermit",
    "code_hash",
    "open_guard",
    "what_if",
]

SIMULATED_JOB = "simulation"
_SETTINGS = ("policy", "ledger", "key", "dataset")

# An opened ledger replays its whole chain, which grows with every silo and round: once is enough.
_kept: dict[tuple[Path, int], Ledger] = {}


@dataclass(frozen=True)
class LedgerFiles:
    """Where a silo's ledger and the key that signs it lie.

    `simulated`: every silo of a run writes into one ledger, which stays open in each process until
    `close_simulated`, and is durable against the death of a process only.
    """

    ledger: Path
    key: Path
    simulated: bool = False

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        """The ledger, open; LedgerError when it cannot be believed or written."""
        if self.simulated:
            yield self._keep_open()
            return
        with Ledger.open(self.ledger, SiloKey.load(self.key)) as ledger:
            yield ledger

    def close_simulated(self) -> None:
        """Put all that was written into the one file and sign it, whichever process wrote it."""
        kept = _kept.pop((self.ledger, os.getpid()), None)
        # Opened to be closed where only worker processes wrote: closing is what gathers and signs.
        (kept or self._opened()).close()

    def _keep_open(self) -> Ledger:
        place = self.ledger, os.getpid()  # a forked worker must open it anew
        if place not in _kept:
            _kept[place] = self._opened()
        return _kept[place]

    def _opened(self) -> Ledger:
        return Ledger.open(self.ledger, SiloKey.load(self.key), durable=False)


@dataclass(frozen=True)
class LedgerGuard:
    """The data holder's policy and ledger for one job.

    Records are loaded before a round is judged, because they must be counted and recognised by
    their fingerprint, and only after `enter` has let the task's code run; nothing that could be
    sent is computed from them until the worst case of the round is on disk.
    """

    files: LedgerFiles
    policy: Path | None
    """None: a simulation's own policy, which allows everything."""
    origin: RequestOrigin

    def enter(self, experiment: Experiment) -> None:
        """RefusedByPolicy when this requester's task may not run its code here now."""
        if self.policy is None:
            return
        policy = self._read_policy()
        try:
            opening = self.origin.opening(experiment)
            decision = judge(policy, opening)
            if ended := self._terms(decision).ended(datetime.now(UTC)):
                raise RefusedByPolicy(ended, code="terms")
            self._hear_no_more(policy)
            if opening.code_hash and policy.names_code(opening):
                try:
                    import_only(experiment.task, opening.code_hash)
                except CodeRefused as changed:
                    raise RefusedByPolicy(str(changed), names=["code"]) from None
        except RefusedByPolicy as refusal:
            with self.files.open() as ledger:
                self._note(ledger, f"refused: {refusal}")
            raise

    def count_failure(self, text: str) -> None:
        """Count an answer that says that something failed once the records were opened.

        LedgerError when that cannot be written down: then the answer may not be given either.
        """
        if not self.files.simulated:
            with self.files.open() as ledger:
                self._count(ledger, text, once=False)

    def _hear_no_more(self, policy: Policy) -> None:
        """RefusedByPolicy for a job that somebody has ended, and for a requester who was told often
        enough that something failed."""
        rules, origin = policy.rules(self.origin.dataset), self.origin
        if rules is None or self.files.simulated:
            return
        most = rules.sending.most_failures
        with self.files.open() as ledger:
            ended = ledger.ended(origin.job)
            failures = ledger.failures(dataset=origin.dataset, who=origin.requester)
        if ended:
            raise RefusedByPolicy(ended, code="terms")
        if failures >= most:
            raise RefusedByPolicy(
                f"{failures} answers told {origin.requester} of a failure, and "
                f"sending.most_failures = {most}; go on with: privet ledger forgive",
                code="refused",
                names=["sending.most_failures"],
            )

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> Prospects:
        """How many rounds fit the budget; RefusedByPolicy when not even one is allowed.

        Where the number of records is kept the budget is not looked at: what fits hangs on it, and
        a yes that nothing is charged for could be had again and again until it becomes a no.
        LedgerRefusal for records that are not the data set.
        """
        rounds = experiment.rounds
        with self.files.open() as ledger, self._noting(ledger):
            decision, plan = self._decide(ledger, experiment, silo, plan, rounds)
            if not decision.records_public:
                return Prospects(None, records_public=False)
            outlook = forecast(self._project(ledger, decision), plan.event(), rounds=rounds)
            if outlook.rounds == 0:
                raise exceeded(outlook.coming, outlook.whole, rounds, decision)
            return Prospects(outlook.rounds, decision.records_public)

    @contextmanager
    def admit(
        self, experiment: Experiment, silo: Silo, plan: LocalPlan, *, round_: int
    ) -> Iterator[TrainingPermit]:
        """Charge the round's worst case, on disk, then hand out the records.

        Raises RefusedByPolicy before a record is used. What is reserved and not committed stays
        spent.
        """
        # With `on_budget` the noise is fitted to all rounds that remain, this one included.
        left = experiment.rounds - round_ + 1
        with self.files.open() as ledger:
            # Ends before the records are handed out: what goes wrong with them is not a refusal.
            with self._noting(ledger):
                _demand_round(experiment, round_)
                decision, plan = self._decide(ledger, experiment, silo, plan, left)
                charge = self._charge(
                    ledger,
                    plan.event(),
                    decision,
                    round_,
                    left,
                    encrypted=bool(experiment.encryption),
                )
            with charge or nullcontext():
                yield _TrainingPermit(plan, decision.records_public, charge, silo.examples)

    @contextmanager
    def measure(
        self, experiment: Experiment, silo: Silo, metrics: tuple[str, ...], *, round_: int
    ) -> Iterator[EvaluationPermit]:
        """Charge the noise of metrics released with noise; note those released exactly."""
        with self.files.open() as ledger:
            with self._noting(ledger):
                _demand_round(experiment, round_)
                decision = judge(self._read_policy(), self.origin.evaluation(experiment, metrics))
                self._register(ledger, silo)
                event = _noise(decision.metrics)
                charge = event and self._charge(
                    ledger, event, decision, round_, 1, use="evaluation"
                )
                self._note_exact(ledger, decision, round_, counted=charge is not None)
            with charge or nullcontext():
                # Committed below, once it was used; an error in between leaves it charged.
                yield _EvaluationPermit(
                    decision.metrics, event, decision.records_public, charge, silo.held_out
                )
                if charge and event:
                    charge.commit(event)

    def _read_policy(self) -> Policy:
        if self.policy is None:
            return Policy.permissive()
        # For every request: what the data holder changes holds from the next message on.
        policy = Policy.from_file(self.policy)
        return policy.for_everyone() if self.files.simulated else policy

    def _decide(
        self, ledger: Ledger, experiment: Experiment, silo: Silo, plan: LocalPlan, rounds: int
    ) -> tuple[Decision, LocalPlan]:
        """What the policy says of the records being the data set, and the plan that may run."""
        decision = judge_training(self._read_policy(), self.origin, experiment, plan)
        # After the policy: who is refused must not be the one who registers the records.
        self._register(ledger, silo)
        origin = self.origin
        return decision, fitted(
            without_size(plan, experiment, decision),
            experiment,
            decision,
            project=self._project(ledger, decision),
            rounds=rounds,
            noise_so_far=lambda: ledger.training_noise(dataset=origin.dataset, job=origin.job),
        )

    def _register(self, ledger: Ledger, silo: Silo) -> None:
        ledger.register(self.origin.dataset, silo.fingerprint(), who="guard")

    def _charge(
        self,
        ledger: Ledger,
        event: DpEvent,
        decision: Decision,
        round_: int,
        rounds: int,
        *,
        use: Use = "training",
        encrypted: bool = False,
    ) -> Reservation | None:
        """The reservation of `event`; RefusedByPolicy when the budget does not allow it.

        None for a round that an interrupted simulation runs again: its noise follows from the seed,
        so the very same numbers are sent and nothing new is spent.
        """
        origin = self.origin
        place = {"dataset": origin.dataset, "job": origin.job}
        if self.files.simulated and ledger.holds(**place, round=round_, event=event):
            return None
        limits = limits_of(decision)
        try:
            return ledger.reserve(
                **place,
                round=round_,
                event=event,
                who=origin.requester,
                limits=limits,
                use=use,
                encrypted=encrypted,
                terms=self._terms(decision),
            )
        except TermsRefused as refused:
            raise RefusedByPolicy(str(refused), code="terms") from None
        # Not the ledger's own words: its figures could tell the number of records, which `exceeded`
        # heeds.
        except BudgetExceeded:
            project = self._project(ledger, decision)
            whole = project(repeated(event, rounds))
            raise exceeded(project(event), whole, rounds, decision) from None

    def _terms(self, decision: Decision) -> JobTerms:
        """On what terms the job uses the data set; nobody is asked about a simulation."""
        return JobTerms(
            attempts=decision.attempts,
            order=self.origin.order,
            until=self.origin.until,
            approval=decision.approval and not self.files.simulated,
        )

    def _note_exact(
        self, ledger: Ledger, decision: Decision, round_: int, *, counted: bool
    ) -> None:
        """Nothing is charged for it: without a note it would look as if nothing had left."""
        exact = [rule.name for rule in decision.metrics if rule.release == "exact"]
        text = f"{', '.join(exact)} left exactly: not protected or counted"
        # Once for a job where a reservation counts the evaluation, and in a simulation, whose
        # silos' records whoever runs it has anyway.
        if exact and (counted or self.files.simulated):
            self._note(ledger, text)
        elif exact:
            origin, terms = self.origin, self._terms(decision)
            place = {"dataset": origin.dataset, "job": origin.job, "who": origin.requester}
            try:
                ledger.note_evaluation(text, **place, round=round_, terms=terms)
            except TermsRefused as refused:
                raise RefusedByPolicy(str(refused), code="terms") from None

    def _project(self, ledger: Ledger, decision: Decision) -> Project:
        origin, limits = self.origin, limits_of(decision)
        return lambda event: ledger.project(
            dataset=origin.dataset, job=origin.job, event=event, who=origin.requester, limits=limits
        )

    @contextmanager
    def _noting(self, ledger: Ledger) -> Iterator[None]:
        """Count a refusal in the ledger, once for a job and reason, when the block refuses.

        Records are open by now: their number alone may decide whether a budget is enough, or if a
        job's figures can be reckoned with at all, so every error counts. Raises LedgerError in the
        place of a refusal that cannot be counted, which may not be told then.
        """
        try:
            yield
        except Exception as refusal:
            # A library's own words may quote anything, and ledgers are shown to auditors.
            text = str(refusal) if isinstance(refusal, PrivetError) else type(refusal).__name__
            self._count(ledger, f"refused: {text}", once=True)
            raise

    def _count(self, ledger: Ledger, text: str, *, once: bool) -> None:
        origin = self.origin
        if self.files.simulated:
            self._note(ledger, text)
            return
        place = {"dataset": origin.dataset, "job": origin.job}
        ledger.count_failure(text, **place, who=origin.requester, once=once)

    def _note(self, ledger: Ledger, text: str) -> None:
        origin = self.origin
        ledger.note_job(text, dataset=origin.dataset, job=origin.job, who=origin.requester)


@dataclass(frozen=True)
class _TrainingPermit:
    plan: LocalPlan
    records_public: bool
    charge: Reservation | None
    examples: Examples

    def records(self) -> Examples:
        return self.charge.records(lambda: self.examples) if self.charge else self.examples

    def commit(self, event: DpEvent) -> None:
        if self.charge:
            self.charge.commit(event)


@dataclass(frozen=True)
class _EvaluationPermit:
    rules: tuple[MetricRule, ...]
    event: DpEvent | None
    records_public: bool
    charge: Reservation | None
    held_out: Callable[[], Examples]

    def records(self) -> Examples:
        return self.charge.records(self.held_out) if self.charge else self.held_out()


def _demand_round(experiment: Experiment, round_: int) -> None:
    """Noise is fitted to so many rounds; a server that asks for more would break the job's word."""
    if not 1 <= round_ <= experiment.rounds:
        # Without the number: who asks for one after the other would get a note for each.
        text = f"the job has rounds 1 to {experiment.rounds}"
        raise RefusedByPolicy(text, names=["rounds"])


def _noise(rules: Sequence[MetricRule]) -> DpEvent | None:
    """The event of all metrics that are released with noise, each on counts of its own."""
    noise = [rule.noise_multiplier for rule in rules if rule.noise_multiplier is not None]
    events = [gaussian_event(multiplier) for multiplier in noise]
    return dpa.ComposedDpEvent(events) if events else None


def open_guard(context: Context) -> Guard:
    """The guard that the node's own configuration asks for; RefusedByPolicy if it is incomplete.

    Flower's own simulation keeps no ledger; privet's gives its nodes one, and a policy if it was
    asked for.
    """
    node = context.node_config
    simulated = bool(node.get("simulated"))
    if is_simulated(context) and not simulated:
        return Unguarded()
    missing = [name for name in _SETTINGS if name not in node]
    if missing and not (simulated and missing == ["policy"]):
        raise RefusedByPolicy(
            f"this silo has no {', '.join(missing)} in its node configuration, so nothing may run; "
            "begin with: privet policy init policy.toml",
            code="setup",
        )
    origin = RequestOrigin(
        dataset=str(node["dataset"]),
        requester=str(node.get("requester", "unknown")),
        job=SIMULATED_JOB if simulated else str(node.get("job", context.run_id)),
        order=str(node["order"]) if "order" in node else None,
        until=datetime.fromtimestamp(float(node["until"]), UTC) if "until" in node else None,
    )
    policy = Path(str(node["policy"])) if "policy" in node else None
    files = LedgerFiles(Path(str(node["ledger"])), Path(str(node["key"])), simulated)
    return LedgerGuard(files, policy, origin)
