import pytest
import torch
from torch import nn

from privet.errors import ModelError
from privet.privacy.mechanisms import check_model

EXAMPLE = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))


def with_layer(layer):
    return nn.Sequential(nn.Linear(12, 8), nn.Sequential(nn.Tanh(), layer), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "name",
    ["mlp", "no bias", "cnn", "frozen part", "sequence", "twice", "bare parameter", "in place"],
)
def test_good_models_pass_and_stay_as_they_are(models, name):
    model = models[name]().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_model(model)
    check_model(model, EXAMPLE)
    check_model(model, EXAMPLE[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(not hasattr(p, "grad_sample") and p.grad is None for p in model.parameters())


def frozen(layer):
    return layer.requires_grad_(False)


@pytest.mark.parametrize(
    ("layer", "kind", "fix"),
    [
        (nn.BatchNorm1d(8), "BatchNorm1d", "GroupNorm"),
        (nn.BatchNorm1d(8, affine=False), "BatchNorm1d", "GroupNorm"),
        (nn.BatchNorm1d(8, track_running_stats=False), "BatchNorm1d", "GroupNorm"),
        (frozen(nn.BatchNorm1d(8)), "BatchNorm1d", "GroupNorm"),
        (nn.SyncBatchNorm(8), "SyncBatchNorm", "GroupNorm"),
        (
            nn.InstanceNorm1d(8, track_running_stats=True),
            "InstanceNorm1d",
            "track_running_stats=False",
        ),
        (nn.LSTM(8, 8), "LSTM", "DPLSTM"),
        (nn.GRU(8, 8), "GRU", "DPGRU"),
        (nn.MultiheadAttention(8, 2), "MultiheadAttention", "DPMultiheadAttention"),
    ],
)
def test_a_layer_that_voids_the_guarantee_is_named_with_the_fix(layer, kind, fix):
    with pytest.raises(ModelError) as caught:
        check_model(with_layer(layer))
    message = str(caught.value)
    assert f"'1.1' ({kind})" in message
    assert fix in message
    assert "\n" not in message


def test_shared_parameters_are_named():
    model = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    model[2].weight = model[0].weight
    with pytest.raises(ModelError, match=r"'0\.weight' and '2\.weight'"):
        check_model(model)
    layer = nn.Linear(12, 12)
    with pytest.raises(ModelError, match=r"'0\.weight' and '2\.weight'"):
        check_model(nn.Sequential(layer, nn.Tanh(), layer))
    viewed = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    viewed[2].weight.data = viewed[0].weight.data
    with pytest.raises(ModelError, match="share their memory"):
        check_model(viewed)


def test_only_float32_is_trained():
    with pytest.raises(ModelError, match=r"'weight' is torch\.float64: use float32"):
        check_model(nn.Linear(3, 3).double())
    with pytest.raises(ModelError, match=r"torch\.bfloat16"):
        check_model(nn.Linear(3, 3).bfloat16())


def test_nothing_to_train_and_no_shape_yet():
    with pytest.raises(ModelError, match="no trainable parameter"):
        check_model(nn.Sequential(nn.Tanh()))
    with pytest.raises(ModelError, match="no trainable parameter"):
        check_model(frozen(nn.Linear(3, 3)))
    with pytest.raises(ModelError, match="no shape yet"):
        check_model(nn.LazyLinear(3))


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x):
        y = self.layer(x)
        return y - y.mean(0)


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return self.layer(x)


class Constant(nn.Module):
    """A buffer that stays as it is harms nobody."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.register_buffer("scale", torch.full((12,), 0.5))

    def forward(self, x):
        return self.layer(x * self.scale)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x):
        return self.used(x)


class Folds(nn.Module):
    """The layer sees two rows for each example."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x):
        return self.layer(x.reshape(-1, 6).repeat(1, 2)).view(len(x), -1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Centred, "depends on the others"),
        (Remembers, "buffer 'seen' changes"),
        (Unused, r"spare\.weight"),
        (Folds, "8 rows for 4 examples"),
    ],
)
def test_a_trial_run_finds_what_the_layers_do_not_show(model, message):
    made = model()
    check_model(made)
    with pytest.raises(ModelError, match=message):
        check_model(made, EXAMPLE)


def test_constant_buffers_and_dropout_pass_the_trial_run():
    check_model(Constant(), EXAMPLE)
    check_model(with_layer(nn.Dropout(0.5)), EXAMPLE)


def test_an_output_without_a_row_for_each_example_is_refused():
    class Mean(nn.Linear):
        def forward(self, x):
            return super().forward(x).mean()

    with pytest.raises(ModelError, match="one row for each example"):
        check_model(Mean(12, 3), EXAMPLE)
