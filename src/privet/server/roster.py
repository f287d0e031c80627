"""Who takes part in a run, and who is still willing to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.randomness import numpy_generator, stream
from privet.wire import ENROL, Enrolment, Failure


@dataclass(frozen=True)
class Seat:
    """What the coordinator's host knows of a node by itself, whatever the silo says."""

    index: int
    """Place in the federation; never another silo's."""
    silo: str


Seats = Callable[[int], Seat]


class Roster:
    """The silos that enrolled, by node, in the order of their places in the federation."""

    def __init__(self, experiment: Experiment, silos: Mapping[int, Enrolment]) -> None:
        self._experiment = experiment
        self._silos: dict[int, Enrolment] = {}
        self._unwilling: dict[str, str] = {}
        self._asked: set[int] = set()
        self.welcome(silos)

    def welcome(self, silos: Mapping[int, Enrolment]) -> None:
        """Add silos, at their places."""
        everybody = {**self._silos, **silos}
        self._silos = dict(sorted(everybody.items(), key=lambda item: item[1].index))
        self._asked |= silos.keys()

    def turn_away(self, nodes: Iterable[int]) -> None:
        """Ask these nodes no more: they have said that they cannot take part."""
        self._asked |= set(nodes)

    def strangers(self, nodes: Iterable[int]) -> list[int]:
        """Those of `nodes` that have not said yet whether they take part."""
        return sorted(set(nodes) - self._asked)

    def __len__(self) -> int:
        return len(self._silos)

    def __iter__(self) -> Iterator[Enrolment]:
        return iter(self._silos.values())

    @property
    def nodes(self) -> list[int]:
        """Every node that enrolled."""
        return list(self._silos)

    @property
    def names(self) -> tuple[str, ...]:
        """Every silo that enrolled."""
        return tuple(silo.silo for silo in self)

    @property
    def willing(self) -> tuple[str, ...]:
        """Those whose last answer was no refusal."""
        return tuple(name for name in self.names if name not in self._unwilling)

    def name(self, node: int) -> str:
        """The silo at `node`."""
        return self._silos[node].silo

    def draw(self, round_: int) -> list[int]:
        """Each silo by its own coin, so that the law is exactly Poisson sampling of silos."""
        rate, seed = self._experiment.federation.participation, self._experiment.seed
        return [
            node
            for node, silo in self._silos.items()
            if rate >= 1
            or numpy_generator(stream(seed, "participation", silo.index, round_)).random() < rate
        ]

    def noise_floor(self) -> float | None:
        """With shared calibration, the noise that the silo in greatest need asked for."""
        privacy = self._experiment.privacy
        if privacy is None or privacy.calibrate != "shared":
            return None
        return max((silo.noise_multiplier or 0.0 for silo in self), default=None)

    def learn(self, entry: Mapping[str, Any]) -> None:
        """Take in who refused in a round and who did not, from its entry in the history."""
        self._unwilling |= entry["refused"]
        for silo in entry["participants"]:
            self._unwilling.pop(silo, None)

    def too_few(self) -> str | None:
        """Why no further round makes sense; None while enough silos are willing."""
        least = self._experiment.federation.min_silos
        if len(self.willing) >= least:
            return None
        reason = next((self._unwilling[n] for n in self.names if n in self._unwilling), None)
        return (
            f"{len(self.willing)} of {len(self)} silos would go on, federation.min_silos = {least}"
            + (f"; one says: {reason}" if reason else "")
        )


def enrol(
    grid: Grid, experiment: Experiment, seats: Seats | None = None
) -> tuple[Roster, list[Failure]]:
    """Ask every node; whoever cannot take part is left out of the run, with the reason.

    With `seats` names and places are what they say; else what the silos say.

    ExperimentError when fewer than federation.min_silos can.
    """
    roster = Roster(experiment, {})
    failures = invite(grid, experiment, roster, seats)
    reason = failures[0].reason if failures else "no silo answered"
    if not len(roster):
        raise ExperimentError(f"no silo can take part: {reason}")
    if shortage := roster.too_few():
        raise ExperimentError(f"{shortage}; one cannot: {reason}" if failures else shortage)
    return roster, failures


def invite(
    grid: Grid, experiment: Experiment, roster: Roster, seats: Seats | None = None
) -> list[Failure]:
    """Ask the nodes that have not answered yet; those that can are added to `roster`."""
    messages = [
        Message(RecordDict(), node, ENROL) for node in roster.strangers(grid.get_node_ids())
    ]
    enrolled: dict[int, Enrolment] = {}
    failures = []
    for reply in grid.send_and_receive(messages, timeout=experiment.round_timeout):
        node = reply.metadata.src_node_id
        name = seats(node).silo if seats else f"node {node}"
        if reply.has_error():
            failures.append(Failure.parse(reply.error.reason, silo=name))
            if failures[-1].stage != "transport":
                roster.turn_away([node])
            continue
        try:
            enrolment = Enrolment.from_records(reply.content)
        except Exception as error:  # whatever a peer sends, the run goes on without it
            failures.append(Failure(name, "enrol", f"unusable reply: {error}"))
            roster.turn_away([node])
        else:
            enrolled[node] = replace(enrolment, **vars(seats(node))) if seats else enrolment
    roster.welcome(enrolled)
    return failures
