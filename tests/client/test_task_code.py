"""The code of a task is approved as a whole, and runs only as it was approved."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from privet.client import task_code
from privet.client.task_code import CodeRefused, code_cover, code_hash, cover, import_only

TASK = "curious.task:Mine"
SOURCE = "VALUE = 1\n\n\nclass Mine:\n    pass\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package "curious" that can be imported, and is forgotten afterwards."""
    folder = tmp_path / "place" / "curious"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "task.py").write_text(SOURCE)
    (folder / "fast.so").write_bytes(b"\x7fELF one")
    (folder / "old.pyc").write_bytes(b"compiled")
    (folder / "data" / "limits.json").write_text("{}")
    monkeypatch.syspath_prepend(folder.parent)
    forget()
    yield folder
    forget()


def forget() -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("curious", "loose", "twice")
    ]:
        del sys.modules[name]
    task_code._finder.approved.clear()
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    "name", ["task.py", "fast.so", "old.pyc", "data/limits.json", "data/__init__.py", ".hidden"]
)
def test_every_file_of_the_package_is_covered(package: Path, name: str) -> None:
    before = code_hash(TASK)
    (package / name).write_bytes(b"another")
    changed = code_hash(TASK)
    (package / name).unlink()
    assert len({before, changed, code_hash(TASK)}) == (3 if name in FILES else 2)


FILES = ("task.py", "fast.so", "old.pyc", "data/limits.json")


def test_what_python_makes_by_itself_is_not_covered(package: Path) -> None:
    before = code_hash(TASK)
    py_compile.compile(str(package / "task.py"))
    assert (package / "__pycache__").exists()
    assert code_hash(TASK) == before


def test_a_name_and_a_content_are_not_taken_for_each_other(package: Path) -> None:
    seen = {code_hash(TASK)}
    (package / "a\nfile").write_text("b")
    seen.add(code_hash(TASK))
    (package / "a\nfile").rename(package / "a")
    seen.add(code_hash(TASK))
    (package / "a").rename(package / "data" / "a")
    seen.add(code_hash(TASK))
    assert len(seen) == 4


