"""Local training against slow, obvious answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from privet import Examples, Experiment
from privet.client.training import LocalTraining, loss_of, plan_round, train
from privet.errors import DataError
from privet.experiment import TrainingSettings
from privet.privacy.mechanisms import DpSgd, ExampleLoss, SeededNoise, privatise
from privet.randomness import numpy_generator, stream
from privet.tasks import load_task
from privet.tasks.registry import kept_tasks
from privet.tasks.task import Classification
from privet.vectors import FlatModel


class Line:
    """Linear classification of random points."""

    def model(self) -> nn.Module:
        return nn.Linear(3, 2)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)


def points(n: int) -> Examples:
    generator = torch.Generator().manual_seed(3)
    return Examples(torch.randn(n, 3, generator=generator), torch.arange(n) % 2)


def experiment(**settings: object) -> Experiment:
    return Experiment.from_mapping({"task": "unused"}).with_settings(settings)


def trained(setup: Experiment, examples: Examples, **arguments: object):
    arguments = {"plan": plan_round(setup, n_records=max(1, len(examples))), **arguments}
    weights = np.linspace(-1, 1, 8, dtype=np.float32)
    work = LocalTraining(
        lambda: FlatModel(Line().model()),
        ExampleLoss(Line().loss),
        examples,
        weights,
        training=setup.training,
        lr=setup.training.lr,
        noise=lambda: SeededNoise(stream(1, "noise")),
        draws=numpy_generator(stream(1, "batches")),
        **arguments,  # type: ignore[arg-type]
    )
    return weights, train(work)


def test_a_loss_that_a_task_sets_is_not_taken_for_the_one_of_its_class() -> None:
    """A target that is left out would change the divisor of all others."""

    class Masked(Classification):
        def __init__(self) -> None:
            self.loss = nn.CrossEntropyLoss(ignore_index=255)  # type: ignore[method-assign]

    settings = experiment().training
    outputs = torch.ones(3, 2)
    first, second = (
        loss_of(Masked(), settings).gradients(outputs, torch.tensor(targets), times=3.0)  # type: ignore[arg-type]
        for targets in ([0, 1, 1], [0, 1, 255])
    )
    torch.testing.assert_close(first[:2], second[:2])


@pytest.mark.parametrize(
    ("name", "drag"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.0}),
        ("adamw", {"weight_decay": 0.1}),
    ],
)
def test_plain_training_is_to_the_bit_a_loop_with_torchs_optimizer(
    name: str, drag: dict[str, float]
) -> None:
    settings = {"batch_size": 4, "epochs": 2, "optimizer": name, **drag}
    setup = experiment(**{f"training.{name}": value for name, value in settings.items()})
    examples = points(10)
    weights, result = trained(setup, examples)
    flat = FlatModel(Line().model())
    flat.load(weights)
    model = flat.module
    of_torch = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    optimizer = of_torch(model.parameters(), lr=0.1, **drag)
    rng = numpy_generator(stream(1, "batches"))
    for _ in range(2):
        order = torch.from_numpy(rng.permutation(10))
        for batch in order.split(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(
                model(examples.inputs[batch]), examples.targets[batch]
            ).backward()
            optimizer.step()
    np.testing.assert_array_equal(result.update, flat.vector() - weights)
    assert result.steps == 6


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_pass_ends_with_a_batch_of_one_record_when_one_is_left(batch_size: int) -> None:
    setup = experiment(**{"training.batch_size": batch_size, "training.epochs": 2})
    examples = points(9)
    rng = numpy_generator(stream(1, "batches"))
    weights, result = trained(setup, examples)
    flat = FlatModel(Line().model())
    flat.load(weights)
    model, steps = flat.module, 0
    for _ in range(2):
        order = torch.from_numpy(rng.permutation(9))
        for batch in order.split(batch_size):
            loss = Line().loss(model(examples.inputs[batch]), examples.targets[batch])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.1)
            steps += 1
    assert len(batch) == 1
    np.testing.assert_allclose(result.update, flat.vector() - weights, atol=1e-6)
    assert result.steps == steps == 2 * -(-9 // batch_size)


def test_a_private_batch_of_one_record_is_a_step_like_any_other() -> None:
    plan = DpSgd(0.0, 0.3, sampling_rate=0.5, steps=3, batch_size=2)
    examples = points(4)
    flat = FlatModel(Line().model())
    flat.load(np.linspace(-1, 1, 8, dtype=np.float32))
    model = flat.module.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with privatise(model, optimizer, plan=plan, noise=SeededNoise(stream(1))) as private:
        for batch in ([0, 1], [2, 3], [1]):
            before = flat.vector()
            private.optimizer.zero_grad()
            Line().loss(private.model(examples.inputs[batch]), examples.targets[batch]).backward()
            private.optimizer.step()
        moved = flat.vector() - before
    # One gradient, clipped to 0.3 and divided by the expected two records.
    assert np.linalg.norm(moved) == pytest.approx(0.3 / 2, rel=1e-3)
    assert private.ran == 3


def test_private_training_equals_clipping_one_example_at_a_time() -> None:
    setup = experiment(
        **{"training.batch_size": 4, "privacy.noise_multiplier": 0.7, "privacy.clip": 0.3}
    )
    examples = points(10)
    weights, result = trained(setup, examples)
    flat = FlatModel(Line().model())
    flat.load(weights)
    model = flat.module
    noise, rng = SeededNoise(stream(1, "noise")), numpy_generator(stream(1, "batches"))
    plan = plan_round(setup, n_records=10).mechanism
    assert plan is not None
    for batch in plan.batches(10, rng):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for row in batch:
            model.zero_grad()
            loss = nn.functional.cross_entropy(
                model(examples.inputs[row : row + 1]), examples.targets[row : row + 1]
            )
            loss.backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
            for part, p in zip(total, model.parameters(), strict=True):
                part += p.grad * min(1.0, 0.3 / float(norm))
        drawn = noise.normal((sum(p.numel() for p in model.parameters()),), 0.7 * 0.3).float()
        with torch.no_grad():
            for part, p in zip(total, model.parameters(), strict=True):
                own, drawn = drawn[: p.numel()], drawn[p.numel() :]
                p -= 0.1 * (part + own.view_as(p)) / 4
    np.testing.assert_allclose(weights + result.update, flat.vector(), atol=1e-5)
    assert result.steps == 3
    assert result.loss is None


def test_private_adamw_decays_beside_the_noisy_gradient_and_not_within_it() -> None:
    """Behind a step whose gradient is known, torch's own AdamW is where the silo is."""
    privacy = {"noise_multiplier": 0.8, "clip": 0.3}
    setup = experiment(
        privacy=privacy,
        **{"training.batch_size": 4, "training.steps": 3, "training.weight_decay": 0.5},
    )
    weights, plain = trained(setup.with_settings({"training.optimizer": "adam"}), points(12))
    _, decoupled = trained(setup.with_settings({"training.optimizer": "adamw"}), points(12))
    flat = FlatModel(Line().model())
    flat.load(weights)
    plan = plan_round(setup, n_records=12)
    assert plan.mechanism
    optimizer = torch.optim.AdamW(flat.module.parameters(), lr=0.1, weight_decay=0.5)
    noise, draws = SeededNoise(stream(1, "noise")), numpy_generator(stream(1, "batches"))
    examples, loss = points(12), ExampleLoss(Line().loss)
    with privatise(flat.module, optimizer, plan=plan.mechanism, noise=noise) as private:
        for batch in map(torch.from_numpy, plan.mechanism.batches(12, draws)):
            private.optimizer.zero_grad()
            outputs = private.model(examples.inputs[batch])
            private.backward(loss, outputs, examples.targets[batch])
            private.optimizer.step()
    np.testing.assert_array_equal(decoupled.update, flat.vector() - weights)
    assert np.abs(decoupled.update - plain.update).max() > 0.01


