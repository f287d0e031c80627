"""The in-process grid, with small apps of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from privet.simulations.grid import (
    Asked,
    BatchedTraining,
    Executor,
    InProcessGrid,
    Sequential,
    contexts,
    in_groups,
)
from privet.simulations.pool import WorkerPool

RUN = 77


def app_that(train: Callable[[Message, Context], Message]) -> ClientApp:
    app = ClientApp()
    app.train()(train)
    return app


def double(message: Message, context: Context) -> Message:
    """Replies with twice the vector plus the partition id, and counts its calls."""
    vector = message.content.array_records["model"]["x"].numpy()
    counter = context.state.config_records.get("counter", ConfigRecord({"calls": 0}))
    calls = int(str(counter["calls"])) + 1
    context.state["counter"] = ConfigRecord({"calls": calls})
    message.content.config_records["task"]["round"] = -1  # a receiver may scribble on its copy
    result = 2 * vector + int(context.node_config["partition-id"])
    records = RecordDict(
        {
            "model": ArrayRecord({"x": Array(result)}),
            "info": ConfigRecord({"calls": calls, "pid": os.getpid()}),
        }
    )
    return Message(records, reply_to=message)


def moody(message: Message, context: Context) -> Message:
    """Silo 1 raises, silo 2 dies, silo 3 sleeps, the others answer."""
    silo = context.node_config["partition-id"]
    if silo == 1:
        raise RuntimeError("no mood")
    if silo == 2:
        os._exit(3)
    if silo == 3:
        time.sleep(60)
    return double(message, context)


@dataclass(frozen=True)
class Hand:
    """Answers up to five at once, as `answer` does one by one."""

    answer: Callable[[Message, Context], Message]
    size: int = 5

    def __call__(self, asked: Sequence[Asked]) -> list[Message]:
        replies = [self.answer(message, context) for message, context in asked]
        for reply in replies:
            reply.content.config_records["info"]["together"] = len(asked)
        return replies


@contextmanager
def grid_of(
    app: ClientApp,
    *,
    silos: int,
    workers: int,
    isolate: bool = False,
    limit: float = 60,
    together: BatchedTraining | None = None,
) -> Iterator[InProcessGrid]:
    nodes = contexts(silos, run_id=RUN, run_config={}, node_config={})
    executor: Executor = Sequential(app, nodes, together)
    if workers > 1:
        executor = WorkerPool(
            lambda: app, nodes, workers=workers, time_limit=limit, together=together
        )
    grid = InProcessGrid(executor, silos=silos, run_id=RUN, isolate=isolate)
    try:
        yield grid
    finally:
        grid.close()


def requests(grid: InProcessGrid) -> list[Message]:
    vector = np.arange(4, dtype=np.float32)
    content = RecordDict(
        {"model": ArrayRecord({"x": Array(vector)}), "task": ConfigRecord({"round": 1})}
    )
    return [Message(content, node, "train") for node in grid.get_node_ids()]


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("together", [None, Hand(double)], ids=["alone", "together"])
def test_every_silo_answers_for_itself_in_order(
    workers: int, isolate: bool, together: BatchedTraining | None
) -> None:
    app = app_that(double)
    with grid_of(app, silos=7, workers=workers, isolate=isolate, together=together) as grid:
        for call in (1, 2):
            sent = requests(grid)
            replies = list(grid.send_and_receive(sent))
            assert [r.metadata.src_node_id for r in replies] == list(grid.get_node_ids())
            for silo, reply in enumerate(replies):
                vector = reply.content.array_records["model"]["x"].numpy()
                np.testing.assert_array_equal(vector, 2 * np.arange(4, dtype=np.float32) + silo)
                info = reply.content.config_records["info"]
                assert info["calls"] == call
                assert info.get("together", 1) == ((3 if silo < 3 else 4) if together else 1)
            assert sent[0].content.config_records["task"]["round"] == 1
        processes = {reply.content.config_records["info"]["pid"] for reply in replies}
        assert len(processes) == min(workers, 2 if together else workers)
        assert (os.getpid() in processes) == (workers == 1)


@given(
    nodes=st.lists(st.integers(2, 60), max_size=60),
    kinds=st.lists(st.sampled_from(["train", "train", "train", "query", "evaluate"]), min_size=60),
    size=st.integers(1, 6),
)
def test_groups_are_trainings_of_different_silos_in_order(
    nodes: list[int], kinds: list[str], size: int
) -> None:
    sent = [Message(RecordDict(), node, kind) for node, kind in zip(nodes, kinds, strict=False)]
    groups = list(in_groups(sent, Hand(double, size)))
    assert [message for group in groups for message in group] == sent
    for group in groups:
        silos = {message.metadata.dst_node_id for message in group}
        assert 1 <= len(group) == len(silos) <= size
        kinds_ = {message.metadata.message_type for message in group}
        assert kinds_ == {"train"} or len(group) == 1


@pytest.mark.parametrize(
    ("silos", "sizes"),
    [
        (0, []),
        (1, [1]),
        (2, [1, 1]),
        (7, [3, 4]),
        (10, [5, 5]),
        (11, [2, 3, 3, 3]),
        (22, [5] * 4 + [1] * 2),
    ],
)
def test_groups_are_alike_and_shared_by_two(silos: int, sizes: list[int]) -> None:
    sent = [Message(RecordDict(), 2 + node, "train") for node in range(silos)]
    assert [len(group) for group in in_groups(sent, Hand(double))] == sizes


def test_a_worker_that_dies_takes_its_group_along_and_nobody_else() -> None:
    def dying(message: Message, context: Context) -> Message:
        if context.node_id == 3:
            os._exit(3)
        return double(message, context)

    with grid_of(app_that(double), silos=12, workers=2, together=Hand(dying)) as grid:
        replies = list(grid.send_and_receive(requests(grid)))
        assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
    lost = [reply for reply in replies if reply.has_error()]
    assert [reply.metadata.src_node_id for reply in lost] == [2, 3, 4]
    assert all("died with exit code 3" in reply.error.reason for reply in lost)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_group_that_raises_is_error_replies(workers: int) -> None:
    def raising(message: Message, context: Context) -> Message:
        raise RuntimeError("no mood")

    with grid_of(app_that(double), silos=4, workers=workers, together=Hand(raising)) as grid:
        replies = list(grid.send_and_receive(requests(grid)))
    assert ["no mood" in reply.error.reason for reply in replies] == [True] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_replies_are_made_while_they_are_consumed(workers: int) -> None:
    def counting(messages: list[Message]) -> Iterator[Message]:
        for message in messages:
            taken.append(message)
            yield message

    taken: list[Message] = []
    with grid_of(app_that(double), silos=50, workers=workers) as grid:
        replies = iter(grid.send_and_receive(counting(requests(grid))))
        next(replies)
        assert len(taken) <= 2 * workers + 1


def test_a_silo_that_raises_dies_or_hangs_is_an_error_reply_and_the_rest_go_on() -> None:
    with grid_of(app_that(moody), silos=6, workers=2, limit=3) as grid:
        for _ in range(2):
            replies = list(grid.send_and_receive(requests(grid)))
            reasons = {
                int(reply.metadata.src_node_id) - 2: reply.error.reason
                for reply in replies
                if reply.has_error()
            }
            assert "RuntimeError: no mood" in str(reasons[1])
            assert "died with exit code 3" in str(reasons[2])
            assert "no answer within 3 s" in str(reasons[3])
            assert sorted(reasons) == [1, 2, 3]
            assert [r.metadata.src_node_id for r in replies] == list(grid.get_node_ids())


def test_messages_can_be_pushed_and_pulled() -> None:
    with grid_of(app_that(double), silos=3, workers=1) as grid:
        names = list(grid.push_messages(requests(grid)))
        assert len(set(names)) == 3
        first = list(grid.pull_messages(names[:1]))
        assert [reply.metadata.reply_to_message_id for reply in first] == names[:1]
        assert len(list(grid.pull_messages(names))) == 2
        assert list(grid.pull_messages(names)) == []


def test_what_silos_remember_can_be_saved_and_loaded() -> None:
    def remember(message: Message, context: Context) -> Message:
        before = context.state.array_records.get("memory")
        seen = np.zeros(2, dtype=np.float32) if before is None else before["seen"].numpy()
        mark = seen + int(context.node_config["partition-id"]) + 1
        context.state["memory"] = ArrayRecord({"seen": Array(mark.astype(np.float32))})
        return Message(RecordDict({"memory": context.state["memory"]}), reply_to=message)

    with grid_of(app_that(remember), silos=2, workers=1) as grid:
        list(grid.send_and_receive(requests(grid)))
        saved = grid.save()
    with grid_of(app_that(remember), silos=2, workers=2) as grid:
        grid.load(saved)
        replies = list(grid.send_and_receive(requests(grid)))
    marks = [reply.content.array_records["memory"]["seen"].numpy().tolist() for reply in replies]
    assert marks == [[2.0, 2.0], [4.0, 4.0]]


def test_workers_end_with_their_parent() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        nodes = contexts(2, run_id=RUN, run_config={}, node_config={})
        _pool = WorkerPool(lambda: app_that(double), nodes, workers=2, time_limit=60)
        pids = ",".join(str(process.pid) for process in multiprocessing.active_children())
        os.write(writer, pids.encode())
        time.sleep(60)
        os._exit(0)
    pids = [int(pid) for pid in os.read(reader, 100).decode().split(",")]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
