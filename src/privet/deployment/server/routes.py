"""What administrators ask a server: jobs, their progress and results, and how everybody is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import flwr
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import privet
from privet.deployment.parties.requests import DIGEST, Denied
from privet.deployment.parties.transport import PROTOCOL
from privet.deployment.server.gate import CANCELLED, HELLO, OWN, PARTY
from privet.deployment.server.jobs import OVER, Job, JobStore
from privet.deployment.server.ledgers import LedgerHeads
from privet.deployment.server.live import LivePage
from privet.deployment.server.membership import Membership
from privet.deployment.server.messages import Messages
from privet.deployment.server.runner import Runner
from privet.deployment.server.viewers import PagePasses
from privet.record.folder import MODEL, SETTINGS
from privet.record.history import HISTORY
from privet.record.summary import SUMMARY

FILES = (SETTINGS, HISTORY, SUMMARY, MODEL)
"""What can be fetched of a run."""
_HOLD, _LOOK = 20.0, 0.05
_FROM = "from = a number of entries or bytes, 0 or more"

log = logging.getLogger("privet.server")


def application(
    store: JobStore,
    runner: Runner,
    members: Membership,
    *,
    pages: PagePasses | None = None,
    lifespan: Callable[[Starlette], Any] | None = None,
    condition: Callable[[], Mapping[str, Any]] = dict,
    refusals: Callable[[], Mapping[str, str]] = dict,
) -> Starlette:
    """The routes below /privet/v1, with `pages` those of the live page too.

    Who may use them is decided before. `condition`: how the server is, told with `status`;
    `refusals`: by party, why its requests are refused.
    """
    admin = _AdminRoutes(store, runner, members, condition, refusals)
    jobs = f"{OWN}jobs"
    routes = [
        Route(HELLO, admin.hello),
        Route(f"{OWN}parties", admin.parties),
        Route(CANCELLED, admin.cancelled),
        Route(f"{OWN}status", admin.status),
        Route(jobs, admin.jobs),
        Route(jobs, admin.submit, methods=["POST"]),
        Route(f"{jobs}/{{job}}", admin.job),
        Route(f"{jobs}/{{job}}/history", admin.history),
        Route(f"{jobs}/{{job}}/log", admin.log),
        Route(f"{jobs}/{{job}}/cancel", admin.cancel, methods=["POST"]),
        Route(f"{jobs}/{{job}}/remove", admin.remove, methods=["POST"]),
        Route(f"{jobs}/{{job}}/files/{{name}}", admin.file),
        *Messages(
            runner.link, members, runner.notifier, LedgerHeads(members.folder / "ledgers")
        ).routes(),
    ]
    if pages is not None:
        routes += [
            Route(f"{OWN}pages", _inviting(pages), methods=["POST"]),
            *LivePage(store, about=admin.about, row=_row).routes(),
        ]
    return Starlette(routes=routes, lifespan=lifespan)


class _AdminRoutes:
    def __init__(
        self,
        store: JobStore,
        runner: Runner,
        members: Membership,
        condition: Callable[[], Mapping[str, Any]],
        refusals: Callable[[], Mapping[str, str]],
    ) -> None:
        self._refusals = refusals
        self._store, self._runner, self._members = store, runner, members
        self._condition = condition

    async def hello(self, request: Request) -> Response:  # noqa: ARG002
        """Who this is: the only thing that is told to everybody."""
        return JSONResponse(
            {
                "project": self._members.current().project,
                "protocol": PROTOCOL,
                "privet": privet.__version__,
                "flwr": flwr.__version__,
                "time": time.time(),
            }
        )

    async def parties(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._members.content(), media_type="application/json")

    async def cancelled(self, request: Request) -> Response:  # noqa: ARG002
        """What silos are to do no more, in the words that administrators signed."""
        return JSONResponse(await run_in_threadpool(self._store.cancellations))

    async def status(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(await run_in_threadpool(self._status))

    async def jobs(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(await run_in_threadpool(self._store.each, _row))

    async def submit(self, request: Request) -> Response:
        # What was not UTF-8 is then not what was signed, and is refused for that.
        text = (await request.body()).decode("utf-8", errors="replace")
        parties = self._members.current()
        try:
            job = await run_in_threadpool(self._store.add, text, parties)
        except Denied as denied:
            return _no(403, str(denied))
        self._runner.wake()
        return JSONResponse(await run_in_threadpool(_row, job), status_code=201)

    async def job(self, request: Request) -> Response:
        job = await self._named(request)
        return JSONResponse(await run_in_threadpool(_row, job)) if job else _no_job(request)

    async def history(self, request: Request) -> Response:
        """Entries from number `from` on; held open while there are no more and the job goes on."""
        job = await self._named(request)
        if job is None:
            return _no_job(request)
        start, end = _start(request), time.monotonic() + _HOLD
        if start is None:
            return _no(400, _FROM)
        while True:
            over, lines = await run_in_threadpool(_look, job, start)
            leaving = self._runner.notifier.closing
            if lines or over or leaving or time.monotonic() > end:
                return await run_in_threadpool(_news, job, lines)
            # The history is a file that the coordinator writes, and nobody tells of a new line.
            await asyncio.sleep(_LOOK)

    async def log(self, request: Request) -> Response:
        """The log from byte `from` on."""
        job = await self._named(request)
        if job is None:
            return _no_job(request)
        start = _start(request)
        if start is None:
            return _no(400, _FROM)
        return PlainTextResponse(await run_in_threadpool(job.log_bytes, start))

    async def remove(self, request: Request) -> Response:
        """Delete a job that is over."""
        job = await self._named(request)
        if job is None:
            return _no_job(request)
        try:
            await run_in_threadpool(self._store.remove, job)
        except Denied as denied:
            return _no(409, str(denied))
        log.info("job %s is removed by %s", job.id, request.scope[PARTY].name)
        return JSONResponse({"id": job.id})

    async def cancel(self, request: Request) -> Response:
        job = await self._named(request)
        if job is None:
            return _no_job(request)
        text = (await request.body()).decode("utf-8", errors="replace")
        try:
            # Before the job is over here: silos are told even if this process ends in between.
            await run_in_threadpool(self._store.cancel, job, text, self._members.current())
        except Denied as denied:
            return _no(403, str(denied))
        if not await run_in_threadpool(self._runner.cancel, job):
            return _no(409, f"job {job.id} is {job.standing.state}")
        return JSONResponse(await run_in_threadpool(_row, job))

    async def file(self, request: Request) -> Response:
        job, name = await self._named(request), request.path_params["name"]
        if job is None:
            return _no_job(request)
        path = job.run / name
        # A list and not a folder: the run's folder also has checkpoints and what an audit needs.
        if name not in FILES or not await run_in_threadpool(path.is_file):
            return _no(404, f"job {job.id} has no {name[:64]}")
        headers = {DIGEST: await run_in_threadpool(_digest, path)}
        return FileResponse(path, headers=headers)

    async def _named(self, request: Request) -> Job | None:
        return await run_in_threadpool(self._store.get, request.path_params["job"])

    def about(self) -> dict[str, Any]:
        """The project and how its silos are."""
        parties, nodes = self._members.current(), self._members.nodes
        seen = self._runner.link.status(nodes.values())
        waiting = self._runner.waiting_for()
        return {
            "project": parties.project,
            "parties": parties.version,
            "silos": [
                {
                    "name": name,
                    "online": seen[node].online,
                    "online_until": seen[node].online_until,
                    "since": seen[node].since,
                    "working_on": waiting.get(name),
                    "refused": self._refusals().get(name),
                }
                for name, node in nodes.items()
            ],
        }

    def _status(self) -> dict[str, Any]:
        rows = self._store.each(_row)
        broken = dict(self._store.broken)
        return {**self.about(), "jobs": rows, "broken": broken, **self._condition()}


def _digest(path: Path) -> str:
    facts = path.stat()
    return _sha256(path, facts.st_mtime_ns, facts.st_size, facts.st_ino)


# A model is asked for piece by piece.
@lru_cache(maxsize=64)
def _sha256(path: Path, *stamp: int) -> str:  # noqa: ARG001 - another file, another digest
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inviting(pages: PagePasses) -> Callable[[Request], Awaitable[Response]]:
    async def invite(request: Request) -> Response:
        """A link to the live page for the administrator who asks."""
        return JSONResponse({"path": pages.invite(request.scope[PARTY])}, status_code=201)

    return invite


def _row(job: Job) -> dict[str, Any]:
    # Not read as an order: this must show jobs too whose requester was revoked, or whose settings
    # an upgrade no longer takes.
    order, standing = job.facts, job.standing
    return {
        "id": job.id,
        "project": order["project"],
        "requester": order["requester"],
        "submitted": order["at"],
        "until": order.get("until"),
        "task": order["experiment"].get("task"),
        "rounds": order["experiment"].get("rounds", 10),
        "round": max(0, len(job.history) - 1),
        "state": standing.state,
        "detail": standing.detail,
        "since": standing.since,
        "starts": standing.starts,
        "files": [name for name in FILES if (job.run / name).exists()],
    }


def _look(job: Job, start: int) -> tuple[bool, list[bytes]]:
    """Whether a job is over, and its history from entry `start` on."""
    over = job.standing.state in OVER  # first: its last entry is then there already
    return over, job.history.lines(start)


def _news(job: Job, lines: list[bytes]) -> Response:
    """JSON with rounds as history.jsonl has them: a loss may be NaN there, an epsilon infinite."""
    entries, row = b", ".join(lines), json.dumps(_row(job)).encode()
    content = b'{"entries": [%s], "job": %s}' % (entries, row)
    return Response(content, media_type="application/json")


def _start(request: Request) -> int | None:
    """Where the answer begins; None for what is no such number."""
    text = request.query_params.get("from", "0")
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None


def _no_job(request: Request) -> Response:
    return _no(404, f"there is no job {request.path_params['job'][:64]}")


def _no(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
