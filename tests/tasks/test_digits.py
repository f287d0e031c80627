"""The bundled digits: the same split every time, by digit, from constants that are public."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from privet.tasks import load_task


def test_the_split_is_fixed_and_stratified() -> None:
    first, again = load_task("digits"), load_task("digits")
    train, test = first.train_data(), first.test_data()
    assert test is not None
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(train.inputs, again.train_data().inputs)
    whole = np.bincount(np.concatenate([train.targets, test.targets]))
    np.testing.assert_allclose(np.bincount(test.targets), whole / 5, atol=1)


def test_train_and_test_are_scikit_learns_and_scaled_by_constants() -> None:
    task = load_task("digits")
    train, test = task.train_data(), task.test_data()
    assert test is not None
    assert train.inputs.shape == (1437, 1, 8, 8)
    assert train.silo is None
    pixels, targets = load_digits(return_X_y=True)
    numbers = train_test_split(np.arange(1797), test_size=0.2, random_state=7, stratify=targets)
    for ours, expected in zip((train, test), map(sorted, numbers), strict=True):
        unscaled = (ours.inputs.reshape(-1, 64) * 0.38 + 0.3) * 16
        np.testing.assert_array_equal(unscaled.round(), pixels[expected])
        np.testing.assert_array_equal(ours.targets, targets[expected])


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
