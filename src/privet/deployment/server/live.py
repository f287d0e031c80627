"""The live page: one HTML document, and the JSON that it asks for every two seconds.

The document is the same for everyone and holds no data; its script writes what it is told as text,
and a content security policy names style and script by their hashes and allows nothing else.
A job's curves by round are drawn as far as its history reaches.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from privet.charts import svg
from privet.charts.chart import Chart, Series, line_chart
from privet.charts.formatting import decimal
from privet.charts.page import CHARTS, Page
from privet.charts.scales import finite
from privet.deployment.server.jobs import Job, JobStore
from privet.deployment.server.viewers import PAGE, PRIVATE
from privet.metrics import ACCURACY, LOSS, Metric
from privet.record.history import HISTORY, HistoryTail, RoundRecord

_MOST_ROUNDS = 400


class ChartedRound(NamedTuple):
    """What the page draws of a round; all else is forgotten, for a long history takes memory."""

    round: int
    metric: Metric
    value: float | None
    """Of the metric: the task's headline."""
    loss: float | None
    epsilon: float | None
    silos_value: float | None
    silos_loss: float | None

    @classmethod
    def of(cls, entry: RoundRecord) -> Self:
        """Its figures."""
        own = entry.evaluation.metrics if entry.evaluation else {}
        epsilon = entry.epsilon.max if entry.epsilon else None
        metric = entry.metric
        value, silos_value = (found.get(metric.name) for found in (entry.figures, own))
        own_loss = own.get("loss")
        return cls(entry.round, metric, value, entry.loss, epsilon, silos_value, own_loss)


class ChartedHistory:
    """The rounds of one job, each of which is parsed once."""

    def __init__(self, tail: HistoryTail) -> None:
        self._tail = tail
        self._rounds: list[ChartedRound] = []
        self._restarts = 0
        self._lock = threading.Lock()

    def rounds(self) -> list[ChartedRound]:
        """All so far."""
        with self._lock:
            lines, restarts = self._tail.news(len(self._rounds), restarts=self._restarts)
            known = self._rounds if restarts == self._restarts else []
            new = [ChartedRound.of(RoundRecord.mended(json.loads(line))) for line in lines]
            self._rounds, self._restarts = known + new, restarts
            return self._rounds


def charts(history: Sequence[ChartedRound], *, planned: int = 0) -> list[Chart]:
    """The headline, loss and epsilon, each with its curves; what has no finite value is left out.

    At most 400 rounds are drawn, the last one always among them.
    """
    step = math.ceil(len(history) / _MOST_ROUNDS) or 1
    drawn = history[::-1][::step][::-1]
    metric = drawn[-1].metric if drawn else ACCURACY
    titles = {"value": metric.titled_unit} if metric != LOSS else {}
    found: dict[str, tuple[Series, ...]] = {
        title: (
            Series("test records", _numbers(drawn, name), "total"),
            Series("silos' records", _numbers(drawn, f"silos_{name}"), "s0 dash1", sparse=True),
        )
        for name, title in (titles | {"loss": "Loss"}).items()
    }
    found["Epsilon"] = (Series("silo that spent most", _numbers(drawn, "epsilon"), "total"),)
    return [
        line_chart(
            title=title,
            unit=_last(known),
            rounds=[entry.round for entry in drawn],
            series=known,
            zero=title == "Epsilon",
            height=192,
            planned=planned,
        )
        for title, series in found.items()
        if (known := [each for each in series if finite(each.values)])
    ]


def _last(known: Sequence[Series]) -> str:
    """The newest value, and whose it is where no legend says so."""
    value = finite(known[0].values)[-1]
    return decimal(value) if len(known) > 1 else f"{decimal(value)}, {known[0].name}"


def _numbers(rounds: Sequence[ChartedRound], name: str) -> list[float | None]:
    values = (getattr(each, name) for each in rounds)
    return [v if v is not None and math.isfinite(v) else None for v in values]


MOST_JOBS = 50
"""The newest are shown."""
_HERE = Path(__file__).parent

Row = Mapping[str, Any]


@dataclass
class LivePage:
    """What /page shows; who may see it is decided before."""

    store: JobStore
    about: Callable[[], Mapping[str, Any]]
    """Project and silos as they are now."""
    row: Callable[[Job], Row]
    """A job in short."""
    _rows: dict[str, tuple[object, Row]] = field(default_factory=dict)
    _charts: dict[str, tuple[object, list[Any]]] = field(default_factory=dict)
    _histories: dict[str, ChartedHistory] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        """The page and its JSON."""
        return [Route(PAGE, self.page), Route(f"{PAGE}/state", self.state)]

    async def page(self, request: Request) -> Response:  # noqa: ARG002
        """The document."""
        html, policy = _document()
        return HTMLResponse(html, headers={**PRIVATE, "content-security-policy": policy})

    async def state(self, request: Request) -> Response:
        """Everything that changes, with the curves of the job that the query names."""
        told = await run_in_threadpool(self._state, request.query_params.get("job", ""))
        return JSONResponse(told, headers=PRIVATE)

    def _state(self, chosen: str) -> dict[str, Any]:
        newest = {job.id for job in self.store.all()[-MOST_JOBS:]}
        self._forget_all_but(newest)
        told = self.store.each(
            lambda job: (job, self._kept(self._rows, job, self.row)) if job.id in newest else None
        )
        jobs, rows = zip(*filter(None, reversed(told)), strict=True) if any(told) else ((), ())
        shown = next((job for job in jobs if job.id == chosen), None) or _foremost(jobs)
        planned = next((row.get("rounds", 0) for row in rows if shown and row["id"] == shown.id), 0)
        return {
            **self.about(),
            "time": time.time(),
            "jobs": rows,
            "chosen": shown and shown.id,
            "charts": []
            if shown is None
            else self._kept(self._charts, shown, lambda job: self._figures(job, planned)),
        }

    def _forget_all_but(self, shown: set[str]) -> None:
        for kept in (self._rows, self._charts, self._histories):
            for gone in set(kept) - shown:
                # Several pages may ask at once, and another one may have been quicker.
                kept.pop(gone, None)

    def _kept(
        self, kept: dict[str, tuple[object, Any]], job: Job, make: Callable[[Job], Any]
    ) -> Any:
        """What `make` says of a job, made anew only when its files have changed."""
        # Before it is made: what changes meanwhile is made anew the next time.
        stamp = [_stamp(path) for path in (job.folder / "state.json", job.run / HISTORY)]
        known = kept.get(job.id)
        if known is None or known[0] != stamp:
            known = kept[job.id] = stamp, make(job)
        return known[1]

    def _figures(self, job: Job, planned: int) -> list[svg.Element]:
        history = self._histories.setdefault(job.id, ChartedHistory(job.history))
        return [svg.figure(each) for each in charts(history.rounds(), planned=planned)]


def _foremost(jobs: Sequence[Job]) -> Job | None:
    """The job to look at when none was chosen: the one that runs, or the newest."""
    running = (job for job in jobs if job.standing.state == "running")
    return next(running, jobs[0] if jobs else None)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


_PAGE = Page(
    _HERE / "live.html.jinja",
    styles=(_HERE / "live.css",),
    scripts=(CHARTS, _HERE / "live.js"),
    # It asks for its state, and a slip in the script that wrote markup would be refused by the
    # browser.
    allows="; connect-src 'self'; require-trusted-types-for 'script'",
)


@cache
def _document() -> tuple[str, str]:
    """The page, and its content security policy."""
    # As a header: in a page's own meta element browsers ignore this directive.
    return _PAGE.render(), f"{_PAGE.policy()}; frame-ancestors 'none'"
