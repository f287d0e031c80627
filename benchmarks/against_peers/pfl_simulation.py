"""pfl: its FederatedAveraging on its SimulatedBackend, evaluated centrally after every round."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import (
    WORKLOADS,
    Workload,
    accuracy,
    asked,
    batches,
    clients_of,
    cohort,
    new_model,
    say,
    test_set,
)


class Classifier(nn.Module):
    """A model with the two methods that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(inputs), targets)

    @torch.no_grad()
    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Weighted]:
        right = (self(inputs).argmax(1) == targets).sum()
        return {"accuracy": Weighted(float(right), len(targets))}


def data_of(workload: Workload) -> FederatedDataset:
    """The clients in the order in which rounds ask for them, their records in batch order."""
    inputs, targets = clients_of(workload)

    def turns() -> Iterator[tuple[int, int]]:
        for round_ in range(1, workload.rounds + 2):  # pfl draws one cohort ahead
            for client in cohort(workload, round_).tolist():
                yield round_, client

    def dataset(turn: tuple[int, int]) -> Dataset:
        round_, client = turn
        order = torch.cat(batches(workload, round_, client))
        return Dataset([inputs[client][order], targets[client][order]], user_id=str(client))

    return FederatedDataset(dataset, turns().__next__)


def main() -> None:
    workload = WORKLOADS[asked().parse_args().workload]
    torch.set_num_threads(1)
    module = Classifier(new_model(workload))
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    data = data_of(workload)
    training = NNTrainHyperParams(
        local_num_epochs=1,
        local_learning_rate=workload.lr,
        local_batch_size=workload.batch,
    )
    evaluation = NNEvalHyperParams(local_batch_size=500)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=workload.rounds,
            evaluation_frequency=workload.rounds + 1,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        training,
        evaluation,
        [CentralEvaluationCallback(Dataset(list(test_set())), evaluation)],
    )
    say(accuracy(module.inner))


if __name__ == "__main__":
    main()
