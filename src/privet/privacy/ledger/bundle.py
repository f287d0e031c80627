"""A signed copy of a ledger's entries, as JSON, to be kept or shown elsewhere.

It holds events, names of data sets, jobs and requesters, times and software versions. It holds no
record, no number of records and no digest of records that could be checked without the silo's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privet.privacy.ledger.chain import Finding, chain_findings
from privet.privacy.ledger.entries import Entry, canonical
from privet.privacy.ledger.errors import LedgerError
from privet.privacy.ledger.files import beside, sync_folder, write_durably
from privet.privacy.ledger.heads import Head
from privet.privacy.ledger.keys import signed_by
from privet.privacy.ledger.ledger import EXPORT_PREFIX, Ledger

FORMAT = "privet ledger export 1"


@dataclass(frozen=True)
class Bundle:
    """An export as read from its file; nothing about it is verified."""

    public_key: str
    entries: tuple[Entry, ...]
    heads: tuple[Head, ...]
    signature: str

    def content(self) -> dict[str, object]:
        """What is signed."""
        return {
            "format": FORMAT,
            "public_key": self.public_key,
            "entries": [asdict(entry) for entry in self.entries],
            "heads": [asdict(head) for head in self.heads],
        }


def export(ledger: Ledger, path: Path) -> Path:
    """Write all entries of `ledger` to `path`, with the silo's signature; replaces it atomically.

    Raises LedgerError when the ledger cannot be believed or the file cannot be written.
    """
    entries, heads = ledger.chain()
    bundle = Bundle(ledger.public_key, tuple(entries), tuple(heads), signature="")
    content = bundle.content()
    document = {**content, "signature": ledger.sign_export(canonical(content))}
    unfinished = beside(path, ".new")
    try:
        write_durably(unfinished, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(f"{path}: the export cannot be written ({error.strerror})") from None
    return path


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file; LedgerError when it is none."""
    try:
        document = json.loads(path.read_bytes())
        if document.pop("format") != FORMAT:
            raise ValueError
        return _bundle(**document)
    except OSError as error:
        raise LedgerError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LedgerError(f"{path} is not an export of a ledger, or is damaged") from None


def verify_bundle(path: Path, public_key: str | None = None) -> list[Finding]:
    """Everything that is wrong with an export; empty when all is well.

    `public_key` is the silo's; without it the key that the bundle names is believed.
    """
    try:
        bundle = read_bundle(path)
    except LedgerError as error:
        return [Finding(None, str(error))]
    return list(_findings(bundle, public_key or bundle.public_key))


def _findings(bundle: Bundle, public: str) -> Iterator[Finding]:
    message = EXPORT_PREFIX + canonical(bundle.content())
    if bundle.public_key != public or not signed_by(public, message, bundle.signature):
        yield Finding(None, "the export is not signed by the silo, or was changed since")
    yield from chain_findings(bundle.entries, bundle.heads, public)


def _bundle(
    *,
    public_key: str,
    entries: list[dict[str, Any]],
    heads: list[dict[str, Any]],
    signature: str,
) -> Bundle:
    if not (isinstance(public_key, str) and isinstance(signature, str)):
        raise TypeError
    return Bundle(
        public_key,
        tuple(Entry(**entry) for entry in entries),
        tuple(Head(**head) for head in heads),
        signature,
    )
