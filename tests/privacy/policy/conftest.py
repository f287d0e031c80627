"""Policies as mappings, written to files and read through the public door."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from privet.privacy.policy import Policy, Request

HASH = "ab" * 32
CLOSED: dict[str, Any] = {
    "requesters": ["alice"],
    "tasks": ["digits"],
    "budget": {"epsilon": 2.0, "delta": 1e-6},
}
REQUEST = Request(
    dataset="ward",
    task="digits",
    requester="alice",
    job="job-1",
    kind="train",
    at=datetime(2026, 3, 4, 12, 0, tzinfo=UTC),
    unit="record",
    mechanism="dp-sgd",
    noise_multiplier=1.0,
    sampling_rate=0.1,
    clip=1.0,
)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(key)} = {_value(part)}" for key, part in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _policy(folder: Path, data: Mapping[str, Any]) -> Policy:
    path = folder / "policy.toml"
    path.write_text(f"data = {_value(data)}\n")
    return Policy.from_file(path)


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Policy]:
    """`policy({"ward": rules, ...})`: the policy of a file with these tables."""
    folder = tmp_path_factory.mktemp("policies")
    return lambda data: _policy(folder, data)


@pytest.fixture(scope="session")
def ward(policy: Callable[..., Policy]) -> Callable[..., Policy]:
    """`ward(training={...}, ...)`: a closed policy for `ward` with these tables replaced."""
    return lambda **tables: policy({"ward": {**copy.deepcopy(CLOSED), **tables}})


@pytest.fixture(scope="session")
def request_() -> Request:
    """What the closed policy allows: DP-SGD on `ward` by alice, on a Wednesday noon in UTC."""
    return REQUEST
