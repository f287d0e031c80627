"""A silo that is killed while it writes: what it finds at its next start is whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from gate_project import SILOS, GateProject
from privet.deployment.silo.serving import _Silo
from privet.deployment.silo.worker import Died, Work, Worker
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


def test_a_worker_that_takes_nothing_is_not_waited_for_for_ever() -> None:
    worker = Worker()
    worker.start()
    process = worker._process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    large: Any = RecordDict({"model": ArrayRecord({"a": Array(np.zeros(2_000_000))})})
    work = Work(large, 1, 1, {}, {}, RecordDict())
    begun = time.monotonic()
    with pytest.raises(Died, match="did not take the message"):
        worker.answer(work, until=time.monotonic() + 0.5)
    assert time.monotonic() - begun < 10
    assert not process.is_alive()
