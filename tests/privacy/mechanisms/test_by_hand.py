"""Gradients by hand are those of each example alone, by autograd, whatever a layer's options."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from privet.errors import ModelError
from privet.privacy.mechanisms.gradients import Sums
from privet.privacy.mechanisms.per_example import PerExampleModule

Layered = Callable[[], nn.Module]


def each_alone(model: nn.Module, inputs: Tensor, at_output: Tensor) -> list[Tensor]:
    """The oracle: a loop of autograd, float64 (d,) for each example."""
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for row, back in zip(inputs, at_output, strict=True):
        value = (model(row[None]) * back).sum()
        parts = torch.autograd.grad(value, trained, allow_unused=True)
        pairs = zip(parts, trained, strict=True)
        found.append(
            torch.cat([torch.zeros(p.numel()) if g is None else g.reshape(-1) for g, p in pairs])
        )
    return [each.double() for each in found]


def by_hand(model: nn.Module, inputs: Tensor, at_output: Tensor) -> tuple[list[Tensor], Tensor]:
    """Each example's gradient as training gets it, (d,), and the norms, (n,)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapped = PerExampleModule(model)
    wrapped.loss_reduction = "sum"
    try:
        (wrapped(inputs) * at_output).sum().backward()
        parts = wrapped.collect()
        norms = torch.stack([part.squared_norms() for part in parts]).sum(0).sqrt()
        rows = []
        with torch.no_grad():
            for place in range(len(inputs)):
                sums: Sums = {p: torch.zeros_like(p, dtype=torch.float64) for p in trained}
                chosen = torch.zeros(len(inputs), dtype=torch.float64)
                chosen[place] = 1.0
                for part in parts:
                    part.add_weighted(chosen, sums)
                rows.append(torch.cat([sums[p].reshape(-1) for p in trained]))
    finally:
        wrapped.close()
    assert all("forward" not in vars(each) for each in model.modules())
    return rows, norms


def check(model: nn.Module, inputs: Tensor) -> None:
    model.train()
    with torch.no_grad():
        shape = model(inputs).shape
    at_output = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    wanted = each_alone(model, inputs, at_output)
    found, norms = by_hand(model, inputs, at_output)
    for row, expected, norm in zip(found, wanted, norms, strict=True):
        torch.testing.assert_close(
            row, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )
        # The norm is that of what is added up, not of something close to it.
        assert float(norm) == pytest.approx(float(row.norm()), rel=1e-12, abs=1e-30)


convolutions = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 3),
        "stride": st.integers(1, 3),
        "padding": st.sampled_from([0, 1, 2, "same", "valid"]),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2, 4]),
        "bias": st.booleans(),
    }
)


@given(
    options=convolutions,
    dims=st.sampled_from([1, 2]),
    channels=st.sampled_from([4, 8, 32]),
    first=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_convolutions(options, dims, channels, first, seed):
    """With few channels and with many, which take two ways; behind another layer or first."""
    if options["padding"] == "same":
        options["stride"] = 1
    torch.manual_seed(seed)
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    layer = kind(channels, 8, **options)
    before = nn.Identity() if first else nn.Sequential(kind(channels, channels, 1), nn.Tanh())
    sizes = (9,) if dims == 1 else (9, 7)
    check(nn.Sequential(before, layer, nn.Tanh()), torch.randn(5, channels, *sizes))


@given(
    padding=st.sampled_from([None, 0, 3]),
    places=st.sampled_from([(), (1,), (6,), (3, 4)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_embeddings(padding, places, seed):
    """Rows that an example looks up several times, and the one for padding."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(7, 5, padding_idx=padding), nn.Linear(5, 3), nn.Tanh())
    check(model, torch.randint(0, 7, (5, *places)))


class Shared(nn.Module):
    """One layer, twice in a pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(inputs)) + inputs)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 6), (6,)),
        (lambda: nn.Linear(6, 6, bias=False), (4, 6)),
        (lambda: nn.Conv2d(3, 3, 3, padding=1), (3, 5, 5)),
        (lambda: nn.Conv1d(8, 8, 3, padding="same", groups=2), (8, 7)),
        (lambda: nn.GroupNorm(2, 6), (6, 4)),
        (lambda: nn.GroupNorm(3, 6), (6,)),
    ],
)
def test_a_layer_that_is_used_twice(make: Layered, shape: tuple[int, ...]):
    torch.manual_seed(0)
    check(Shared(make()), torch.randn(5, *shape))


class Vocabulary(nn.Module):
    """An embedding of two inputs of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.words(inputs[:, :3])).sum(1) * self.words(inputs[:, 3:]).sum(1)


def test_an_embedding_that_is_used_twice():
    torch.manual_seed(0)
    check(Vocabulary(), torch.randint(0, 9, (6, 8)))


class Positions(nn.Module):
    """Words, and positions that are looked up in one row for all, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        where = torch.arange(inputs.shape[1]).unsqueeze(0)
        return torch.tanh(self.words(inputs) + self.places(where)).sum(1)


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_positions_that_are_the_same_for_all(rows: int):
    torch.manual_seed(0)
    check(Positions(), torch.randint(0, 9, (rows, 6)))


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 5), (4, 6)),
        (lambda: nn.Conv2d(3, 4, 2), (3, 5, 5)),
        (lambda: nn.GroupNorm(2, 6), (6, 4)),
    ],
)
def test_a_parameter_that_is_frozen_has_no_gradient(make: Layered, shape, name):
    torch.manual_seed(0)
    layer = make()
    getattr(layer, name).requires_grad_(False)
    check(nn.Sequential(layer, nn.Tanh()), torch.randn(5, *shape))


