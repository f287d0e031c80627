"""The certificates in the operators' folder: made, kept, or renewed when their time is near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from privet.parties.files import write_whole
from privet.provision.authority import (
    Authority,
    create_key,
    ends_soon,
    found_authority,
    load_certificate,
    load_key,
    names_hosts,
    pem,
)
from privet.provision.errors import ProvisionError
from privet.provision.rendering import CA_FILE, SERVER_CERTIFICATE, SERVER_KEY

AUTHORITY_KEY = "ca.key"

Outcome = Literal["made", "kept", "renewed"]


@dataclass(frozen=True)
class Issued:
    """A certificate, and what became of it."""

    certificate: Certificate
    outcome: Outcome


def authority(
    folder: Path, project: str, *, at: datetime, days: int, margin: timedelta
) -> tuple[Authority, Outcome]:
    """The authority in `folder`; made where there is none, renewed with the same key in time."""
    key_file, file = folder / AUTHORITY_KEY, folder / CA_FILE
    if file.exists() and not key_file.exists():
        raise ProvisionError(f"{key_file} is missing, the key of {file}: bring it back")
    key = load_key(key_file) if key_file.exists() else create_key(key_file)
    held = Authority(key, load_certificate(file)) if file.exists() else None
    if held and held.certificate.public_key() != key.public_key():
        raise ProvisionError(f"{key_file} is not the key of {file}: bring the right one back")
    if held and not ends_soon(held.certificate, at=at, margin=margin):
        return held, "kept"
    founded = found_authority(project, key, at=at, days=days)
    write_whole(file, pem(founded.certificate))
    return founded, "renewed" if held else "made"


def server_certificate(
    folder: Path,
    issuer: Authority,
    hosts: Sequence[str],
    *,
    at: datetime,
    days: int,
    margin: timedelta,
) -> Issued | None:
    """The certificate of the server that has a kit already, renewed for its key where need be.

    Kept for other hosts, for an end that is near, or for another authority it would be of no use.
    None: no server has a kit.
    """
    file = _record(folder)
    if file is None:
        return None
    held = load_certificate(file)
    if (
        issuer.issued(held)
        and names_hosts(held, hosts)
        and not ends_soon(held, at=at, margin=margin)
    ):
        return Issued(held, "kept")
    public = held.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ProvisionError(f"{file} has no elliptic-curve key")
    return Issued(issuer.issue(public, hosts=hosts, at=at, days=days), "renewed")


def new_server_certificate(
    kit: Path, issuer: Authority, hosts: Sequence[str], *, at: datetime, days: int
) -> Issued:
    """A key in the server's kit, and the first certificate for it."""
    public = create_key(kit / SERVER_KEY).public_key()
    return Issued(issuer.issue(public, hosts=hosts, at=at, days=days), "made")


def _record(folder: Path) -> Path | None:
    """The operators' own copy; or that of the kit, when nothing could be written after it."""
    copies = (folder / SERVER_CERTIFICATE, folder / "server" / SERVER_CERTIFICATE)
    return next((file for file in copies if file.exists()), None)
