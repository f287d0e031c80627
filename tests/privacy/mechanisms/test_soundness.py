from array import array
from functools import partial

import numpy as np
import pytest
import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import nn
from torch.nn import functional as F

from privet.base import Base
from privet.errors import ModelError
from privet.privacy.mechanisms import (
    ExampleLoss,
    ExampleType,
    check_evaluation,
    check_model,
    check_training,
)
from privet.privacy.mechanisms.per_example import PerExampleModule
from privet.privacy.mechanisms.recurrent import restore, stand_ins
from privet.privacy.mechanisms.soundness import reachable

LIKE = ExampleType((12,))


def check(model, like=LIKE, loss=F.cross_entropy):
    check_training(model, ExampleLoss(loss), like)


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
    check(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(not hasattr(p, "grad_sample") and p.grad is None for p in model.parameters())


def frozen(layer):
    return layer.requires_grad_(False)


class OwnRecurrent(nn.LSTM):
    """Whatever it does, what stands in for torch's would not do it."""


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
        (nn.LSTM(8, 8, proj_size=4), "LSTM", "a linear layer behind it"),
        (OwnRecurrent(8, 8), "OwnRecurrent", "nn.LSTM"),
        (nn.LSTMCell(8, 8), "LSTMCell", "nn.LSTM"),
        (nn.MultiheadAttention(8, 2, add_bias_kv=True), "MultiheadAttention", "add_bias_kv"),
        (nn.MultiheadAttention(8, 2, add_zero_attn=True), "MultiheadAttention", "add_zero_attn"),
    ],
)
def test_a_layer_that_voids_the_guarantee_is_named_with_the_fix(layer, kind, fix):
    with pytest.raises(ModelError) as caught:
        check_model(with_layer(layer))
    message = str(caught.value)
    assert f"'1.1' ({kind})" in message
    assert fix in message
    assert "\n" not in message


def test_a_frozen_part_at_rest_needs_no_gradients_of_its_own():
    part = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False))
    model = nn.Sequential(frozen(part), nn.Linear(8, 3))
    check(model)
    with pytest.raises(ModelError, match=r"'0\.1' \(BatchNorm1d\) mixes the examples"):
        check_model(model.train())  # as it is, the batch would be mixed
    check_model(Base.of(model).train(), Base.of(model))
    layer = nn.LSTM(12, 9, 2, batch_first=True, dropout=0.5, proj_size=8)
    check(nn.Sequential(frozen(layer), _First(), nn.Linear(8, 3)), ExampleType((5, 12)))


class _First(nn.Module):
    def forward(self, outputs):
        return outputs[0][:, -1]


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(8, track_running_stats=False), nn.Embedding(9, 8, max_norm=1.0)]
)
def test_what_moves_or_mixes_though_it_is_frozen_is_refused(layer):
    with pytest.raises(ModelError, match=r"mixes the examples|renormalises its weights"):
        check_model(Base.of(with_layer(frozen(layer))).train())


def test_statistics_that_are_declared_constant_do_not_make_a_batchnorm_train():
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    base = Base.of(model, ["1.*"])
    with pytest.raises(ModelError, match=r"use nn\.GroupNorm"):
        check_training(model, ExampleLoss(F.cross_entropy), LIKE, base=base)


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
    """Centres the batch; functional dropout would hide it from whoever compares random outputs."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.layer, self.drop = nn.Linear(12, 3), drop

    def forward(self, x):
        y = self.layer(x)
        return F.dropout(y - y.mean(0), self.drop, self.training)


class Counted(nn.Module):
    """Says how many are in the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x):
        return self.layer(F.dropout(x / len(x), 0.2, self.training))


class Keeps(nn.Module):
    """Keeps something of the batch where `keep` puts it."""

    def __init__(self, keep):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.register_buffer("buffer", torch.zeros(12))
        self.frozen = nn.Parameter(torch.zeros(12), requires_grad=False)
        self.plain, self.number, self.nested = torch.zeros(12), 0.0, {"kept": [np.zeros(12)]}
        self.keep = keep

    def forward(self, x):
        self.keep(self, x.detach().mean(0))
        return self.layer(x)


