"""A list that changes on disk while a process runs."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from privet.deployment.parties import Parties, PartiesError, PartiesFile, load_parties


@pytest.fixture
def path(tmp_path: Path, maker: Any) -> Path:
    file = tmp_path / "parties.json"
    file.write_bytes(maker.parties("north", version=5).signed(maker.key))
    return file


@pytest.fixture
def file(path: Path, maker: Any) -> PartiesFile:
    return PartiesFile(path, project_key=maker.key.public)


def _write(path: Path, content: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)


def test_a_newer_list_takes_effect(path: Path, file: PartiesFile, maker: Any) -> None:
    newer = maker.parties("north", "south", version=6)
    _write(path, newer.signed(maker.key))
    assert file.current() == newer
    assert file.content() == newer.signed(maker.key)


def test_a_file_that_did_not_change_is_not_read_again(
    file: PartiesFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.current()
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was opened"))
    assert file.current() is before


@pytest.mark.parametrize("spoilt", [b"", b"{}", b"not JSON"])
def test_a_bad_list_is_passed_over_and_said_once(
    path: Path, file: PartiesFile, caplog: pytest.LogCaptureFixture, spoilt: bytes
) -> None:
    before = file.current()
    _write(path, spoilt)
    assert [file.current() for _ in range(3)] == [before] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "version 5 stays in force" in record.getMessage()


def test_an_older_list_is_passed_over(
    path: Path, file: PartiesFile, maker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = file.current()
    _write(path, maker.parties("other", version=4).signed(maker.key))
    assert file.current() == before
    assert "the list has version 4, older than 5" in caplog.text


def test_two_lists_of_one_version_are_not_both_believed(
    path: Path, file: PartiesFile, maker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = file.current()
    _write(path, maker.parties("other", version=5).signed(maker.key))
    assert file.current() == before
    assert "version 5 too, with other members" in caplog.text


def test_an_absent_file_changes_nothing_until_it_is_back(
    path: Path, file: PartiesFile, maker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = file.current()
    path.unlink()
    assert [file.current(), file.current()] == [before, before]
    assert len(caplog.records) == 1
    newer = maker.parties("north", version=6)
    _write(path, newer.signed(maker.key))
    assert file.current() == newer


def test_a_first_list_must_be_good(tmp_path: Path, path: Path, maker: Any) -> None:
    with pytest.raises(PartiesError, match="cannot be read"):
        PartiesFile(tmp_path / "absent.json", project_key=maker.key.public)
    with pytest.raises(PartiesError, match="not signed by the project's key"):
        PartiesFile(path, project_key=maker.party().identity)


def test_a_newer_list_is_kept_on_disk(path: Path, file: PartiesFile, maker: Any) -> None:
    newer = maker.parties("north", "south", version=6)
    assert file.replace(newer.signed(maker.key)) == newer
    assert file.current() == newer
    assert load_parties(path, project_key=maker.key.public) == newer
    assert [each.name for each in path.parent.iterdir()] == ["parties.json"]


def test_the_same_list_again_writes_nothing(path: Path, file: PartiesFile) -> None:
    facts = path.stat()
    assert file.replace(path.read_bytes()) == file.current()
    assert path.stat() == facts


def test_nobody_brings_an_older_a_forged_or_another_list(
    path: Path, file: PartiesFile, maker: Any
) -> None:
    held = path.read_bytes()
    with pytest.raises(PartiesError, match="older than 5"):
        file.replace(maker.parties("north", version=4).signed(maker.key))
    with pytest.raises(PartiesError, match="version 5 too"):
        file.replace(maker.parties("north", version=5).signed(maker.key))
    with pytest.raises(PartiesError, match="of project 'hearts', not of 'lungs'"):
        file.replace(Parties("hearts", 9, ()).signed(maker.key))
    with pytest.raises(PartiesError, match="not JSON"):
        file.replace(b"x")
    assert path.read_bytes() == held


def test_a_list_that_cannot_be_kept_is_not_taken(
    path: Path, file: PartiesFile, maker: Any, tmp_path: Path
) -> None:
    before = file.current()
    path.parent.rename(tmp_path.with_name(f"{tmp_path.name}-away"))
    with pytest.raises(PartiesError, match="cannot be written"):
        file.replace(maker.parties("north", version=6).signed(maker.key))
    assert file.current() == before


def test_threads_see_versions_rise(path: Path, file: PartiesFile, maker: Any) -> None:
    lists = [maker.parties("north", version=version) for version in range(6, 30)]
    seen: list[list[int]] = [[] for _ in range(4)]
    done = threading.Event()

    def look(versions: list[int]) -> None:
        while not done.is_set():
            versions.append(file.current().version)

    threads = [threading.Thread(target=look, args=(versions,)) for versions in seen]
    for thread in threads:
        thread.start()
    for place, parties in enumerate(lists):
        content = parties.signed(maker.key)
        _write(path, content) if place % 2 else file.replace(content)
    done.set()
    for thread in threads:
        thread.join()
    assert all(versions == sorted(versions) for versions in seen)
    assert file.current() == lists[-1]
