"""Whatever is done to a ledger's files is found."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from privet.privacy.accounting import dp_sgd_event
from privet.privacy.ledger import (
    Ledger,
    LedgerError,
    SiloKey,
    export,
    read_history,
    verify,
    verify_bundle,
)
from privet.privacy.ledger.entries import START, Draft, Entry, chained


def fill(ledger: Ledger, rounds: int, first: int = 0) -> None:
    for number in range(first, first + rounds):
        planned = dp_sgd_event(noise_multiplier=1.0 + number % 3, sampling_rate=0.1, steps=5)
        ran = dp_sgd_event(noise_multiplier=1.0 + number % 3, sampling_rate=0.1, steps=4)
        with ledger.reserve(
            dataset="heart", job=f"job-{number % 2}", round=number, event=planned, who="lab"
        ) as reservation:
            if number % 4 != 3:
                reservation.records(lambda: None)
            if number % 4 == 0:
                reservation.commit(ran)


@pytest.fixture
def written(ledger, path, key) -> Path:
    """A closed ledger of some thirty entries."""
    fill(ledger, 18)
    ledger.close()
    assert verify(path, key.public) == []
    return path


def alter(path: Path, *statements: str) -> None:
    """Do what the triggers refuse, and leave the tables as they were."""
    with sqlite3.connect(path) as database:
        triggers = database.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
        for _, sql in triggers:
            database.execute(sql)
    database.close()


def forget_pages(path: Path, key: SiloKey) -> None:
    """As after a crash: the file beside the ledger knows its last entry, and no pages."""
    from privet.privacy.ledger.entries import (
        HeadFile,
        head_path,
        install_head_file,
        prepare_head_file,
    )

    last = read_history(path).entries[-1]
    install_head_file(path, prepare_head_file(path, HeadFile.of(last, key)))
    assert head_path(path).exists()


ROWS = {
    "an event made cheaper": (
        "UPDATE entries SET event = replace(event, '1.0', '9.0') WHERE sequence = 3"
    ),
    "a time": "UPDATE entries SET time = replace(time, '12:', '11:') WHERE sequence = 5",
    "a requester": "UPDATE entries SET who = 'nobody' WHERE sequence = 4",
    "a round": "UPDATE entries SET round = 99 WHERE sequence = 3",
    "a reserve that becomes a note": "UPDATE entries SET kind = 'note' WHERE sequence = 3",
    "an entry gone": "DELETE FROM entries WHERE sequence = 6",
    "the first gone": "DELETE FROM entries WHERE sequence = 1",
    "the last gone": "DELETE FROM entries WHERE sequence = (SELECT max(sequence) FROM entries)",
    "all gone": "DELETE FROM entries",
    "a signature gone": "DELETE FROM heads WHERE sequence = 7",
    "a signature of another": (
        "UPDATE heads SET signature = (SELECT signature FROM heads WHERE sequence = 2) "
        "WHERE sequence = 7"
    ),
    "an own hash": "UPDATE entries SET hash = previous WHERE sequence = 8",
    "the key": "UPDATE meta SET value = 'ab' WHERE key = 'public_key'",
    "the name of the ledger": "UPDATE meta SET value = 'ab' WHERE key = 'ledger'",
    "one more thing": "INSERT INTO meta VALUES ('more', '1')",
    "the version": "PRAGMA user_version = 0",
    "one more trigger": (
        "CREATE TRIGGER x AFTER INSERT ON heads BEGIN UPDATE meta SET value = 1; END"
    ),
    "a data set under another name": "UPDATE entries SET dataset = 'lung' WHERE dataset = 'heart'",
}


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("statement", ROWS.values(), ids=ROWS)
def test_a_changed_row_is_found(written, key, statement, crashed):
    if crashed:
        forget_pages(written, key)
    alter(written, statement)
    assert verify(written, key.public)


def test_a_ledger_whose_last_head_is_signed_by_nobody_is_not_opened(written, key):
    """Only the signature is another: hashes, sequence and the file beside are as they were."""
    last = "(SELECT max(sequence) FROM heads)"
    alter(written, f"UPDATE heads SET signature = '{'0' * 128}' WHERE sequence = {last}")
    with pytest.raises(LedgerError, match="its last signature is not that of this silo"):
        Ledger.open(written, key)


@pytest.mark.parametrize(
    "spelled", ["upper(signature)", "' ' || signature", "signature || char(10)"]
)
def test_a_signature_in_another_spelling_is_found(written, key, spelled):
    forget_pages(written, key)
    alter(written, f"UPDATE heads SET signature = {spelled} WHERE sequence = 3")
    assert verify(written, key.public)


def test_rows_that_changed_places_are_found(written, key):
    forget_pages(written, key)
    alter(
        written,
        "UPDATE entries SET sequence = -1 WHERE sequence = 4",
        "UPDATE entries SET sequence = 4 WHERE sequence = 5",
        "UPDATE entries SET sequence = 5 WHERE sequence = -1",
    )
    assert {finding.sequence for finding in verify(written, key.public)} >= {4, 5}


def test_a_chain_that_is_hashed_anew_is_found_by_its_signatures(written, key):
    """Whoever lacks the key can repair every hash, and not one signature."""
    forget_pages(written, key)
    entries = read_history(written).entries
    chain: list[Entry] = []
    for entry in entries:
        names = ("kind", "who", "dataset", "job", "round", "reservation", "event", "detail")
        draft = {name: getattr(entry, name) for name in names}
        if entry.sequence == 3:
            draft["who"] = "nobody"
        after = chain[-1] if chain else None
        chain.append(chained(Draft(**draft), after=after, time=entry.time, versions=entry.versions))
    assert chain[0].previous == START
    alter(
        written,
        *(
            f"UPDATE {table} SET {column} = '{value}' WHERE sequence = {entry.sequence}"
            for entry in chain
            for table, column, value in (
                ("entries", "who", entry.who),
                ("entries", "previous", entry.previous),
                ("entries", "hash", entry.hash),
                ("heads", "hash", entry.hash),
            )
        ),
    )
    assert read_history(written).entries == chain, "without the signatures it is a fine ledger"
    found = verify(written, key.public)
    assert {finding.sequence for finding in found if finding.sequence} >= set(
        range(3, len(chain) + 1)
    )


@pytest.mark.parametrize("lost", [1, 2, 7])
def test_a_cut_end_is_found_even_with_its_signatures(written, key, lost):
    last = len(read_history(written).entries)
    alter(
        written,
        f"DELETE FROM entries WHERE sequence > {last - lost}",
        f"DELETE FROM heads WHERE sequence > {last - lost}",
    )
    assert any("cut off" in str(finding) for finding in verify(written, key.public))
    with pytest.raises(LedgerError, match=f"knows entry {last}: its end was cut off"):
        Ledger.open(written, key)


def test_an_older_copy_is_found_on_this_machine(written, key, clock, tmp_path):
    shutil.copy(written, tmp_path / "old")
    with Ledger.open(written, key, clock=clock) as ledger:
        fill(ledger, 1)
    shutil.copy(tmp_path / "old", written)
    assert any("older copy" in str(finding) for finding in verify(written, key.public))
    with pytest.raises(LedgerError, match="older copy"):
        Ledger.open(written, key)


def test_an_older_copy_of_both_files_is_found_by_an_export(written, key, clock, tmp_path):
    """What this machine cannot know, a bundle elsewhere does."""
    head = written.with_name(written.name + ".head")
    shutil.copy(written, tmp_path / "old")
    shutil.copy(head, tmp_path / "old.head")
    with Ledger.open(written, key, clock=clock) as ledger:
        fill(ledger, 1)
        kept = export(ledger, tmp_path / "kept.json")
    assert verify(written, key.public, exports=[kept]) == []
    shutil.copy(tmp_path / "old", written)
    shutil.copy(tmp_path / "old.head", head)
    assert verify(written, key.public) == []
    (finding,) = verify(written, key.public, exports=[kept])
    assert "lost or changed" in str(finding)


def test_an_older_copy_under_an_open_ledger_is_found(ledger, path, key, tmp_path):
    fill(ledger, 2)
    shutil.copy(path, tmp_path / "old")
    fill(ledger, 2, 2)
    shutil.copy(tmp_path / "old", path.with_name("new"))
    path.with_name("new").replace(path)
    with pytest.raises(LedgerError, match="another file was put in its place"):
        fill(ledger, 1)


def test_the_file_beside_is_needed(written, key):
    written.with_name(written.name + ".head").unlink()
    with pytest.raises(LedgerError, match=r"\.head is missing"):
        Ledger.open(written, key)
    assert any("missing" in str(finding) for finding in verify(written, key.public))


def test_a_deleted_ledger_is_not_begun_anew(written, key):
    written.unlink()
    with pytest.raises(LedgerError, match="had entries: restore it"):
        Ledger.create(written, key)


def test_a_ledger_that_another_key_made_is_found(written, key, other_key):
    assert any("another key" in str(finding) for finding in verify(written, other_key.public))
    with pytest.raises(LedgerError, match="belongs to another silo"):
        Ledger.open(written, other_key)


def test_an_edit_is_found_before_a_round_is_reserved(written, key, clock):
    alter(written, ROWS["an event made cheaper"])
    with Ledger.open(written, key, clock=clock) as ledger:
        for ask in (lambda: fill(ledger, 1), lambda: ledger.spent("heart", delta=1e-5)):
            with pytest.raises(LedgerError, match="entry 3: its hash is not that of its content"):
                ask()


@pytest.mark.parametrize("table", ["entries", "heads", "meta"])
def test_triggers_refuse_what_is_not_an_append(written, table):
    database = sqlite3.connect(written)
    column = database.execute(f"SELECT * FROM {table}").description[0][0]
    for statement in (
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
        *([] if table == "meta" else [f"REPLACE INTO {table} SELECT * FROM {table} LIMIT 1"]),
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    database.close()


def random_row_statement(rng: random.Random, path: Path) -> str:
    with sqlite3.connect(path) as database:
        table = rng.choice(["entries", "entries", "heads", "meta"])
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        rows = database.execute(f"SELECT * FROM {table}").fetchall()
    database.close()
    row, other = rng.sample(rows, 2)
    where = f"{columns[0]} = {row[0]!r}"
    if rng.random() < 0.15:
        return f"DELETE FROM {table} WHERE {where}"
    differing = [i for i in range(1, len(columns)) if row[i] != other[i]]
    column = rng.choice(differing or [1])
    value = other[column] if differing else "changed"
    if isinstance(value, str) and rng.random() < 0.5:
        at = rng.randrange(len(value) or 1)
        value = value[:at] + chr((ord((value + " ")[at]) - 31) % 95 + 32) + value[at + 1 :]
    literal = "NULL" if value is None else repr(value) if isinstance(value, int) else None
    literal = literal or "'" + str(value).replace("'", "''") + "'"
    return f"UPDATE OR IGNORE {table} SET {columns[column]} = {literal} WHERE {where}"


@pytest.mark.parametrize("mutations", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_random_rows(written, key, mutations):
    rng, copy = random.Random(4), written.parent / "copy" / written.name
    forget_pages(written, key)
    content = read_tables(written)
    for _ in range(mutations):
        fresh_copy(written, copy)
        statement = random_row_statement(rng, copy)
        try:
            alter(copy, statement)
        except sqlite3.IntegrityError:
            continue
        assert verify(copy, key.public) or read_tables(copy) == content, statement


@pytest.mark.parametrize("mutations", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_bytes_of_a_closed_ledger(written, key, mutations):
    """Every one: used by an entry or not, in the middle or at the end, in either file."""
    rng, copy = random.Random(5), written.parent / "copy" / written.name
    for number in range(mutations):
        fresh_copy(written, copy)
        target = copy if number % 10 else copy.with_name(copy.name + ".head")
        target.write_bytes(mutated(rng, target.read_bytes()))
        assert verify(copy, key.public), number


@pytest.mark.parametrize("mutations", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_random_bytes_after_a_crash(ledger, path, key, mutations):
    """With a log that was not merged yet: found, or without effect on what the ledger says."""
    fill(ledger, 12)
    rng, copy = random.Random(6), path.parent / "copy" / path.name
    content = read_tables(path)
    found = 0
    for _ in range(mutations):
        fresh_copy(path, copy)
        wal = copy.with_name(copy.name + "-wal")
        target = rng.choice([copy, wal, wal])
        target.write_bytes(mutated(rng, target.read_bytes()))
        findings = verify(copy, key.public)
        found += bool(findings)
        if not findings:
            assert read_tables(copy) == content
    assert found > mutations / 3


def fresh_copy(path: Path, copy: Path) -> None:
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    for suffix in ("", ".head", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copy(source, copy.with_name(copy.name + suffix))


def read_tables(path: Path) -> list[list[tuple[object, ...]]]:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    tables = ("entries", "heads", "meta", "sqlite_schema")
    try:
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    finally:
        database.close()


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A flipped bit, a changed byte, a run of noise, bytes taken out, put in or cut off."""
    at, length = rng.randrange(len(content)), rng.randrange(1, 40)
    before, rest = content[:at], content[at:]
    result = rng.choice(
        [
            before + bytes([rest[0] ^ 1 << rng.randrange(8)]) + rest[1:],
            before + bytes([(rest[0] + rng.randrange(1, 256)) % 256]) + rest[1:],
            before + rng.randbytes(length) + rest[length:],
            before + rest[length:],
            before + rng.randbytes(length) + rest,
            before,
        ]
    )
    return result if result != content else mutated(rng, content)


