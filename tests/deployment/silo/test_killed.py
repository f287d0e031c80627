"""A silo that is killed while it writes: what it finds at its next start is whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from gate_project import SILOS, GateProject
from privet.deployment.silo.serving import _Silo
from privet.privacy.encryption.keys import load_roster


def test_a_roster_that_a_kill_cut_off_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = GateProject(tmp_path / "project")
    kit = project.silo_kit("north")
    kit.state.mkdir(exist_ok=True)
    nobody: Any = None
    silo = _Silo(kit, nobody, nobody, threading.Event())

    def killed(descriptor: int) -> None:
        os.truncate(f"/proc/self/fd/{descriptor}", os.fstat(descriptor).st_size // 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            silo._roster()
    assert load_roster(silo._roster()).names == SILOS
    assert not list(kit.state.glob(".*"))
