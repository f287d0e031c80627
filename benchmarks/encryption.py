"""Encrypted aggregation against the layout that NVFlare uses, on the shapes of ResNet-18.

    python benchmarks/encryption.py [--runs 3]

The baseline is CKKS with N = 8192, primes of 60, 40 and 40 bits and a scale of 2^40, encrypted
symmetrically, one TenSEAL vector for each tensor, as in `nvflare/app_opt/he`; NVFlare itself does
not run, and the TenSEAL context that it sends along with every tensor (663 kB) is not counted.
Every way runs on one core, in processes of its own, in turn; Linux only. Times are of the
processor, so that a busy machine disturbs them less.

    upload     bytes of one client's upload for each parameter
    encrypt    ms for a million parameters, on the client, vector to bytes
    add        ms for a million parameters and client, on the server, bytes to running sum
    decrypt    ms for a million parameters, on a client, a sum of two clients
    error      mean error of the mean of three clients of weight one, over the clamp
    memory     MB that encrypting adds to the client's peak for each million parameters

Behind each figure: how many times smaller it is than the baseline's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pairs import in_turn, median, ratio

FIGURES = ("upload", "encrypt", "add", "decrypt", "error", "memory")
CLAMP = 0.1

Vector = NDArray[np.float32]
T = TypeVar("T")


def resnet18() -> Iterator[int]:
    """Sizes of the floating-point tensors of a ResNet-18 with ten classes: 102, 11.2 million."""
    yield from _convolution(3, 64, 7)
    width = 64
    for stage, wide in enumerate((64, 128, 256, 512)):
        for block in range(2):
            yield from _convolution(width, wide, 3)
            yield from _convolution(wide, wide, 3)
            if stage and not block:
                yield from _convolution(width, wide, 1)
            width = wide
    yield from (width * 10, 10)


def _convolution(before: int, after: int, kernel: int) -> Iterator[int]:
    yield before * after * kernel**2
    yield from 4 * [after]  # normalisation: weight, bias, running mean and variance


class PerTensor:
    """The baseline: a CKKS vector for each tensor; the server multiplies the sum by 1 / weight."""

    def __init__(self, sizes: Sequence[int]) -> None:
        import tenseal as ts

        self._ts, self._ends = ts, np.cumsum(sizes)[:-1]
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        )
        self._context.global_scale = 2**40
        self._server = ts.context_from(self._context.serialize(save_secret_key=False))
        self._total: list[Any] = []

    def encrypt(self, vector: Vector, client: str) -> list[bytes]:
        del client
        tensors = np.split(vector, self._ends)
        vectors = [self._ts.ckks_vector(self._context, tensor.tolist()) for tensor in tensors]
        return [vector.serialize() for vector in vectors]

    def add(self, upload: list[bytes], client: str) -> None:
        del client
        vectors = [self._ts.ckks_vector_from(self._server, each) for each in upload]
        for total, vector in zip(self._total, vectors, strict=False):
            total.add_(vector)
        self._total = self._total or vectors

    def total(self, clients: int) -> list[bytes]:
        return [(vector * (1 / clients)).serialize() for vector in self._total]

    def decrypt(self, data: list[bytes]) -> NDArray[np.float64]:
        vectors = (self._ts.ckks_vector_from(self._context, each) for each in data)
        return np.concatenate([vector.decrypt() for vector in vectors])


class Ours:
    """One flat vector through `privet.privacy.encryption`."""

    def __init__(self, sizes: Sequence[int], *, scheme: str, profile: str) -> None:
        from privet.privacy.encryption import Terms, make_cipher

        self._cipher = make_cipher(scheme, profile=profile)
        self._key = self._cipher.generate()
        self._terms = Terms(run="benchmark", round=1, size=sum(sizes), clamp=CLAMP)
        self._adder = self._cipher.adder(self._terms)

    def encrypt(self, vector: Vector, client: str) -> list[bytes]:
        upload = self._cipher.encrypt(
            vector,
            key=self._key,
            terms=self._terms,
            weight=1.0,
            client=client,
            rng=np.random.default_rng(ord(client)),
        )
        return [upload.data]

    def add(self, upload: list[bytes], client: str) -> None:
        self._adder.add(upload[0], client=client)

    def total(self, clients: int) -> list[bytes]:
        return [self._adder.to_bytes()]

    def decrypt(self, data: list[bytes]) -> NDArray[np.float32]:
        return self._cipher.decrypt(
            data[0], key=self._key, run="benchmark", round=1, at_least=2
        ).mean


WAYS: dict[str, Callable[[Sequence[int]], PerTensor | Ours]] = {
    "nvflare": PerTensor,
    "bfv": partial(Ours, scheme="bfv", profile="default"),
    "precise": partial(Ours, scheme="bfv", profile="precise"),
    "compact": partial(Ours, scheme="bfv", profile="compact"),
    "ckks": partial(Ours, scheme="ckks", profile="default"),
}


def run(way: str) -> None:
    """Measure one way on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sizes = list(resnet18())
    layout, vectors = WAYS[way](sizes), _vectors(sum(sizes), clients=2)
    million = sum(sizes) / 1e6
    (upload, encrypting), memory = _memory_of(
        lambda: _timed(lambda: layout.encrypt(vectors[0], "a"))
    )
    _, adding = _timed(lambda: layout.add(upload, "a"))
    second, encrypting_again = _timed(lambda: layout.encrypt(vectors[1], "b"))
    _, adding_again = _timed(lambda: layout.add(second, "b"))
    _, decrypting = _timed(partial(layout.decrypt, layout.total(clients=2)))
    figures = {
        "upload": sum(map(len, upload)) / 1e6 / million,
        "encrypt": 500 * (encrypting + encrypting_again) / million,
        "add": 500 * (adding + adding_again) / million,
        "decrypt": 1000 * decrypting / million,
        "error": _error(way),
        "memory": memory / million,
    }
    print(json.dumps(figures))


def _error(way: str) -> float:
    layout, vectors = WAYS[way]([60_000, 40_000]), _vectors(100_000, clients=3)
    for client, vector in zip("abc", vectors, strict=True):
        layout.add(layout.encrypt(vector, client), client)
    mean = layout.decrypt(layout.total(clients=3))
    return float(np.abs(mean - vectors.mean(axis=0, dtype=np.float64)).mean() / CLAMP)


def _vectors(size: int, *, clients: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(-CLAMP, CLAMP, size).astype(np.float32) for _ in range(clients)])


def _memory_of(call: Callable[[], T]) -> tuple[T, float]:
    """The result, and the MB by which resident memory rose above its start at the highest."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    result = call()
    return result, (_status("VmHWM") - before) * 1024 / 1e6


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    if options.way:
        run(options.way)
        return
    rows = in_turn(__file__, {way: ["--way", way] for way in WAYS}, runs=options.runs)
    print(f"{'':<9}" + "".join(f"{figure:>20}" for figure in FIGURES))
    for way in WAYS:
        cells = (
            f"{median(rows[way], figure):>12.4g} x{ratio(rows['nvflare'], rows[way], figure):<6.3g}"
            for figure in FIGURES
        )
        print(f"{way:<9}" + "".join(cells))


if __name__ == "__main__":
    main()
