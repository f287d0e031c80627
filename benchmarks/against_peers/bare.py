"""A bare loop, in one process or shared by several: no framework, no accounts, nothing written."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from workloads import (
    CLIP,
    NOISE_MULTIPLIER,
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
    train,
)

Vector = NDArray[np.float32]
Job = tuple[int, Sequence[int], Vector]
"""A round, clients, and the weights to begin with."""


class Client:
    """Trains clients one after the other on one model."""

    def __init__(self, workload: Workload, *, usual: bool) -> None:
        self.workload = workload
        self.model = new_model(workload)
        self.usual = usual
        self.wrapped = self.model
        if workload.private and not usual:
            from opacus import GradSampleModule

            self.wrapped = GradSampleModule(self.model)

    def __call__(self, job: Job) -> Vector:
        """The clients' weights after training, shape (clients, d)."""
        round_, clients, start = job
        weights = torch.from_numpy(start)
        trained = [self._train(round_, client, weights) for client in clients]
        return torch.stack(trained).numpy()

    def _train(self, round_: int, client: int, weights: Tensor) -> Tensor:
        inputs, targets = clients_of(self.workload)
        records = inputs[client], targets[client]
        if self.usual:
            return usual_opacus(self.workload, weights, records)
        nn.utils.vector_to_parameters(weights.clone(), self.model.parameters())
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self.wrapped.parameters(), lr=self.workload.lr
        )
        if self.workload.private:
            from opacus.optimizers import DPOptimizer

            optimizer = DPOptimizer(
                optimizer,
                noise_multiplier=NOISE_MULTIPLIER,
                max_grad_norm=CLIP,
                expected_batch_size=self.workload.batch,
            )
        train(self.wrapped, optimizer, records, batches(self.workload, round_, client))
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()


def usual_opacus(workload: Workload, weights: Tensor, records: tuple[Tensor, Tensor]) -> Tensor:
    """A new engine, wrapper and loader for each client, as Flower's and Opacus's examples have."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    model = new_model(workload)
    nn.utils.vector_to_parameters(weights.clone(), model.parameters())
    wrapped, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=workload.lr),
        data_loader=DataLoader(TensorDataset(*records), batch_size=workload.batch),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP,
    )
    for inputs, targets in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(inputs), targets).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def loop(
    workload: Workload, answers: Callable[[list[Job]], Iterable[Vector]], processes: int
) -> float:
    """All rounds; the accuracy after the last."""
    model = new_model(workload)
    weights = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    measured = 0.0
    for round_ in range(1, workload.rounds + 1):
        shares = np.array_split(cohort(workload, round_), processes)
        jobs = [(round_, share.tolist(), weights) for share in shares]
        weights = np.concatenate(list(answers(jobs))).mean(axis=0)
        nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
        measured = accuracy(model)
    return measured


_client: Client


def _begin(workload: Workload, usual: bool) -> None:
    global _client
    torch.set_num_threads(1)
    torch.manual_seed(multiprocessing.current_process()._identity[0])
    _client = Client(workload, usual=usual)


def _answer(job: Job) -> Vector:
    return _client(job)


def main() -> None:
    parser = asked()
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--usual", action="store_true", help="Opacus as its examples use it")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    workload, processes = WORKLOADS[options.workload], options.processes
    clients_of(workload), test_set()  # before the fork, so that it is shared
    if processes == 1:
        torch.manual_seed(1)
        client = Client(workload, usual=options.usual)
        say(loop(workload, lambda jobs: map(client, jobs), processes))
        return
    fork = multiprocessing.get_context("fork")
    with fork.Pool(processes, _begin, (workload, options.usual)) as pool:
        say(loop(workload, lambda jobs: pool.map(_answer, jobs, chunksize=1), processes))


if __name__ == "__main__":
    main()
