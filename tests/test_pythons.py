"""Which Pythons `make versions` chooses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def pythons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, on a machine without any Python."""
    spec = importlib.util.spec_from_file_location("pythons", Path(__file__).parent / "pythons.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return module


def _python(path: Path, version: str) -> Path:
    """Something that says it is a Python of that version; "" does not run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 127\n")
    path.chmod(0o755)
    return path


def test_oldest_and_newest_unless_asked(
    pythons: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oldest = _python(tmp_path / "bin/python3.11", "3.11")
    middle = _python(tmp_path / "bin/python3.12", "3.12")
    newest = _python(tmp_path / "pyenv/versions/3.13.0/bin/python", "3.13")
    assert pythons.chosen([]) == [str(oldest), str(newest)]
    assert "Python 3.14: not found" in capsys.readouterr().err
    assert pythons.chosen(["3.12", "3.14"]) == [str(middle)]
    assert pythons.chosen(["3.11", "3.12", "3.13"]) == [str(oldest), str(middle), str(newest)]


def test_one_python_is_not_taken_twice_and_none_is_none(
    pythons: ModuleType, tmp_path: Path
) -> None:
    assert pythons.chosen([]) == []
    only = _python(tmp_path / "bin/python3.12", "3.12")
    assert pythons.chosen([]) == [str(only)]


def test_what_does_not_run_or_is_another_version_is_passed_over(
    pythons: ModuleType, tmp_path: Path
) -> None:
    _python(tmp_path / "bin/python3.12", "")
    _python(tmp_path / "pyenv/versions/3.12.9/bin/python", "3.11")
    good = _python(tmp_path / "pyenv/versions/3.12.1/bin/python", "3.12")
    assert pythons.found("3.12") == str(good)


def test_this_python_is_found_by_its_name(
    pythons: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setattr(pythons, "_candidates", lambda _: [sys.executable])
    assert pythons.found(version) == sys.executable
    assert pythons.found("3.10") is None
