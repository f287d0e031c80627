"""The whole silo, killed anywhere between a message and its answer, and started again."""

from __future__ import annotations

import random
import time
from collections import Counter
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import silo_workers as workers
from privet.privacy.accounting.events import merged
from privet.privacy.ledger import Ledger, SiloKey, verify
from silo_holder import holder


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    return holder(tmp_path, epsilon=1e6, metrics=workers.METRICS)


def check(folder: Path) -> tuple[int, int]:
    """The ledger is whole and has every draw of noise; its entries, and reservations that stand."""
    lines = (folder / "witness").read_text().splitlines() if (folder / "witness").exists() else []
    drawn = Counter(line.split()[1] for line in lines if line.startswith("noise"))
    key = SiloKey.load(folder / "silo.key")
    assert verify(folder / "ledger.sqlite", key.public) == []
    with Ledger.open(folder / "ledger.sqlite", key) as ledger:
        events = ledger.events("records") if len(ledger.entries()) > 1 else []
        charged = {part.noise_multiplier: part.steps for part in merged(events)}
        kinds = Counter(entry.kind for entry in ledger.entries("records"))
    for noise, times in drawn.items():
        assert charged.get(float(noise), 0) >= times
    sent = sum(line.startswith("sent") for line in lines)
    assert kinds["commit"] >= sent
    assert kinds["release"] == 0
    return sum(kinds.values()), kinds["reserve"] - kinds["commit"]


def end(process: Any, *, after: float | None = None, witness: Path | None = None) -> int:
    """Run a process to its end, or kill it `after` seconds of work; its exit code."""
    begun = witness.read_text().count("begun") if witness and witness.exists() else 0
    process.start()
    if after is not None and witness is not None:
        while not witness.exists() or witness.read_text().count("begun") == begun:
            time.sleep(0.005)
        time.sleep(after)
        process.kill()
    process.join(60)
    assert process.exitcode is not None, "deadlock"
    return int(process.exitcode)


def many(default: int, slow: int) -> Any:
    return pytest.mark.parametrize("kills", [default, pytest.param(slow, marks=pytest.mark.slow)])


@many(15, 120)
def test_killed_before_any_line(
    tmp_path: Path, node: dict[str, Any], processes: BaseContext, kills: int
) -> None:
    rng, died, standing = random.Random(1), 0, 0
    for number in range(kills):
        arguments = tmp_path, node, 2 * number + 1, rng.randrange(1, 46_000)
        died += end(processes.Process(target=workers.work_until_line, args=arguments)) == -9  # type: ignore[attr-defined]
        _, standing = check(tmp_path)
    assert died > kills / 2
    assert standing > 0, "no kill fell between reserve and commit"


@many(8, 80)
def test_killed_at_any_time(
    tmp_path: Path, node: dict[str, Any], processes: BaseContext, kills: int
) -> None:
    rng = random.Random(2)
    for number in range(kills):
        process = processes.Process(  # type: ignore[attr-defined]
            target=workers.work, args=(tmp_path, node, 1000, 100 * number + 1)
        )
        end(process, after=rng.uniform(0.0, 0.5), witness=tmp_path / "witness")
        check(tmp_path)
    before, _ = check(tmp_path)
    last = processes.Process(target=workers.work, args=(tmp_path, node, 2, 9_000))  # type: ignore[attr-defined]
    assert end(last) == 0, "it goes on after every kill"
    assert check(tmp_path)[0] >= before + 8


def test_without_a_kill_nothing_is_charged_beyond_what_ran(
    tmp_path: Path, node: dict[str, Any], processes: BaseContext
) -> None:
    assert end(processes.Process(target=workers.work, args=(tmp_path, node, 4, 1))) == 0  # type: ignore[attr-defined]
    assert check(tmp_path)[1] == 0
    drawn = Counter(
        float(line.split()[1])
        for line in (tmp_path / "witness").read_text().splitlines()
        if line.startswith("noise")
    )
    with Ledger.open(tmp_path / "ledger.sqlite", SiloKey.load(tmp_path / "silo.key")) as ledger:
        charged = {part.noise_multiplier: part.steps for part in merged(ledger.events("records"))}
    assert charged == dict(drawn) == {1.0: 12, 7.0: 4}
