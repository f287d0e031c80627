import copy
import math
import pickle

import dp_accounting as dpa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import nn
from torch.nn import functional as F

from privet.errors import ModelError, PrivacyError
from privet.privacy.mechanisms import DpSgd, SeededNoise, SystemNoise, privatise
from privet.privacy.mechanisms.batched.chain import Linear
from privet.randomness import stream

NAMES = ["mlp", "no bias", "cnn", "frozen part", "sequence", "twice", "bare parameter", "in place"]
INPUTS = torch.randn(20, 12, generator=torch.Generator().manual_seed(1)) * 3
TARGETS = torch.arange(20) % 3


def plan(**changes):
    fine = {
        "noise_multiplier": 1.0,
        "clip": 0.5,
        "sampling_rate": 0.25,
        "steps": 4,
        "batch_size": 5.0,
    }
    return DpSgd(**{**fine, **changes})


def seeded(name="noise"):
    return SeededNoise(stream(7, name))


def mlp():
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def build(make=mlp):
    torch.manual_seed(3)
    return make().train()


def sgd(model, lr=1.0, **options):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr, **options)


def one_pass(private, inputs, targets):
    private.optimizer.zero_grad()
    F.cross_entropy(private.model(inputs), targets).backward()
    private.optimizer.step()


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def private_gradient(model, inputs, targets, made, noise):
    """What one private step of SGD with learning rate 1 takes off the trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    with privatise(model, sgd(model), plan=made, noise=noise) as private:
        one_pass(private, inputs, targets)
    return torch.cat([(b - p.detach()).reshape(-1) for b, p in zip(before, trainable, strict=True)])


def one_gradient(model, x, y):
    trainable = [p for p in model.parameters() if p.requires_grad]
    loss = F.cross_entropy(model(x[None]), y[None])
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, trainable)]).double()


def slow_oracle(model, inputs, targets, made, noise):
    """Algorithm 1 of Abadi et al., one example at a time, in double precision."""
    total = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad)).double()
    for x, y in zip(inputs, targets, strict=True):
        gradient = one_gradient(model, x, y)
        total += gradient * min(1.0, made.clip / float(gradient.norm()))
    total += noise.normal(total.shape, made.noise_multiplier * made.clip)
    return (total / made.batch_size).float()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", [0.5, 100.0], ids=["clipped", "unclipped"])
def test_a_step_is_that_of_a_slow_oracle(models, name, clip):
    model = build(models[name])
    expected = slow_oracle(model, INPUTS, TARGETS, plan(clip=clip), seeded())
    got = private_gradient(model, INPUTS, TARGETS, plan(clip=clip), seeded())
    assert torch.allclose(got, expected, rtol=1e-4, atol=clip * 1e-4)
    without = private_gradient(
        build(models[name]), INPUTS, TARGETS, plan(clip=clip, noise_multiplier=0.0), seeded()
    )
    assert not torch.allclose(got, without, atol=clip * 1e-2)


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_many_steps_are_those_of_bare_opacus():
    """Adam, ten Poisson batches, no noise: the same weights as GradSampleModule + DPOptimizer."""
    made = plan(noise_multiplier=0.0, steps=10)
    batches = [torch.from_numpy(b) for b in made.batches(20, np.random.default_rng(2))]
    ours, theirs = build(), build()
    adam = torch.optim.Adam(ours.parameters(), lr=0.01)
    with privatise(ours, adam, plan=made, noise=seeded()) as private:
        for batch in batches:
            one_pass(private, INPUTS[batch], TARGETS[batch])
    wrapped = GradSampleModule(theirs)
    optimizer = DPOptimizer(
        torch.optim.Adam(theirs.parameters(), lr=0.01),
        noise_multiplier=0.0,
        max_grad_norm=made.clip,
        expected_batch_size=5,
    )
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(wrapped(INPUTS[batch]), TARGETS[batch]).backward()
        optimizer.step()
    assert torch.allclose(flat(ours), flat(theirs), atol=1e-4)
    assert not torch.allclose(flat(ours), flat(build()), atol=1e-2)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_step_behind_a_frozen_base_is_that_of_opacus_on_its_features(noise):
    """BatchNorm and dropout rest; noise is drawn for the head alone, from the same source."""
    made = plan(noise_multiplier=noise, steps=5)
    ours = build(based)
    before = [each.clone() for each in (*ours[0].parameters(), *ours[0].buffers())]
    with privatise(ours, sgd(ours), plan=made, noise=seeded()) as private:
        for _ in range(5):
            one_pass(private, INPUTS, TARGETS)
        assert not ours[0][1].training
        assert all(not hasattr(p, "grad_sample") for p in ours[0].parameters())
    assert ours[0][1].training  # as it was given
    after = (*ours[0].parameters(), *ours[0].buffers())
    assert all(torch.equal(each, now) for each, now in zip(before, after, strict=True))
    base, head = build(based)
    with torch.no_grad():
        features = base.eval()(INPUTS)
    if noise:  # as in a training of the head alone
        with privatise(head, sgd(head), plan=made, noise=seeded()) as private:
            for _ in range(5):
                one_pass(private, features, TARGETS)
        assert torch.equal(flat(ours[1]), flat(head))
        return
    wrapped = GradSampleModule(head)
    optimizer = DPOptimizer(
        sgd(head), noise_multiplier=0.0, max_grad_norm=made.clip, expected_batch_size=5
    )
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(wrapped(features), TARGETS).backward()
        optimizer.step()
    assert torch.allclose(flat(ours[1]), flat(head), atol=1e-4)


def based():
    base = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5))
    return nn.Sequential(base.requires_grad_(False), nn.Linear(8, 3))


@given(
    exponent=st.floats(-6, 15),
    clip=st.floats(1e-3, 1e3),
    name=st.sampled_from(["mlp", "cnn", "twice"]),
)
@settings(max_examples=40, deadline=None)
def test_one_record_never_contributes_more_than_the_clip(models, exponent, clip, name):
    made = plan(clip=clip, noise_multiplier=0.0, batch_size=1.0)
    model = build(models[name])
    inputs = INPUTS[:1] * 10.0**exponent
    seen = []
    optimizer = sgd(model, lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad for p in model.parameters()))
    with privatise(model, optimizer, plan=made, noise=seeded()) as private:
        one_pass(private, inputs, TARGETS[:1])
    assert torch.cat([g.reshape(-1) for g in seen]).double().norm() <= clip


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_neighbouring_data_move_the_sum_by_at_most_the_clip(models, name):
    made = plan(noise_multiplier=0.0, batch_size=1.0)
    everybody = private_gradient(build(models[name]), INPUTS, TARGETS, made, seeded())
    for i in range(len(INPUTS)):
        others = [j for j in range(len(INPUTS)) if j != i]
        without = private_gradient(
            build(models[name]), INPUTS[others], TARGETS[others], made, seeded()
        )
        assert (everybody - without).norm() <= made.clip * (1 + 1e-4)
    assert everybody.norm() > made.clip  # the bound is one record's, not the batch's


def has_std(values, std, level=1e-4):
    """Whether a chi-square test at `level` accepts `std` for values of mean 0."""
    statistic = float((values.double() ** 2).sum()) / std**2
    return level / 2 < stats.chi2.cdf(statistic, values.numel()) < 1 - level / 2


@pytest.mark.parametrize("noise", [seeded("scale"), SystemNoise()], ids=["seeded", "system"])
def test_noise_has_the_planned_scale(noise):
    """Noise multiplier x clip / batch size; 2 % more or less is refused at level 1e-4."""
    torch.manual_seed(3)
    model = nn.Linear(500, 400).train()
    made = plan(noise_multiplier=1.7, clip=0.3)
    got = private_gradient(model, torch.zeros(0, 500), torch.zeros(0).long(), made, noise)
    std = 1.7 * 0.3 / 5.0
    assert has_std(got, std)
    assert not has_std(got, std * 1.02)
    assert not has_std(got, std / 1.02)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_is_a_step_of_noise_alone(models, name):
    model, noise = build(models[name]), seeded()
    got = private_gradient(model, INPUTS[:0], TARGETS[:0], plan(), noise)
    expected = seeded().normal(got.shape, 0.5).float() / 5.0
    assert torch.allclose(got, expected, atol=1e-6)


def test_empty_batches_count_and_training_goes_on():
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        one_pass(private, INPUTS[:0], TARGETS[:0])
        one_pass(private, INPUTS[:5], TARGETS[:5])
        one_pass(private, INPUTS[:0], TARGETS[:0])
    assert private.ran == 3
    assert torch.isfinite(flat(model)).all()


def test_each_step_has_its_own_noise():
    model, steps = build(), []
    optimizer = sgd(model)
    optimizer.register_step_pre_hook(
        lambda *_: steps.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    )
    with privatise(model, optimizer, plan=plan(), noise=seeded()) as private:
        for _ in range(4):
            one_pass(private, INPUTS[:0], TARGETS[:0])
    for i in range(4):
        for j in range(i):
            assert abs(np.corrcoef(steps[i], steps[j])[0, 1]) < 0.5
            assert not np.isin(steps[i].numpy(), steps[j].numpy()).any()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize("name", ["mlp", "cnn", "twice"])
def test_one_bad_example_contributes_zero_and_is_counted(models, name, bad):
    poisoned = INPUTS[:5].clone()
    poisoned[2, 4] = bad
    others = [0, 1, 3, 4]
    model = build(models[name])
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        one_pass(private, poisoned, TARGETS[:5])
    clean = build(models[name])
    with privatise(clean, sgd(clean), plan=plan(), noise=seeded()) as beside:
        one_pass(beside, INPUTS[others], TARGETS[others])
    assert torch.isfinite(flat(model)).all()
    if private.nonfinite:
        assert torch.allclose(flat(model), flat(clean), atol=1e-5)
    else:  # tanh survives a large number
        assert bad == 3e38
    assert private.nonfinite <= 1
    assert beside.nonfinite == 0


def test_all_examples_bad_leaves_noise():
    model = build()
    inputs = torch.full((5, 12), math.nan)
    got = private_gradient(model, inputs, TARGETS[:5], plan(), seeded())
    assert torch.allclose(got, seeded().normal(got.shape, 0.5).float() / 5.0, atol=1e-6)


def test_the_event_counts_the_steps_that_ran():
    made, model = plan(), build()
    with privatise(model, sgd(model), plan=made, noise=seeded()) as private:
        assert made.event(private.ran) == dpa.NoOpDpEvent()
        one_pass(private, INPUTS[:5], TARGETS[:5])
        one_pass(private, INPUTS[:5], TARGETS[:5])
    assert private.ran == 2
    assert made.event(private.ran).count == 2


def test_a_step_that_fails_after_its_noise_is_counted():
    model = build()
    optimizer = sgd(model)

    def fail(*_):
        raise OSError("disk full")

    optimizer.register_step_pre_hook(fail)
    with privatise(model, optimizer, plan=plan(), noise=seeded()) as private:
        with pytest.raises(OSError, match="disk full"):
            one_pass(private, INPUTS[:5], TARGETS[:5])
        assert private.ran == 1


def test_more_steps_than_planned_are_refused():
    model = build()
    with privatise(model, sgd(model), plan=plan(steps=2), noise=seeded()) as private:
        one_pass(private, INPUTS[:5], TARGETS[:5])
        one_pass(private, INPUTS[:5], TARGETS[:5])
        before = flat(model)
        with pytest.raises(PrivacyError, match="step 3 of a plan of 2"):
            one_pass(private, INPUTS[:5], TARGETS[:5])
    assert private.ran == 2
    assert torch.equal(flat(model), before)


def test_stepping_the_original_optimizer_is_impossible():
    model = build()
    optimizer = sgd(model)
    before = flat(model)
    with privatise(model, optimizer, plan=plan(), noise=seeded()) as private:
        F.cross_entropy(private.model(INPUTS), TARGETS).backward()
        with pytest.raises(PrivacyError, match="without noise"):
            optimizer.step()
    assert torch.equal(flat(model), before)
    F.cross_entropy(model(INPUTS), TARGETS).backward()
    optimizer.step()  # free again, and without a trace
    assert not torch.equal(flat(model), before)


def test_the_private_optimizer_ends_with_its_block():
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        one_pass(private, INPUTS, TARGETS)
    with pytest.raises(PrivacyError, match="closed"):
        private.optimizer.step()


def test_a_second_round_does_not_stack_hooks():
    model = build()
    fresh = build()
    for made in (plan(clip=0.1), plan(clip=10.0)):
        with privatise(model, sgd(model), plan=made, noise=seeded()) as private:
            one_pass(private, INPUTS, TARGETS)
            copied = build()
            copied.load_state_dict(fresh.state_dict())
        # The second round clips at its own bound, as a model that never saw the first would.
        with privatise(copied, sgd(copied), plan=made, noise=seeded()) as private:
            one_pass(private, INPUTS, TARGETS)
        assert torch.equal(flat(model), flat(copied))
        fresh.load_state_dict(model.state_dict())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
        assert not hasattr(parameter, "summed_grad")
    assert torch.equal(flat(copy.deepcopy(model)), flat(model))


def with_a_forbidden_step(model):
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        private.model(INPUTS)
        private.optimizer.step(lambda: 0.0)


def test_hooks_come_off_when_the_block_raises():
    model = build()
    with pytest.raises(PrivacyError, match="closure"):
        with_a_forbidden_step(model)
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        one_pass(private, INPUTS, TARGETS)
    assert private.ran == 1


def test_privatising_twice_at_once_is_refused():
    model = build()
    with (
        privatise(model, sgd(model), plan=plan(), noise=seeded()),
        pytest.raises(PrivacyError, match="already"),
        privatise(model, sgd(model), plan=plan(), noise=seeded()),
    ):
        pass


def test_clip_and_noise_cannot_be_set_apart():
    """What is written to the optimizer's attributes changes neither: both come from the plan."""
    model = build()
    expected = slow_oracle(model, INPUTS, TARGETS, plan(), seeded())
    before = flat(model)
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        private.optimizer.max_grad_norm = 100.0
        private.optimizer.noise_multiplier = 0.0
        private.optimizer.expected_batch_size = 1
        one_pass(private, INPUTS, TARGETS)
    assert torch.allclose(before - flat(model), expected, rtol=1e-4, atol=1e-5)


