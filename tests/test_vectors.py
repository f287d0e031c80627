"""A model and its vector are two views of one state."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from privet.errors import ModelError
from privet.vectors import FlatModel


@given(widths=st.lists(st.integers(1, 6), min_size=2, max_size=5), norm=st.booleans())
def test_a_vector_that_was_loaded_is_the_state(widths: list[int], norm: bool) -> None:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else [])]
    module = nn.Sequential(*layers)
    names = list(module.state_dict())
    before = copy.deepcopy(module.state_dict())
    flat = FlatModel(module)
    for name in names:
        assert torch.equal(module.state_dict()[name], before[name])
    vector = np.arange(len(flat.vector()), dtype=np.float32)
    flat.load(vector)
    np.testing.assert_array_equal(flat.vector(), vector)
    parameters = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    np.testing.assert_array_equal(parameters, vector[: len(parameters)])
    buffers = [b.reshape(-1) for b in module.buffers() if b.is_floating_point()]
    expected = torch.cat([torch.zeros(0), *buffers]).numpy()
    np.testing.assert_array_equal(expected, vector[len(parameters) :])


def test_training_moves_the_vector_and_the_vector_is_a_copy() -> None:
    flat = FlatModel(nn.Linear(3, 1))
    before = flat.vector()
    optimizer = torch.optim.SGD(flat.module.parameters(), lr=1.0)
    flat.module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(before - flat.vector(), 2.0)
    flat.vector()[:] = 7
    assert (flat.vector() != 7).all()


def test_the_same_module_can_be_flattened_again() -> None:
    module = nn.Linear(2, 2)
    first = FlatModel(module).vector()
    np.testing.assert_array_equal(FlatModel(module).vector(), first)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="the model has 8 values"):
        FlatModel(nn.Linear(3, 2)).load(np.zeros(7, dtype=np.float32))


def test_other_numbers_than_float32_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"'weight' is torch\.float64"):
        FlatModel(nn.Linear(2, 2).double())


def test_a_vector_can_be_the_memory_from_the_start() -> None:
    vector = np.arange(8, dtype=np.float32)
    flat = FlatModel(nn.Linear(3, 2), vector)
    assert flat.module.weight.detach().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    vector[6] = -1
    assert flat.module.bias.detach().tolist() == [-1, 7]
    with pytest.raises(ValueError, match="8 values"):
        FlatModel(nn.Linear(3, 2), vector[1:])
