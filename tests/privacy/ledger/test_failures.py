"""A file that cannot be used is refused in one line, and nothing is lost."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privet.privacy.accounting import dp_sgd_event
from privet.privacy.ledger import Ledger, LedgerError, LedgerRefusal, SiloKey, read_history, verify

EVENT = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=3)


def reserve(ledger):
    return ledger.reserve(dataset="heart", job="job", round=1, event=EVENT, who="lab")


def one_line(error) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_second_silo_is_refused_while_the_first_goes_on(ledger, path, other_key):
    with pytest.raises(LedgerError, match="belongs to another silo") as error:
        Ledger.open(path, other_key)
    assert one_line(error)
    reserve(ledger)


def test_there_is_no_second_ledger_in_one_place(ledger, path, key):
    with pytest.raises(LedgerError, match="never overwritten"):
        Ledger.create(path, key)


def test_a_missing_ledger_is_not_made_by_opening_it(path, key):
    for opening in (
        lambda: Ledger.open(path, key),
        lambda: verify(path),
        lambda: read_history(path),
    ):
        with pytest.raises(LedgerError, match="no ledger at"):
            opening()
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a database" * 500])
def test_what_is_no_ledger_is_refused_and_left_alone(path, key, content):
    path.write_bytes(content)
    for opening in (lambda: Ledger.open(path, key), lambda: read_history(path)):
        with pytest.raises(LedgerError) as error:
            opening()
        assert one_line(error)
    assert verify(path)
    assert path.read_bytes() == content


def test_a_newer_ledger_is_refused(ledger, path, key):
    ledger.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()
    before = path.read_bytes()
    for opening in (lambda: Ledger.open(path, key), lambda: read_history(path)):
        with pytest.raises(LedgerError, match=r"version 2.*update privet"):
            opening()
    assert path.read_bytes() == before
    assert any("version 2" in str(finding) for finding in verify(path, key.public))


@pytest.mark.parametrize("page", range(8))
def test_a_damaged_page_is_never_read_as_less(ledger, path, key, clock, page):
    for _ in range(30):
        reserve(ledger).commit(EVENT)
    spent = ledger.spent("heart", delta=1e-5)
    ledger.close()
    content = bytearray(path.read_bytes())
    content[page * 4096 + 8 : page * 4096 + 3000] = b"\xa5" * 2992
    path.write_bytes(content)
    assert verify(path, key.public)
    try:
        with Ledger.open(path, key, clock=clock) as damaged:
            told = damaged.spent("heart", delta=1e-5)
    except LedgerError:
        return
    assert told == spent, "the page held no entry of this data set"


def test_another_program_that_holds_the_file_is_named(ledger, path, key, monkeypatch):
    from privet.privacy.ledger import database as module

    real = sqlite3.connect
    monkeypatch.setattr(
        module.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "timeout": 0.1})
    )
    with Ledger.open(path, key) as impatient:
        holder = real(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="another program holds the file"):
            reserve(impatient)
        holder.execute("ROLLBACK")
        holder.close()
        reserve(impatient)


def _as_nobody(path, key, answers):
    os.setgid(65534)
    os.setuid(65534)
    try:
        Ledger.open(path, key)
    except LedgerError as error:
        answers.put(str(error))
    else:
        answers.put(None)
    answers.put((len(read_history(path).entries), verify(path, key.public)))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("folder_mode", [0o777, 0o555])
@pytest.mark.parametrize("lock_mode", [0o666, 0o444])
def test_a_read_only_ledger_can_be_looked_at_and_not_reserved_on(
    ledger, path, key, folder_mode, lock_mode
):
    reserve(ledger)
    ledger.close()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "ledger"
        shutil.copytree(path.parent, place)
        for file in place.iterdir():
            file.chmod(lock_mode if file.suffix == ".lock" else 0o444)
        Path(name).chmod(0o755)
        place.chmod(folder_mode)
        answers = context.SimpleQueue()
        child = context.Process(target=_as_nobody, args=(place / path.name, key, answers))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        refusal, seen = answers.get(), answers.get()
    assert "read-only" in refusal or "cannot be locked" in refusal
    assert seen == (3, [])


def test_a_database_that_cannot_grow_keeps_what_it_had(ledger, path, key, monkeypatch):
    """SQLITE_FULL itself, by a limit on the number of pages."""
    from privet.privacy.ledger import database as module

    real = module.connect

    def small(at, **options):
        connection = real(at, **options)
        connection.execute("PRAGMA max_page_count = 1")  # the present size, at least
        return connection

    monkeypatch.setattr(module, "connect", small)
    with Ledger.open(path, key) as full:
        with pytest.raises(LedgerError, match="the disk is full: nothing was recorded"):  # noqa: PT012
            for _ in range(50):
                reserve(full)
        count = len(full.entries())
    assert verify(path, key.public) == []
    monkeypatch.undo()
    with Ledger.open(path, key) as again:
        assert len(again.entries()) == count
        reserve(again)


def test_a_creation_that_did_not_come_through_can_be_repeated(path, key, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(LedgerError, match="full"):
        Ledger.create(path, key)
    assert not path.exists()
    monkeypatch.undo()
    with Ledger.create(path, key) as ledger:
        assert len(ledger.entries()) == 1
    assert verify(path, key.public) == []


def test_a_head_that_cannot_be_replaced_leaves_the_charge(ledger, path, key, monkeypatch):
    """The reservation is never handed out, and counts."""
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(LedgerError, match="I/O error"):
        reserve(ledger)
    monkeypatch.undo()
    assert ledger.events("heart") == [EVENT]
    assert verify(path, key.public) == []


def test_a_commit_that_may_have_reached_the_disk_closes_the_records(ledger, monkeypatch):
    reservation = reserve(ledger)
    reservation.records(lambda: None)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    nothing = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.1, steps=0)
    with pytest.raises(LedgerError):
        reservation.commit(nothing)
    monkeypatch.undo()
    with pytest.raises(LedgerRefusal, match="cannot be opened"):
        reservation.records(lambda: None)


def test_a_release_that_may_have_reached_the_disk_closes_the_records(ledger, monkeypatch):
    reservation = reserve(ledger)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(LedgerError, match="I/O error"):
        reservation.release()
    monkeypatch.undo()
    with pytest.raises(LedgerRefusal, match="cannot be opened"):
        reservation.records(lambda: None)


def test_an_open_ledger_notices_that_its_head_is_gone_or_old(ledger, path):
    head = path.with_name(path.name + ".head")
    before = len(ledger.entries())
    kept = head.read_bytes()
    head.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        reserve(ledger)
    head.write_bytes(kept.replace(b'"sequence":2', b'"sequence":1'))
    with pytest.raises(LedgerError, match="not signed"):
        reserve(ledger)
    head.write_bytes(kept)
    assert len(ledger.entries()) == before
    reserve(ledger)


def test_nobody_else_can_write_while_a_budget_is_checked(path, key):
    """The clock is read inside the transaction, before the entry is written."""
    seen = []

    def clock():
        if path.exists():
            seen.append(_can_write(path))
            seen.append(_can_lock(path.with_name(path.name + ".lock")))
        return datetime.now(UTC)

    with Ledger.create(path, key, clock=clock) as ledger:
        ledger.note("a remark", who="operator")
    assert seen == [False, False]


def _can_write(path):
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    finally:
        other.close()
    return True


def _can_lock(path):
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_keys_are_private_and_kept(tmp_path):
    path = tmp_path / "silo.key"
    key = SiloKey.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SiloKey.load(path).public == key.public
    private = path.read_text().splitlines()[1]
    assert private not in repr(key)
    with pytest.raises(LedgerError, match="never overwritten"):
        SiloKey.create(path)
    assert SiloKey.load(path).public == key.public
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(LedgerError, match="chmod 600"):
            SiloKey.load(path)


@pytest.mark.parametrize("content", ["", "nonsense", "rsa"])
def test_what_is_no_key_is_refused(tmp_path, content):
    path = tmp_path / "silo.key"
    if content == "rsa":
        subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", path], check=True)
    else:
        path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(LedgerError, match="holds no silo key"):
        SiloKey.load(path)
    with pytest.raises(LedgerError, match="cannot be read"):
        SiloKey.load(tmp_path / "none")


def test_files_are_for_their_owner_only(ledger, path):
    reserve(ledger)
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_whatever_the_bytes_looking_at_a_ledger_gives_findings_or_one_error(ledger, path):
    """Random damage, from one byte to many: neither `verify` nor `show` ends in a traceback."""
    for round_ in range(4):
        ledger.reserve(dataset="heart", job="job", round=round_, event=EVENT, who="lab").commit(
            EVENT
        )
    ledger.close()
    whole, rng = path.read_bytes(), random.Random(3)
    found = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        found += bool(verify(path)) or damaged == whole
        with contextlib.suppress(LedgerError):
            read_history(path)
        for rest in ("-wal", "-shm"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
    assert found == 400
