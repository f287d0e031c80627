"""The ClientApp: what a silo answers to a message.

The same app runs in the in-process grid, under Ray and on a real silo. Whatever goes wrong inside
becomes an error reply that names silo, stage and reason; the round goes on without this silo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial

from flwr.app import Array, ArrayRecord, Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode

from privet.client.evaluation import canaries_of, keep_trace, measure, metric_names
from privet.client.guard import Guard, TrainingPermit, open_guard
from privet.client.keyring import advert, consent, reveal, share
from privet.client.sealed import Received, keep, make, offer, receive, take
from privet.client.silo import Silo, open_silo
from privet.client.training import LocalTraining, Trained, loss_of, plan_round, train
from privet.client.watching import WatchedTraining, keep_evaluation, keep_steps, watched
from privet.errors import PrivetError
from privet.experiment import RUN_CONFIG_KEY, Experiment
from privet.privacy.accounting import encode_event
from privet.randomness import numpy_generator
from privet.strategies import load_strategy
from privet.vectors import Vector
from privet.wire import Enrolment, EvaluateRequest, Failure, TrainReply, TrainRequest

_MEMORY = "memory"

Answer = Callable[[Message, Context], Message]
KeyStep = Callable[[Message, Context, Experiment], Message]
Train = Callable[[], Trained]
ResumableRound = Generator[LocalTraining, Train, Message]
"""A train message being answered: stops where everything is admitted and ready to be trained, goes
on with what trains it, and returns the reply."""
_STEPS: tuple[KeyStep, ...] = (offer, make, take, keep, advert, share, consent, reveal)


def client_app(mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp that trains and evaluates; `mods` wrap every handler, as Flower's mods do."""
    app = ClientApp()
    app.query("enrol", mods=list(mods))(_answering(enrol))
    # Without `_answering`: it makes its error replies itself, for those who drive its halves too.
    app.train(mods=list(mods))(train_round)
    app.evaluate(mods=list(mods))(_answering(evaluate_round))
    # A step's name is its message type: "query.offer" is what wire calls OFFER.
    for step in _STEPS:
        app.query(step.__name__, mods=list(mods))(_answering(partial(_key_step, step)))
    return app


def enrol(message: Message, context: Context) -> Message:
    """Say who this silo is and check that it can take part, before the first round."""
    experiment, guard, silo = _open(context)
    # Now and not in the first round: who cannot train is left out before anybody has spent.
    with _stage("plan"):
        if experiment.privacy is not None:
            silo.local.check(loss_of(silo.task, experiment.training), experiment.privacy)
        plan = plan_round(experiment, n_records=silo.n_records)
    with _stage("guard"):
        rounds = guard.check(experiment, silo, plan)
    noise = plan.mechanism.noise_multiplier if plan.mechanism else None
    enrolment = Enrolment(
        silo.name,
        silo.index,
        noise_multiplier=noise,
        rounds=rounds,
        records=_weight(experiment, silo),
    )
    return Message(enrolment.to_records(), reply_to=message)


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
        return (yield from _train_round(message, context))
    except Exception as error:
        return _refused(message, context, error)


def _train_round(message: Message, context: Context) -> ResumableRound:
    start = time.perf_counter()
    experiment, guard, silo = _open(context)
    request = TrainRequest.from_records(message.content)
    with _stage("plan"):
        # Whoever sends this need not have asked the silo to enrol. A simulation has looked already.
        if experiment.privacy is not None and silo.seed is None:
            silo.local.check(loss_of(silo.task, experiment.training), experiment.privacy)
        plan = plan_round(
            experiment, n_records=silo.n_records, noise_floor=request.noise_multiplier
        )
    # Not a plain `with`: to be refused belongs to the stage "guard", and the permit outlives that.
    with ExitStack() as stack:
        with _stage("guard"):
            admitted = stack.enter_context(
                guard.admit(experiment, silo, plan, round_=request.round)
            )
        with _stage("decrypt"):
            received = receive(message, context, experiment, request.sealed, request.weights)
        with _stage("train"):
            reply = yield from _train(experiment, silo, request, received, context, admitted, start)
    return Message(reply.to_records(), reply_to=message)


def _weight(experiment: Experiment, silo: Silo) -> int | None:
    """The silo's number of records, where an encrypted average needs it; its policy agreed to."""
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    needed = experiment.encryption is not None and strategy.counts_records
    return silo.n_records if needed else None


