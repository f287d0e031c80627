"""The base of a model: what belongs to it, what names it, and that nothing moves it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from privet.base import Base
from privet.errors import ModelError
from privet.vectors import FlatModel


def frozen(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).requires_grad_(False)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    base = frozen(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.Dropout())
    return nn.Sequential(base, nn.Linear(4, 2), nn.BatchNorm1d(2))


def test_frozen_parts_are_the_base_and_the_rest_is_the_vector() -> None:
    flat = FlatModel(network())
    assert flat.names == (
        *("1.weight", "1.bias", "2.weight", "2.bias"),
        *("2.running_mean", "2.running_var"),
    )
    assert len(flat.vector()) == sum(flat.sizes) == 10 + 4 + 4
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert list(flat.base.tensors) == [
        *("0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"),
        *(f"0.1.{name}" for name in statistics),
        *(f"0.2.{name}" for name in statistics),
    ]
    assert len(flat.base) == 16 + 8 + 9 + 9
    assert set(flat.state()) == {*flat.names, "2.num_batches_tracked"}


def test_a_model_that_trains_whole_has_no_base() -> None:
    base = FlatModel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))).base
    assert (len(base), base.digest, base.held) == (0, None, ())
    base.check()


def test_frozen_parts_rest_while_the_others_train() -> None:
    flat = FlatModel(network())
    before = {name: tensor.clone() for name, tensor in flat.base.tensors.items()}
    model = flat.base.train()
    assert not any(part.training for part in model[0].modules())  # type: ignore[index]
    assert model.training
    assert model[2].training  # type: ignore[index]
    for _ in range(3):
        model(torch.randn(8, 3)).sum().backward()
    flat.check()
    assert all(torch.equal(flat.base.tensors[name], value) for name, value in before.items())
    assert float(model[2].running_mean.abs().sum()) > 0  # type: ignore[index]


def test_statistics_that_are_declared_constant_stay_though_their_layer_trains() -> None:
    flat = FlatModel(network(), constant=("2.running_*", "2.num_*"))
    assert flat.names == ("1.weight", "1.bias", "2.weight", "2.bias")
    flat.base.train()(torch.randn(8, 3))
    flat.check()


def test_a_pattern_of_no_buffer_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"constant_buffers: '3\.\*' is the name of no buffer"):
        FlatModel(network(), constant=("2.*", "3.*"))


def test_a_model_that_is_frozen_whole_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        FlatModel(frozen(nn.Linear(2, 2)))
    assert str(caught.value) == "the model has no trainable parameter: all of them are frozen"


def holding(tensor: Tensor, name: str = "table") -> Base:
    model = nn.Linear(1, 1)
    model.register_buffer(name, tensor)
    return Base.of(model, [name])


ZEROS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "other",
    [
        holding(ZEROS, "tables"),
        holding(ZEROS.view(3, 2)),
        holding(ZEROS.int()),
        holding(-ZEROS),
        holding(ZEROS[:, :2]),
    ],
    ids=["name", "shape", "type", "bytes", "size"],
)
def test_a_digest_is_of_names_types_shapes_and_bytes(other: Base) -> None:
    assert holding(ZEROS.clone()).digest == holding(ZEROS).digest != other.digest
    # In memory it may lie otherwise.
    assert holding(torch.zeros(3, 2).T).digest == holding(ZEROS).digest


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_a_base_may_be_of_any_type(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    assert len(holding(torch.zeros(shape, dtype=kind)).digest or "") == 64


def test_what_has_no_bytes_here_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"'table' is torch\.float32 on meta"):
        _ = holding(torch.zeros(2, device="meta")).digest


def test_models_with_one_base_hold_it_once() -> None:
    first, second = FlatModel(network()), FlatModel(network())
    for mine, other in zip(first.base.tensors.values(), second.base.tensors.values(), strict=True):
        assert mine.data_ptr() == other.data_ptr()
    other_start = copy.deepcopy(network())
    with torch.no_grad():
        other_start[0][0].weight[0, 0] += 1  # type: ignore[index]
    assert FlatModel(other_start).base.digest != first.base.digest
    # One that was moved meanwhile is not taken over.
    first.base.tensors["0.1.running_mean"].add_(1)
    assert float(FlatModel(network()).base.tensors["0.1.running_mean"].sum()) == 0


def _write(model: nn.Sequential) -> None:
    model[0][0].weight.data[0, 0] += 1  # type: ignore[index]


def _replace(model: nn.Sequential) -> None:
    model[0][1].running_mean = torch.ones(4)  # type: ignore[index]


def _drop(model: nn.Sequential) -> None:
    model[0][1].running_mean = None  # type: ignore[index]


def _flip(model: nn.Sequential) -> None:
    model[0][0].weight.requires_grad_(True)  # type: ignore[index]


def _freeze(model: nn.Sequential) -> None:
    model[1].weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("moves", "named"),
    [
        (_write, r"'0\.0\.weight' changes"),
        (_replace, r"'0\.1\.running_mean' changes"),
        (_drop, r"'0\.1\.running_mean' changes"),
        (_flip, r"'0\.0\.weight\.requires_grad' changes"),
        (_freeze, r"'1\.weight\.requires_grad' changes"),
    ],
)
def test_what_moves_though_it_must_not_is_named(
    moves: Callable[[nn.Sequential], None], named: str
) -> None:
    model = network()
    flat = FlatModel(model)
    flat.check()
    moves(model)
    with pytest.raises(ModelError, match=named):
        flat.check()
