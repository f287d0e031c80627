"""The live page: one HTML document, and the JSON that it asks for every two seconds.

The document is the same for everyone and holds no data; its script writes what it is told as text,
and a content security policy names style and script by their hashes and allows nothing else.
A job's curves by round are drawn as far as its history reaches.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from privet.deployment.server.jobs import Job, JobStore
from privet.deployment.server.viewers import PAGE, PRIVATE
from privet.record.folder import HISTORY, RunFolder

_MOST_POINTS = 400

Entry = Mapping[str, Any]
Points = list[tuple[int, float]]
Value = Callable[[Entry], Any]


def charts(history: Sequence[Entry]) -> list[dict[str, Any]]:
    """Accuracy, loss and epsilon, each with its curves; what has no finite value is left out.

    At most 400 points a curve, the last one always among them.
    """
    wanted: Mapping[str, Mapping[str, Value]] = {
        "accuracy": {"test records": _told("accuracy"), "silos' records": _measured("accuracy")},
        "loss": {"test records": _told("loss"), "silos' records": _measured("loss")},
        "epsilon": {"silo that spent most": _epsilon},
    }
    found = ((title, _curves(history, curves)) for title, curves in wanted.items())
    return [{"title": title, "curves": curves} for title, curves in found if curves]


def _curves(history: Sequence[Entry], wanted: Mapping[str, Value]) -> list[Any]:
    found = ((name, _thinned(_points(history, value))) for name, value in wanted.items())
    return [{"name": name, "points": points} for name, points in found if points]


def _points(history: Iterable[Entry], value: Value) -> Points:
    pairs = ((entry["round"], value(entry)) for entry in history)
    return [(round_, y) for round_, y in pairs if isinstance(y, int | float) and math.isfinite(y)]


def _thinned(points: Points) -> Points:
    step = math.ceil(len(points) / _MOST_POINTS)
    return points[::-1][::step][::-1] if step > 1 else points


def _told(name: str) -> Value:
    return lambda entry: entry.get(name)


def _measured(name: str) -> Value:
    return lambda entry: (entry.get("evaluation") or {}).get("metrics", {}).get(name)


def _epsilon(entry: Entry) -> Any:
    return (entry.get("epsilon") or {}).get("max")


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
        jobs = self.store.all()[-MOST_JOBS:][::-1]
        self._forget_all_but({job.id for job in jobs})
        rows = [self._kept(self._rows, job, self.row) for job in jobs]
        shown = next((job for job in jobs if job.id == chosen), None) or _foremost(jobs)
        return {
            **self.about(),
            "time": time.time(),
            "jobs": rows,
            "chosen": shown and shown.id,
            "charts": [] if shown is None else self._kept(self._charts, shown, _charts),
        }

    def _forget_all_but(self, shown: set[str]) -> None:
        for kept in (self._rows, self._charts):
            for gone in set(kept) - shown:
                kept.pop(gone, None)

    def _kept(
        self, kept: dict[str, tuple[object, Any]], job: Job, make: Callable[[Job], Any]
    ) -> Any:
        """What `make` says of a job, made anew only when its files have changed."""
        stamp = [_stamp(path) for path in (job.folder / "state.json", job.run / HISTORY)]
        known = kept.get(job.id)
        if known is None or known[0] != stamp:
            known = kept[job.id] = stamp, make(job)
        return known[1]


def _foremost(jobs: list[Job]) -> Job | None:
    """The job to look at when none was chosen: the one that runs, or the newest."""
    running = (job for job in jobs if job.standing.state == "running")
    return next(running, jobs[0] if jobs else None)


def _charts(job: Job) -> list[Any]:
    return charts(RunFolder(job.run).history())


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


@cache
def _document() -> tuple[str, str]:
    """The page, and its content security policy."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("live.css", "live.js"))
    html = (_HERE / "live.html").read_text(encoding="utf-8")
    html = html.replace("{style}", style).replace("{script}", script)
    rules = (
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
    return html, "; ".join(rules)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
