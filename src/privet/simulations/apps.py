"""The apps of a simulation: the ClientApp of a real silo, configured as a simulated one.

Identities, a roster and key folders for simulated silos, and the host as one more key holder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from privet.client.app import ResumableRound, client_app, resumable_train_round
from privet.client.keyring import SIMULATED_RUN, Keyring
from privet.client.sealed import ModelStore
from privet.devices import CPU, Device
from privet.experiment import Experiment
from privet.files import write_whole
from privet.privacy.encryption.keys import Member, Roster, load_roster
from privet.privacy.ledger import SiloKey
from privet.randomness import numpy_generator, stream
from privet.server.tally import DROPOUT_STAGE
from privet.vectors import Vector
from privet.wire import ErrorReply

KEYS = "keys"


@dataclass(frozen=True)
class SimulatedKeys:
    """The folder in which every simulated silo has its keys, and the roster of them all."""

    folder: Path
    names: tuple[str, ...]

    @property
    def roster(self) -> Path:
        """The file that silos and server trust."""
        return self.folder / "roster.toml"

    def node_config(self, place: int) -> dict[str, str]:
        """The part of the node configuration of the silo at `place` that names its keys."""
        name = self.names[place]
        return {
            "name": name,
            "roster": str(self.roster),
            "identity": str(self._identity(name)),
            "keys": str(self.folder / name),
        }

    def opener(self) -> Callable[[bytes], Vector | None]:
        """Reads the model with a digest, as the silos keep it."""

        def opened(digest: bytes) -> Vector | None:
            name = self.names[0]
            roster, folder = load_roster(self.roster), self.folder / name
            keyring = Keyring(
                name, SIMULATED_RUN, roster, self._identity(name), folder, simulated=True
            )
            state = ModelStore(keyring).find(digest)
            return None if state is None else state.weights.copy()

        return opened

    def make(self) -> None:
        """Identities and roster, unless they are there already."""
        if self.roster.exists():
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        members = []
        for name in self.names:
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
            path = self._identity(name)
            # A start that was killed has left some of them.
            identity = SiloKey.load(path) if path.exists() else SiloKey.create(path)
            members.append(Member(name, identity.public))
        # Last: where a roster lies, all identities do.
        write_whole(self.roster, Roster(tuple(members)).to_toml().encode())

    def _identity(self, name: str) -> Path:
        return self.folder / name / "identity.key"


@dataclass(frozen=True)
class SimulatedSilos:
    """What the simulated silos of a run share, as node configurations of real ones would say."""

    names: tuple[str, ...]
    """Of the silos, by their places; also their data sets' names in the ledger."""
    ledger: Path
    key: Path
    policy: Path | None = None
    """Unset: everything is allowed."""
    requester: str = "simulation"
    keys: SimulatedKeys | None = None
    """With encryption."""
    data_dir: Path | None = None
    canaries: int = 0
    """Coordinates for canaries beside every silo's model."""
    canaries_dir: Path | None = None
    device: Device = CPU
    streams: tuple[str, ...] = ()
    """What names each silo's random streams beside the seed: see `privet.simulations.decided`."""

    def node_config(self, place: int) -> dict[str, str | bool | int]:
        """What the node of the silo at `place` is configured with."""
        paths = {
            "policy": self.policy,
            "data-dir": self.data_dir,
            "canaries-dir": self.canaries_dir,
        }
        return {
            "simulated": True,
            "dataset": self.names[place],
            "requester": self.requester,
            "ledger": str(self.ledger),
            "key": str(self.key),
            "canaries": self.canaries,
            "device": self.device.name,
            "precision": self.device.precision,
            "streams": self.streams[place] if self.streams else "",
            **{name: str(path) for name, path in paths.items() if path is not None},
            **(self.keys.node_config(place) if self.keys else {}),
        }


def simulated_client_app(experiment: Experiment, simulated: SimulatedSilos) -> ClientApp:
    """A ClientApp with seeded randomness, simulated dropout, and this experiment's settings.

    A mod can do this because it runs at the silo; a job's own settings never can.
    """
    return client_app(
        mods=[
            partial(_simulated, run_config=experiment.to_run_config(), simulated=simulated),
            partial(_dropout, rate=experiment.federation.dropout, seed=experiment.seed),
        ]
    )


def simulated_training(
    message: Message, context: Context, *, experiment: Experiment, simulated: SimulatedSilos
) -> ResumableRound:
    """What that ClientApp does with a train message, stopping where the training can begin."""
    inner = _simulated_context(context, run_config=experiment.to_run_config(), simulated=simulated)
    rate, seed = experiment.federation.dropout, experiment.seed
    if (dropped := _dropped_out(message, inner, rate=rate, seed=seed)) is not None:
        return dropped
    return (yield from resumable_train_round(message, inner))


def _simulated(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    *,
    run_config: dict[str, str],
    simulated: SimulatedSilos,
) -> Message:
    return call_next(
        message, _simulated_context(context, run_config=run_config, simulated=simulated)
    )


def _simulated_context(
    context: Context, *, run_config: dict[str, str], simulated: SimulatedSilos
) -> Context:
    """A copy, as Flower refuses a changed run config; the state stays the silo's own object."""
    place = int(context.node_config["partition-id"])
    node_config = {**context.node_config, **simulated.node_config(place)}
    return Context(context.run_id, context.node_id, node_config, context.state, dict(run_config))


def _dropout(
    message: Message, context: Context, call_next: ClientAppCallable, *, rate: float, seed: int
) -> Message:
    dropped = _dropped_out(message, context, rate=rate, seed=seed)
    return call_next(message, context) if dropped is None else dropped


def _dropped_out(message: Message, context: Context, *, rate: float, seed: int) -> Message | None:
    """The error reply of a silo whose coin says that it does not answer."""
    task = message.content.get("task")
    asked = message.metadata.message_type == MessageType.TRAIN
    if rate == 0 or not (asked and isinstance(task, ConfigRecord)):
        return None
    silo = int(context.node_config["partition-id"])
    # A stream of its own: who drops out changes nothing for those that stay.
    coin = numpy_generator(stream(seed, "dropout", silo, int(str(task["round"])))).random()
    if coin >= rate:
        return None
    told = ErrorReply(DROPOUT_STAGE, "worker", text="simulated dropout")
    return Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason=str(told)), reply_to=message)
