"""Examples held in memory, and what makes them unfit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from privet.errors import DataError
from privet.tasks import Examples, check_examples


def three() -> Examples:
    return Examples(
        torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]), np.array([1, 0, 1]), ("a", "b")
    )


def test_taking_keeps_order_and_silos() -> None:
    taken = three().take([2, 0])
    assert taken.inputs.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert taken.targets.tolist() == [0, 0]
    assert taken.silo is not None
    assert taken.silo.tolist() == [1, 1]
    assert taken.silo_names == ("a", "b")


def test_a_slice_is_a_view_and_indices_are_a_copy() -> None:
    whole = three()
    shared, copied = whole.take(slice(1, 3)), whole.take(np.array([1, 2]))
    whole.inputs[1] = -1.0
    assert shared.inputs[0].tolist() == [-1.0, -1.0]
    assert copied.inputs[0].tolist() == [2.0, 3.0]


def test_taking_nothing_leaves_nothing() -> None:
    assert len(three().take([])) == 0


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="3 inputs, 2 targets"):
        Examples(torch.zeros(3, 2), torch.zeros(2))


def test_examples_are_known_by_their_records_where_inputs_are_computed_from_them() -> None:
    plain = three()
    assert plain.known_by is plain.inputs
    computed = Examples(plain.inputs.square(), plain.targets, records=plain.inputs)
    assert computed.take([2, 0]).known_by.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert computed.take([2, 0]).inputs.tolist() == [[16.0, 25.0], [0.0, 1.0]]
    with pytest.raises(DataError, match="3 inputs, 3 targets, 2 records"):
        Examples(plain.inputs, plain.targets, records=plain.inputs[:2])


def test_a_torch_dataset_becomes_examples() -> None:
    inputs, targets = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 1, 0])
    read = Examples.of(TensorDataset(inputs, targets))
    assert torch.equal(read.inputs, inputs)
    assert torch.equal(read.targets, targets)


class Pairs(Dataset[tuple[object, object]]):
    def __init__(self, *pairs: tuple[object, object]) -> None:
        self._pairs = pairs

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)


def test_pairs_of_numbers_and_arrays_become_float32_and_int64() -> None:
    read = Examples.of(Pairs((np.array([1, 2]), 1), ([3.0, 4.0], np.int32(0))))
    assert read.inputs.dtype == torch.float32
    assert read.inputs.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert read.targets.dtype == torch.int64
    assert Examples.of(Pairs(([1.0], 0.5))).targets.dtype == torch.float32


def test_an_empty_or_uneven_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        Examples.of(Pairs())
    with pytest.raises(DataError, match="differ in shape"):
        Examples.of(Pairs(([1.0], 0), ([1.0, 2.0], 1)))


def test_sound_examples_pass() -> None:
    check_examples(three(), "train")


def test_nan_and_infinite_inputs_are_counted() -> None:
    bad = three()
    bad.inputs[0] = torch.tensor([float("nan"), float("inf")])
    bad.inputs[2, 1] = float("-inf")
    with pytest.raises(DataError, match=r"ward-3 holds 3 NaN or infinite inputs in 2 of 3 records"):
        check_examples(bad, "ward-3")


def test_nan_targets_and_no_records_are_refused() -> None:
    with pytest.raises(DataError, match="1 NaN or infinite targets in 1 of 2"):
        check_examples(Examples(torch.zeros(2, 1), torch.tensor([0.5, float("nan")])), "ward-3")
    with pytest.raises(DataError, match="ward-3 holds no records"):
        check_examples(three().take([]), "ward-3")
