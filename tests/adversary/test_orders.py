"""A server that plays orders again: late, too often, backwards, mixed up, and after their end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from gate_project import GateProject
from hostile_server import HostileServer
from privet.deployment.parties.orders import ORDER_KEY, Order
from privet.experiment import Experiment
from privet.tasks import load_task
from privet.vectors import FlatModel
from privet.wire import EvaluateRequest, TrainRequest
from silo_at_work import SiloAtWork
from silo_log import refused

ROUNDS = 2
SETTINGS: dict[str, Any] = {
    "task": "digits",
    "rounds": ROUNDS,
    "federation": {"silos": 5},
    "training": {"steps": 1},
    "privacy": {"noise_multiplier": 30.0},
    "evaluation": {"holdout": 0.2},
}
WEIGHTS = FlatModel(load_task("digits").model()).vector()


def ordered(project: GateProject, days: float = 30.0, **settings: Any) -> Order:
    experiment = Experiment.from_mapping({**SETTINGS, **settings})
    return Order.create(experiment, project=project.name, requester="ana", days=days)


class Player:
    """The server's side: asks, and counts what it is given."""

    def __init__(self, project: GateProject, server: HostileServer) -> None:
        self.project, self.server = project, server
        self.asked = 0

    def __call__(self, order: Order, round_: int, kind: str = "train") -> str:
        """The reason of a refusal; "" for an update or a measurement."""
        requests = {
            "train": TrainRequest(round=round_, weights=WEIGHTS),
            "evaluate": EvaluateRequest(round=round_, weights=WEIGHTS),
        }
        settings = {ORDER_KEY: order.signed(self.project.key(order.requester))}
        run = int(order.digest[:8], 16)
        self.server.send(settings, requests[kind].to_records(), kind=kind, run=run)
        self.asked += 1
        reply = self.server.answer(self.asked - 1, seconds=60)
        return refused(reply).logged if reply.has_error() else ""


@pytest.fixture
def play(project: GateProject, server: HostileServer) -> Player:
    return Player(project, server)


def reserved(north: SiloAtWork) -> list[int | None]:
    return [entry.round for entry in north.entries() if entry.kind == "reserve"]


def notes(north: SiloAtWork, word: str) -> int:
    return sum(entry.kind == "note" and word in (entry.detail or "") for entry in north.entries())


def test_a_finished_order_that_is_sent_again_trains_nothing(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    order = ordered(project)
    with north.working():
        assert [play(order, round_) for round_ in (1, 2)] == ["", ""]
        for _ in range(78):
            assert "earlier" in play(order, 1)
    assert reserved(north) == [1, 2]
    assert notes(north, "earlier") == 1


def test_a_round_may_be_asked_for_again_a_few_times_and_the_next_one_ends_it(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    order = ordered(project)
    with north.working():
        assert [play(order, 1) for _ in range(3)] == ["", "", ""]
        assert "attempts_per_round, 3" in play(order, 1)
    with north.working():  # a silo that was started anew knows as much
        assert "attempts_per_round, 3" in play(order, 1)
        assert play(order, 2) == ""
        assert "an earlier one is not used again" in play(order, 1)
        assert "rounds 1 to 2" in play(order, 3)
        assert "rounds 1 to 2" in play(order, 4)
    assert reserved(north) == [1, 1, 1, 2]
    assert notes(north, "refused") == 3


def test_the_holder_says_how_often(project: GateProject, north: SiloAtWork, play: Player) -> None:
    north.policy(more="attempts_per_round = 1")
    order = ordered(project)
    with north.working():
        assert play(order, 1) == ""
        assert "attempts_per_round, 1" in play(order, 1)


def test_orders_that_are_mixed_up_have_a_count_of_their_own_each(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    one, two = ordered(project), ordered(project)
    with north.working():
        assert [play(one, 1), play(two, 1), play(one, 2), play(two, 1)] == [""] * 4
        assert "earlier" in play(one, 1)
        assert [play(two, 2), play(one, 2), play(two, 2)] == [""] * 3


def test_another_order_with_the_same_number_is_none_of_that_job(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    first = ordered(project, rounds=1)
    longer = replace(first, experiment={**first.experiment, "rounds": 99})
    later = replace(first, until=first.until + 1.0)
    with north.working():
        assert play(first, 1) == ""
    with north.working():
        for other in (longer, later):
            assert "another order has this job's number" in play(other, 1)
            assert "another order has this job's number" in play(other, 2 if other is longer else 1)
        assert play(first, 1) == ""
    assert reserved(north) == [1, 1]


def test_an_order_is_over_at_its_end_whatever_was_believed_before(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    order = ordered(project, days=6 / 86400)
    with north.working():
        assert play(order, 1) == ""
        time.sleep(max(0.0, order.until - time.time()))
        for kind in ("train", "evaluate"):
            assert "the order ended on" in play(order, 2, kind)
    with north.working():
        assert "an order that has ended" in play(order, 2)
    assert reserved(north) == [1]


def test_an_order_without_an_end_in_sight_is_refused(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    with north.working():
        assert "largest_order_days" in play(ordered(project, days=91), 1)
        signed_in_the_future = replace(ordered(project, days=4000), at=time.time() + 3999 * 86400)
        assert "more than 3650 days" in play(signed_in_the_future, 1)
        north.policy(more="largest_order_days = 200")
        assert play(ordered(project, days=91), 1) == ""


@pytest.mark.parametrize("until", [0.0, -1e300, 1e300, 253402300800.0])
def test_an_end_that_is_no_date_is_refused(
    project: GateProject, north: SiloAtWork, play: Player, until: float
) -> None:
    with north.working():
        assert "an order that " in play(replace(ordered(project), until=until), 1)
        assert play(ordered(project), 1) == ""


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "settings", [{"data": {"deep": nested(300)}}, {"privacy": {"epsilon": 10**400}}]
)
def test_settings_that_make_no_sense_end_no_silo(
    project: GateProject, north: SiloAtWork, play: Player, settings: dict[str, Any]
) -> None:
    order = ordered(project)
    with north.working():
        wild = replace(order, experiment={**order.experiment, **settings})
        assert "make no sense" in play(wild, 1)
        assert play(ordered(project), 1) == ""


@pytest.mark.parametrize("release", ["exact", "noised"])
def test_evaluations_are_as_few_as_rounds(
    project: GateProject, north: SiloAtWork, play: Player, release: str
) -> None:
    noise = ", noise_multiplier = 50.0" if release == "noised" else ""
    north.policy(metrics=f'accuracy = {{ release = "{release}"{noise} }}')
    order = ordered(project)
    with north.working():
        assert [play(order, 1, "evaluate") for _ in range(3)] == ["", "", ""]
        assert "attempts_per_round, 3" in play(order, 1, "evaluate")
        assert play(order, 1) == ""
    with north.working():
        assert play(order, 2, "evaluate") == ""
        assert "earlier" in play(order, 1, "evaluate")
        assert play(order, 1) == ""


def test_a_new_list_of_parties_gives_no_round_again(
    project: GateProject, north: SiloAtWork, play: Player
) -> None:
    order = ordered(project)
    with north.working():
        assert [play(order, 1), play(order, 2)] == ["", ""]
    project.change(lambda party: party)
    with north.working():
        assert "earlier" in play(order, 1)
    assert reserved(north) == [1, 2]