@pytest.mark.parametrize("kind", ["file", "folder", "up", "nowhere"])
def test_a_link_that_leads_out_of_the_package_is_refused(
    package: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.py").write_text("")
    target = {
        "file": tmp_path / "outside/x.py",
        "folder": tmp_path / "outside",
        "up": Path("../../outside/x.py"),
        "nowhere": tmp_path / "later",
    }[kind]
    (package / "data" / "link").symlink_to(target)
    with pytest.raises(CodeRefused, match="leads out of the package"):
        code_cover(TASK)
    assert code_hash(TASK) is None


def test_a_link_within_the_package_is_covered(package: Path) -> None:
    before = code_hash(TASK)
    (package / "again").symlink_to("data")
    first = code_hash(TASK)
    (package / "again").unlink()
    (package / "again").symlink_to("task.py")
    assert len({before, first, code_hash(TASK)}) == 3


def test_a_pipe_is_refused_and_not_waited_for(package: Path) -> None:
    os.mkfifo(package / "pipe.py")
    with pytest.raises(CodeRefused, match="is no file"):
        code_cover(TASK)


def test_versions_of_what_it_imports_are_covered_but_for_privets_own(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "task.py").write_text("import json, torch, numpy\nfrom privet.tasks import Task\n")
    found = code_cover(TASK)
    assert found is not None
    assert (found.versions, found.modules) == ({}, {})
    (package / "task.py").write_text("def late():\n    import hypothesis.strategies\n")
    before = code_cover(TASK)
    assert before is not None
    assert [*before.versions] == ["hypothesis"]
    monkeypatch.setattr(task_code, "_version", lambda name: "0.0.1")
    after = code_cover(TASK)
    assert after is not None
    assert after.versions == {"hypothesis": "0.0.1"}
    assert after.hash != before.hash


def test_a_module_of_no_distribution_is_covered_with_the_code_that_imports_it(
    package: Path,
) -> None:
    (package / "task.py").write_text("from loose import x\n")
    missing = code_hash(TASK)
    (package.parent / "loose.py").write_text("import curious\nx = 1\n")
    importlib.invalidate_caches()
    first = code_hash(TASK)
    (package.parent / "loose.py").write_text("import curious\nx = 2\n")
    assert len({missing, first, code_hash(TASK)}) == 3


@pytest.mark.parametrize("name", ["loose", "google"])
def test_a_folder_that_files_from_anywhere_join_is_refused(package: Path, name: str) -> None:
    """Of "google" a distribution is known, and other folders of that name are part of it."""
    (package / "task.py").write_text(f"import {name}.evil\n")
    assert code_hash(TASK)
    (package.parent / name).mkdir()
    (package.parent / name / "evil.py").write_text("x = 1\n")
    importlib.invalidate_caches()
    with pytest.raises(CodeRefused, match=f"{name} is a folder without __init__.py"):
        code_cover(TASK)
    assert code_hash(TASK) is None
    if name == "loose":
        (package.parent / name / "__init__.py").write_text("")
        importlib.invalidate_caches()
        before = code_hash(TASK)
        (package.parent / name / "evil.py").write_text("x = 2\n")
        assert len({None, before, code_hash(TASK)}) == 3


def test_a_module_in_the_place_of_an_installed_one_is_covered(package: Path) -> None:
    (package / "task.py").write_text("import hypothesis\n")
    before = code_hash(TASK)
    (package.parent / "hypothesis.py").write_text("x = 1\n")
    importlib.invalidate_caches()
    first = code_hash(TASK)
    (package.parent / "hypothesis.py").write_text("x = 2\n")
    assert len({before, first, code_hash(TASK)}) == 3


def test_what_came_in_one_distribution_with_the_task_is_covered_by_its_content(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "task.py").write_text("from loose import x\n")
    (package.parent / "loose.py").write_text("x = 1\n")
    importlib.invalidate_caches()
    monkeypatch.setattr(
        task_code, "_distributions", lambda: {"curious": ["mine"], "loose": ["mine"]}
    )
    before = code_hash(TASK)
    (package.parent / "loose.py").write_text("x = 2\n")
    assert code_hash(TASK) != before


def test_a_file_that_did_not_change_is_hashed_once(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_code, "_SETTLED", 0.0)
    before = code_hash(TASK)
    with monkeypatch.context() as during:
        during.setattr(task_code.hashlib, "file_digest", None)
        assert code_hash(TASK) == before
    facts = (package / "fast.so").stat()
    (package / "fast.so").write_bytes(b"\x7fELF two")
    os.utime(package / "fast.so", ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    assert code_hash(TASK) != before


def planted(package: Path, mode: py_compile.PycInvalidationMode) -> None:
    """Compiled code in the cache that does not come from the source beside it."""
    source = package / "task.py"
    facts = source.stat()
    source.write_text(SOURCE.replace("VALUE = 1", "VALUE = 2"))
    os.utime(source, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    py_compile.compile(str(source), invalidation_mode=mode)
    source.write_text(SOURCE)
    os.utime(source, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    importlib.invalidate_caches()


@pytest.mark.parametrize("mode", ["TIMESTAMP", "UNCHECKED_HASH"])
def test_a_planted_cache_is_not_what_runs(package: Path, mode: str) -> None:
    approved = code_hash(TASK)
    planted(package, py_compile.PycInvalidationMode[mode])
    assert code_hash(TASK) == approved is not None
    assert importlib.import_module("curious.task").VALUE == 2  # what Python does by itself
    forget()
    import_only(TASK, approved)
    assert importlib.import_module("curious.task").VALUE == 1


def changes() -> dict[str, Callable[[Path], object]]:
    return {
        "task.py": lambda package: (package / "task.py").write_text(SOURCE + "EVIL = 1\n"),
        "new": lambda package: (
            (package / "task").mkdir() or (package / "task" / "__init__.py").write_text("EVIL = 1")
        ),
        "sourceless": lambda package: (
            (package / "task.py").unlink() or (package / "task.pyc").write_bytes(b"compiled")
        ),
        "before": lambda package: (package / "task.abi3.so").write_bytes(b"\x7fELF"),
    }


@pytest.mark.parametrize("what", sorted(changes()))
def test_what_changes_after_the_approval_is_not_imported(package: Path, what: str) -> None:
    approved = code_hash(TASK)
    assert approved is not None
    import_only(TASK, approved)
    changes()[what](package)
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match="not the code that was approved"):
        importlib.import_module("curious.task")
    with pytest.raises(CodeRefused, match="not what was approved"):
        import_only(TASK, approved)


def test_code_that_is_in_memory_already_is_not_taken_for_a_newer_one(package: Path) -> None:
    first = code_hash(TASK)
    assert first is not None
    import_only(TASK, first)
    importlib.import_module("curious.task")
    import_only(TASK, first)
    (package / "task.py").write_text("NEW = 1\n")
    second = code_hash(TASK)
    assert second is not None
    with pytest.raises(CodeRefused, match="start anew"):
        import_only(TASK, second)


def test_two_tasks_may_import_the_same_module(package: Path) -> None:
    (package.parent / "loose.py").write_text("x = 1\n")
    (package.parent / "twice.py").write_text("import loose\n\n\nclass Mine:\n    pass\n")
    (package / "task.py").write_text("import loose\n")
    importlib.invalidate_caches()
    tasks = (TASK, "loose:Mine", "twice:Mine")
    for task in tasks:
        import_only(task, str(code_hash(task)))
        importlib.import_module(task.partition(":")[0])
    (package.parent / "loose.py").write_text("x = 2\n")
    for task in tasks:
        with pytest.raises(CodeRefused, match="start anew"):
            import_only(task, str(code_hash(task)))


def test_the_command_says_what_is_covered(package: Path) -> None:
    (package / "task.py").write_text("import hypothesis, nowhere_at_all\n")
    paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for what in (str(package), TASK):
        done = subprocess.run(
            [sys.executable, "-m", "privet", "task", "hash", what],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        first, *rest = done.stdout.splitlines()
        assert first == cover(package).hash == code_hash(TASK)
        text = "\n".join(rest)
        for word in ("fast.so", "old.pyc", "data/limits.json", "needs   hypothesis 6"):
            assert word in text
        assert "nowhere_at_all (not found here)" in text
        assert "__pycache__" not in text
    done = subprocess.run(
        [sys.executable, "-m", "privet", "task", "hash", "digits"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "neither a task of someone's own" in done.stderr


def test_a_package_is_parsed_once_and_a_source_that_changes_anew(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    real = task_code.ast.parse

    def counting(source: bytes) -> Any:
        parsed.append(source)
        return real(source)

    monkeypatch.setattr(task_code.ast, "parse", counting)
    (package / "task.py").write_text(f"{SOURCE}# of {package}\n")
    code_hash(TASK)
    assert parsed
    parsed.clear()
    before = code_cover(TASK)
    assert parsed == []
    (package / "task.py").write_text(f"import loose\n{SOURCE}# of {package}\n")
    after = code_cover(TASK)
    assert len(parsed) == 1
    assert before is not None
    assert after is not None
    assert (before.modules, after.modules) == ({}, {"loose": None})


def test_imports_of_what_comes_between_hash_and_parsing_are_not_kept(package: Path) -> None:
    source = package / "task.py"
    other = f"import loose\n{SOURCE}# another {package}\n".encode()
    hashed = hashlib.sha256(other).hexdigest()
    assert task_code._imported_by(source, hashed) == set()
    source.write_bytes(other)
    assert task_code._imported_by(source, hashed) == {"loose"}
