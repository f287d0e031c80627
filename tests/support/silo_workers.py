"""What the processes of the silo's chaos tests do; importable by their names in a new process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from torch import nn

import privet
from ledger_workers import Witness
from privet.client.app import app
from privet.privacy.mechanisms import SystemNoise
from privet.simulations.grid import assume_identity
from privet.vectors import FlatModel
from privet.wire import EvaluateRequest, TrainRequest

OWN = f"{Path(privet.__file__).parent}/"
CONFIG: dict[str, Any] = {
    "task": "toy_tasks:Tiny",
    "training.batch_size": 5,
    "training.steps": 3,
    "rounds": 10_000,
    "privacy.noise_multiplier": 1.0,
    "evaluation.holdout": 0.3,
}
METRICS = 'accuracy = { release = "noised", noise_multiplier = 7.0 }'


def work(folder: Path, node: dict[str, Any], rounds: int, first: int) -> None:
    """Answer messages as a silo does; every draw of noise is witnessed before anyone sees it."""
    torch.set_num_threads(1)
    witness = Witness(folder / "witness")
    real = SystemNoise.normal

    def witnessed(source: SystemNoise, shape: Any, std: float) -> Any:
        witness.says("noise", std)
        return real(source, shape, std)

    SystemNoise.normal = witnessed  # type: ignore[method-assign]
    assume_identity(7)
    weights = FlatModel(nn.Linear(2, 2)).vector()
    witness.says("begun")
    for round_ in range(first, first + rounds):
        train = TrainRequest(round=round_, weights=weights).to_records()
        evaluate = EvaluateRequest(round=round_, weights=weights).to_records()
        for kind, content in (("train", train), ("evaluate", evaluate)):
            reply = app(Message(content, 2, kind), Context(7, 2, node, RecordDict(), CONFIG))
            assert not reply.has_error(), reply.error.reason
            witness.says("sent", kind, round_)


def work_until_line(folder: Path, node: dict[str, Any], first: int, line: int) -> None:
    """`work`, killed (SIGKILL) before the `line`-th line of privet's own code that it runs."""
    left = line

    def trace(frame: Any, what: str, _argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(OWN):  # a checkout may be called privet as well
            return None
        if what == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work(folder, node, 2, first)
