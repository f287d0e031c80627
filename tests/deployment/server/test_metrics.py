"""What a server tells Prometheus, read over a real socket."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gate_project import GateProject, LiveServer
from privet.deployment.monitoring import new_registry, serving_metrics
from privet.deployment.parties.orders import Order
from privet.deployment.server.metrics import ServerMetrics
from privet.deployment.server.runner import Runner
from privet.deployment.silo import connection as silo_side
from privet.deployment.trial import free_port
from privet.errors import PrivetError
from privet.record.folder import RunFolder
from privet.record.history import RoundRecord
from privet.server import app
from rounds_written import a_round

Figures = dict[tuple[str, ...], float]


def scrape(address: str) -> Figures:
    """Every sample by its name and its labels' values."""
    families = text_string_to_metric_families(httpx.get(f"http://{address}/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@contextmanager
def metrics_of(server: LiveServer) -> Iterator[tuple[ServerMetrics, Callable[[], Figures]]]:
    registry, address = new_registry(), f"127.0.0.1:{free_port()}"
    metrics = ServerMetrics(registry, server.store, server.members, server.link)
    with serving_metrics(address, registry):
        yield metrics, lambda: scrape(address)


def failure(silo: str, stage: str) -> dict[str, str]:
    return {"silo": silo, "stage": stage, "reason": "because"}


def test_rounds_are_counted(server: LiveServer) -> None:
    with metrics_of(server) as (metrics, read):
        metrics.watch(a_round(0, bytes={"down": 0, "up": 0}))
        metrics.watch(a_round(1))
        metrics.watch(a_round(2))
        told = read()
    assert told["privet_rounds_total",] == told["privet_round_seconds_count",] == 2
    assert told["privet_round_seconds_sum",] == pytest.approx(0.4)
    assert told["privet_update_bytes_total", "down"] == 200
    assert told["privet_update_bytes_total", "up"] == 100


def test_refusals_and_failures_are_counted_by_silo_and_stage(server: LiveServer) -> None:
    failures = [failure("west", "guard"), failure("west", "evaluate")]
    nothing = {"metrics": {}, "per_silo": {}, "released": {}, "events": {}, "arrived": {}}
    measured = {**nothing, "failures": failures}
    with metrics_of(server) as (metrics, read):
        metrics.watch(a_round(0, refused={"north": "no"}))
        metrics.watch(
            a_round(
                1,
                refused={"north": "no"},
                failures=[failure("south", "train")],
                evaluation=measured,
            )
        )
        told = read()
    assert {key: value for key, value in told.items() if key[0] == "privet_refusals_total"} == {
        ("privet_refusals_total", "north", "enrol"): 1,
        ("privet_refusals_total", "north", "train"): 1,
        ("privet_refusals_total", "west", "evaluate"): 1,
    }
    assert told["privet_failures_total", "south", "train"] == 1
    assert told["privet_failures_total", "west", "evaluate"] == 1


def test_what_peers_make_up_is_no_label(server: LiveServer) -> None:
    with metrics_of(server) as (metrics, read):
        for number in range(50):
            made_up = failure(f"silo-{number}", f"stage-{number}\n")
            metrics.watch(a_round(1, failures=[made_up], refused={f"silo-{number}": "no"}))
        told = read()
    assert told["privet_failures_total", "unknown", "other"] == 50
    assert sum(key[0] == "privet_failures_total" for key in told) == 1
    assert told["privet_refusals_total", "unknown", "train"] == 50


def test_silos_jobs_and_heartbeats(project: GateProject, server: LiveServer) -> None:
    with metrics_of(server) as (_, read), project.connection("north"):
        told = read()
    assert told["privet_silo_online", "north"] == told["privet_silos_online",] == 1
    assert told["privet_silo_online", "west"] == 0
    assert told["privet_silos",] == 5
    assert 0 <= told["privet_silo_heartbeat_age_seconds", "north"] < 10
    assert ("privet_silo_heartbeat_age_seconds", "west") not in told
    assert told["privet_jobs", "running"] == 0
    assert told["process_cpu_seconds_total",] > 0


def test_nothing_of_a_budget_is_known_here(server: LiveServer) -> None:
    with metrics_of(server) as (_, read):
        assert not [key for key in read() if "epsilon" in key[0]]


def test_an_address_that_is_taken_is_one_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        serving_metrics(address, new_registry()),
        pytest.raises(PrivetError, match="cannot serve there"),
        serving_metrics(address, new_registry()),
    ):
        pass


def test_a_round_is_counted_once_whatever_is_gone_back_to(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_on(grid: object, context: object, hosting: app.Hosting) -> None:
        for round_ in range(4):
            hosting.watch(a_round(round_))

    experiment = {"task": "digits", "rounds": 3, "federation": {"silos": 1, "min_silos": 1}}
    order = Order(
        project=project.name,
        job="a" * 12,
        requester="ana",
        at=time.time(),
        until=time.time() + 3600,
        experiment=experiment,
    )
    job = server.store.add(order.signed(project.key("ana")), project.parties())
    job.run.mkdir()
    (job.run / "history.jsonl").write_text("".join(a_round(r).line() + "\n" for r in range(3)))
    RunFolder(job.run).save_checkpoint(1, {"weights": np.zeros(1)})  # killed before that of round 2
    seen: list[RoundRecord] = []
    runner = Runner(
        server.store,
        server.members,
        server.link,
        server.notifier,
        patience=0.0,
        observe=seen.append,
    )
    monkeypatch.setattr(app, "run", go_on)
    with project.connection("north"):
        runner._run(job)
    assert [each.round for each in seen] == [2, 3]
    assert re.findall(r" round (\d)/3 ", job.log()) == ["2", "3"]


def test_a_silo_is_online_while_the_server_answers(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.connection("north") as connection:
        assert connection.online
        monkeypatch.setattr(silo_side, "ONLINE", 0.0)  # as if the last answer were 30 s old
        assert not connection.online
