"""A silo that sends nothing usable is asked no more after a while, and the history says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from privet.record.history import look_away
from privet.server.app import Hosting, server_app
from privet.simulations.grid import SERVER_NODE, InProcessGrid, Sequential, contexts
from privet.wire import Enrolment, TrainReply, TrainRequest
from rounds_written import history

GOOD, BAD, LATE = "good", "bad", "late"


def silos(says: list[str], asked: list[int]) -> ClientApp:
    """Silo 0 says something else every round; `asked`: the rounds in which it was."""
    app = ClientApp()

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        return Message(Enrolment(f"silo-{index}", index).to_records(), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        request = TrainRequest.from_records(message.content)
        good = TrainReply(np.ones_like(request.weights), 1.0).to_records()
        if context.node_config["partition-id"] != 0:
            return Message(good, reply_to=message)
        asked.append(request.round)
        said = says[request.round - 1]
        if said == LATE:
            raise RuntimeError("a fault of its own")
        return Message(good if said == GOOD else RecordDict(), reply_to=message)

    return app


def run(out: Path, says: list[str], rounds: int, **more: Any) -> tuple[list[Any], list[int]]:
    asked: list[int] = []
    config = {"task": "digits", "rounds": rounds, "federation.silos": 3, **more}
    silo_contexts = contexts(3, run_id=5, run_config={}, node_config={})
    grid = InProcessGrid(Sequential(silos(says, asked), silo_contexts), silos=3, run_id=5)
    server = server_app(Hosting(folder=out, watch=look_away))
    server(grid=grid, context=Context(5, SERVER_NODE, {}, RecordDict(), config))
    return history(out), asked


@pytest.mark.parametrize(
    ("says", "asked"),
    [
        ([BAD] * 6, [1, 2, 3]),
        ([BAD, BAD, GOOD, BAD, BAD, GOOD], [1, 2, 3, 4, 5, 6]),
        ([GOOD, BAD, BAD, BAD, GOOD, GOOD], [1, 2, 3, 4]),
        ([BAD, BAD, LATE, BAD, GOOD, GOOD], [1, 2, 3, 4]),
        ([LATE] * 6, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_after_three_unusable_replies_in_a_row_a_silo_is_asked_no_more(
    tmp_path: Path, says: list[str], asked: list[int]
) -> None:
    history, rounds = run(tmp_path / "run", says, 6)
    assert rounds == asked
    given_up = [
        (entry["round"], failure["silo"], failure["reason"])
        for entry in history
        for failure in entry["failures"]
        if failure["stage"] == "roster"
    ]
    reason = "asked no more, after 3 unusable replies in a row"
    assert given_up == ([] if asked[-1] == 6 else [(asked[-1], "silo-0", reason)])
    for entry in history[1:]:
        good = entry["round"] in asked and says[entry["round"] - 1] == GOOD
        assert entry["participants"] == (["silo-0"] if good else []) + ["silo-1", "silo-2"]


def test_a_run_ends_when_too_few_are_left_that_send_anything_usable(tmp_path: Path) -> None:
    history, rounds = run(tmp_path / "run", [BAD] * 6, 6, **{"federation.min_silos": 3})
    assert rounds == [1, 2, 3]
    assert history[-1]["round"] == 3
