"""What a server exports to Prometheus: rounds, updates, refusals, failures, jobs, silos.

Labels have few values: silos are those of the signed list, stages those that privet knows.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from privet.deployment.server.condition import CERTIFICATE, Condition
from privet.deployment.server.flower import Link
from privet.deployment.server.jobs import JobStore, State
from privet.deployment.server.membership import Membership
from privet.record.history import RecordedFailure, RoundRecord
from privet.wire import REFUSED

STAGES = frozenset(
    {
        "app",
        "data",
        "decrypt",
        "enrol",
        "evaluate",
        "keys",
        "message",
        "plan",
        "restart",
        "roster",
        "settings",
        "train",
        "transport",
        "update",
        "worker",
    }
)
OTHER = "other"
"""Whatever a peer calls a stage that privet does not know."""
UNKNOWN = "unknown"
"""A silo that is not on the list."""
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class ServerMetrics:
    """Counts what the rounds of a server's jobs say, and looks at the rest when it is asked."""

    def __init__(
        self,
        registry: CollectorRegistry,
        store: JobStore,
        members: Membership,
        link: Link,
        condition: Condition | None = None,
    ) -> None:
        """`condition`: how the server's parts are, where a server runs."""
        self._members = members
        self._rounds = Counter("privet_rounds", "Rounds finished.", registry=registry)
        self._seconds = Histogram(
            "privet_round_seconds",
            "Duration of finished rounds.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._bytes = Counter(
            "privet_update_bytes",
            "Bytes of models to silos (down) and of their updates (up).",
            ["direction"],
            registry=registry,
        )
        self._refusals = Counter(
            "privet_refusals",
            "Requests that a silo's own rules refused, by what was asked: enrol, train, evaluate.",
            ["silo", "stage"],
            registry=registry,
        )
        self._failures = Counter(
            "privet_failures",
            "Replies that did not come or were unusable, by the stage at which it went wrong.",
            ["silo", "stage"],
            registry=registry,
        )
        registry.register(_Standing(store, members, link))
        if condition is not None:
            registry.register(_Parts(condition, store))

    def watch(self, entry: RoundRecord) -> None:
        """Count one new entry of a job's history in."""
        training = "train"
        # Round 0 is the enrolment, and the evaluation of the initial model.
        if entry.round == 0:
            training = "enrol"
        else:
            self._rounds.inc()
            self._seconds.observe(entry.seconds.total or 0.0)
        for direction, size in entry.bytes:
            self._bytes.labels(direction).inc(size)
        for silo in entry.refused:
            self._refusals.labels(self._known(silo), training).inc()
        for failure in entry.failures:
            self._fail(failure)
        for failure in entry.evaluation.failures if entry.evaluation else ():
            if failure.stage == REFUSED:
                self._refusals.labels(self._known(failure.silo), "evaluate").inc()
            else:
                self._fail(failure)

    def _fail(self, failure: RecordedFailure) -> None:
        stage = failure.stage if failure.stage in STAGES else OTHER
        self._failures.labels(self._known(failure.silo), stage).inc()

    def _known(self, silo: str) -> str:
        return silo if silo in self._members.nodes else UNKNOWN


class _Standing(Collector):
    """Jobs and silos as they are at the moment of a scrape."""

    def __init__(self, store: JobStore, members: Membership, link: Link) -> None:
        self._store, self._members, self._link = store, members, link

    def describe(self) -> Iterator[Metric]:
        """Nothing: what is there is known at a scrape only."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Gauges of jobs by state and of every silo on the list."""
        yield self._jobs()
        yield from self._silos()

    def _jobs(self) -> Metric:
        jobs = GaugeMetricFamily("privet_jobs", "Jobs by state.", labels=["state"])
        counts = Counts(self._store.each(lambda job: job.standing.state))
        for state in get_args(State):
            jobs.add_metric([state], counts[state])
        return jobs

    def _silos(self) -> Iterator[Metric]:
        # A list that was replaced is noticed here too, when no silo asks for anything.
        self._members.current()
        nodes = self._members.nodes
        seen = self._link.status(nodes.values())
        online = GaugeMetricFamily("privet_silo_online", "1: online.", labels=["silo"])
        age = GaugeMetricFamily(
            "privet_silo_heartbeat_age_seconds",
            "Seconds since the last heartbeat; of a silo that signed off, up to 20 more. "
            "Absent for one that has never been online.",
            labels=["silo"],
        )
        now = time.time()
        for name, node in nodes.items():
            status = seen.get(node)
            online.add_metric([name], float(status is not None and status.online))
            if status is not None and status.last_beat is not None:
                age.add_metric([name], max(0.0, now - status.last_beat))
        here = sum(status.online for status in seen.values())
        yield GaugeMetricFamily("privet_silos_online", "Silos that are online.", value=here)
        yield GaugeMetricFamily("privet_silos", "Silos on the list of parties.", value=len(nodes))
        yield online
        yield age


class _Parts(Collector):
    """The parts of a server, and the days and connections that it has left."""

    def __init__(self, condition: Condition, store: JobStore) -> None:
        self._condition, self._store = condition, store

    def describe(self) -> Iterator[Metric]:
        """Nothing: what is there is known at a scrape only."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Gauges, and counts of what strangers were refused."""
        parts = GaugeMetricFamily("privet_part_up", "1: the part is well.", labels=["part"])
        for part, fault in self._condition.parts().items():
            parts.add_metric([part], float(fault is None))
        yield parts
        days = self._condition.days_left()
        yield GaugeMetricFamily(
            "privet_certificate_days_left", "Of the server.", value=days.pop(CERTIFICATE)
        )
        members = GaugeMetricFamily(
            "privet_membership_days_left", "Until a membership ends.", labels=["party"]
        )
        for party, left in days.items():
            members.add_metric([party], left)
        yield members
        for name, text, value in (
            ("privet_broken", "What was set aside among the jobs.", len(self._store.broken)),
            ("privet_loop_failures", "Turns of the jobs' loop.", self._condition.failures()),
            ("privet_connections_open", "Connections.", len(self._condition.connections)),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        for name, text, value in (
            ("privet_connections_cut_off", "Strangers'.", self._condition.connections.cut_off),
            ("privet_requests_refused", "At the gate.", self._condition.refused()),
        ):
            yield CounterMetricFamily(name, text, value=value)