def test_gradients_cannot_be_used_twice_or_gathered():
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        one_pass(private, INPUTS, TARGETS)
        with pytest.raises(PrivacyError, match="without a forward"):
            private.optimizer.step()
        private.model(INPUTS)
        with pytest.raises(PrivacyError, match="one batch"):
            private.model(INPUTS)
        private.optimizer.zero_grad()
        with pytest.raises(PrivacyError, match="cannot be skipped"):
            private.optimizer.signal_skip_step()
        with pytest.raises(PrivacyError, match="closure"):
            private.optimizer.step(lambda: 0.0)
        assert private.ran == 1


def test_a_step_without_backward_is_refused():
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        private.model(INPUTS)
        with pytest.raises(ModelError, match="no per-example gradient"):
            private.optimizer.step()
        assert private.ran == 0


def test_evaluation_inside_the_block_is_free():
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        private.optimizer.zero_grad()
        loss = F.cross_entropy(private.model(INPUTS), TARGETS)
        with torch.no_grad():
            private.model(INPUTS)
        loss.backward()
        private.optimizer.step()
    assert private.ran == 1


def test_a_term_in_a_step_hook_comes_after_noise_and_is_not_clipped():
    """FedProx: a penalty added to the loss would be dropped without a word; a hook acts in full."""
    model, plain = build(), build()
    optimizer = sgd(model, lr=0.1)

    def pull(*_):
        for parameter in model.parameters():
            parameter.grad.add_(torch.full_like(parameter, 100.0))

    optimizer.register_step_pre_hook(pull)
    with privatise(model, optimizer, plan=plan(), noise=seeded()) as private:
        one_pass(private, INPUTS, TARGETS)
    with privatise(plain, sgd(plain, lr=0.1), plan=plan(), noise=seeded()) as private:
        one_pass(private, INPUTS, TARGETS)
    assert torch.allclose(flat(plain) - flat(model), torch.full_like(flat(model), 10.0))


