"""The two halves of FedAvg that NVFlare's simulator loads by name.

There are as many sites as a cohort has clients, and site-1 plays whichever client comes first in
the round's cohort: with more sites than threads the simulator starts a process for every task.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg
from torch import nn
from workloads import WORKLOADS, accuracy, batches, clients_of, cohort, new_model, train

OUTCOME = "AGAINST_PEERS_OUTCOME"
"""Names the file in which the accuracy after each round is left."""


def arrays(model: nn.Module) -> dict[str, object]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def load(model: nn.Module, params: dict[str, object]) -> None:
    model.load_state_dict({name: torch.as_tensor(value) for name, value in params.items()})


class Trainer(Executor):
    """A seat of the cohort."""

    def __init__(self, workload: str) -> None:
        super().__init__()
        self.workload = workload

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        workload = WORKLOADS[self.workload]
        torch.set_num_threads(1)
        received = FLModelUtils.from_shareable(shareable)
        round_ = int(received.current_round) + 1
        seat = int(str(fl_ctx.get_prop(FLContextKey.CLIENT_NAME)).removeprefix("site-")) - 1
        client = int(cohort(workload, round_)[seat])
        model = new_model(workload)
        load(model, received.params)
        inputs, targets = clients_of(workload)
        indices = batches(workload, round_, client)
        optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr)
        train(model, optimizer, (inputs[client], targets[client]), indices)
        return FLModelUtils.to_shareable(
            FLModel(params_type=ParamsType.FULL, params=arrays(model), metrics=None)
        )


class Averaging(FedAvg):
    """NVFlare's FedAvg evaluated after every round."""

    def __init__(self, workload: str) -> None:
        each = WORKLOADS[workload]
        super().__init__(num_clients=each.cohort, num_rounds=each.rounds, persistor_id="")
        self.workload = workload
        self._task_check_period = 0.05

    def load_model(self) -> FLModel:
        self.module = new_model(WORKLOADS[self.workload])
        return FLModel(params_type=ParamsType.FULL, params=arrays(self.module))

    def save_model(self, model: FLModel) -> None:
        load(self.module, model.params)
        with Path(os.environ[OUTCOME]).open("a") as file:
            file.write(json.dumps({"accuracy": accuracy(self.module)}) + "\n")
