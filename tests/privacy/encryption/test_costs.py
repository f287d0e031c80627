"""What encryption costs in memory and imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(("name", "limit"), [("default", 25), ("compact", 25)])
def test_a_client_needs_little_memory(rounds, forked, name, limit):
    """MB for each million parameters, above what the vector itself takes."""
    round_ = rounds(name, size=3_000_000)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 3_000_000).astype(np.float32)

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    def peak() -> float:
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        round_.encrypt(x)
        return (status("VmHWM") - before) * 1024 / 3e6

    assert forked(peak, seconds=60) < limit


def test_naming_the_package_loads_no_heavy_library():
    probe = (
        "import sys, privet.privacy.encryption\n"
        "assert not {'tenseal', 'torch', 'flwr', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_the_server_adds_without_tenseal():
    """The part of the seeded layout that sees what clients send."""
    probe = (
        "import sys, privet.privacy.encryption.cipher, privet.privacy.encryption.residues\n"
        "assert not {'tenseal', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