def test_a_private_optimizer_is_neither_pickled_nor_copied():
    """Opacus' pickles and then breaks every optimizer of the process when it is read back."""
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        with pytest.raises(TypeError, match="privatise again"):
            pickle.dumps(private.optimizer)
        with pytest.raises(TypeError, match="privatise again"):
            copy.deepcopy(private.optimizer)


def test_examples_must_stay_in_rows():
    """Folding time into the batch would clip each time step instead of each example."""

    class Folds(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.view(-1, 4)).view(-1, 3, 3).mean(1)

    model = build(Folds)
    with privatise(model, sgd(model), plan=plan(), noise=seeded()) as private:
        with pytest.raises(ModelError, match="60 rows for 20 examples"):
            one_pass(private, INPUTS, TARGETS)
        assert private.ran == 0


def test_an_optimizer_over_other_parameters_is_refused():
    model, other = build(), build()
    few = torch.optim.SGD(model[0].parameters(), lr=1.0)
    many = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=1.0)
    for optimizer, message in ((few, "'2.weight' is not in"), (many, "not the model's")):
        with (
            pytest.raises(ModelError, match=message),
            privatise(model, optimizer, plan=plan(), noise=seeded()),
        ):
            pass


def test_an_unused_layer_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(12, 3), nn.Linear(12, 3)

        def forward(self, x):
            return self.used(x)

    model = build(Unused)
    with (
        privatise(model, sgd(model), plan=plan(), noise=seeded()) as private,
        pytest.raises(ModelError, match=r"spare\.weight"),
    ):
        one_pass(private, INPUTS, TARGETS)


