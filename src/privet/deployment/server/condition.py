"""How a server is: a word for each part that matters, and the days that are left.

A part is well, or it is said in a line what is wrong with it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography import x509

from privet.deployment.parties import Party
from privet.deployment.server.connections import Connections
from privet.deployment.server.flower import Link
from privet.deployment.server.membership import Membership
from privet.deployment.server.runner import Runner
from privet.errors import PrivetError

CERTIFICATE = "certificate"
WARN = (7, 30, 60)
"""Days before a certificate or a membership ends at which the log says so."""

log = logging.getLogger("privet.server")


@dataclass(frozen=True)
class Condition:
    """Of one server, looked at from any thread."""

    runner: Runner
    members: Membership
    link: Link
    connections: Connections
    state: Path
    certificate: Path
    least_disk_mb: int
    listening: Callable[[], bool]
    refused: Callable[[], int]
    """How many requests the gate has refused so far."""
    _warned: dict[str, int] = field(default_factory=dict)

    def parts(self) -> dict[str, str | None]:
        """By part: what is wrong with it, or None."""
        return {
            "jobs": self.runner.fault(),
            "link": None if self.listening() else "nobody is listened to",
            "database": self._database(),
            "disk": disk_fault(self.state, least_mb=self.least_disk_mb),
            CERTIFICATE: self._certificate(),
            "memberships": self._memberships(),
        }

    def warned_parts(self) -> dict[str, str | None]:
        """The parts, once the log has been told of what comes to its end."""
        self.warn()
        return self.parts()

    def failures(self) -> int:
        """How many turns of the jobs' loop went wrong."""
        return self.runner.failures

    def days_left(self) -> dict[str, float]:
        """Of the certificate, and of each party that is not revoked, by name."""
        now = datetime.now(UTC)
        ends = {member.name: member.expires for member in self._members()}
        ends[CERTIFICATE] = certificate_end(self.certificate)
        return {name: (end - now).total_seconds() / 86400 for name, end in ends.items()}

    def ending(self) -> dict[str, str]:
        """What ends within the longest time of warning, by name."""
        left = sorted(self.days_left().items(), key=lambda each: each[1])
        return {name: _days(days) for name, days in left if days <= WARN[-1]}

    def warn(self) -> None:
        """Say once in the log what comes to its end, at each of the days in WARN."""
        told: dict[str, list[str]] = {}
        for name, days in self.days_left().items():
            stage = next((most for most in WARN if days <= most), None)
            if stage is None:
                self._warned.pop(name, None)
            elif self._warned.get(name, stage + 1) > stage:
                self._warned[name] = stage
                what = "the certificate" if name == CERTIFICATE else f"the membership of {name}"
                told.setdefault(_days(days), []).append(what)
        for when, what_ends in told.items():
            log.warning("%s: %s; privet provision renews it", when, ", ".join(what_ends))

    def _members(self) -> list[Party]:
        return [each for each in self.members.current().members if not each.revoked]

    def _database(self) -> str | None:
        try:
            self.link.status(list(self.members.nodes.values()))
        except Exception as error:  # whatever a database raises
            return f"it cannot be read ({type(error).__name__})"
        return None

    def _certificate(self) -> str | None:
        try:
            end = certificate_end(self.certificate)
        except PrivetError as error:
            return str(error)
        if end > datetime.now(UTC):
            return None
        return f"{self.certificate.name} ended on {end:%Y-%m-%d}: silos will not connect"

    def _memberships(self) -> str | None:
        now = datetime.now(UTC)
        silos = [each for each in self._members() if each.role == "silo"]
        if not silos or any(each.fault(now) is None for each in silos):
            return None
        return "every silo's membership has ended"


def disk_fault(folder: Path, *, least_mb: int) -> str | None:
    """What is wrong with the disk that `folder` is on, or None."""
    try:
        free = shutil.disk_usage(folder).free // 1_000_000
    except OSError as error:
        return f"{folder} cannot be looked at ({error.strerror})"
    return None if free >= least_mb else f"{free} MB are free, least_disk_mb = {least_mb}"


def certificate_end(path: Path) -> datetime:
    """When the certificate in a PEM file ends; PrivetError for what is none."""
    try:
        return _end(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise PrivetError(f"{path} is no certificate: {error}") from None


@cache
def _end(path: Path, stamp: int) -> datetime:  # noqa: ARG001 - another file, another answer
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def _days(days: float) -> str:
    return f"ends in {days:.0f} days" if days > 0 else f"ended {-days:.0f} days ago"
