"""What a silo exports to Prometheus on its own machine: its answers, its traffic, its budget.

What a data set has spent is nobody's business but its holder's. It is served here, at an address
that the holder chose, and is sent nowhere.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from flwr.app import Message
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from privet.deployment.silo.connection import Connection
from privet.errors import PrivetError
from privet.privacy.ledger import History, read_history
from privet.privacy.policy import Policy
from privet.privacy.policy.rules import ANY
from privet.wire import REFUSED, WAITING, Failure

Outcome = Literal["answered", "refused", "failed", "over", "lost"]
"""answered: with a result; refused: by policy, budget or for want of a valid order; failed: with
the reason why not; over: nobody waited any more; lost: message or answer did not travel whole."""
KINDS = frozenset({"train", "evaluate", "query"})
OTHER = "other"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_EPSILON = "of a data set, over its whole life and in the present calendar month (UTC)"


class SiloMetrics:
    """Counts a silo's answers, and looks at the rest when it is asked."""

    def __init__(
        self, registry: CollectorRegistry, connection: Connection, *, ledger: Path, policy: Path
    ) -> None:
        self._messages = Counter(
            "privet_silo_messages",
            "Messages by kind and by what became of them.",
            ["kind", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "privet_silo_message_seconds",
            "Seconds from a message to the end of its answer.",
            ["kind"],
            registry=registry,
            buckets=_SECONDS,
        )
        registry.register(_Link(connection))
        registry.register(_Budget(ledger, policy))

    def done(self, kind: str, outcome: Outcome, seconds: float) -> None:
        """Count one message in, of whatever kind the server calls it."""
        # "query.offer" and the like count as queries, and what a server makes up gets no label.
        kind = kind.partition(".")[0]
        kind = kind if kind in KINDS else OTHER
        self._messages.labels(kind, outcome).inc()
        self._seconds.labels(kind).observe(seconds)


def outcome_of(reply: Message) -> Outcome:
    """What a reply amounts to."""
    if not reply.has_error():
        return "answered"
    stage = Failure.parse(reply.error.reason, silo="").stage
    return "refused" if stage in (REFUSED, WAITING) else "failed"


class _Link(Collector):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def describe(self) -> Iterator[Metric]:
        """Nothing: collected at a scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Traffic and whether the silo is online."""
        traffic = self._connection.traffic
        told = CounterMetricFamily(
            "privet_silo_bytes", "Bytes of bodies from and to the server.", labels=["direction"]
        )
        told.add_metric(["received"], traffic.received)
        told.add_metric(["sent"], traffic.sent)
        yield told
        yield GaugeMetricFamily(
            "privet_silo_online",
            "1: the server answered within the last 30 s.",
            value=float(self._connection.online),
        )


class _Budget(Collector):
    """Epsilon by data set; composed anew only when ledger, policy or month have changed."""

    def __init__(self, ledger: Path, policy: Path) -> None:
        self._ledger, self._policy = ledger, policy
        self._lock = threading.Lock()
        self._key: object = None
        self._told: tuple[Metric, ...] = ()

    def describe(self) -> Iterator[Metric]:
        """Nothing: collected at a scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Spent, left and allowed by data set, and whether that could be found out."""
        with self._lock:
            month = datetime.now(UTC).strftime("%Y-%m")
            # SQLite writes there first: the ledger's own file need not change with a new entry.
            wal = self._ledger.with_name(self._ledger.name + "-wal")
            key = month, *map(_stamp, (self._ledger, wal, self._policy))
            if key != self._key:
                self._told, self._key = self._read(month), key
            return iter(self._told)

    def _read(self, month: str) -> tuple[Metric, ...]:
        readable = GaugeMetricFamily(
            "privet_silo_ledger_readable", "1: ledger and policy can be read, and hold together."
        )
        try:
            found = _figures(read_history(self._ledger), Policy.from_file(self._policy), month)
        except PrivetError:
            readable.add_metric([], 0.0)
            return (readable,)
        readable.add_metric([], 1.0)
        return (readable, *found)


def _figures(history: History, policy: Policy, month: str) -> tuple[Metric, ...]:
    labels = ["dataset", "period", "delta"]
    spent, left, allowed = (
        GaugeMetricFamily(f"privet_silo_epsilon_{name}", f"{what} {_EPSILON}.", labels=labels)
        for name, what in (
            ("spent", "Epsilon spent"),
            ("left", "Epsilon left"),
            ("limit", "Epsilon that the policy allows"),
        )
    )
    named = (name for name in policy.data if name != ANY)  # with nothing spent, all is left
    for dataset in dict.fromkeys((*history.datasets, *named)):
        rules = policy.rules(dataset)
        if rules is None:
            continue
        budget = rules.budget
        for period, limit in (("life", budget.epsilon), ("month", budget.epsilon_per_month)):
            used = history.spent(
                dataset, delta=budget.delta, month=month if period == "month" else None
            )
            most = math.inf if limit is None else limit
            row = [dataset, period, f"{budget.delta:g}"]
            spent.add_metric(row, used)
            left.add_metric(row, math.inf if most == math.inf else max(0.0, most - used))
            allowed.add_metric(row, most)
    return spent, left, allowed


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """None for a file that is absent or empty: reading leaves an empty log behind."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return None if facts.st_size == 0 else (facts.st_mtime_ns, facts.st_size, facts.st_ino)
