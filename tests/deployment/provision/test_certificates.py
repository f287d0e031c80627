"""Who believes the server's certificate, over real connections."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from privet.deployment.provision import ProvisionError


@pytest.fixture
def kits(operators: Any) -> Path:
    """Kits of today: a handshake looks at the clock."""
    from privet.deployment.provision import Project, provision

    operators.file.write_text(operators.text)
    provision(Project.from_file(operators.file), out=operators.out)
    return operators.out


@contextmanager
def _server(kit: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "server.pem", kit / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as tls:
                        tls.sendall(b"privet")
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def _talk(port: int, ca: Path, host: str) -> bytes:
    context = ssl.create_default_context(cafile=ca)
    # The defaults of Python 3.13.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        return tls.recv(10)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_silos_believe_the_server_under_its_names(kits: Path, host: str) -> None:
    with _server(kits / "server") as port:
        assert _talk(port, kits / "north" / "ca.pem", host) == b"privet"


@pytest.mark.parametrize("host", ["example.org", "127.0.0.2"])
def test_another_name_is_not_believed(kits: Path, host: str) -> None:
    with (
        _server(kits / "server") as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"),
    ):
        _talk(port, kits / "ca.pem", host)


def test_another_project_is_not_believed(kits: Path, tmp_path: Path) -> None:
    from privet.deployment.provision import Project, provision

    other = tmp_path / "other"
    provision(Project.from_file(tmp_path / "project.toml"), out=other)
    with (
        _server(kits / "server") as port,
        pytest.raises(ssl.SSLCertVerificationError, match="verify failed"),
    ):
        _talk(port, other / "ca.pem", "localhost")


def test_grpc_believes_it(kits: Path) -> None:
    pair = ((kits / "server" / "server.key").read_bytes(), (kits / "server.pem").read_bytes())
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    trust = grpc.ssl_channel_credentials((kits / "south" / "ca.pem").read_bytes())
    with grpc.secure_channel(f"localhost:{port}", trust) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
    server.stop(None)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_finds_nothing_to_object_to(kits: Path) -> None:
    said = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname",
         "localhost", "-CAfile", kits / "ca.pem", kits / "server.pem"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr


def test_the_authority_signs_servers_and_nothing_below(kits: Path) -> None:
    authority = x509.load_pem_x509_certificate((kits / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((kits / "server.pem").read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_certificate_is_kept_until_its_end_is_near(operators: Any) -> None:
    operators.run()
    first = (operators.out / "server.pem").read_bytes()
    done = operators.run(days_later=330)
    assert operators.outcomes(done)["server"] == "kept"
    assert (operators.out / "server.pem").read_bytes() == first
    done = operators.run(days_later=340)
    assert set(operators.outcomes(done).values()) == {"renewed"}
    assert any("server.pem to the server as well" in note for note in done.notes)


def test_a_renewed_certificate_is_for_the_same_key(operators: Any) -> None:
    operators.run()
    key = (operators.out / "server" / "server.key").read_bytes()
    first = x509.load_pem_x509_certificate((operators.out / "server.pem").read_bytes())
    operators.run(days_later=340)
    second = x509.load_pem_x509_certificate((operators.out / "server" / "server.pem").read_bytes())
    assert second.public_key() == first.public_key()
    assert second.not_valid_after_utc > first.not_valid_after_utc
    assert (operators.out / "server" / "server.key").read_bytes() == key


def test_other_hosts_renew_the_certificate(operators: Any) -> None:
    operators.run()
    operators.text = operators.text.replace('"localhost"', '"train.example.org"')
    done = operators.run()
    assert operators.outcomes(done)["server"] == "renewed"
    stale = [note for note in done.notes if "names https://localhost:8443" in note]
    assert len(stale) == 3  # north, south and ana connect to the first host
    again = operators.run()
    assert operators.outcomes(again)["server"] == "kept"


def test_a_certificate_is_renewed_where_the_server_took_its_kit_away(operators: Any) -> None:
    operators.run()
    shutil.rmtree(operators.out / "server")
    (operators.out / "server.zip").unlink()
    done = operators.run(days_later=340)
    assert operators.outcomes(done)["server"] == "renewed"
    assert not (operators.out / "server").exists()


def test_a_renewed_authority_has_the_same_key(operators: Any) -> None:
    operators.run()
    first = x509.load_pem_x509_certificate((operators.out / "ca.pem").read_bytes())
    done = operators.run(days_later=3640)
    second = x509.load_pem_x509_certificate((operators.out / "north" / "ca.pem").read_bytes())
    assert second.public_key() == first.public_key()
    assert second != first
    assert any("ca.pem to every party" in note for note in done.notes)


def test_another_authority_issues_another_certificate(operators: Any) -> None:
    operators.run()
    for name in ("ca.key", "ca.pem"):
        (operators.out / name).unlink()
    assert operators.outcomes(operators.run())["server"] == "renewed"
    authority = x509.load_pem_x509_certificate((operators.out / "north" / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((operators.out / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)


def test_a_missing_or_another_authority_key_is_said(operators: Any) -> None:
    operators.run()
    key = operators.out / "ca.key"
    key.rename(operators.out / "away")
    with pytest.raises(ProvisionError, match=r"ca\.key is missing, the key of .*ca\.pem: bring it"):
        operators.run()
    shutil.copy(operators.out / "server" / "server.key", key)
    with pytest.raises(ProvisionError, match=r"ca\.key is not the key of .*ca\.pem"):
        operators.run()
    key.chmod(0o644)
    with pytest.raises(ProvisionError, match="has mode 0644: others may read the key"):
        operators.run()
