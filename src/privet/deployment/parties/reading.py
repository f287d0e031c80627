"""Read a signed list of parties that may come from anyone.

Nothing of it is looked at more closely than its JSON before the signature is found to be right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from privet.deployment.parties.errors import PartiesError
from privet.deployment.parties.parties import (
    Parties,
    Party,
    identity_fault,
    signing_text,
    timestamp,
)
from privet.errors import nearest
from privet.privacy.ledger.keys import signed_by

LARGEST_FILE = 1_000_000
"""Bytes."""

_TYPES: dict[str, type] = {
    "name": str,
    "role": str,
    "identity": str,
    "node_key": str,
    "expires": str,
    "revoked": bool,
}
_LONGEST_NUMBER = 20
"""Digits; `int` takes quadratic time for many."""


def read_parties(content: bytes, *, project_key: str) -> Parties:
    """The list in `content`, whoever it came from.

    PartiesError unless it is signed by `project_key` (64 hexadecimal digits), well-formed, and
    has at most a megabyte.
    """
    if fault := identity_fault(project_key):
        raise PartiesError(f"project_key {fault}")
    whole = _table(_parsed(content), "the list of parties", {"signed": dict, "signature": str})
    try:
        # Written anew and not cut out of `content`: what is signed is then what is read below.
        text = signing_text(whole["signed"])
    except (ValueError, RecursionError):
        raise PartiesError("the list of parties is not JSON as privet writes it") from None
    if not signed_by(project_key, text, whole["signature"]):
        raise PartiesError("the list of parties is not signed by the project's key")
    return _parties(whole["signed"])


def load_parties(path: Path, *, project_key: str) -> Parties:
    """The list in a file; PartiesError as of `read_parties`, and when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise PartiesError(f"{path}: the list cannot be read ({error.strerror})") from None
    return read_from(path, content, project_key=project_key)


def read_from(path: Path, content: bytes, *, project_key: str) -> Parties:
    """`read_parties`, whose errors then name the file."""
    try:
        return read_parties(content, project_key=project_key)
    except PartiesError as error:
        raise PartiesError(f"{path}: {error}") from None


def _parties(table: Mapping[str, Any]) -> Parties:
    _table(table, "the list of parties", {"project": str, "version": int, "members": list})
    members = tuple(_party(raw, place) for place, raw in enumerate(table["members"], start=1))
    return Parties(table["project"], table["version"], members)


def _party(raw: object, place: int) -> Party:
    table = _table(raw, f"party {place}", _TYPES)
    return Party(**{**table, "expires": _moment(table["expires"], place)})


def _moment(text: str, place: int) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or timestamp(moment) != text:
        raise PartiesError(f"party {place}: expires = {text[:64]!r} is no moment in UTC")
    return moment


def _table(raw: object, where: str, types: Mapping[str, type]) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise PartiesError(f"{where} is not a table")
    for key in raw:
        if key not in types:
            raise PartiesError(f"{where}: unknown key {key[:64]!r}.{nearest(key[:64], types)}")
    for key, kind in types.items():
        if key not in raw:
            raise PartiesError(f"{where}: {key!r} is missing")
        if type(raw[key]) is not kind:
            raise PartiesError(f"{where}: {key!r} is of the wrong kind")
    return raw


def _parsed(content: bytes) -> object:
    if len(content) > LARGEST_FILE:
        raise PartiesError(f"more than {LARGEST_FILE} bytes are no list of parties")
    try:
        return json.loads(
            content.decode(),
            object_pairs_hook=_once,
            parse_int=_number,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        raise PartiesError("the list of parties is not JSON as privet writes it") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Of a repeated key one reader takes the first and another the last: one signature, two lists.
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is repeated")
    return table


def _number(text: str) -> int:
    return int(text) if len(text) <= _LONGEST_NUMBER else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number of such a list")
