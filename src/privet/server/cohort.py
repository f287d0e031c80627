"""Who takes part in a run, and who is still willing to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.randomness import coin
from privet.record.history import RoundRecord
from privet.server.tally import Tally
from privet.wire import ENROL, UNUSABLE, WAITING, Enrolment, EnrolRequest, Failure


@dataclass(frozen=True)
class NodeIdentity:
    """Which silo a node is, as the coordinator's host knows by itself, whatever the silo says."""

    index: int
    """Index in the federation; never another silo's."""
    silo: str


IdentifyNode = Callable[[int], NodeIdentity]

MOST_UNUSABLE = 3
"""Unusable replies in a row after which a silo is asked no more."""
_GIVEN_UP = "roster"
_AWAY = ("transport", "restart")
PASSING = (*_AWAY, "worker", WAITING)
"""Where a silo fails that may well take part when it is asked again."""

_LEAST_TO_ENROL = 60.0
"""Seconds: at first a silo may have to start a process and load its records."""


class Absent(ExperimentError):  # noqa: N818 - says what is the matter
    """Too few silos can take part now; one that was away may when it is asked again."""


class Unapproved(Absent):
    """Silos whose holders have not decided yet; says which."""


class Cohort:
    """The silos that enrolled, by node, in the order of their indices in the federation."""

    def __init__(self, experiment: Experiment, silos: Mapping[int, Enrolment]) -> None:
        self._experiment = experiment
        self._silos: dict[int, Enrolment] = {}
        self._unwilling: dict[str, str] = {}
        self._asked: set[int] = set()
        self._unusable: dict[str, int] = {}
        self.add(silos)

    def add(self, silos: Mapping[int, Enrolment]) -> None:
        """Add silos, in the order of their indices."""
        # Silos are asked, and in a simulation added up, in this order: a sum of floats hangs on it,
        # and who enrolled first is chance.
        everybody = {**self._silos, **silos}
        self._silos = dict(sorted(everybody.items(), key=lambda item: item[1].index))
        self._asked |= silos.keys()

    def exclude(self, nodes: Iterable[int]) -> None:
        """Ask these nodes no more: they cannot take part, or do not say anything."""
        self._asked |= set(nodes)

    def unanswered(self, nodes: Iterable[int]) -> list[int]:
        """Those of `nodes` that have not said yet whether they take part."""
        return sorted(set(nodes) - self._asked)

    def __len__(self) -> int:
        return len(self._silos)

    def __iter__(self) -> Iterator[Enrolment]:
        return iter(self._silos.values())

    @property
    def nodes(self) -> list[int]:
        """Every node that enrolled and was not given up."""
        return [node for node, each in self._silos.items() if not self._given_up(each.silo)]

    @property
    def names(self) -> tuple[str, ...]:
        """Every silo that enrolled."""
        return tuple(silo.silo for silo in self)

    @property
    def willing(self) -> tuple[str, ...]:
        """Those whose last answer was no refusal, and that were not given up."""
        if not (self._unwilling or self._unusable):
            return self.names
        return tuple(
            name for name in self.names if name not in self._unwilling and not self._given_up(name)
        )

    def name(self, node: int) -> str:
        """The silo at `node`."""
        return self._silos[node].silo

    def draw(self, round_: int) -> list[int]:
        """Each silo by its own coin, so that the law is exactly Poisson sampling of silos."""
        rate, seed = self._experiment.federation.participation, self._experiment.seed
        # Those that refused are asked all the same: hours and monthly budgets come round again.
        return [
            node
            for node, silo in self._silos.items()
            if (rate >= 1 or coin(seed, "participation", silo.index, round_) < rate)
            and not self._given_up(silo.silo)
        ]

    def noise_floor(self) -> float | None:
        """With shared calibration, the noise that the silo in greatest need asked for."""
        privacy = self._experiment.privacy
        if privacy is None or privacy.calibrate != "shared":
            return None
        return max((silo.noise_multiplier or 0.0 for silo in self), default=None)

    def learn(self, heard: Tally | RoundRecord) -> list[Failure]:
        """Take in who refused in a round and who did not, as it was heard or is written down.

        The silos that are given up now: they have sent nothing usable for too long.
        """
        self._unwilling |= heard.refused
        for silo in heard.participants:
            self._unwilling.pop(silo, None)
            self._unusable.pop(silo, None)
        unusable = {each.silo for each in heard.failures if each.stage == UNUSABLE}
        for silo in unusable:
            self._unusable[silo] = self._unusable.get(silo, 0) + 1
        reason = f"asked no more, after {MOST_UNUSABLE} unusable replies in a row"
        return [
            Failure(silo, _GIVEN_UP, reason)
            for silo in sorted(unusable)
            # Equal and not above, so that it is said once.
            if self._unusable[silo] == MOST_UNUSABLE
        ]

    def _given_up(self, silo: str) -> bool:
        return self._unusable.get(silo, 0) >= MOST_UNUSABLE

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
    grid: Grid,
    experiment: Experiment,
    identify: IdentifyNode | None = None,
    base: str | None = None,
) -> tuple[Cohort, list[Failure]]:
    """Ask every node; whoever cannot take part is left out of the run, with the reason.

    With `identify` names and indices are what it gives; else what the silos state. `base` is the
    digest of what the model does not train.

    ExperimentError when fewer than federation.min_silos can; Absent if that may pass. Unapproved
    while a holder's decision is waited for, however many silos can.
    """
    cohort = Cohort(experiment, {})
    failures = invite(grid, experiment, cohort, identify, base)
    if waiting := sorted(each.silo for each in failures if each.stage == WAITING):
        raise Unapproved(f"for approval at {', '.join(waiting)}")
    reason = failures[0].told if failures else "no silo answered"
    # Without a failure there are fewer nodes than silos: one left since the run was begun.
    away = not failures or any(each.stage in _AWAY for each in failures)
    kind = Absent if away else ExperimentError
    if not len(cohort):
        raise kind(f"no silo can take part: {reason}")
    if shortage := cohort.too_few():
        raise kind(f"{shortage}; one cannot: {reason}" if failures else shortage)
    return cohort, failures