def _plainly(model, mean):
    model.plain = mean


def _in_a_number(model, mean):
    model.number += float(mean.sum())


def _deep_inside(model, mean):
    model.nested["kept"][0] = mean.numpy()


def _in_the_class(model, mean):
    type(model).seen = mean


KEPT = {
    "buffer": lambda model, mean: model.buffer.add_(mean),
    "frozen": lambda model, mean: model.frozen.data.mul_(0.9).add_(mean, alpha=0.1),
    "plain": _plainly,
    "number": _in_a_number,
    r"nested\['kept'\]\[0\]": _deep_inside,
    "seen": _in_the_class,
}


class Slotted:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 0.0


SEEN, LAST = [], torch.zeros(12)


def _boxed(box, mean):
    box[0] = float(mean[0])


def _closed_over():
    box = [0.0]
    return lambda mean: box.__setitem__(0, float(mean[0]))


HIDDEN = {
    "not a number yet": (float("nan"), lambda model, mean: setattr(model, "kept", float(mean[0]))),
    "no numbers yet": (
        torch.full((12,), float("nan")),
        lambda model, mean: setattr(model, "kept", mean * 0) if float(mean.sum()) else None,
    ),
    "slots": (Slotted(), lambda model, mean: setattr(model.kept, "value", float(mean[0]))),
    "bytes": (bytearray(4), lambda model, mean: model.kept.__setitem__(0, int(mean[0] > 0) + 1)),
    "array": (array("d", [0.0]), lambda model, mean: _boxed(model.kept, mean)),
    "partial": (partial(_boxed, [0.0]), lambda model, mean: model.kept(mean)),
    "closure": (_closed_over(), lambda model, mean: model.kept(mean)),
    "global list": (None, lambda model, mean: SEEN.append(mean)),
    "global tensor": (None, lambda model, mean: LAST.copy_(mean)),
    "function": (None, lambda model, mean: setattr(_boxed, "last", float(mean[0]))),
    "iterator": (iter(()), lambda model, mean: setattr(model, "kept", iter([float(mean[0])]))),
}


class Hides(Keeps):
    def __init__(self, kept, keep):
        super().__init__(keep)
        self.kept = kept


@pytest.mark.parametrize("place", HIDDEN)
def test_no_place_that_a_model_reaches_is_left_out(place):
    kept, keep = HIDDEN[place]
    with pytest.raises(ModelError, match=r"changes when the model runs|cannot be compared"):
        check(Hides(kept, keep))


def test_what_cannot_be_compared_is_refused():
    unfit, fine = (Hides(None, lambda model, mean: None) for _ in range(2))
    unfit.kept = (number for number in range(3))
    with pytest.raises(ModelError, match="'kept' is a generator, which cannot be compared"):
        reachable(unfit)
    fine.kept = {"kind": torch.float32, "how": F.relu, "at": torch.device("cpu"), "of": range(3)}
    check(fine)


class Counts(nn.Module):
    """A declared counter of passes, or of what comes in."""

    counters = ("passes",)

    def __init__(self, by_content=False):
        super().__init__()
        self.layer, self.passes, self.by_content = nn.Linear(12, 3), 0, by_content

    def forward(self, x):
        self.passes += int(x.abs().sum() > 0) if self.by_content else 1
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


class Tied(nn.Module):
    """Uses the first layer's weight once more, through a function that Opacus does not see."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(12, 12, bias=False), nn.Linear(12, 3), drop

    def forward(self, x):
        hidden = F.dropout(torch.tanh(self.first(x)), self.drop, self.training)
        return self.last(F.linear(hidden, self.first.weight))


class Numpy(nn.Module):
    """Draws its randomness where torch cannot hold it fixed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x):
        return self.layer(x * float(np.random.default_rng().random()))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Centred, "depends on the others"),
        (lambda: Centred(0.1), "depends on the others"),
        (Counted, "depends on the others"),
        (Unused, r"spare\.weight"),
        (Folds, "8 rows for 4 examples"),
        (Tied, "differ from the gradients of each example alone"),
        (lambda: Tied(0.1), "differ from the gradients of each example alone"),
        (Numpy, "draws its randomness elsewhere"),
        (lambda: Counts(by_content=True), "'passes' is declared a counter, but it depends"),
    ],
)
def test_a_trial_run_finds_what_the_layers_do_not_show(model, message):
    made = model()
    check_model(made)
    with pytest.raises(ModelError, match=message):
        check(made)


