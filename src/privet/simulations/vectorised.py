"""Silos whose training is one batched computation; all else about them is as ever.

Each silo is admitted, charged and answered for by the very code that a real one runs; only the
arithmetic between the reservation in its ledger and the commit is shared (`privacy.mechanisms.
batched`). The same batches and the same noise give the same model, but for rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from flwr.app import Context, Message

from privet.client.app import ResumableRound, Train
from privet.client.silo import LocalData
from privet.client.training import LocalTraining, Trained, mean_loss, train
from privet.errors import ModelError
from privet.privacy.mechanisms import ExampleLoss
from privet.privacy.mechanisms.batched import (
    Chain,
    NotBatchable,
    OptimizerSettings,
    Row,
    RowResult,
    chain_of,
    train_rows,
)
from privet.simulations.grid import Asked
from privet.simulations.prepare import Prepared

SILOS_AT_ONCE = 10
"""More gain little, and fewer groups keep fewer workers busy."""
SILOS_AT_ONCE_ON_DEVICE = 256
"""One call has to keep all of an accelerator busy."""

_FEWEST = 4
_MOST_WEIGHTS = 200_000
"""Where training together is quicker, as measured (benchmarks/vectorised.py)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vectorised:
    """Answers the train messages of a few silos at once."""

    begin: Callable[[Message, Context], ResumableRound]
    chain: Chain
    size: int = SILOS_AT_ONCE

    def __call__(self, asked: Sequence[Asked]) -> list[Message]:
        """The replies, in order; those of silos that are not to train are error replies."""
        halves = [self.begin(message, context) for message, context in asked]
        begun = [_first_half(each) for each in halves]
        ways = iter(ways_to_train(self.chain, [w for w in begun if isinstance(w, LocalTraining)]))
        return [
            _second_half(each, next(ways)) if isinstance(work, LocalTraining) else work
            for each, work in zip(halves, begun, strict=True)
        ]


def pays(prepared: Prepared) -> bool:
    """Whether training silos together is quicker, if it is possible: many silos, a small model."""
    asked = len(prepared.place.silos) * prepared.experiment.federation.participation
    weights = sum(prepared.place.model_cache.model().sizes)
    return asked >= _FEWEST and weights <= _MOST_WEIGHTS


def chain_for(place: LocalData, loss: ExampleLoss) -> Chain:
    """The model of the place's task as a chain; NotBatchable, with the reason, when it is none, or
    when a batch's loss is not the mean of its examples' own."""
    like = place.example_type
    if not like.single:
        raise NotBatchable("inputs or targets are tuples or dicts of tensors")
    if place.silos and any(silo.transform or not silo.in_memory for silo in place.silos):
        raise NotBatchable("records are read or transformed anew for each step")
    inputs = next(like.made_up())
    model = place.model_cache.model().module
    chain = chain_of(model, inputs)
    with torch.no_grad():
        outputs = model(inputs)
    try:
        loss.check(outputs, like)
    except ModelError as error:
        raise NotBatchable(str(error)) from error
    return chain


def ways_to_train(chain: Chain, works: Sequence[LocalTraining]) -> list[Train]:
    """What gives each training's result: all of them together if that works, else each alone."""
    try:
        outcomes = _train_together(chain, works) if len(works) > 1 else []
    except Exception as error:  # the silo that is to blame will say so itself
        _warn_once(f"silos that cannot be trained together train one by one: {error}")
        outcomes = []
    if not outcomes:
        return [partial(train, work) for work in works]
    return [partial(_trained, work, outcome) for work, outcome in zip(works, outcomes, strict=True)]


@lru_cache
def _warn_once(warning: str) -> None:
    _log.warning(warning)


def _train_together(chain: Chain, works: Sequence[LocalTraining]) -> list[RowResult]:
    training = works[0].training
    optimizer = OptimizerSettings(training.optimizer, training.momentum, training.weight_decay)
    loss = works[0].loss
    if works[0].plan.mechanism is None:  # nobody is clipped, and `chain_for` saw that it is a mean
        loss = replace(loss, separable=True)
    dry = [each for work in works for each in work.dry_runs]
    rows = [_row(work) for work in (*works, *dry)]
    # Dry runs give no result: what they leave is with their corrections.
    trained = train_rows(chain, rows, loss, optimizer=optimizer, device=works[0].device)
    return trained[: len(works)]


def _row(work: LocalTraining) -> Row:
    unused = work.draws.bit_generator.state
    batches = list(work.batches())
    work.draws.bit_generator.state = unused  # it may still have to train alone
    return Row(
        work.weights,
        work.examples.inputs,
        work.examples.targets,
        batches,
        work.lr,
        plan=work.plan.mechanism,
        noise=work.noise() if work.plan.mechanism else None,
        correction=work.correction,
        canaries=work.canaries if work.plan.mechanism else None,
    )


def _trained(work: LocalTraining, outcome: RowResult) -> Trained:
    loss = mean_loss(outcome.losses, work.training) if outcome.losses else None
    return Trained(
        outcome.update,
        work.plan.steps,
        loss=loss,
        nonfinite=outcome.nonfinite,
        canaries=outcome.canaries,
    )


def _first_half(halves: ResumableRound) -> LocalTraining | Message:
    """The training that is ready, or the reply of a silo that does not train."""
    try:
        return next(halves)
    except StopIteration as done:
        reply: Message = done.value
        return reply


def _second_half(halves: ResumableRound, how: Train) -> Message:
    try:
        halves.send(how)
    except StopIteration as done:
        reply: Message = done.value
        return reply
    raise AssertionError("a training that begins twice")