def evaluate_round(message: Message, context: Context) -> Message:
    """Measure the global model on records of the silo's own; send what its policy lets out."""
    experiment, guard, silo = _open(context)
    request = EvaluateRequest.from_records(message.content)
    with ExitStack() as stack:
        with _stage("guard"):
            names = metric_names(silo)
            permit = stack.enter_context(
                guard.measure(experiment, silo, names, round_=request.round)
            )
        with _stage("decrypt"):
            received = receive(message, context, experiment, request.sealed, request.weights)
        with _stage("evaluate"):
            reply = measure(silo, request.round, received.now, permit)
            keep_evaluation(silo, context, request.round, permit)
    return Message(reply.to_records(), reply_to=message)


def _train(
    experiment: Experiment,
    silo: Silo,
    request: TrainRequest,
    received: Received,
    context: Context,
    admitted: TrainingPermit,
    start: float,
) -> Generator[LocalTraining, Train, TrainReply]:
    weights = received.now
    rng = numpy_generator(silo.entropy(request.round))
    memory = _recall(context)
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    local = strategy.local(weights=weights, extras=request.extras, memory=memory, lr=request.lr)
    canaries = canaries_of(silo, context)
    work = LocalTraining(
        silo.model,
        loss_of(silo.task, experiment.training),
        admitted.records(),
        weights,
        plan=admitted.plan,
        training=experiment.training,
        lr=request.lr,
        noise=partial(silo.noise, request.round),
        chance=int(rng.integers(2**63)),
        draws=rng,
        correction=local.correction,
        canaries=canaries,
        held_out=silo.n_records - len(silo.examples),
    )
    if canaries and work.plan.mechanism:
        work = watched(work, silo=silo, context=context, round_=request.round)
    trained = (yield work)()
    # On disk before anything of it is sent, the trace for the audit included.
    event = admitted.plan.event(trained.steps)
    admitted.commit(event)
    if canaries and trained.canaries and (ran := admitted.plan.mechanism):
        keep_trace(silo, context, request.round, ran, canaries, trained.canaries)
    extras = local.finish(trained.update, trained.steps)
    _remember(context, memory)
    public = admitted.records_public
    sealed = received.seal(strategy, trained.update, silo=silo, round_=request.round)
    reply = TrainReply(
        update=None if sealed else trained.update,
        # A sealed update has its weight inside, where only the sum of all weights is ever seen.
        weight=float(silo.n_records) if public and not sealed else 1.0,
        seconds=time.perf_counter() - start,
        event=encode_event(event) if public and admitted.plan.mechanism else None,
        loss=None if sealed else trained.loss,
        extras=extras,
        sealed=sealed,
    )
    if isinstance(work, WatchedTraining):
        sent = trained.update if reply.update is None else reply.update
        keep_steps(work, sent, silo=silo, context=context, round_=request.round)
    return reply


def _key_step(step: KeyStep, message: Message, context: Context) -> Message:
    with _stage("settings"):
        experiment = _experiment(context)
    with _stage("guard"):
        # A job that the policy does not admit gets no key of this silo either.
        open_guard(context).enter(experiment)
    with _stage("keys"):
        return step(message, context, experiment)


def _open(context: Context) -> tuple[Experiment, Guard, Silo]:
    with _stage("settings"):
        experiment = _experiment(context)
    # Before the data: loading them runs the task's code, which may be anybody's.
    with _stage("guard"):
        guard = open_guard(context)
        guard.enter(experiment)
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


def _answering(answer: Answer) -> Answer:
    """`answer`, with every exception turned into an error reply."""

    def guarded(message: Message, context: Context) -> Message:
        try:
            return answer(message, context)
        except Exception as error:
            return _refused(message, context, error)

    return guarded


def _refused(message: Message, context: Context, error: Exception) -> Message:
    if isinstance(error, _StageFailed):
        return _refuse(message, context, error.stage, error.cause)
    return _refuse(message, context, "message", error)


def _refuse(message: Message, context: Context, stage: str, error: Exception) -> Message:
    silo = str(context.node_config.get("name", context.node_config.get("partition-id", "silo")))
    reason = Failure(silo=silo, stage=stage, reason=_reason(error, context))
    return Message(
        Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=str(reason)), reply_to=message
    )


def _reason(error: Exception, context: Context) -> str:
    if isinstance(error, PrivetError):
        return str(error)
    # The text of a foreign exception may quote a record; it leaves a simulation only.
    if context.node_config.get("simulated"):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


app = client_app()
