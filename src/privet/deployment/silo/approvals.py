"""Orders that wait for a person: `privet silo pending`, `approve` and `refuse`.

A waiting order lies in the silo's state folder, to be looked at. What is decided about it is an
entry of the ledger, so that it holds whether the silo runs or not, and after everything.
"""

from __future__ import annotations

import os
import pwd
import re

from privet.deployment.parties import PartiesFile, SiloKit
from privet.deployment.parties.orders import Order, read_order
from privet.deployment.parties.requests import Denied
from privet.deployment.silo.orders import OrderedJob
from privet.errors import PrivetError
from privet.files import write_whole
from privet.privacy.ledger import Ledger, SiloKey

_FOLDER = "waiting"
_LONGEST_NAME = 100


def keep(kit: SiloKit, job: OrderedJob) -> bool:
    """Have the order of a job wait; False if one with its number does, or did until its end."""
    path = kit.state / _FOLDER / f"{job.id}.json"
    try:
        # Only the first under a number waits, and is kept when it has ended: what somebody has seen
        # must not become another order before they approve it.
        if path.exists():
            return False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, job.text.encode())
    except OSError as error:
        raise PrivetError(f"{path}: the order cannot be kept ({error.strerror})") from None
    return True


def pending(kit: SiloKit) -> list[Order]:
    """The orders that wait, the oldest first; those that were decided are dropped."""
    parties = PartiesFile(kit.parties, project_key=kit.project_key).current()
    found = []
    with _ledger(kit) as ledger:
        for path in (kit.state / _FOLDER).glob("*.json"):
            try:
                order = read_order(path.read_text(encoding="utf-8"), parties)
            except Denied:  # ended, or who signed it may order no more
                continue
            if ledger.ended(order.job) or ledger.approved(order.job, order.digest):
                path.unlink(missing_ok=True)
            else:
                found.append(order)
    return sorted(found, key=lambda order: (order.at, order.job))


def approve(kit: SiloKit, job: str, *, name: str = "") -> Order:
    """Let the job in whose id begins so, and that waits; PrivetError for none, or for several.

    One that waited until its end counts among several: it may be the one that was looked at.
    """
    waiting = [order for order in pending(kit) if order.job.startswith(job)]
    seen = [path for path in (kit.state / _FOLDER).glob("*.json") if path.stem.startswith(job)]
    if not waiting or len(seen) > 1:
        raise PrivetError(f"{len(seen) if waiting else 'no'} jobs that wait begin with {job!r}")
    (order,) = waiting
    user, said = _who(name)
    with _ledger(kit) as ledger:
        ledger.decide(order.job, "approved", f"approved by {said}", who=user, order=order.digest)
    _forget(kit, order.job)
    return order


def refuse(kit: SiloKit, job: str, *, name: str = "") -> str:
    """End a job for good, by its id or by how the id of one that waits begins; its whole id."""
    waiting = [order.job for order in pending(kit) if order.job.startswith(job)]
    if len(waiting) == 1:
        (job,) = waiting
    # One that runs, or has not come yet, waits for nothing.
    elif not re.fullmatch("[0-9a-f]{12}", job):
        raise PrivetError(f"{job!r} is neither a job that waits nor the 12 digits of another one")
    user, said = _who(name)
    with _ledger(kit) as ledger:
        ledger.decide(job, "refused", f"refused by {said}", who=user)
    _forget(kit, job)
    return job


def _forget(kit: SiloKit, job: str) -> None:
    (kit.state / _FOLDER / f"{job}.json").unlink(missing_ok=True)


def _who(name: str) -> tuple[str, str]:
    """The user of this process, and the words for people."""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise PrivetError(f"--as {name[:20]!r}: at most {_LONGEST_NAME} printable characters")
    # Not by the environment, in which anybody is whoever they say.
    number = os.getuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:
        user = f"user {number}"
    return user, f"{name} ({user})" if name else user


def _ledger(kit: SiloKit) -> Ledger:
    return Ledger.open(kit.ledger, SiloKey.load(kit.identity))
