"""The health service over real sockets, and the command that asks it."""

from __future__ import annotations

import logging
import os
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from privet.commands.cli import cli
from privet.deployment.monitoring import SILO, _Lines, health_fault, serving_health
from privet.deployment.trial import free_port
from privet.errors import PrivetError


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


def ask(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)


def privet_health(address: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["health", address])
    return done.exit_code, done.stdout, done.stderr


def test_a_process_says_how_it_is(address: str) -> None:
    with serving_health(address, SILO) as health:
        assert privet_health(address) == (1, "", f"privet: {address}: not serving\n")
        health.set(True)
        assert privet_health(address) == (0, "serving\n", "")
        assert ask(address, SILO) == ask(address, "") == health_pb2.HealthCheckResponse.SERVING
        health.set(False)
        assert ask(address, SILO) == ask(address, "") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert privet_health(address) == (1, "", f"privet: {address}: no answer (unavailable)\n")


def test_another_service_is_not_known(address: str) -> None:
    with serving_health(address, SILO), pytest.raises(grpc.RpcError) as caught:
        ask(address, "privet.server")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_follows_a_probe(address: str) -> None:
    well = [True]
    with serving_health(address, SILO) as health, health.following(lambda: well[0]):
        for wanted in (None, "not serving"):
            end = time.monotonic() + 5
            while health_fault(address) != wanted and time.monotonic() < end:
                time.sleep(0.05)
            assert health_fault(address) == wanted
            well[0] = False


def test_somebody_who_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        start = time.monotonic()
        fault = health_fault(f"127.0.0.1:{deaf.getsockname()[1]}", seconds=0.5)
        assert fault == "no answer in 0.5 s"
        assert time.monotonic() - start < 3


def test_an_address_that_is_taken_is_one_line(address: str) -> None:
    with (
        serving_health(address, SILO),
        pytest.raises(PrivetError, match="taken or not this host's"),
        serving_health(address, SILO),
    ):
        pass


def test_no_address_serves_nothing() -> None:
    with serving_health(None, SILO) as health:
        health.set(True)


def test_what_is_no_address_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(PrivetError, match="is no address"):
        health_fault("nonsense")


def test_what_others_sent_is_no_line_of_its_own_in_a_log() -> None:
    said = "it makes no sense: \n2026-01-01T00:00:00Z job 1 is approved\x1b[2J\u2028"
    record = logging.LogRecord("privet.silo", logging.WARNING, "", 1, "%s", (said,), None)
    line = _Lines().format(record)
    assert line.isprintable()
    assert "it makes no sense:  2026" in line


def test_a_free_port_is_given_out_once() -> None:
    """Seconds pass before somebody listens there: a second one would end at its start."""
    ports = [free_port() for _ in range(300)]
    assert len(set(ports)) == 300
    assert {port % 16 for port in ports} == {os.getpid() % 16}
