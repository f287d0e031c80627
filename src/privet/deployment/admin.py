"""An administrator's requests to a server, signed with the key in the administrator's kit.

A job on real silos is followed as a simulation is: round by round, as lines of its history.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from privet.deployment.parties import AdminKit
from privet.deployment.parties.orders import DAYS, Cancellation, Order
from privet.deployment.parties.requests import DIGEST, Signing
from privet.deployment.parties.transport import check_hello, client
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.files import demand_file, sync
from privet.privacy.ledger.keys import SiloKey
from privet.record.history import RoundRecord, Watch

_PIECE = 1 << 20


class NoAnswer(PrivetError):  # noqa: N818 - says what is missing
    """The server cannot be reached, or something else answers in its place."""


class AdminClient:
    """One administrator's door to one server; a context manager."""

    def __init__(self, kit: AdminKit) -> None:
        """Raises PrivetError when the key is unfit."""
        self._kit = kit
        self._identity = SiloKey.load(kit.identity)
        auth = Signing(project=kit.project, name=kit.name, identity=self._identity)
        self._http = client(kit.server, ca=kit.ca, auth=auth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def greet(self) -> None:
        """PartiesError for the server of another project, or of another version."""
        told = self._json("GET", "hello")
        check_hello(told, project=self._kit.project, server=self._kit.server)

    def submit(self, experiment: Experiment, *, days: float = DAYS) -> str:
        """Order a job, which ends after so many days at the latest; its id."""
        order = Order.create(
            experiment, project=self._kit.project, requester=self._kit.name, days=days
        )
        self._json("POST", "jobs", content=order.signed(self._identity).encode())
        return order.job

    def status(self) -> dict[str, Any]:
        """Silos and jobs."""
        return self._json("GET", "status")

    def job(self, job: str) -> dict[str, Any]:
        """One job, in short."""
        return self._json("GET", f"jobs/{job}")

    def history(self, job: str, *, start: int) -> tuple[list[RoundRecord], dict[str, Any]]:
        """Entries of the history from number `start` on, and the job; waits a while for the first.

        The history begins anew with a lower number after a server went back to its last checkpoint.
        """
        told = self._json("GET", f"jobs/{job}/history?from={start}")
        try:
            return [RoundRecord.mended(entry) for entry in told["entries"]], told["job"]
        except (ValueError, KeyError, TypeError):
            raise self._no_server() from None

    def log(self, job: str, *, start: int) -> str:
        """The job's log from byte `start` on."""
        return self.log_bytes(job, start=start).decode(errors="replace")

    def log_bytes(self, job: str, *, start: int) -> bytes:
        """The same as it is written: who goes on reading begins behind these bytes."""
        return self._ask("GET", f"jobs/{job}/log?from={start}").content

    def remove(self, job: str) -> None:
        """Delete a job that is over, and its run, from the server."""
        self._json("POST", f"jobs/{job}/remove")

    def cancel(self, job: str) -> dict[str, Any]:
        """End a job, for good: silos keep this word and do nothing of the job any more."""
        word = Cancellation(
            project=self._kit.project, job=job, requester=self._kit.name, at=time.time()
        )
        content = word.signed(self._identity).encode()
        return self._json("POST", f"jobs/{job}/cancel", content=content)

    def page(self) -> str:
        """A link to the server's live page, for one browser: good once, within two minutes."""
        path = str(self._json("POST", "pages").get("path"))
        # It is opened in a browser: a server must not choose where that goes.
        if not re.fullmatch("/page/enter/[A-Za-z0-9_-]+", path):
            raise NoAnswer("the server's answer is no link to its page")
        return f"{self._kit.server.rstrip('/')}{path}"

    def fetch(self, job: str, name: str, to: Path, *, progress: Callable[[int, int], None]) -> None:
        """Write one file of the job's run to `to`, which is there whole or not at all.

        An interrupted transfer goes on where it stopped the next time. `progress` is told the
        bytes so far and in all.
        """
        # A part is of one job's file, and what came is held against the digest of the whole.
        part = _no_link(to.with_name(f".{_no_link(to).name}.{job}.part"))
        have = part.stat().st_size if part.exists() else 0
        headers = {"range": f"bytes={have}-"} if have else {}
        url = f"/privet/v1/jobs/{job}/files/{name}"
        try:
            with self._http.stream("GET", url, headers=headers) as answer:
                # No byte is left behind what is here: of another file, or the whole of this one.
                if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.unlink()
                    raise NoAnswer(f"{name} changed meanwhile; ask again")
                if answer.status_code >= 400:
                    answer.read()
                    raise PrivetError(_said(answer))
                more = answer.status_code == httpx.codes.PARTIAL_CONTENT
                # A proxy may leave out the range, and send the whole.
                have = have if more else 0
                total = have + int(answer.headers.get("content-length", 0))
                digest = answer.headers.get(DIGEST, "")
                with part.open("ab" if more else "wb") as file:
                    for piece in answer.iter_bytes(_PIECE):
                        file.write(piece)
                        have += len(piece)
                        progress(have, total)
        except httpx.HTTPError as error:
            raise NoAnswer(f"{name}: the transfer broke off ({error}); ask again") from None
        _demand_whole(part, name, size=total, digest=digest)
        sync(part)
        part.replace(to)

    def _json(self, method: str, path: str, content: bytes | None = None) -> dict[str, Any]:
        try:
            told = self._ask(method, path, content).json()
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise self._no_server()
        return told

    def _no_server(self) -> NoAnswer:
        return NoAnswer(f"what answers at {self._kit.server} is no server of privet")

    def _ask(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        try:
            answer = self._http.request(method, f"/privet/v1/{path}", content=content)
        except httpx.HTTPError as error:
            raise NoAnswer(f"no answer from {self._kit.server}: {error}") from None
        if answer.status_code >= 500:
            raise NoAnswer(f"{self._kit.server} answers with HTTP {answer.status_code}")
        if answer.status_code >= 400:
            raise PrivetError(_said(answer))
        return answer


def _no_link(path: Path) -> Path:
    if path.is_symlink():
        raise PrivetError(f"{path} is a link: nothing is written through links")
    return demand_file(path)


def _demand_whole(part: Path, name: str, *, size: int, digest: str) -> None:
    """NoAnswer, and the part is gone, unless it is the file that the server spoke of."""
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if part.stat().st_size != size or found != digest:
        part.unlink()
        raise NoAnswer(f"{name}: what came is not the file that the server has; ask again")


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"HTTP {answer.status_code}"


OVER = frozenset({"finished", "stopped early", "failed", "cancelled"})
_PAUSE = 1.0


def follow(
    client: AdminClient,
    job: str,
    *,
    watch: Watch,
    say: Callable[[str], None],
    timeout: float = 600.0,
) -> dict[str, Any]:
    """Pass every entry of the history to `watch` until the job is over, and return its end.

    `say` hears of everything else that a person should know: what the job waits for, and that the
    server does not answer, which is borne for `timeout` seconds and raises NoAnswer then.
    """
    seen, said, since = 0, "", None
    while True:
        try:
            entries, told = client.history(job, start=seen)
        except NoAnswer as lost:
            now = time.monotonic()
            since = since or now
            if now - since > timeout:
                raise
            if said != str(lost):
                say(f"{lost}; trying on")
                said = str(lost)
            time.sleep(_PAUSE)
            continue
        since = None
        for entry in entries:
            watch(entry)
        seen += len(entries)
        text = f"{told['state']} {told['detail']}" if told["state"] == "waiting" else ""
        if text and text != said:
            say(text)
        said = text
        # A job that is over may have more entries than one answer brought.
        if told["state"] in OVER and not entries:
            return told
