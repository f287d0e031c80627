"""What a silo tells Prometheus; and a whole project whose health and metrics are asked for."""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Error
from prometheus_client.parser import text_string_to_metric_families

from privet.deployment.monitoring import health_fault, new_registry, serving_metrics
from privet.deployment.parties.transport import Traffic
from privet.deployment.silo import metrics as module
from privet.deployment.silo.metrics import SiloMetrics, outcome_of
from privet.deployment.trial import SERVER, Trial, free_port
from privet.experiment import Experiment
from privet.privacy.accounting import dp_sgd_event
from privet.privacy.ledger import Fingerprint, Ledger, SiloKey
from privet.wire import REFUSED, ErrorReply

POLICY = """\
version = 1
[data.heart]
requesters = ["ana"]
tasks = ["digits"]
[data.heart.budget]
epsilon = 5.0
delta = 1e-5
epsilon_per_month = 2.0
"""
EVENT = dp_sgd_event(noise_multiplier=2.0, sampling_rate=0.1, steps=20)
Figures = dict[tuple[str, ...], float]


@dataclass
class Connection:
    traffic: Traffic = field(default_factory=Traffic)
    online: bool = True


@dataclass
class Silo:
    folder: Path
    address: str
    metrics: SiloMetrics
    connection: Connection

    def spend(self, round_: int) -> None:
        with Ledger.open(self.folder / "ledger.sqlite", self.key()) as ledger:
            ledger.register("heart", Fingerprint(rows=9, schema="x", content="a" * 64))
            with ledger.reserve(
                dataset="heart", job="job", round=round_, event=EVENT, who="ana"
            ) as reservation:
                reservation.commit(EVENT)

    def spent(self) -> float:
        with Ledger.open(self.folder / "ledger.sqlite", self.key()) as ledger:
            return ledger.spent("heart", delta=1e-5)

    def key(self) -> SiloKey:
        return SiloKey.load(self.folder / "silo.key")

    def read(self) -> Figures:
        return scrape(self.address)


def scrape(address: str) -> Figures:
    """Every sample by its name and its labels' values."""
    families = text_string_to_metric_families(
        httpx.get(f"http://{address}/metrics", timeout=60).text
    )
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def silo(tmp_path: Path) -> Iterator[Silo]:
    Ledger.create(tmp_path / "ledger.sqlite", SiloKey.create(tmp_path / "silo.key")).close()
    (tmp_path / "policy.toml").write_text(POLICY)
    registry, connection = new_registry(), Connection()
    metrics = SiloMetrics(
        registry,
        connection,  # type: ignore[arg-type]
        ledger=tmp_path / "ledger.sqlite",
        policy=tmp_path / "policy.toml",
    )
    address = f"127.0.0.1:{free_port()}"
    with serving_metrics(address, registry):
        yield Silo(tmp_path, address, metrics, connection)


def epsilon(told: Figures, what: str, period: str) -> float:
    return told[f"privet_silo_epsilon_{what}", "heart", "1e-05", period]


def test_messages_are_counted_by_kind_and_outcome(silo: Silo) -> None:
    silo.metrics.done("train", "answered", 0.5)
    silo.metrics.done("query.enrol", "refused", 0.1)
    for number in range(20):
        silo.metrics.done(f"made-up-{number}", "failed", 0.1)
    told = silo.read()
    counts = {key[1:]: value for key, value in told.items() if key[0].endswith("messages_total")}
    assert counts == {
        ("train", "answered"): 1,
        ("query", "refused"): 1,
        ("other", "failed"): 20,
    }
    assert told["privet_silo_message_seconds_sum", "train"] == 0.5


def test_the_outcome_of_a_reply() -> None:
    def reply(error: Error | None) -> Any:
        return SimpleNamespace(has_error=lambda: error is not None, error=error)

    def failed(stage: str) -> Any:
        return reply(Error(0, str(ErrorReply(stage, "code"))))

    assert outcome_of(reply(None)) == "answered"
    assert outcome_of(failed(REFUSED)) == "refused"
    assert outcome_of(failed("train")) == "failed"


def test_traffic_and_being_online(silo: Silo) -> None:
    silo.connection.traffic.add(received=7, sent=5)
    told = silo.read()
    assert told["privet_silo_bytes_total", "received"] == 7
    assert told["privet_silo_bytes_total", "sent"] == 5
    assert told["privet_silo_online",] == 1
    silo.connection.online = False
    assert silo.read()["privet_silo_online",] == 0


def test_epsilon_is_that_of_the_ledger_and_of_the_policy(silo: Silo) -> None:
    fresh = silo.read()
    assert epsilon(fresh, "spent", "life") == 0
    assert epsilon(fresh, "left", "life") == 5.0
    assert epsilon(fresh, "left", "month") == 2.0
    silo.spend(1)
    told, spent = silo.read(), silo.spent()
    assert epsilon(told, "spent", "life") == epsilon(told, "spent", "month") == spent
    assert epsilon(told, "left", "life") == pytest.approx(5.0 - spent)
    assert epsilon(told, "left", "month") == pytest.approx(2.0 - spent)
    assert epsilon(told, "limit", "month") == 2.0
    silo.spend(2)
    assert epsilon(silo.read(), "spent", "life") == silo.spent() > spent


