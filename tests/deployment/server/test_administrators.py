"""What administrators sign that no sound program would."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from gate_project import GateProject, LiveServer
from privet.commands.cli import cli
from privet.deployment.admin import AdminClient
from privet.deployment.parties.orders import Order
from privet.deployment.parties.requests import SIGNATURE
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.record.folder import RunFolder
from rounds_written import a_round

OWN = "/privet/v1/"


def odd_order(project: GateProject, **odd: Any) -> bytes:
    """An order with fields changed before ana signed it."""
    made = Order.create(
        Experiment.from_mapping({"task": "digits"}), project="lungs", requester="ana"
    )
    raw = {**vars(made), **odd}
    facts = b"privet order 1\n" + json.dumps(raw, sort_keys=True).encode()
    return json.dumps({"order": raw, "signature": project.key("ana").sign(facts)}).encode()


@pytest.mark.parametrize(
    "odd",
    [
        {"at": float("nan")},
        {"at": float("inf")},
        {"experiment": {"task": float("nan")}},
        {"experiment": {"task": "digits", "rounds": float("inf")}},
        {"experiment": {"task": "\ud800"}},
        {"experiment": {"task": ["digits"], "rounds": {"more": None}}},
        {"experiment": {"task": "digits", "training": {"lr": "\x00" * 99}}},
        {"experiment": {}},
        {"job": "0" * 12},
    ],
    ids=str,
)
def test_no_signed_order_makes_a_server_dumb(
    project: GateProject, server: LiveServer, odd: dict[str, Any]
) -> None:
    with project.http("ana") as ana:
        answer = ana.post(f"{OWN}jobs", content=odd_order(project, **odd))
        assert answer.status_code in (201, 400, 403)
        for path in ("status", "jobs"):
            assert ana.get(OWN + path).status_code == 200


def test_a_length_with_leading_zeros_lets_no_more_bytes_in(
    project: GateProject, server: LiveServer
) -> None:
    body = b"x" * 1_500_000
    with project.http("ana") as ana:
        start = ana.post(f"{OWN}jobs", content=b"").request.headers[SIGNATURE]
    signing = project.auth("ana")
    signing._start = json.loads(start)[1]
    request = httpx.Request("POST", f"{project.url}{OWN}jobs", content=body)
    next(signing.auth_flow(request))
    head = (
        f"POST {OWN}jobs HTTP/1.1\r\nhost: x\r\n{SIGNATURE}: {request.headers[SIGNATURE]}\r\n"
        f"content-length: {'0' * 25}{len(body)}\r\n\r\n"
    )
    with project.socket() as wire:
        wire.sendall(head.encode())
        with contextlib.suppress(OSError):  # the server may be done before all is sent
            wire.sendall(body)
        assert wire.recv(1000).split(b" ")[1] == b"413"


@pytest.mark.parametrize(
    "range_",
    ["bytes=", "bytes=-", "bytes=9-1", "bytes=-9999999", "bytes=" + "0-," * 5000, "lines=1", "²"],
    ids=lambda text: text[:12],
)
def test_no_range_of_a_file_is_a_servers_fault(
    project: GateProject, server: LiveServer, range_: str
) -> None:
    with project.http("ana") as ana:
        job = ana.post(f"{OWN}jobs", content=odd_order(project, job=_job(range_))).json()["id"]
        folder = server.store.get(job).run
        folder.mkdir()
        (folder / "history.jsonl").write_bytes(b"0123456789")
        url = f"{OWN}jobs/{job}/files/history.jsonl"
        headers = [(b"range", range_.encode("latin-1"))]
        answer: httpx.Response = ana.get(url, headers=headers)
    assert answer.status_code in (200, 206, 400, 416)


def test_a_run_that_diverged_can_be_followed(project: GateProject, server: LiveServer) -> None:
    with project.http("ana") as ana:
        job = ana.post(f"{OWN}jobs", content=odd_order(project, job="d" * 12)).json()["id"]
    run = RunFolder(server.store.get(job).run)
    run.path.mkdir()
    run.append(a_round(0, loss=math.nan, epsilon={"max": math.inf, "per_silo": {}}))
    with AdminClient(project.admin_kit()) as client:
        (entry,), _ = client.history(job, start=0)
    assert entry.loss is not None
    assert entry.epsilon is not None
    assert (math.isnan(entry.loss), entry.epsilon.max) == (True, math.inf)


def test_who_waits_for_a_round_has_only_what_is_new_read(
    project: GateProject, server: LiveServer
) -> None:
    with project.http("ana") as ana:
        name = ana.post(f"{OWN}jobs", content=odd_order(project, job="e" * 12)).json()["id"]
    job = server.store.get(name)
    run, lines = RunFolder(job.run), [f"{a_round(number).line()}\n" for number in range(201)]
    run.path.mkdir()
    (run.path / "history.jsonl").write_text("".join(lines[:200]))
    late = threading.Timer(0.5, run.append, [a_round(200)])  # ten looks later
    with AdminClient(project.admin_kit()) as client:
        client.history(name, start=0)
        late.start()
        before = job.history.bytes_read
        entries, told = client.history(name, start=200)
    assert entries == [a_round(200)]
    assert told["round"] == 200
    # The last line that was known, the new one to find its end, and the new one to send it.
    assert job.history.bytes_read - before == len(lines[199]) + 2 * len(lines[200])


def _job(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- results that are brought to where something lies already


def with_model(project: GateProject, server: LiveServer, job: str, content: bytes) -> str:
    with project.http("ana") as ana:
        name = ana.post(f"{OWN}jobs", content=odd_order(project, job=job)).json()["id"]
    found = server.store.get(name)
    assert found is not None
    found.run.mkdir()
    (found.run / "model.safetensors").write_bytes(content)
    return str(name)


def bring(project: GateProject, job: str, to: Path) -> None:
    with AdminClient(project.admin_kit()) as client:
        client.fetch(job, "model.safetensors", to, progress=lambda *_: None)


def test_a_part_of_another_jobs_model_is_not_gone_on_with(
    project: GateProject, server: LiveServer, tmp_path: Path
) -> None:
    first, second = (
        with_model(project, server, digit * 12, digit.encode() * 1000) for digit in "ab"
    )
    to = tmp_path / "model.safetensors"
    for job in (first, second, ""):  # "": as an earlier version named a part
        name = f".model.safetensors.{job}.part".replace("..", ".")
        (tmp_path / name).write_bytes(b"a" * 400)
    bring(project, first, to)
    assert to.read_bytes() == b"a" * 1000
    with pytest.raises(PrivetError, match="is not the file that the server has"):
        bring(project, second, to)
    assert to.read_bytes() == b"a" * 1000
    bring(project, second, to)
    assert to.read_bytes() == b"b" * 1000


def test_nothing_is_written_through_links(
    project: GateProject, server: LiveServer, tmp_path: Path
) -> None:
    job = with_model(project, server, "c" * 12, b"model")
    (tmp_path / "own").write_bytes(b"my own")
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").symlink_to(tmp_path / "own")
    with pytest.raises(PrivetError, match=r"model\.safetensors is a link"):
        bring(project, job, out / "model.safetensors")
    kit = {"PRIVET_KIT": str(project.folder / "kits/ana")}
    done = CliRunner().invoke(cli, ["fetch", job, "--out", str(out)], env=kit)
    assert "is a link" in str(done.exception)
    (out / "model.safetensors").unlink()
    (out / "job.json").write_text('{"id": "dddddddddddd"}')
    done = CliRunner().invoke(cli, ["fetch", job, "--out", str(out)], env=kit)
    assert "results of job dddddddddddd lie there" in str(done.exception)
    assert (tmp_path / "own").read_bytes() == b"my own"
