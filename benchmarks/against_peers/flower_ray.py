"""Flower's simulation on Ray: its own FedAvg, evaluated on the server after every round."""

from __future__ import annotations

import os
import warnings

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workloads import (
    CLIP,
    NOISE_MULTIPLIER,
    WORKLOADS,
    Workload,
    accuracy,
    asked,
    batches,
    clients_of,
    new_model,
    say,
    train,
)


def client_app(workload: Workload) -> ClientApp:
    app = ClientApp()

    @app.train()
    def fit(message: Message, context: Context) -> Message:
        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        client = int(context.node_config["partition-id"])
        round_ = int(message.content["config"]["server-round"])
        inputs, targets = clients_of(workload)
        model = new_model(workload)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr)
        records = inputs[client], targets[client]
        if workload.private:
            _train_privately(workload, model, optimizer, records)
        else:
            train(model, optimizer, records, batches(workload, round_, client))
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": workload.records}),
        }
        return Message(RecordDict(content), reply_to=message)

    return app


def _train_privately(
    workload: Workload,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    records: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """As in Flower's example: a new engine in every round."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    wrapped, private, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(TensorDataset(*records), batch_size=workload.batch),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP,
    )
    for inputs, targets in loader:
        private.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(inputs), targets).backward()
        private.step()


def server_app(workload: Workload, measured: list[float]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        model = new_model(workload)

        def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord:
            model.load_state_dict(arrays.to_torch_state_dict())
            measured.append(accuracy(model))
            return MetricRecord({"accuracy": measured[-1]})

        strategy = FedAvg(
            fraction_train=workload.cohort / workload.clients,
            fraction_evaluate=0.0,
            min_available_nodes=workload.clients,
        )
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=workload.rounds,
            evaluate_fn=evaluate,
        )

    return app


def main() -> None:
    workload = WORKLOADS[asked().parse_args().workload]
    torch.set_num_threads(1)
    measured: list[float] = []
    run_simulation(
        server_app=server_app(workload, measured),
        client_app=client_app(workload),
        num_supernodes=workload.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    say(measured[-1])


if __name__ == "__main__":
    main()