def test_a_changed_policy_counts_at_once(silo: Silo) -> None:
    silo.spend(1)
    silo.read()
    (silo.folder / "policy.toml").write_text(
        POLICY.replace("epsilon_per_month = 2.0", "").replace("5.0", "0.01")
    )
    told = silo.read()
    assert epsilon(told, "left", "life") == 0
    assert epsilon(told, "left", "month") == math.inf


def test_nothing_is_composed_twice(silo: Silo, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = module.read_history
    monkeypatch.setattr(module, "read_history", lambda path: reads.append(path) or read(path))
    silo.spend(1)
    threads = [threading.Thread(target=silo.read) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_a_ledger_that_cannot_be_read_is_told_without_figures(silo: Silo) -> None:
    silo.spend(1)
    assert silo.read()["privet_silo_ledger_readable",] == 1
    (silo.folder / "policy.toml").write_text("nonsense = ")
    told = silo.read()
    assert told["privet_silo_ledger_readable",] == 0
    assert not [key for key in told if "epsilon" in key[0]]


def test_a_scrape_writes_nothing(silo: Silo) -> None:
    silo.spend(1)
    before = (silo.folder / "ledger.sqlite").read_bytes()
    silo.read()
    assert (silo.folder / "ledger.sqlite").read_bytes() == before


# --- a whole project


@dataclass
class Watched:
    trial: Trial
    health: dict[str, str]
    metrics: dict[str, str]


def watching(folder: Path) -> Watched:
    """A server and a silo that say how they are, not started yet."""
    trial = Trial.create(folder, silos=("north",))
    settings = [trial.kit(SERVER) / "server.toml"]
    settings += [trial.kit(name) / "silo.toml" for name in trial.silos]
    found: dict[str, dict[str, str]] = {"health": {}, "metrics": {}}
    for file in settings:
        text = file.read_text()
        for what in found:
            address = found[what][file.parent.name] = f"127.0.0.1:{free_port()}"
            text = re.sub(rf'^{what} = ""', f'{what} = "{address}"', text, flags=re.M)
        file.write_text(text)
    return Watched(trial, found["health"], found["metrics"])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A server and a silo, and a job of two rounds on it that is finished."""
    found = watching(tmp_path_factory.mktemp("trial"))
    experiment = Experiment.from_mapping(
        {
            "task": "digits",
            "rounds": 2,
            "federation": {"silos": 1, "min_silos": 1},
            "training": {"batch_size": 72, "lr": 1.0},
            "privacy": {"epsilon": 2.0, "delta": 1e-5, "clip": 1.0},
        }
    )
    with found.trial as trial:
        trial.start()
        trial.wait_until_online()
        with trial.client() as client:
            job = client.submit(experiment)
            while client.job(job)["state"] in ("queued", "waiting", "running"):
                time.sleep(0.1)
            assert client.job(job)["state"] == "finished"
        yield found


def test_everybody_is_serving(watched: Watched) -> None:
    assert {name: health_fault(address) for name, address in watched.health.items()} == {
        SERVER: None,
        "north": None,
    }


def test_the_server_counts_the_job(watched: Watched) -> None:
    told = scrape(watched.metrics[SERVER])
    assert told["privet_rounds_total",] == told["privet_round_seconds_count",] == 2
    assert told["privet_jobs", "finished"] == 1
    assert told["privet_silos_online",] == 1
    assert told["privet_update_bytes_total", "up"] > 1000
    assert not [key for key in told if "epsilon" in key[0]]


def test_a_silo_counts_its_answers_and_knows_its_budget(watched: Watched) -> None:
    told = scrape(watched.metrics["north"])
    assert told["privet_silo_messages_total", "train", "answered"] == 2
    assert told["privet_silo_online",] == 1
    assert told["privet_silo_bytes_total", "sent"] > 1000
    spent = told["privet_silo_epsilon_spent", "north", "1e-05", "life"]
    assert 0 < spent <= 2.001
    left = told["privet_silo_epsilon_left", "north", "1e-05", "life"]
    assert left == pytest.approx(8.0 - spent)


def test_a_silo_that_died_is_not_serving(tmp_path: Path) -> None:
    """A project of its own: the tests of the other one may run in any order."""
    found = watching(tmp_path / "trial")
    with found.trial as trial:
        trial.start()
        trial.wait_until_online()
        deadline = time.monotonic() + 60
        while health_fault(found.health["north"]) is not None:  # said a moment after it is online
            assert time.monotonic() < deadline
            time.sleep(0.1)
        trial.end("north", how=signal.SIGKILL)
        assert health_fault(found.health["north"]) == "no answer (unavailable)"