def test_a_model_in_evaluation_mode_is_refused():
    model = build().eval()
    with (
        pytest.raises(ModelError, match=r"model\.train"),
        privatise(model, sgd(model), plan=plan(), noise=seeded()),
    ):
        pass


def test_a_buffer_that_training_changed_is_refused_at_the_end():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 3)
            self.register_buffer("mean", torch.zeros(12))

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return self.layer(x)

    model = build(Counts)
    with (
        pytest.raises(ModelError, match="'mean' changes when the model runs"),
        privatise(model, sgd(model), plan=plan(), noise=seeded()) as private,
    ):
        one_pass(private, INPUTS, TARGETS)


def test_batchnorm_does_not_get_in():
    model = build(lambda: nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3, affine=False)))
    with (
        pytest.raises(ModelError, match="GroupNorm"),
        privatise(model, sgd(model), plan=plan(), noise=seeded()),
    ):
        pass


@pytest.mark.filterwarnings("error")
def test_nothing_is_printed_about_what_does_not_concern_the_user(capfd):
    model = build()
    with privatise(model, sgd(model), plan=plan(), noise=SystemNoise()) as private:
        one_pass(private, INPUTS, TARGETS)
    assert capfd.readouterr() == ("", "")


class NoNoise:
    def normal(self, shape, std):
        return torch.zeros(*shape)


def test_no_gradient_is_longer_than_the_clip_norm_for_want_of_digits():
    """The square of so small an output's gradient is no float32, that of its product is."""
    model = nn.Linear(2, 2).train()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, -53.0]))
    made = plan(clip=1e-5, sampling_rate=1.0, steps=1, batch_size=1.0)
    record = torch.tensor([[1.7e19, 1.0]]), torch.tensor([0])
    assert private_gradient(model, *record, made, NoNoise()).norm() < 1.0001e-5
    factors = torch.tensor([[[1.7e19, 1.0]]]), torch.tensor([[[0.0, 9.6e-24]]])
    found = Linear(2, 2, bias=True).squared_norms(*factors)
    assert float(found) == pytest.approx((1.7e19 * 9.6e-24) ** 2, rel=1e-6)