@pytest.mark.parametrize("path", KEPT)
def test_state_that_a_batch_moves_is_refused_wherever_it_is_kept(path):
    with pytest.raises(ModelError, match=rf"{path}['\"] changes when the model runs"):
        check(Keeps(KEPT[path]))


class Two(nn.Module):
    """Two layers, with `between` on what lies between them and `first` on the inputs."""

    counters = ("passes",)

    def __init__(self, *, first=lambda model, x: x, between=lambda hidden: hidden):
        super().__init__()
        self.start, self.end = nn.Linear(64, 16), nn.Linear(16, 3)
        self.passes, self.first, self.between = 0, first, between

    def forward(self, x):
        self.passes += 1
        hidden = torch.tanh(self.start(self.first(self, x.float())))
        return self.end(self.between(hidden))


class Gate(nn.Module):
    """Lets the mean of the batch through once its weight is not zero any more."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16))

    def forward(self, hidden):
        return hidden + self.weight * hidden.mean(0)


def _longest(model, x):
    """Padded sequences, cut at the end of the longest."""
    used = (x != 0).any(0).nonzero()
    return x + x[:, : int(used.max()) + 1 if len(used) else 1].mean(1, keepdim=True)


def _held_down(hidden):
    """Against exploding gradients."""
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: gradient * min(1.0, 10 / gradient.norm().item()))
    return hidden


DEPENDS = "depends on the others"
UNALIKE = "differ from the gradients of each example alone"


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        ({"first": lambda _, x: x / 255 if x.max() > 1 else x}, torch.float32, DEPENDS),
        ({"first": lambda _, x: x / 255 if x.max() > 1 else x}, torch.uint8, DEPENDS),
        ({"first": lambda _, x: x.clamp(max=8 * float(x.std()))}, torch.float32, DEPENDS),
        ({"first": lambda _, x: x - x.mean(0) if len(x) > 16 else x}, torch.float32, DEPENDS),
        ({"first": _longest}, torch.float32, DEPENDS),
        ({"first": lambda m, x: x - x.mean(0) if m.passes > 999 else x}, torch.float32, DEPENDS),
        ({"between": Gate()}, torch.float32, DEPENDS),
        ({"between": _held_down}, torch.float32, UNALIKE),
    ],
    ids=["range", "bytes", "outliers", "many", "padding", "later", "gate", "gradients"],
)
def test_what_a_batch_does_only_at_times_is_found(parts, kind, message):
    """At some sizes, scales, weights or numbers of passes."""
    with pytest.raises(ModelError, match=message):
        check(Two(**parts), ExampleType((64,), kind))


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_parameter_with_a_hook_is_refused(hook):
    """torch's tutorial steps the optimizer in one, on the gradient of the whole batch."""
    model = nn.Linear(12, 3)
    getattr(model.bias, hook)(lambda given: None)
    with pytest.raises(ModelError, match="'bias' has hooks"):
        check(model)


def test_what_a_hook_of_a_layer_keeps_is_found():
    model, kept = with_layer(nn.Tanh()), []
    model[0].register_forward_hook(lambda *passed: kept.append(passed[-1].detach()))
    with pytest.raises(ModelError, match="changes when the model runs"):
        check(model)


def test_a_model_that_trains_in_part_by_turns_is_refused():
    def turn(model, x):
        model.end.requires_grad_(model.passes < 999)
        return x

    with pytest.raises(ModelError, match=r"'end\.weight\.requires_grad' changes"):
        check(Two(first=turn), ExampleType((64,)))


def test_a_model_whose_copy_is_another_one_is_refused():
    class Sealed(Centred):
        def __deepcopy__(self, memo):
            return nn.Linear(12, 3)

    with pytest.raises(ModelError, match="a copy of the model differs"):
        check(Sealed())


