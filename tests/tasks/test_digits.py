"""The bundled digits: the same split every time, by digit, from constants that are public."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from privet.tasks import load_task


def test_the_split_is_fixed_and_stratified() -> None:
    first, again = load_task("digits"), load_task("digits")
    train, test = first.train_data(), first.test_data()
    assert test is not None
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(train.inputs, again.train_data().inputs)
    whole = np.bincount(np.concatenate([train.targets, test.targets]))
    np.testing.assert_allclose(np.bincount(test.targets), whole / 5, atol=1)


def test_train_and_test_are_all_the_digits_and_scaled_by_constants() -> None:
    task = load_task("digits")
    train, test = task.train_data(), task.test_data()
    assert test is not None
    assert train.inputs.shape == (1437, 1, 8, 8)
    assert train.silo is None
    pixels = torch.cat([train.inputs, test.inputs]).reshape(1797, 64) * 0.38 + 0.3
    ours = sorted(map(tuple, (pixels * 16).round().int().tolist()))
    assert ours == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_the_default_model_learns_the_digits() -> None:
    task = load_task("digits")
    train, test, model = task.train_data(), task.test_data(), task.model()
    assert test is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(model(train.inputs), train.targets).backward()
        optimizer.step()
    assert task.metrics(model(test.inputs), test.targets)["accuracy"] > 0.95
