"""A silo that is killed while a run begins is asked again, and the run waits for it if it must."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.server.cohort import Absent, enrol, invite
from privet.simulations.grid import InProcessGrid, Sequential, contexts
from privet.wire import Enrolment, ErrorReply


class Nodes(InProcessGrid):
    """Two silos; the second answers with a failure of `stage` as long as there is one.

    At "left" it is not there, at "silent" it gives no answer.
    """

    def __init__(self, stage: str | None) -> None:
        self.stage = stage
        self.asked: list[int] = []
        app = ClientApp()

        @app.query("enrol")
        def answer(message: Message, context: Context) -> Message:
            index = int(context.node_config["partition-id"])
            self.asked.append(index)
            if index == 1 and self.stage is not None:
                ours = self.stage != "transport"
                told = ErrorReply(self.stage, "data") if ours else "Node Unavailable"
                return Message(Error(code=0, reason=str(told)), reply_to=message)
            return Message(Enrolment(f"silo-{index}", index).to_records(), reply_to=message)

        silos = contexts(2, run_id=5, run_config={}, node_config={})
        super().__init__(Sequential(app, silos), silos=2, run_id=5)

    def get_node_ids(self) -> list[int]:
        return list(super().get_node_ids())[: 1 if self.stage == "left" else 2]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        kept = list(messages)[: 1 if self.stage == "silent" else 2]
        return super().send_and_receive(kept, timeout=timeout)


def experiment(least: int) -> Experiment:
    federation = {"silos": 2, "min_silos": least}
    return Experiment.from_mapping({"task": "digits", "federation": federation})


@pytest.mark.parametrize("stage", ["restart", "worker", "transport"])
def test_a_silo_that_ended_while_it_enrolled_is_asked_again(stage: str) -> None:
    nodes = Nodes(stage)
    cohort, failures = enrol(nodes, experiment(1))
    assert [failure.stage for failure in failures] == [stage]
    nodes.stage = None
    assert invite(nodes, experiment(1), cohort) == []
    assert cohort.names == ("silo-0", "silo-1")


@pytest.mark.parametrize("stage", ["data", "plan"])
def test_a_silo_that_cannot_take_part_is_not(stage: str) -> None:
    nodes = Nodes(stage)
    cohort, _ = enrol(nodes, experiment(1))
    nodes.stage = None
    invite(nodes, experiment(1), cohort)
    assert nodes.asked == [0, 1]


@pytest.mark.parametrize(
    ("stage", "may_pass"),
    [
        ("restart", True),
        ("transport", True),
        ("left", True),
        ("worker", False),
        ("data", False),
        ("silent", False),
    ],
)
def test_too_few_silos_are_waited_for_if_one_was_only_away(stage: str, may_pass: bool) -> None:
    with pytest.raises(ExperimentError, match="1 of 1 silos would go on") as raised:
        enrol(Nodes(stage), experiment(2))
    assert isinstance(raised.value, Absent) is may_pass
