"""What encryption costs in memory and imports."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest


def peak(function: Callable[[], object]) -> float:
    """Bytes at most at a time, above what there was before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["default", "compact"])
def test_a_client_needs_little_memory(rounds, name):
    """What comes out included, to encrypt and to open: one chunk at a time."""
    round_ = rounds(name, size=1_000_000)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 1_000_000).astype(np.float32)
    sum_ = round_.add({"a": round_.encrypt(x)})
    upload, mean = len(sum_), 4 * len(x)
    assert peak(lambda: round_.encrypt(x)) < 1.5 * upload
    assert peak(lambda: round_.open(sum_)) < 1.5 * mean


def test_naming_the_package_loads_no_heavy_library():
    probe = (
        "import sys, privet.privacy.encryption\n"
        "assert not {'tenseal', 'torch', 'flwr', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_exact_sums_do_without_tenseal():
    """Nor do clients of exact sums need it: no native code sees what others sent."""
    probe = (
        "import sys, numpy as np\n"
        "from privet.privacy.encryption import Terms, make_cipher\n"
        "cipher, terms = make_cipher('bfv'), Terms(run='r', round=1, size=1, clamp=1.0)\n"
        "key, adder, rng = cipher.generate(), cipher.adder(terms), np.random.default_rng(0)\n"
        "own = dict(key=key, terms=terms, weight=1.0, client='a', rng=rng)\n"
        "adder.add(cipher.encrypt(np.zeros(1), **own).data, client='a')\n"
        "cipher.decrypt(adder.to_bytes(), key=key, run='r', round=1, at_least=1)\n"
        "assert not {'tenseal', 'zstandard', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
