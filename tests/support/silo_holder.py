"""A data holder's files for tests: key, ledger, policy, and the node settings that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privet.privacy.ledger import Ledger, SiloKey

POLICY = """
version = 1
[data.records]
requesters = ["*"]
tasks = ["*"]
code = ["*"]
[data.records.budget]
epsilon = {epsilon}
delta = 1e-5
[data.records.training]
plain = {plain}
smallest_noise_multiplier = {noise}
[data.records.sending]
records_public = {public}
most_failures = {most_failures}
[data.records.metrics]
{metrics}
"""


def holder(
    folder: Path,
    *,
    epsilon: float = 50.0,
    plain: bool = False,
    noise: float = 0.0,
    public: bool = True,
    metrics: str = "",
    requesters: str = '["*"]',
    most_failures: int = 10_000,
    seed: bytes = bytes(range(32)),
) -> dict[str, Any]:
    """Write the files into `folder`; the node configuration that points at them.

    The key is made of `seed`, the same in every test that does not choose: which records a silo
    holds out follows from it.
    """
    Ledger.create(folder / "ledger.sqlite", _key(folder / "silo.key", seed)).close()
    text = POLICY.format(
        epsilon="inf" if plain else epsilon,
        plain=str(plain).lower(),
        noise=noise,
        public=str(public).lower(),
        metrics=metrics,
        most_failures=most_failures,
    ).replace('requesters = ["*"]', f"requesters = {requesters}")
    (folder / "policy.toml").write_text(text)
    return {
        "policy": str(folder / "policy.toml"),
        "ledger": str(folder / "ledger.sqlite"),
        "key": str(folder / "silo.key"),
        "dataset": "records",
        "requester": "alice",
    }


def describing(node: dict[str, Any], task: str, **options: Any) -> dict[str, Any]:
    """The node settings of a holder who describes the data set so."""
    return {**node, "description": json.dumps({"task": task, **options})}


def _key(path: Path, seed: bytes) -> SiloKey:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return SiloKey.load(path)
