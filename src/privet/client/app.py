"""The ClientApp: what a silo answers to a message.

The same app runs in the in-process grid, under Ray and on a real silo. Whatever goes wrong inside
becomes an error reply, and the round goes on without this silo.

Everything that leaves does so by `_leave` or `_refuse`: the one holds an answer against the schema
in privet.wire.answers, the other knows codes and no text.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode

from privet.base import BaseDiffers
from privet.client import own_part
from privet.client.evaluation import canaries_of, keep_trace, measure, metric_names
from privet.client.guard import Guard, RefusedByPolicy, TrainingPermit, open_guard
from privet.client.masked import SealedRound, advert, consent, reveal, share
from privet.client.sealed import ModelHolder, confirm, keep, make, offer, take
from privet.client.silo import Silo, demand_described, is_simulated, open_silo
from privet.client.training import (
    LocalTraining,
    Trained,
    demand_transform,
    loss_of,
    plan_round,
    train,
)
from privet.client.watching import WatchedTraining, keep_evaluation, keep_steps, watched
from privet.errors import (
    DataError,
    ExperimentError,
    ModelError,
    PrivacyError,
    PrivetError,
    words_of,
)
from privet.experiment import RUN_CONFIG_KEY, Experiment
from privet.privacy.accounting import MOST_NOISE, encode_event
from privet.privacy.encryption import EncryptionError
from privet.privacy.encryption.errors import KeysError, SharesRefused
from privet.privacy.ledger import LedgerError, LedgerRefusal
from privet.privacy.policy import PolicyError
from privet.randomness import numpy_generator
from privet.strategies import load_strategy
from privet.tasks.datasets import DataUnavailable, SchemaMismatch
from privet.vectors import Vector
from privet.wire import (
    REFUSED,
    Enrolment,
    EnrolRequest,
    ErrorReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
)
from privet.wire.answers import ENCRYPTION, METRIC, PLAIN, PRIVACY, RECORDS_PUBLIC, check_answer
from privet.wire.errors import is_setting

_MEMORY = "memory"

log = logging.getLogger("privet.silo")


@dataclass(frozen=True)
class Answer:
    """What a silo would say to a message, and the grants under which it may."""

    content: RecordDict
    grants: frozenset[str] = frozenset()


Handler = Callable[[Message, Context], Answer]
KeyStep = Callable[[Message, Context, Experiment], RecordDict]
Train = Callable[[], Trained]
ResumableRound = Generator[LocalTraining, Train, Message]
"""A train message being answered: stops where everything is admitted and ready to be trained, goes
on with what trains it, and returns the reply."""
_STEPS: tuple[KeyStep, ...] = (offer, make, take, keep, share, consent, reveal, confirm)


def client_app(mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp that trains and evaluates; `mods` wrap every handler, as Flower's mods do."""
    app = ClientApp()
    app.query("enrol", mods=list(mods))(_answering(enrol))
    # Without `_answering`: it makes its replies itself, for those who drive its halves too.
    app.train(mods=list(mods))(train_round)
    app.evaluate(mods=list(mods))(_answering(evaluate_round))
    # A step's name is its message type: "query.offer" is what wire calls OFFER.
    for step in _STEPS:
        app.query(step.__name__, mods=list(mods))(_answering(partial(_key_step, step)))
    app.query("advert", mods=list(mods))(_answering(_advert))
    return app


def enrol(message: Message, context: Context) -> Answer:
    """Say who this silo is and check that it can take part, before the first round."""
    experiment, guard, silo = _open(context)
    request = EnrolRequest.from_records(message.content)
    # Now and not in the first round: who cannot train is left out before anybody has spent.
    with _stage("plan"):
        silo.demand_base(request.base)
        loss = loss_of(silo.task, experiment.training)
        if experiment.privacy is not None:
            silo.local.check(loss, experiment.privacy)
        elif experiment.encryption is not None:  # nobody but silos could see that nothing moves
            silo.local.demand_gradient(loss)
        silo.local.try_out(silo.device)
        plan = plan_round(experiment, n_records=silo.n_records)
    with _stage(REFUSED):
        prospects = guard.check(experiment, silo, plan)
    enrolment = Enrolment(silo.name, silo.index)
    if not prospects.records_public:
        return Answer(enrolment.to_records())
    enrolment = replace(
        enrolment,
        noise_multiplier=plan.mechanism.noise_multiplier if plan.mechanism else None,
        rounds=prospects.rounds,
    )
    return Answer(enrolment.to_records(), frozenset({RECORDS_PUBLIC}))