def invite(
    grid: Grid,
    experiment: Experiment,
    cohort: Cohort,
    identify: IdentifyNode | None = None,
    base: str | None = None,
) -> list[Failure]:
    """Ask the nodes that have not answered yet; those that can are added to `cohort`."""
    unanswered = cohort.unanswered(grid.get_node_ids())
    if not unanswered:
        return []
    request = EnrolRequest(base).to_records()
    messages = [Message(request, node, ENROL) for node in unanswered]
    enrolled: dict[int, Enrolment] = {}
    failures = []
    silent, timeout = set(unanswered), max(experiment.round_timeout, _LEAST_TO_ENROL)
    for reply in grid.send_and_receive(messages, timeout=timeout):
        node = reply.metadata.src_node_id
        silent.discard(node)
        name = _called(node, identify)
        if reply.has_error():
            failures.append(Failure.parse(reply.error.reason, silo=name))
            # What a restart or a better connection mends is asked again before the next round.
            if failures[-1].stage not in PASSING:
                cohort.exclude([node])
            continue
        try:
            enrolment = Enrolment.from_records(reply.content)
        except Exception as error:  # whatever a peer sends, the run goes on without it
            failures.append(Failure(name, "enrol", f"unusable reply: {error}"))
            cohort.exclude([node])
        else:
            enrolled[node] = replace(enrolment, **vars(identify(node))) if identify else enrolment
    cohort.add(enrolled)
    # Asked once: waiting for the silent again would cost every round the enrolment's timeout.
    cohort.exclude(silent)
    late = f"no answer within {timeout:g} s"
    return failures + [Failure(_called(node, identify), "enrol", late) for node in sorted(silent)]


def _called(node: int, identify: IdentifyNode | None) -> str:
    return identify(node).silo if identify else f"node {node}"
