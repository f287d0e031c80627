"""The project's certificate authority, and the server's certificate.

ECDSA on P-256 with SHA-256. Certificates satisfy OpenSSL's strict checks (X509_V_FLAG_X509_STRICT,
the default of Python 3.13): critical basic constraints and key usage, key identifiers, names in
the subject alternative name only.

In the operators' folder certificates are made, kept, or renewed when they are about to expire.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import Certificate
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privet.deployment.parties.addresses import ip_address
from privet.deployment.provision.errors import ProvisionError
from privet.deployment.provision.rendering import CA_FILE, SERVER_CERTIFICATE, SERVER_KEY
from privet.files import write_new, write_whole

AUTHORITY_DAYS = 3650
"""A new authority must be carried to every party by hand, so it lasts longer."""

_SLOW_CLOCKS = timedelta(days=1)
"""Certificates begin that long before they are made: a clock that is behind refuses none."""


@dataclass(frozen=True)
class Authority:
    """Who says which server is the project's."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(
        self, public: ec.EllipticCurvePublicKey, *, hosts: Sequence[str], at: datetime, days: int
    ) -> x509.Certificate:
        """A server certificate for `hosts`, for `days` or as long as the authority."""
        # Nothing is valid beyond its authority, so a later date would be a false promise.
        until = min(at + timedelta(days=days), self.certificate.not_valid_after_utc)
        issuer = self.certificate.subject
        builder = _begun(_common_name(hosts[0]), issuer, public, at=at, until=until)
        for extension, critical in _server_extensions(hosts, self.key.public_key()):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, SHA256())

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is this authority's."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def found_authority(
    project: str, key: ec.EllipticCurvePrivateKey, *, at: datetime, days: int
) -> Authority:
    """A new authority; with the key of an old one, what that one issued holds under it as well."""
    name = _common_name(f"{project} authority")
    until = at + timedelta(days=max(days, AUTHORITY_DAYS))
    builder = _begun(name, name, key.public_key(), at=at, until=until)
    # It certifies servers, and nobody who could certify others.
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    builder = builder.add_extension(constraints, critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(_authority_of(key.public_key()), critical=False)
    return Authority(key, builder.sign(key, SHA256()))


def ends_soon(certificate: x509.Certificate, *, at: datetime, margin: timedelta) -> bool:
    """Whether fewer days than `margin` are left."""
    return certificate.not_valid_after_utc - at < margin


def names_hosts(certificate: x509.Certificate, hosts: Sequence[str]) -> bool:
    """Whether a certificate is for exactly these names and addresses."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return list(found) == [_general_name(host) for host in hosts]


def pem(certificate: x509.Certificate) -> bytes:
    """The content of a certificate's file."""
    return certificate.public_bytes(Encoding.PEM)


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file; ProvisionError when there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ProvisionError(f"{path}: it cannot be read ({error.strerror})") from None
    except ValueError:
        raise ProvisionError(f"{path} holds no certificate (PEM)") from None


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a PEM file; ProvisionError when others may read it, or there is none."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ProvisionError(f"{path}: the key cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if mode & 0o077:
        raise ProvisionError(f"{path} has mode {mode:04o}: others may read the key; chmod 600 it")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ProvisionError(f"{path} holds no elliptic-curve key (PEM)")
    return key


def create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new P-256 key in a new file of mode 0600; FileExistsError and other OSErrors else."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    at: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _SLOW_CLOCKS)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _server_extensions(
    hosts: Sequence[str], issuer: ec.EllipticCurvePublicKey
) -> list[tuple[x509.ExtensionType, bool]]:
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False),
        (_authority_of(issuer), False),
    ]


def _authority_of(issuer: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    # RFC 5280 allows a common name 64 characters; the names that count are the alternative ones.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(host: str) -> x509.GeneralName:
    address = ip_address(host)
    return x509.IPAddress(address) if address else x509.DNSName(host)


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
    write_whole(file, pem(founded.certificate), mode=0o644, durable=True)
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
