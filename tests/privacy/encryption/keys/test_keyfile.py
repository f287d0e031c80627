"""Keys on disk."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import replace

import pytest

from privet.privacy.encryption.keys import (
    KeyFileError,
    KeysError,
    RunKey,
    Secret,
    forget_key,
    read_agreement,
    write_agreement,
)
from privet.privacy.encryption.keys import runkey as module
from privet.privacy.encryption.keys.runkey import read_key, swap_key, write_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.key"


def test_a_new_process_finds_the_key_again(federation, path):
    federation.key.save(path)
    assert RunKey.load(path, session=federation.session) == federation.key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_agreement(path, federation.agreements["bob"], session=federation.session)
    kept = read_agreement(path, session=federation.session)
    assert kept.public == federation.agreements["bob"].public


def test_the_mode_is_private_whatever_the_umask(federation, path):
    before = os.umask(0)
    try:
        federation.key.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o610, 0o620])
def test_a_file_that_others_may_touch_is_refused(federation, path, mode):
    federation.key.save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}: others may read"):
        RunKey.load(path, session=federation.session)


def test_a_file_of_another_user_is_refused(federation, path, monkeypatch):
    federation.key.save(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        RunKey.load(path, session=federation.session)


def test_links_pipes_and_folders_are_refused(federation, path, tmp_path):
    federation.key.save(path)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir()
    problems = {
        "link": "cannot be read",
        "pipe": "is not a file",
        "folder": "is not a file",
        "absent": "no such key file",
        "absent/deeper": "no such key file",
    }
    for name, problem in problems.items():
        with pytest.raises(KeyFileError, match=problem):
            RunKey.load(tmp_path / name, session=federation.session)


def test_a_link_is_replaced_and_not_followed(federation, path, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"untouched")
    path.symlink_to(elsewhere)
    federation.key.save(path)
    assert elsewhere.read_bytes() == b"untouched"
    assert not path.is_symlink()


def test_the_key_of_another_run_epoch_roster_or_kind_is_refused(federation, build, path, identity):
    federation.key.save(path)
    others = [
        build(identities=federation.identities, run="run-2"),
        build(identities=federation.identities, epoch=2),
        build(identities=federation.identities | {"bob": identity()}),
    ]
    for other in others:
        with pytest.raises(KeyFileError, match="key file refused"):
            RunKey.load(path, session=other.session)
    with pytest.raises(KeyFileError, match="holds no agreement key"):
        read_agreement(path, session=federation.session)
    write_key(path, Secret(bytes(32)), kind="something else", session=federation.session)
    with pytest.raises(KeyFileError, match="holds no agreement key"):
        read_agreement(path, session=federation.session)


@pytest.mark.parametrize("inside", [b"rubbish", b"privet run key 1\n"])
def test_a_whole_file_around_no_run_key_is_refused(federation, path, inside):
    write_key(path, Secret(inside), kind="run key", session=federation.session)
    with pytest.raises(KeyFileError, match="run key refused"):
        RunKey.load(path, session=federation.session)


def test_a_crash_leaves_the_old_key_or_the_new_one(federation, path, monkeypatch):
    federation.key.save(path)
    newer = replace(federation.key, since=2)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            owner = os if name == "fsync" else type(path)

            def fail(*_):
                raise OSError(28, "No space left on device")

            patch.setattr(owner, name, fail)
            with pytest.raises(KeyFileError, match="cannot be written"):
                newer.save(path)
        assert RunKey.load(path, session=federation.session) == federation.key
        assert [each.name for each in path.parent.iterdir()] == ["run.key"]
    newer.save(path)
    assert RunKey.load(path, session=federation.session) == newer


def test_content_is_on_disk_before_it_takes_the_place(federation, path, monkeypatch):
    steps = []
    fsync, replaced = os.fsync, type(path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        type(path), "replace", lambda a, b: (steps.append("replace"), replaced(a, b))[1]
    )
    federation.key.save(path)
    assert steps == ["fsync", "replace", "fsync"]


def test_forgetting_removes_what_a_crash_left_too(federation, path):
    federation.key.save(path)
    leftover = path.with_name(".run.key.01234567.part")
    other = path.with_name(".run.key.new.01234567.part")
    leftover.write_bytes(b"")
    other.write_bytes(b"")
    forget_key(path)
    assert list(path.parent.iterdir()) == [other]
    forget_key(path)
    with pytest.raises(KeyFileError, match="cannot be removed"):
        forget_key(path.parent / "absent" / "key")


def test_what_cannot_be_kept_is_refused(federation, path, tmp_path):
    with pytest.raises(KeysError, match="too long"):
        write_key(path, Secret(bytes(4_000_000)), kind="k", session=federation.session)
    for folder in (tmp_path / "absent", path):
        path.touch()
        with pytest.raises(KeyFileError, match="cannot be written"):
            federation.key.save(folder / "key")
        with pytest.raises(KeyFileError, match="cannot be kept there"):
            swap_key(folder / "key", Secret(b""), old=None, kind="k", session=federation.session)
    assert not path.read_bytes()


def test_a_file_that_is_too_large_is_not_read(federation, path):
    path.touch(0o600)
    os.truncate(path, module.LARGEST + 1)
    with pytest.raises(KeyFileError, match="no key file"):
        RunKey.load(path, session=federation.session)


def test_of_several_that_swap_from_the_same_state_one_succeeds(federation, path):
    arguments = {"kind": "k", "session": federation.session}
    write_key(path, Secret(b"start"), **arguments)
    barrier, won, lost = threading.Barrier(8), [], []

    def attempt(number):
        barrier.wait()
        try:
            swap_key(path, Secret(b"%d" % number), old=Secret(b"start"), **arguments)
            won.append(number)
        except KeyFileError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert all("changed meanwhile" in text for text in lost)
    assert read_key(path, **arguments) == Secret(b"%d" % won[0])
    with pytest.raises(KeyFileError, match="changed meanwhile"):
        swap_key(path, Secret(b"x"), old=None, **arguments)
    swap_key(path.parent / "new", Secret(b"x"), old=None, **arguments)