def train_round(message: Message, context: Context) -> Message:
    """Train for one round and send the update with the mechanism that really ran."""
    resumable = resumable_train_round(message, context)
    try:
        # A generator returns by StopIteration: right away when it refuses, else after the training.
        work = next(resumable)
        resumable.send(partial(train, work))
    except StopIteration as done:
        reply: Message = done.value
    return reply


def resumable_train_round(message: Message, context: Context) -> ResumableRound:
    """`train_round` for whoever trains several silos at once.

    Before it stops, guard and ledger have admitted the round; the event is committed after the
    training and before the reply. A refusal returns its error reply without stopping. Left alone
    in the middle, the round stays charged.
    """
    try:
        answer = yield from _train_round(message, context)
    except Exception as error:
        return _refuse(message, context, error)
    return _leave(message, context, answer)


def _train_round(message: Message, context: Context) -> Generator[LocalTraining, Train, Answer]:
    experiment, guard, silo = _open(context)
    request = TrainRequest.from_records(message.content)
    with _stage("settings"):
        _demand_own_noise(experiment, request)
    with _stage("plan"):
        silo.demand_base(request.base)
        # Whoever sends this need not have asked the silo to enrol. A simulation has looked already.
        if experiment.privacy is not None and silo.seed is None:
            silo.local.check(loss_of(silo.task, experiment.training), experiment.privacy)
        plan = plan_round(
            experiment, n_records=silo.n_records, noise_floor=request.noise_multiplier
        )
    # Before anything is charged: a round that was not agreed on costs nothing.
    with _stage("keys"):
        weights, sealed = _model(message, context, experiment, request, silo)
    # Not a plain `with`: to be refused belongs to the stage "guard", and the permit outlives that.
    with ExitStack() as stack:
        with _stage(REFUSED):
            admitted = stack.enter_context(
                guard.admit(experiment, silo, plan, round_=request.round)
            )
        with _stage("keys"):
            # From here on the silo is in this round's sum, or in none.
            sealed = sealed and sealed.joined()
        with _stage("train"):
            return (
                yield from _train(experiment, silo, request, weights, sealed, context, admitted)
            )


def _demand_own_noise(experiment: Experiment, request: TrainRequest) -> None:
    shared = experiment.privacy is not None and experiment.privacy.calibrate == "shared"
    if request.noise_multiplier is not None and not shared:
        raise ExperimentError("a noise multiplier for all, without privacy.calibrate = 'shared'")
    # Beyond it the update is no finite number, and the records were used for nothing.
    if (request.noise_multiplier or 0.0) > MOST_NOISE:
        raise ExperimentError(f"a noise multiplier for all above {MOST_NOISE:g}")


def evaluate_round(message: Message, context: Context) -> Answer:
    """Measure the global model on records of the silo's own; send what its policy lets out."""
    experiment, guard, silo = _open(context)
    request = EvaluateRequest.from_records(message.content)
    with _stage("plan"):
        silo.demand_base(request.base)
        bins = experiment.evaluation.score_bins if experiment.evaluation else None
        names = metric_names(silo, score_bins=bins)
    with _stage("decrypt"):
        if experiment.encryption is not None:
            holder = ModelHolder.of(context, experiment)
            weights = holder.receive(request.sealed, request.weights).weights
        else:
            weights = _in_the_clear(request.weights)
        weights = silo.model().joined(weights, own_part.recall(silo, context))
    with ExitStack() as stack:
        with _stage(REFUSED):
            permit = stack.enter_context(
                guard.measure(experiment, silo, names, round_=request.round)
            )
        with _stage("evaluate"):
            reply = measure(silo, request.round, weights, permit, bins=bins)
            keep_evaluation(silo, context, request.round, permit)
    grants = {METRIC + rule.name for rule in permit.rules if rule.release != "withheld"}
    grants |= {RECORDS_PUBLIC} if permit.records_public else set()
    return Answer(reply.to_records(), frozenset(grants))