class Rnn(nn.Module):
    def __init__(self, layer: nn.Module, *, from_state: bool) -> None:
        super().__init__()
        self.layer = layer
        self.start = nn.Linear(4, 5) if from_state else None

    def forward(self, inputs: Tensor) -> Tensor:
        directions = 2 if self.layer.bidirectional else 1
        start = None
        if self.start is not None:
            one = torch.tanh(self.start(inputs[:, 0]))
            one = one.expand(self.layer.num_layers * directions, *one.shape).contiguous()
            start = (one, 2 * one)
        assert self.layer.hidden_size == 5
        outputs, (hidden, cell) = self.layer(inputs, start)
        return outputs.sum(1) + hidden[-1].repeat(1, directions) * cell[0].repeat(1, directions)


@given(
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    from_state=st.booleans(),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_an_lstm_in_one_function(layers, bidirectional, bias, from_state, steps, seed):
    torch.manual_seed(seed)
    layer = nn.LSTM(4, 5, layers, bias=bias, bidirectional=bidirectional, batch_first=True)
    check(Rnn(layer, from_state=from_state), torch.randn(5, steps, 4))


class Attending(nn.Module):
    """Attention with what torch's takes: other keys and values, masks, weights."""

    def __init__(self, masks: str, *, need_weights: bool, average: bool, **options) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2, **options)
        self.keys, self.values = (nn.Linear(6, getattr(self.layer, n)) for n in ("kdim", "vdim"))
        self.masks, self.asked = (
            masks,
            {"need_weights": need_weights, "average_attn_weights": average},
        )

    def forward(self, inputs: Tensor) -> Tensor:
        n, places, _ = inputs.shape
        query, key, value = inputs[:, :-1], self.keys(inputs), self.values(inputs)
        later = torch.ones(places - 1, places, dtype=torch.bool).triu(1)
        masks = {
            "none": {},
            "later": {"attn_mask": later},
            "added": {"attn_mask": torch.linspace(-1, 1, later.numel()).view_as(later)},
            "each": {"attn_mask": later.expand(2 * n, *later.shape)},
            "padding": {"key_padding_mask": inputs[:, :, 0] > 0.9, "attn_mask": later},
        }[self.masks]
        if not self.layer.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        output, weights = self.layer(query, key, value, **masks, **self.asked)
        output = output if self.layer.batch_first else output.transpose(0, 1)
        assert self.layer.embed_dim == 6
        shown = 0.0 if weights is None else weights.flatten(1).square().sum(1)[:, None]
        return output.sum(1) + shown


@given(
    masks=st.sampled_from(["none", "later", "added", "each", "padding"]),
    need_weights=st.booleans(),
    average=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    sizes=st.sampled_from([{}, {"kdim": 4}, {"kdim": 5, "vdim": 3}]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_attention(masks, need_weights, average, batch_first, bias, sizes, seed):
    torch.manual_seed(seed)
    model = Attending(
        masks,
        need_weights=need_weights,
        average=average,
        batch_first=batch_first,
        bias=bias,
        **sizes,
    )
    inputs = torch.randn(4, 4, 6)
    inputs[:, 0, 0] = 0.0  # a place that everybody may see
    check(model, inputs)
    before = model(inputs)
    wrapped = PerExampleModule(model)
    torch.testing.assert_close(wrapped(inputs), before)
    wrapped.close()
    assert type(model.layer) is nn.MultiheadAttention


@pytest.mark.parametrize("kind", ["encoder", "decoder", "part frozen"])
def test_transformers_train_as_they_are(kind: str):
    torch.manual_seed(0)
    options = {"dim_feedforward": 10, "dropout": 0.0, "batch_first": True}
    if kind == "decoder":
        model = nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, **options), 2)

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, inputs: Tensor) -> Tensor:
                mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
                return self.model(inputs, inputs * 2, tgt_mask=mask, tgt_is_causal=True)

        return check(Both(), torch.randn(5, 3, 6))
    layer = nn.TransformerEncoderLayer(6, 2, norm_first=kind == "encoder", **options)
    if kind == "part frozen":
        layer.self_attn.in_proj_weight.requires_grad_(False)
        layer.self_attn.out_proj.bias.requires_grad_(False)
    return check(nn.TransformerEncoder(layer, 2), torch.randn(5, 3, 6))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("channels", [3, 16])
def test_what_is_not_finite_stays_in_its_example(channels, bad):
    """Examples go through one kernel together; a NaN that met another's zero would be one there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU())
    model.train()
    clean = torch.randn(9, channels, 8, 8)
    inputs, at_output = clean.clone(), torch.randn(9, 16, 8, 8)
    inputs[4, 0, 3, 3] = bad
    _, norms = by_hand(model, inputs, at_output)
    wanted, _ = by_hand(model, clean, at_output)
    assert (~norms.isfinite()).nonzero().tolist() == [[4]]
    for place in (0, 1, 2, 3, 5, 6, 7, 8):
        torch.testing.assert_close(norms[place], wanted[place].norm(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: nn.Conv2d(6, 5, 3)])
def test_a_layer_that_sees_no_examples_in_rows_is_refused(make: Layered):
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs.mean(0)) + inputs.sum() * 0

    model = Mixing().train()
    with pytest.raises(ModelError, match="keep the first one for the examples"):
        PerExampleModule(model)(
            torch.randn(4, 6) if isinstance(model.layer, nn.Linear) else torch.randn(4, 6, 5, 5)
        )


def test_torch_gets_no_gradient_of_what_is_by_hand():
    """That of the batch would be worked out for nobody, and nobody may have it."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 3))
    wrapped = PerExampleModule(model.train())
    wrapped(torch.randn(5, 1, 5, 5)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(wrapped.collect()) == 5
    wrapped.close()