class Running:
    """Divides by the running mean of what it gave before."""

    def __init__(self):
        self.mean = torch.tensor(1.0)

    def __call__(self, outputs, targets):
        value = F.cross_entropy(outputs, targets)
        self.mean = self.mean + 1e-6 * (value.detach() - self.mean)
        return value / self.mean


class Keeping:
    """A task whose loss keeps something in a part of it."""

    def __init__(self):
        self.part, self.connection = Running(), (number for number in range(3))

    def scaled(self, *passed):
        return self.part(*passed)

    def loss(self, outputs, targets):
        return self.scaled(outputs, targets)


@pytest.mark.parametrize("loss", [Running(), Keeping().loss])
def test_a_loss_that_keeps_something_is_refused(loss):
    with pytest.raises(ModelError, match="mean' changes when the loss is taken"):
        check(nn.Linear(12, 3), loss=loss)


def test_a_loss_with_a_penalty_on_parameters_is_refused():
    """Only what comes through the outputs is taken: the penalty would be left out in silence."""
    model = nn.Linear(12, 3)

    def penalised(outputs, targets):
        return F.cross_entropy(outputs, targets) + 0.01 * model.weight.square().sum()

    with pytest.raises(ModelError, match=r"training\.weight_decay"):
        check(model, loss=penalised)


def test_evaluation_in_which_rows_depend_on_each_other_is_refused():
    class Aligned(nn.Linear):
        def forward(self, x):
            return super().forward(x if self.training else x - x.mean(0))

    check(Aligned(12, 3))
    with pytest.raises(ModelError, match=DEPENDS):
        check_evaluation(Aligned(12, 3), LIKE)
    check_evaluation(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8)), LIKE)


def test_constants_dropout_and_counters_pass_the_trial_run():
    check(Constant())
    check(Two(), ExampleType((64,)))
    check(Counts())
    for layer in (nn.Dropout(0.5), nn.AlphaDropout(0.3), nn.RReLU(), nn.FeatureAlphaDropout(0.2)):
        check(with_layer(layer))


def test_an_output_without_a_row_for_each_example_is_refused():
    class Mean(nn.Linear):
        def forward(self, x):
            return super().forward(x).mean()

    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x.mean()

    for kind in (Mean, Two):
        with pytest.raises(ModelError, match="one row for each example"):
            check(kind(12, 3))


class Tokens(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(20, 6, **options), nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(self.embedding(x.long()).mean(1))


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.uint8])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"padding_idx": 1}])
def test_embeddings_are_tried_on_indices_that_they_have(kind, options):
    check(Tokens(**options), ExampleType((5,), kind))


def test_an_embedding_that_renormalises_what_it_looks_up_is_refused():
    with pytest.raises(ModelError, match=r"'embedding' \(Embedding\) renormalises .* max_norm"):
        check_model(Tokens(max_norm=100.0))  # too large a norm for any trial to run into

    class Functional(Tokens):
        def forward(self, x):
            rows = F.embedding(x.long(), self.embedding.weight, max_norm=50.0)
            return self.layer(rows.mean(1))

    with pytest.raises(ModelError, match=r"'embedding\.weight' changes"):
        check(Functional(), ExampleType((5,), torch.int64))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(4, 6, batch_first=True, **options)
        width = 6 * (2 if options.get("bidirectional") else 1)
        self.layer = nn.Linear(width, 3)

    def forward(self, x):
        return self.layer(self.cells(x.reshape(len(x), 3, 4))[0][:, -1])


SHAPES = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "dropout": 0.3},
]


@pytest.mark.parametrize("kind", [DPLSTM, DPGRU, DPRNN])
@pytest.mark.parametrize("options", SHAPES)
def test_recurrent_layers_of_opacus_train(kind, options):
    check(Recurrent(kind, **options))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, partial(nn.RNN, nonlinearity="relu")])
