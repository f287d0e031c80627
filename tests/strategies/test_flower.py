"""The same rounds through Flower's classes, wherever the two mean the same."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from privet.strategies import load_strategy

START = np.random.default_rng(0).normal(size=6).astype(np.float32)
COUNTS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
LOSSES = [0.3, 1.2, 0.7, 2.0, 0.1, 0.9, 1.1, 0.4, 0.8, 1.5]


def updates(seed):
    return np.random.default_rng(seed).normal(size=(10, 6)).astype(np.float32)


def flower_round(strategy, weights, seed, *, arrays):
    strategy.current_arrays = arrays(weights)
    replies = []
    for update, count, loss in zip(updates(seed), COUNTS, LOSSES, strict=True):
        content = RecordDict(
            {
                "arrays": ArrayRecord([weights + update]),
                "metrics": MetricRecord({"num-examples": count, "train_loss": loss}),
            }
        )
        replies.append(SimpleNamespace(content=content, has_error=lambda: False))
    record, _ = strategy.aggregate_train(seed, replies)
    return record.to_numpy_ndarrays()[0]


def opened_like_the_paper(strategy):
    strategy.v_t = {"0": np.full(6, strategy.tau**2, np.float32)}  # Flower starts from zero
    return strategy


def as_record(weights):
    return ArrayRecord([weights])


def as_dict(weights):
    return {"0": weights}


@pytest.mark.parametrize(
    ("name", "options", "theirs", "arrays"),
    [
        ("fedavg", {}, flower.FedAvg(), as_record),
        ("fedavgm", {"server_lr": 0.7, "server_momentum": 0.8},
         flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.8), as_record),
        ("fedyogi", {"server_lr": 0.1, "beta_2": 0.9},
         opened_like_the_paper(flower.FedYogi(eta=0.1, beta_1=0.9, beta_2=0.9)), as_dict),
        ("fedadagrad", {"server_lr": 0.1},
         opened_like_the_paper(flower.FedAdagrad(eta=0.1)), as_dict),
        ("qfedavg", {"q": 0.4}, flower.QFedAvg(client_learning_rate=0.5, q=0.4), as_record),
        ("fedmedian", {}, flower.FedMedian(), as_record),
        ("trimmed-mean", {"fraction": 0.2}, flower.FedTrimmedAvg(beta=0.2), as_record),
        ("krum", {"byzantine": 2}, flower.Krum(num_malicious_nodes=2), as_record),
    ],
)  # fmt: skip
def test_three_rounds_agree_with_flower(run_round, name, options, theirs, arrays):
    ours, weights, other = load_strategy(name, options), START, START
    for seed in (1, 2, 3):
        weights = run_round(ours, updates(seed), start=weights, counts=COUNTS, losses=LOSSES)
        other = flower_round(theirs, other, seed, arrays=arrays)
    np.testing.assert_allclose(weights, other, rtol=2e-5, atol=2e-6)
    assert np.abs(weights - START).max() > 0.05
