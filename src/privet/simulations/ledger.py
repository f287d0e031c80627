"""The ledger of a simulated run: one file, with a data set for each silo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.client.guard import LedgerFiles
from privet.privacy.ledger import Ledger, SiloKey, read_history
from privet.record.folder import SUMMARY, RunFolder

LEDGER = "ledger.sqlite"
KEY = "ledger.key"


@contextmanager
def simulated_ledger(folder: Path) -> Iterator[LedgerFiles]:
    """The run folder's ledger, made if there is none, whole and signed when the block ends."""
    files = _ledger_files(folder)
    if not files.key.exists():
        SiloKey.create(files.key)
    if not files.ledger.exists():
        Ledger.create(files.ledger, SiloKey.load(files.key)).close()
    try:
        yield files
    finally:
        files.close_simulated()


def settle(folder: Path) -> None:
    """Leave the ledger as one file again, after something has looked at it.

    SQLite makes two files beside it for every reader, and only a writer takes them away.
    """
    files = _ledger_files(folder)
    if files.ledger.exists() and files.key.exists():
        files.close_simulated()


def _ledger_files(folder: Path) -> LedgerFiles:
    folder = folder.absolute()
    return LedgerFiles(folder / LEDGER, folder / KEY, simulated=True)


def complete_summary(folder: RunFolder) -> None:
    """Fill in what the server does not know: a simulation's host may read every silo's ledger."""
    path = folder.path / SUMMARY
    summary = json.loads(path.read_text(encoding="utf-8"))
    epsilon = summary["epsilon"]
    if epsilon is None or epsilon["max"] is not None:
        return
    history = read_history(folder.path / LEDGER)
    for silo, known in epsilon["per_silo"].items():
        if known is None:
            epsilon["per_silo"][silo] = history.spent(silo, delta=epsilon["delta"])
    epsilon["max"] = max(epsilon["per_silo"].values())
    folder.save_json(SUMMARY, summary)