def test_a_correction_acts_after_the_noise_and_is_not_clipped() -> None:
    setup = experiment(**{"privacy.noise_multiplier": 1.0, "privacy.clip": 0.001})
    _, without = trained(setup, points(20))

    def push(parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad += 1.0

    _, pushed = trained(setup, points(20), correction=push)
    np.testing.assert_allclose(without.update - pushed.update, 0.1 * without.steps, rtol=1e-4)


def test_one_poisonous_record_cannot_spoil_the_model() -> None:
    setup = experiment(**{"privacy.noise_multiplier": 1.0, "training.batch_size": 20})
    examples = points(20)
    inputs = examples.inputs.clone()
    inputs[7] = torch.inf
    _, result = trained(setup, Examples(inputs, examples.targets))
    assert np.isfinite(result.update).all()
    assert result.nonfinite == result.steps  # a full batch holds the record in every step


@given(
    n=st.integers(1, 400),
    batch_size=st.integers(1, 100),
    epochs=st.integers(1, 4),
    steps=st.one_of(st.none(), st.integers(1, 20)),
)
def test_with_and_without_privacy_the_same_number_of_steps_is_planned(
    n: int, batch_size: int, epochs: int, steps: int | None
) -> None:
    length = {"epochs": epochs} if steps is None else {"steps": steps}
    training = TrainingSettings(batch_size=batch_size, **length)
    plain = Experiment(task="unused", training=training)
    private = plain.with_settings({"privacy.noise_multiplier": 1.0})
    one, other = plan_round(plain, n_records=n), plan_round(private, n_records=n)
    assert one.steps == other.steps == (steps or -(-n // min(batch_size, n)) * epochs)
    assert other.mechanism is not None
    assert other.mechanism.sampling_rate == min(batch_size, n) / n
    assert other.mechanism.batch_size == min(batch_size, n)


def test_no_record_left_to_train_on_ends() -> None:
    with pytest.raises(DataError, match="no record is left to train on"):
        trained(experiment(), points(5).take([]), plan=plan_round(experiment(), n_records=5))


def test_a_task_that_keeps_its_data_has_the_same_loss() -> None:
    plain = load_task("digits")
    with kept_tasks():
        kept = load_task("digits")
    assert type(kept) is not type(plain)
    assert loss_of(kept, TrainingSettings()).separable
    assert loss_of(plain, TrainingSettings()).separable
    assert not loss_of(Line(), TrainingSettings()).separable
