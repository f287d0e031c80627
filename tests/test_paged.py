"""Large arrays behave like any others, wherever they lie."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.paged import LARGE, paged_join, paged_zeros
from privet.strategies import Update
from privet.strategies.averaging import FedAvg


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_parts_are_joined(parts: list[bytes]) -> None:
    assert paged_join(parts) == b"".join(parts)


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 2 * LARGE + 5])
def test_large_parts_are_joined_as_well(size: int) -> None:
    parts = [np.random.default_rng(0).bytes(size // 3), b"", bytes(size - size // 3)]
    joined = paged_join(parts)
    assert len(joined) == size
    assert bytes(joined) == b"".join(parts)


@pytest.mark.parametrize("shape", [0, 5, (LARGE // 32, 4), (LARGE // 8, 4)])
def test_zeros_can_be_written(shape: int | tuple[int, ...]) -> None:
    array = paged_zeros(shape, np.float64)
    assert array.shape == np.zeros(shape).shape
    assert array.dtype == np.float64
    assert not array.any()
    array += 1.5
    assert (array == 1.5).all()


def test_what_is_large_lies_in_a_file_that_nobody_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tracemalloc.start()
    array, joined = paged_zeros(LARGE, np.uint8), paged_join([*[bytes(LARGE // 32)] * 32, b"1"])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < LARGE / 10
    assert len(array) + 1 == len(joined)
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) in Path("/proc/self/maps").read_text()


def test_a_full_disk_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    array = paged_zeros(LARGE, np.uint8)
    array[-1] = 3
    assert array.sum() == 3


def test_a_system_without_fallocate_has_arrays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    assert paged_zeros(LARGE, np.uint8).sum() == 0


def test_a_round_of_a_large_model_takes_no_memory_for_sum_and_result() -> None:
    now = np.ones(LARGE // 4, np.float32)
    tracemalloc.start()
    round_ = FedAvg().open(now)
    for weight in (1.0, 3.0):
        round_.add(Update(now, weight))
    result = round_.close(round=1, silos=2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (result == 2).all()
    assert most < now.nbytes / 4


def test_servers_and_silos_send_arrays_in_small_pieces() -> None:
    code = (
        "from pathlib import Path; import privet.commands.{module} as commands\n"
        "try: commands.{command}(Path('nowhere'))\nexcept Exception: pass\n"
        "from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as size\n"
        "import privet.commands.deployment; print(size == privet.commands.deployment.PIECE)"
    )
    for module, command in (("deployment", "server"), ("silo", "serve")):
        command = [sys.executable, "-c", code.format(module=module, command=command)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True"]
