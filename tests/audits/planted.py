"""Runs with a planted fault: copies of an honest one, changed as a cheat or an accident would.

`rewritten` plays an insider who holds the silo's key: its ledger is whole, signed, and not true.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from privet.privacy.ledger import SiloKey, database
from privet.privacy.ledger.entries import (
    Draft,
    Entry,
    Head,
    HeadFile,
    beside,
    chained,
    install_head_file,
    prepare_head_file,
)
from privet.privacy.ledger.verification import read_history

Row = dict[str, Any]
_DRAFT = ("kind", "who", "dataset", "job", "round", "event", "detail")


def rewritten(ledger: Path, key: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """The ledger as somebody with the key would have written the entries that `change` makes.

    Rows are entries as dictionaries; one without "sequence" is new, and a new commit or release
    ends the row that its "reservation" is, itself a row.
    """
    rows = change([asdict(entry) for entry in read_history(ledger).entries])
    silo = SiloKey.load(key)
    beside(ledger, "-wal").unlink(missing_ok=True)
    beside(ledger, "-shm").unlink(missing_ok=True)
    ledger.unlink()
    ledger.touch()
    connection = database.connect(ledger)
    database.create_tables(connection)
    meta = json.loads(rows[0]["detail"])["created"]
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    last: Entry | None = None
    numbers: dict[int, int] = {}
    for row in rows:
        told = row["reservation"]
        reservation = numbers[id(told) if isinstance(told, dict) else told] if told else None
        draft = Draft(**{name: row[name] for name in _DRAFT}, reservation=reservation)
        last = chained(draft, after=last, time=row["time"], versions=row["versions"])
        numbers[row.get("sequence", id(row))] = last.sequence
        database.insert(connection, last, Head.of(last, silo))
    connection.commit()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert last is not None
    image = database.image_of(connection)
    connection.close()
    install_head_file(ledger, prepare_head_file(ledger, HeadFile.of(last, silo, image=image)))


def history(folder: Path, change: Callable[[list[Row]], None]) -> None:
    """The history with its lines changed in place."""
    path = folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def summary(folder: Path, change: Callable[[Row], None]) -> None:
    """The summary, changed in place."""
    path = folder / "summary.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found, indent=2) + "\n")
