"""What a cell is recognised by: everything that decides its result, in sixteen digits."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

import privet
from privet.experiment import Experiment
from privet.tasks import Examples, load_task

Buffer: TypeAlias = bytes | memoryview

FORMAT = 1
"""Raised when runs of the same settings begin to come out otherwise."""


def address(experiment: Experiment, *, engine: str, data: str) -> str:
    """The name of a run: a hash over its resolved settings, seed included, the engine and the data.

    `data` is what `data_identity` says; equal settings and equal data give equal addresses,
    whatever the order of the keys and whether defaults are written down.
    """
    parts = (f"privet {privet.__version__} cell {FORMAT}", engine, data, experiment.to_toml())
    return _digest(*(part.encode() for part in parts))


def setting(experiment: Experiment) -> str:
    """What is recognised as the same setting: everything but the seed."""
    return _digest(experiment.with_settings({"seed": 0}).to_toml().encode())


def data_identity(experiment: Experiment, *, data_dir: Path | None) -> str:
    """A hash over the task's records, for training and testing, and the source of its class."""
    task = load_task(
        experiment.task, model=experiment.model, data_dir=data_dir, options=experiment.data
    )
    source = inspect.getsourcefile(type(getattr(task, "_task", task)))
    code = Path(source).read_bytes() if source else b""
    model = str(task.model()).encode()
    return _digest(code, model, *_content(task.train_data()), *_content(task.test_data()))


def _content(examples: Examples | None) -> Iterator[Buffer]:
    if examples is None:
        return
    for each in (examples.inputs, examples.targets):
        yield np.ascontiguousarray(each.numpy()).data
    yield ",".join(examples.silo_names).encode()
    if examples.silo is not None:
        yield np.ascontiguousarray(examples.silo).data


def _digest(*parts: Buffer) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(memoryview(part).nbytes.to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()