def test_verifying_changes_nothing(written, key):
    before = written.read_bytes()
    verify(written, key.public)
    read_history(written)
    assert written.read_bytes() == before


def test_a_bundle_is_signed_and_holds_no_data(ledger, key, tmp_path):
    fill(ledger, 3)
    bundle = export(ledger, tmp_path / "bundle.json")
    assert verify_bundle(bundle) == verify_bundle(bundle, key.public) == []
    document = json.loads(bundle.read_text())
    assert set(document) == {"format", "public_key", "entries", "heads", "signature"}
    assert len(document["entries"]) == len(ledger.entries())
    assert "rows" not in re.sub(r'"detail": ".*"', "", bundle.read_text())
    # The digests of the fingerprint are keyed: the same records give others under another key.
    detail = json.loads(document["entries"][1]["detail"])
    assert set(detail["fingerprint"]) == {"rows", "schema", "content"}


@pytest.mark.parametrize("attempt", range(25))
def test_a_changed_bundle_is_found(ledger, key, tmp_path, attempt):
    fill(ledger, 2)
    bundle = export(ledger, tmp_path / "bundle.json")
    document, rng = json.loads(bundle.read_text()), random.Random(attempt)
    part = rng.choice(["entries", "heads"])
    row = rng.randrange(len(document[part]))
    change = rng.choice(["drop", "value", "signature", "swap"])
    if change == "drop":
        del document[part][row]
    elif change == "swap":
        document[part].reverse()
    elif change == "signature":
        document["signature"] = document["heads"][0]["signature"]
    else:
        field = rng.choice(sorted(document[part][row]))
        document[part][row][field] = "changed"
    bundle.write_text(json.dumps(document))
    assert verify_bundle(bundle, key.public)


def test_a_bundle_of_another_silo_is_found(ledger, other_key, tmp_path):
    bundle = export(ledger, tmp_path / "bundle.json")
    assert verify_bundle(bundle, other_key.public)
    (tmp_path / "nonsense").write_text("[1]")
    assert "not an export" in str(verify_bundle(tmp_path / "nonsense")[0])
