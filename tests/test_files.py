"""Files whole or not at all, locks, and what is no file: devices, pipes and links."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privet.audits.claims import EXIT_CODES
from privet.errors import PrivetError
from privet.files import (
    NotAFile,
    demand_file,
    leftovers,
    locked,
    only_process,
    read_file,
    replacing,
    write_new,
    write_whole,
)

TESTS = Path(__file__).parent / "support"
COMMANDS = """\
import contextlib, io, json, os, signal, sys
from privet.commands.cli import main

for line in sys.stdin:
    folder, arguments = json.loads(line)
    os.chdir(folder)
    signal.alarm(240)  # ends the process: a reader that waits for a pipe hears no exception
    heard, code = io.StringIO(), 0
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = repr(error)
    print(json.dumps([code, heard.getvalue()]), flush=True)
"""

Privet = Callable[..., list[tuple[object, str]]]


@pytest.fixture(scope="module")
def privet() -> Iterator[Privet]:
    """Exit code and stderr of each command in a folder, one after the other in one process."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    ) as process:
        given, told = process.stdin, process.stdout
        assert given is not None
        assert told is not None

        def one(folder: Path, command: list[str]) -> tuple[object, str]:
            given.write(json.dumps([str(folder), command]) + "\n")
            line = told.readline()
            assert line, f"{command} hangs or dies"
            code, said = json.loads(line)
            return code, said

        yield lambda folder, *commands: [one(folder, command) for command in commands]
        given.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, privet: Privet) -> Path:
    """The folder of a finished private run, with its settings beside it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "run.toml").write_text(
        'task = "toy_tasks:Tiny"\nrounds = 1\nfederation.silos = 2\ntraining.batch_size = 8\n'
        "[privacy]\nunit = 'record'\nnoise_multiplier = 2.0\ndelta = 1e-5\nclip = 1.0\n"
    )
    assert privet(folder, ["simulate", "run.toml", "-q", "--out", "run"]) == [(0, "")]
    return folder


@pytest.fixture
def there(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "there"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture
def null(tmp_path: Path) -> Path:
    """A device of our own that is as /dev/null: nobody misses it if a test replaces it."""
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.write_bytes(b"taken")
    except PermissionError:
        pytest.skip("devices cannot be made here")
    return path


def listener(pipe: Path) -> tuple[threading.Thread, list[bytes]]:
    heard: list[bytes] = []
    thread = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    thread.start()
    return thread, heard


NAMES = (
    "experiment.toml",
    "history.jsonl",
    "summary.json",
    "silos.json",
    "checkpoint.safetensors",
    "ledger.sqlite",
    "ledger.sqlite.head",
    "policy.toml",
    "job.json",
)


def test_a_pipe_in_a_folder_keeps_no_reader(there: Path, privet: Privet) -> None:
    commands = []
    for name in NAMES:
        run = f"with-{name}"
        shutil.copytree(there / "run", there / run)
        (there / run / name).unlink(missing_ok=True)
        os.mkfifo(there / run / name)
        commands += [
            ["report", run],
            ["compare", run, "run"],
            ["audit", run, "--json", f"{name}.audit.json"],
            ["simulate", "run.toml", "-q", "--out", run, "--resume"],
        ]
    (there / "sweep").mkdir()
    os.mkfifo(there / "sweep/sweep.json")
    os.mkfifo(there / "pipe")
    sweep = ["sweep", "run.toml", "-q", "--epsilon", "inf", "--seeds", "1", "--out", "sweep"]
    refused = [["report", "sweep"], ["compare", "sweep", "run"], [*sweep, "--resume"]]
    refused += [["ledger", "show", "pipe"], ["audit", "pipe"]]
    refused += [["ledger", "note", "pipe", "text", "--key", "run/ledger.key"]]
    told = privet(there, *commands, *refused)
    for command, (code, said) in zip([*commands, *refused], told, strict=True):
        assert code == 2 if command in refused else isinstance(code, int), (command, code, said)
        assert len(said.strip().splitlines()) <= 1, (command, said)
    for name in NAMES:
        assert stat.S_ISFIFO((there / f"with-{name}" / name).stat().st_mode), name


def outputs(place: Path) -> list[list[str]]:
    return [
        ["audit", "run/ledger.sqlite", "--json", str(place)],
        ["ledger", "export", "run/ledger.sqlite", str(place), "--key", "run/ledger.key"],
        ["ledger", "show", "run/ledger.sqlite", "--plot", str(place)],
    ]


def test_a_device_is_written_to_and_not_replaced(there: Path, null: Path, privet: Privet) -> None:
    page = there / "run/report.html"
    page.unlink()
    os.mknod(page, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for code, said in privet(there, *outputs(null), ["report", "run"]):
        assert code in EXIT_CODES.values(), said
    assert stat.S_ISCHR(null.lstat().st_mode)
    assert stat.S_ISCHR(page.lstat().st_mode)
    assert sorted(path.name for path in null.parent.iterdir()) == ["null", "there"]


def test_a_pipe_is_written_to_or_refused_in_a_line(there: Path, privet: Privet) -> None:
    pipe, heard_by = there / "pipe", there / "heard-by"
    os.mkfifo(pipe)
    os.mkfifo(heard_by)
    thread, heard = listener(heard_by)
    *unheard, (code, _) = privet(there, *outputs(pipe), outputs(heard_by)[0])
    for refused, said in unheard:
        assert refused == 2
        assert "nobody reads from this pipe" in said
        assert len(said.splitlines()) == 1
    thread.join(timeout=10)
    assert code in EXIT_CODES.values()
    assert json.loads(heard[0])["claims"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@pytest.mark.parametrize("appended", [False, True])
def test_standard_output_is_written_to_also_where_it_is_a_file(
    tmp_path: Path, appended: bool
) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    probe = (
        "from pathlib import Path\nfrom privet.files import write_whole\n"
        "print('before')\nwrite_whole(Path('stdout'), b'content\\n')\nprint('after')"
    )
    out = tmp_path / "out.txt"
    out.write_text("old\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with out.open("a" if appended else "w") as file:
        command = [sys.executable, "-c", probe]
        subprocess.run(command, stdout=file, cwd=tmp_path, check=True, env=environment)
    printed = "before\ncontent\nafter\n"
    assert out.read_text() == (f"old\n{printed}" if appended else printed)
    piped = subprocess.run(command, stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert piped.stdout.decode() == printed
    assert (tmp_path / "stdout").is_symlink()


@pytest.mark.parametrize("there_before", [False, True])
def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path, there_before: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere/file", tmp_path / "link"
    if there_before:
        file.write_text("old")
    link.symlink_to(file)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(NotAFile, match=f"{path.name}: it is no regular file"):
            read_file(path)
        with pytest.raises(NotAFile), replacing(path):
            pass
        with pytest.raises(OSError, match="no regular file"), locked(path):
            pass
        with pytest.raises(PrivetError, match="nobody reads"):
            write_whole(path, b"content")
    assert sorted(tmp_path.iterdir()) == [link, pipe]
    for path in (tmp_path, tmp_path / "absent"):
        assert demand_file(path) == path
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"content")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o644, 0o644), (0o600, 0o600)])
def test_a_file_has_the_mode_that_was_asked_for(
    tmp_path: Path, durable: bool, mode: int | None, expected: int
) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o777)
    old = os.umask(0o027)
    try:
        write_whole(path, b"content", mode=mode, durable=durable)
        write_new(tmp_path / "new", b"content")
    finally:
        os.umask(old)
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == expected
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_content_is_on_disk_before_the_name_and_a_durable_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    sync, rename = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content"
        happened.append(kind)
        sync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        happened.append("name")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", renamed)
    write_whole(tmp_path / "file", b"content")
    assert happened == ["content", "name"]
    write_whole(tmp_path / "file", b"content", durable=True)
    assert happened[2:] == ["content", "name", "folder"]
    write_new(tmp_path / "new", b"content")
    assert happened[5:] == ["content", "folder"]


def test_the_old_file_stands_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_dead_writer_left_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file[0]"
    (tmp_path / ".file[0].new.part").touch()
    with replacing(path) as part:
        assert list(leftovers(path)) == [part]
    assert list(leftovers(path)) == []


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_new_file_overwrites_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refused(self: Path, target: Path) -> None:
            raise PermissionError(1, "Operation not permitted", str(target))

        monkeypatch.setattr(Path, "hardlink_to", refused)
    path = tmp_path / "key"
    write_new(path, b"first")
    with pytest.raises(FileExistsError):
        write_new(path, b"second")
    assert path.read_bytes() == b"first"
    (tmp_path / "link").symlink_to(tmp_path / "dangling")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "link", b"second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "link"]


HOLD = """\
import os, sys, time
from pathlib import Path
from privet.files import only_process