def _train(
    experiment: Experiment,
    silo: Silo,
    request: TrainRequest,
    weights: Vector,
    sealed: SealedRound | None,
    context: Context,
    admitted: TrainingPermit,
) -> Generator[LocalTraining, Train, Answer]:
    lr = experiment.learning_rate(request.round)
    rng = numpy_generator(silo.entropy(request.round))
    memory, model = _recall(context), silo.model()
    whole = model.joined(weights, own_part.recall(silo, context))
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    local = strategy.local(weights=weights, extras=request.extras, memory=memory, lr=lr)
    canaries = canaries_of(silo, context)
    examples = silo.resident(admitted.records())
    demand_transform(examples, experiment.training)
    work = LocalTraining(
        silo.device_model,
        loss_of(silo.task, experiment.training),
        examples,
        whole,
        plan=admitted.plan,
        training=experiment.training,
        lr=lr,
        noise=partial(silo.noise, request.round),
        chance=int(rng.integers(2**63)),
        draws=rng,
        correction=model.on_shared(local.correction),
        canaries=canaries,
        held_out=silo.n_records - len(silo.examples),
        device=silo.device,
    )
    if canaries and work.plan.mechanism:
        work = watched(work, silo=silo, context=context, round_=request.round)
    trained = (yield work)()
    # On disk before anything of it is sent, the trace for the audit included.
    event = admitted.plan.event(trained.steps)
    admitted.commit(event)
    if canaries and trained.canaries and (ran := admitted.plan.mechanism):
        keep_trace(silo, context, request.round, ran, canaries, trained.canaries)
    update = model.shared(trained.update)
    extras = local.finish(update, trained.steps)
    _remember(context, memory)
    own_part.keep(silo, context, model.own(whole) + model.own(trained.update))
    public = admitted.records_public
    upload = sealed.seal(update, silo=silo) if sealed else None
    in_the_clear = PRIVACY if admitted.plan.mechanism else PLAIN
    reply = TrainReply(
        update=None if upload else update,
        # A sealed update has its weight inside, where only the sum of all weights is ever seen.
        weight=float(silo.n_records) if public and not upload else None,
        event=encode_event(event) if public and admitted.plan.mechanism else None,
        loss=None if upload else trained.loss,
        extras=extras,
        sealed=upload,
    )
    if isinstance(work, WatchedTraining):
        sent = update if reply.update is None else reply.update
        sent = model.joined(sent, model.own(trained.update))
        keep_steps(work, sent, silo=silo, context=context, round_=request.round)
    grants = {ENCRYPTION if upload else in_the_clear, *([RECORDS_PUBLIC] if public else [])}
    return Answer(reply.to_records(), frozenset(grants))


def _model(
    message: Message, context: Context, experiment: Experiment, request: TrainRequest, silo: Silo
) -> tuple[Vector, SealedRound | None]:
    """What is trained from; with encryption the round that the silos have agreed on."""
    if experiment.encryption is None:
        return _in_the_clear(request.weights), None
    sealed = SealedRound.of(message, context, experiment, request, model=silo.model())
    return sealed.state.weights, sealed


def _in_the_clear(weights: Vector | None) -> Vector:
    if weights is None:
        raise ExperimentError("no model came, and the job has no [encryption]")
    return weights


def _advert(message: Message, context: Context) -> Answer:
    """Agree to a round with encryption; says how many records silos count by, where they do."""
    experiment, guard, silo = _open(context)
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    records = None
    if experiment.encryption is not None and strategy.counts_records:
        with _stage("plan"):
            plan = plan_round(experiment, n_records=silo.n_records)
        with _stage(REFUSED):
            guard.check(experiment, silo, plan)
        records = silo.n_records
    step = partial(advert, records=records, base=silo.model().unsent)
    return _key_step(step, message, context)


def _key_step(step: KeyStep, message: Message, context: Context) -> Answer:
    with _stage("settings"):
        experiment = _experiment(context)
    with _stage(REFUSED):
        # A job that the policy does not admit gets no key of this silo either.
        open_guard(context).enter(experiment)
    with _stage("decrypt" if step is confirm else "keys"):
        return Answer(step(message, context, experiment), frozenset({ENCRYPTION}))


def _open(context: Context) -> tuple[Experiment, Guard, Silo]:
    with _stage("settings"):
        experiment = _experiment(context)
    # Before the data: loading them runs the task's code, which may be anybody's.
    with _stage(REFUSED):
        guard = open_guard(context)
        guard.enter(experiment)
    with _stage("schema"):
        demand_described(experiment, context)
    with _stage("data"):
        return experiment, guard, open_silo(experiment, context)


def _experiment(context: Context) -> Experiment:
    whole = context.run_config.get(RUN_CONFIG_KEY)
    if isinstance(whole, str):
        return _parsed(whole)
    return Experiment.from_run_config(context.run_config)


