"""The apps of a simulation: the very ClientApp of a real silo, told that it is simulated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from privet.client.app import client_app
from privet.experiment import Experiment
from privet.randomness import numpy_generator, stream
from privet.server.rounds import DROPOUT_STAGE
from privet.wire import Failure


def simulated_client_app(experiment: Experiment, *, data_dir: Path | None) -> ClientApp:
    """A ClientApp with seeded randomness, simulated dropout, and this experiment's settings.

    A mod can do this because it runs at the silo; a job's own settings never can.
    """
    return client_app(
        mods=[
            partial(_simulated, run_config=experiment.to_run_config(), data_dir=data_dir),
            partial(_dropout, rate=experiment.federation.dropout, seed=experiment.seed),
        ]
    )


def _simulated(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    *,
    run_config: dict[str, str],
    data_dir: Path | None,
) -> Message:
    # A copy, because Flower refuses a changed run config; the state stays the silo's own object.
    node_config = {**context.node_config, "simulated": True}
    if data_dir is not None:
        node_config["data-dir"] = str(data_dir)
    inner = Context(context.run_id, context.node_id, node_config, context.state, dict(run_config))
    return call_next(message, inner)


def _dropout(
    message: Message, context: Context, call_next: ClientAppCallable, *, rate: float, seed: int
) -> Message:
    task = message.content.get("task")
    if rate == 0 or not isinstance(task, ConfigRecord):
        return call_next(message, context)
    silo = int(context.node_config["partition-id"])
    coin = numpy_generator(stream(seed, "dropout", silo, int(str(task["round"])))).random()
    if coin >= rate:
        return call_next(message, context)
    failure = Failure(silo=str(silo), stage=DROPOUT_STAGE, reason="simulated dropout")
    code = ErrorCode.NODE_UNAVAILABLE
    return Message(Error(code=code, reason=str(failure)), reply_to=message)