with only_process(Path("lock")):
    print("held", flush=True)
    if "fork" in sys.argv and os.fork() == 0:
        print("forked", flush=True)
        time.sleep(60)
        os._exit(0)
    sys.stdin.read()
print("left", flush=True)
sys.stdin.close()
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, "fork"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        yield process
        os.killpg(process.pid, 9)


def test_one_process_holds_a_lock_and_no_child_of_its_keeps_it(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert [holder.stdout.readline() for _ in range(2)] == ["held\n", "forked\n"]
    path = tmp_path / "lock"
    with pytest.raises(PrivetError, match=f"in use by process {holder.pid}"), only_process(path):
        pass
    begin = time.monotonic()
    with pytest.raises(BlockingIOError):
        locked(path, seconds=0.2)
    assert 0.2 <= time.monotonic() - begin < 5
    holder.stdin.close()
    assert holder.stdout.readline() == "left\n"
    with only_process(path):  # though the child, which has the descriptor, is alive
        assert path.read_text() == f"{os.getpid()}\n"
    assert path.read_text() == ""


def test_a_folder_is_locked_itself_or_refused(tmp_path: Path) -> None:
    with locked(tmp_path, flags=os.O_DIRECTORY), pytest.raises(BlockingIOError):
        locked(tmp_path, flags=os.O_DIRECTORY)
    with pytest.raises(FileNotFoundError):
        locked(tmp_path / "absent", flags=os.O_DIRECTORY)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(PrivetError, match=r"silo\.pid cannot be locked \(No such file"),
        only_process(tmp_path / "none" / "silo.pid"),
    ):
        pass