# Every message carries the whole experiment, and a process answers many of them.
@lru_cache(maxsize=4)
def _parsed(text: str) -> Experiment:
    return Experiment.from_run_config({RUN_CONFIG_KEY: text})


def _recall(context: Context) -> dict[str, Vector]:
    record = context.state.get(_MEMORY)
    if not isinstance(record, ArrayRecord):
        return {}
    return {key: array.numpy() for key, array in record.items()}


def _remember(context: Context, memory: dict[str, Vector]) -> None:
    if memory:
        context.state[_MEMORY] = ArrayRecord({key: Array(value) for key, value in memory.items()})


class _StageFailed(Exception):  # noqa: N818 - an outcome on its way to a reply
    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(stage)
        self.stage = stage
        self.cause = cause


@contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _StageFailed(name, error) from error


def _answering(handler: Handler) -> Callable[[Message, Context], Message]:
    """`handler`, with its answer held against the schema and every exception an error reply."""

    def guarded(message: Message, context: Context) -> Message:
        try:
            answer = handler(message, context)
        except Exception as error:
            return _refuse(message, context, error)
        return _leave(message, context, answer)

    return guarded


def _leave(message: Message, context: Context, answer: Answer) -> Message:
    """The reply, if the schema knows every value in it and every grant is given."""
    try:
        check_answer(message.metadata.message_type, answer.content, answer.grants)
    except Exception as error:
        return _refuse(message, context, error)
    return Message(answer.content, reply_to=message)


_FREE = frozenset({"settings", "schema", REFUSED})
"""Stages that fail before a record or a key is used; what the guard refuses later, it counts."""


def _refuse(message: Message, context: Context, error: Exception) -> Message:
    """The reply of a failure: nothing of the error leaves a real silo but where it was and a code.

    It is counted before it leaves, since yes or no is an answer too.
    """
    stage, cause = ("message", error)
    if isinstance(error, _StageFailed):
        stage, cause = error.stage, error.cause
    code, names = _code(stage, cause)
    reply = ErrorReply(
        stage, code, names, silo=cause.dealer if isinstance(cause, SharesRefused) else ""
    )
    if is_simulated(context):
        text = str(cause) if isinstance(cause, PrivetError) else words_of(cause)
        return _error(message, replace(reply, text=text))
    reply = replace(reply, reference=secrets.token_hex(4))
    kind = message.metadata.message_type
    # Of ours the words are enough, unless they hide what they came from.
    foreign = None if isinstance(cause, PrivetError) and not cause.__cause__ else cause
    log.warning("%s: %s failed at %s: %s", reply.reference, kind, stage, cause, exc_info=foreign)
    if stage not in _FREE:
        reply = _counted(reply, kind, context)
    return _error(message, reply)


def _counted(reply: ErrorReply, kind: str, context: Context) -> ErrorReply:
    try:
        open_guard(context).count_failure(
            f"{kind} failed at {reply.stage}: {reply.code} (log: {reply.reference})"
        )
    except Exception as error:
        log.warning("%s: it cannot be counted: %s", reply.reference, error)
        # What cannot be counted may not be told: the same words, whatever happened.
        return ErrorReply(REFUSED, "ledger", reference=reply.reference)
    return reply


def _error(message: Message, told: ErrorReply) -> Message:
    code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Message(Error(code=code, reason=str(told)), reply_to=message)


def _code(stage: str, error: Exception) -> tuple[str, tuple[str, ...]]:
    """A code of the list, and the rules or settings that it is about."""
    if isinstance(error, RefusedByPolicy) and stage == REFUSED:
        return error.code, error.names
    if isinstance(error, SchemaMismatch) and stage == "schema":
        return "schema", (error.setting,) if is_setting(error.setting) else ()
    found = next((code for kind, code in _KINDS.items() if isinstance(error, kind)), None)
    return found or _OTHERS.get(stage, "code"), ()


_KINDS: dict[type[Exception], str] = {
    BaseDiffers: "base",
    DataError: "data",
    DataUnavailable: "data",
    SchemaMismatch: "schema",
    ModelError: "model",
    PrivacyError: "privacy",
    ExperimentError: "settings",
    LedgerError: "ledger",
    LedgerRefusal: "ledger",
    PolicyError: "setup",
    EncryptionError: "encryption",
    KeysError: "encryption",
}
_OTHERS = {"message": "message", "keys": "encryption", "decrypt": "encryption"}
"""By stage: the code of an error that is none of these kinds."""


app = client_app()
