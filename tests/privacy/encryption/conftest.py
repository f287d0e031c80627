"""Ciphers, small sums, and a child process for bytes that nobody should trust."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from privet.privacy.encryption import Cipher, OpenedSum, SecretKey, Terms, make_cipher

MAKERS: Mapping[str, Callable[[], Cipher]] = {
    "default": lambda: make_cipher("bfv"),
    "compact": lambda: make_cipher("bfv", profile="compact"),
    "precise": lambda: make_cipher("bfv", profile="precise"),
    "ckks": lambda: make_cipher("ckks"),
}


@dataclass(frozen=True)
class Round:
    """One cipher, one key, one set of terms: the shortest way to uploads and sums."""

    cipher: Cipher
    key: SecretKey
    terms: Terms

    def with_terms(self, **changes: Any) -> Round:
        return replace(self, terms=replace(self.terms, **changes))

    def encrypt(self, x, *, client="a", weight=1.0, seed=0, mask=None) -> bytes:
        return self.cipher.encrypt(
            np.asarray(x, dtype=np.float32),
            key=self.key,
            terms=self.terms,
            weight=weight,
            client=client,
            rng=np.random.default_rng(seed),
            mask=mask,
        ).data

    def add(self, uploads: Mapping[str, bytes]) -> bytes:
        adder = self.cipher.adder(self.terms)
        for client, upload in uploads.items():
            adder.add(upload, client=client)
        return adder.to_bytes()

    def open(self, data: bytes, *, at_least: int = 1) -> OpenedSum:
        return self.cipher.decrypt(
            data, key=self.key, run=self.terms.run, round=self.terms.round, at_least=at_least
        )


@pytest.fixture(scope="session")
def ciphers() -> Callable[[str], Cipher]:
    made: dict[str, Cipher] = {}
    return lambda name: made.setdefault(name, MAKERS[name]()) if name not in made else made[name]


@pytest.fixture(scope="session")
def rounds(ciphers) -> Callable[..., Round]:
    keys: dict[str, SecretKey] = {}

    def make(name: str = "default", *, size: int = 10, clamp: float = 0.5) -> Round:
        cipher = ciphers(name)
        key = keys.setdefault(name, cipher.generate()) if name not in keys else keys[name]
        return Round(cipher, key, Terms(run="run", round=3, size=size, clamp=clamp))

    return make


@pytest.fixture
def forked() -> Callable[..., Any]:
    """Run a function in a child process with little memory and a time limit; its JSON answer."""

    def run(function: Callable[[], Any], *, seconds: int) -> Any:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            signal.alarm(seconds)
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                answer = function()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the child process ended with status {status}"
        return json.loads(text)

    return run