@pytest.mark.parametrize("options", SHAPES)
def test_recurrent_layers_of_torch_train_and_stay_what_they_are(kind, options):
    """Others stand in for them meanwhile, on the same parameters."""
    model = Recurrent(kind, **options)
    layer, before = model.cells, [(name, id(p)) for name, p in model.named_parameters()]
    check(model)
    found = per_example(model, torch.randn(5, 12))
    assert model.cells is layer
    assert [(name, id(p)) for name, p in model.named_parameters()] == before
    assert {*found} == {name for name, _ in before}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_what_stands_in_for_a_recurrent_layer_does_the_same(kind, batch_first):
    """States to begin with and those at the end, and weights that a model looks at, included."""
    torch.manual_seed(2)
    layer = kind(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
    holder = nn.ModuleList([layer, layer])
    inputs, hidden = torch.randn(5, 5, 3), torch.randn(4, 5, 4)
    start = (hidden, torch.randn(4, 5, 4)) if kind is nn.LSTM else hidden
    wanted = [layer(inputs), layer(inputs, start)]
    replaced = stand_ins(holder)
    assert holder[0] is holder[1] is not layer
    found = [holder[0](inputs), holder[0](inputs, start)]
    assert holder[0].weight_hh_l1_reverse is layer.weight_hh_l1_reverse
    restore(replaced)
    assert holder[0] is holder[1] is layer
    torch.testing.assert_close(found, wanted)


def test_a_recurrent_layer_with_hooks_is_refused_and_put_back():
    model = Recurrent(nn.LSTM)
    layer = model.cells
    layer.register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(ModelError, match="has hooks"):
        check(model)
    assert model.cells is layer


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gradients_of_a_recurrent_model_are_those_of_each_example_alone(kind):
    """By autograd through torch's own layer."""
    torch.manual_seed(3)
    model, inputs = Recurrent(kind, num_layers=2, bidirectional=True), torch.randn(6, 12)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    for name, found in per_example(model, inputs, targets).items():
        for place in range(6):
            model.zero_grad()
            alone = slice(place, place + 1)
            F.cross_entropy(model(inputs[alone]), targets[alone]).backward()
            wanted = dict(model.named_parameters())[name].grad
            torch.testing.assert_close(found[place], wanted, rtol=1e-4, atol=1e-6)


def per_example(model, inputs, targets=None):
    """By name: the gradients of the parameters, (n, ...), as training gets them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    wrapped = PerExampleModule(model.train())
    try:
        outputs = wrapped(inputs)
        labels = torch.zeros(len(inputs), dtype=torch.int64) if targets is None else targets
        F.cross_entropy(outputs, labels).backward()
        parts = wrapped.collect()
        found = {}
        for row in range(len(inputs)):
            sums = {p: torch.zeros_like(p, dtype=torch.float64) for p in names}
            chosen = torch.zeros(len(inputs), dtype=torch.float64)
            chosen[row] = 1.0
            with torch.no_grad():
                for part in parts:
                    part.add_weighted(chosen, sums)
            for parameter, name in names.items():
                found.setdefault(name, []).append(sums[parameter].float().clone())
        return {name: torch.stack(rows) for name, rows in found.items()}
    finally:
        wrapped.close()


WEIGHTS = torch.tensor([1.0, 2.0, 10.0])


def _ignoring(outputs, targets):
    return F.cross_entropy(outputs, torch.where(targets == 1, -100, targets))


def _pairs(outputs, targets):
    return F.cross_entropy(outputs, targets) + (outputs[:, None] - outputs[None]).square().mean()


def _normalised(outputs, targets):
    each = F.cross_entropy(outputs, targets, reduction="none")
    return (each / each.sum().detach()).mean()


def _cox(outputs, targets):
    """The partial likelihood: a risk over the risks of all who are still there."""
    order = outputs[:, 0][targets.argsort(descending=True)]
    return -(order - order.logcumsumexp(0)).mean()


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: F.cross_entropy(outputs, targets, weight=WEIGHTS),
        lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="sum"),
        _ignoring,
        _pairs,
        _normalised,
        _cox,
    ],
    ids=["weights", "sum", "ignore", "pairs", "normalised", "cox"],
)
def test_a_loss_in_which_examples_weigh_on_each_other_is_refused(loss):
    with pytest.raises(ModelError, match="not the mean of its examples' own losses") as caught:
        check(nn.Linear(12, 3), loss=loss)
    assert "training.class_weights" in str(caught.value)


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=0.1),
        lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
        lambda o, t: (F.cross_entropy(o, t, reduction="none") * WEIGHTS[t]).mean(),
        lambda outputs, targets: F.multi_margin_loss(outputs, targets),
    ],
    ids=["smoothed", "unreduced", "weighted one by one", "margin"],
)
def test_a_mean_over_examples_is_taken(loss):
    check(nn.Linear(12, 3), loss=loss)


def test_a_loss_of_one_output_and_of_numbers_is_taken():
    one = nn.Sequential(nn.Linear(12, 1), nn.Flatten(0))
    numbers = ExampleType((12,), target_type=torch.float32)
    check(one, loss=lambda o, t: F.binary_cross_entropy_with_logits(o, t.float()))
    check(one, numbers, F.mse_loss)
    check(nn.Sequential(one, nn.Sigmoid()), numbers, F.binary_cross_entropy)


def test_a_loss_that_fails_or_is_no_number_is_refused():
    for loss in (
        lambda outputs, targets: F.cross_entropy(outputs, targets) * float("nan"),
        lambda outputs, targets: outputs.no_such_thing(targets),
    ):
        with pytest.raises(ModelError, match="fails, or is not finite"):
            check(nn.Linear(12, 3), loss=loss)


OUTPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])


def _if(outputs, targets):
    """Code that torch cannot batch, and that looks at the whole batch."""
    return F.cross_entropy(outputs, targets) * (2.0 if float(outputs.max()) > 1 else 1.0)


@pytest.mark.parametrize("weights", [None, (1.0, 50.0, 3.0)])
@pytest.mark.parametrize("loss", [F.cross_entropy, _pairs, _normalised, _if, _cox])
def test_an_examples_gradient_is_that_of_its_loss_alone_whatever_the_loss_does(loss, weights):
    got = ExampleLoss(loss, weights).gradients(OUTPUTS, TARGETS, times=6.0)
    for place in range(6):
        leaf = OUTPUTS[place : place + 1].clone().requires_grad_()
        loss(leaf, TARGETS[place : place + 1]).sum().backward()
        weight = weights[TARGETS[place]] if weights else 1.0
        torch.testing.assert_close(got[place], weight * leaf.grad[0])


@pytest.mark.parametrize("weights", [None, (1.0, 50.0, 3.0)])
def test_the_quick_way_gives_the_same(weights):
    slow = ExampleLoss(F.cross_entropy, weights).gradients(OUTPUTS, TARGETS, times=6.0)
    quick = ExampleLoss(F.cross_entropy, weights, separable=True).gradients(
        OUTPUTS, TARGETS, times=6.0
    )
    torch.testing.assert_close(quick, slow)
    left_out = torch.where(TARGETS == 1, -100, TARGETS)  # a mean would be over fewer of them
    found = ExampleLoss(F.cross_entropy, separable=True).gradients(OUTPUTS, left_out, times=6.0)
    kept = TARGETS != 1
    one_by_one = ExampleLoss(F.cross_entropy).gradients(OUTPUTS, TARGETS, times=6.0)
    torch.testing.assert_close(found[kept], one_by_one[kept])
    assert ExampleLoss(F.cross_entropy).gradients(OUTPUTS[:0], TARGETS[:0], times=1.0).shape == (
        0,
        3,
    )


def test_class_weights_weigh_examples_and_fit_the_outputs():
    loss = ExampleLoss(F.cross_entropy, (1.0, 50.0, 3.0))
    each = F.cross_entropy(OUTPUTS, TARGETS, reduction="none")
    expected = (each * torch.tensor([1.0, 50.0, 3.0])[TARGETS]).mean()
    torch.testing.assert_close(loss(OUTPUTS, TARGETS), expected)
    with pytest.raises(ModelError, match=r"training\.class_weights has 2 numbers, but the model"):
        check_training(nn.Linear(12, 3), ExampleLoss(F.cross_entropy, (1.0, 2.0)), LIKE)
    with pytest.raises(
        ModelError, match=r"training\.class_weights has 1 numbers?, but the targets"
    ):
        check_training(
            nn.Linear(12, 1),
            ExampleLoss(F.mse_loss, (1.0,)),
            ExampleType((12,), target_type=torch.float32),
        )
