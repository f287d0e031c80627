"""Records read when asked for, augmented at every reading, and batches in parts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lazy_tasks import padded
from privet import Examples, Experiment, LazyExamples
from privet.base import Base
from privet.client.training import LocalTraining, demand_transform, loss_of, plan_round, train
from privet.errors import DataError, ExperimentError
from privet.experiment import TrainingSettings
from privet.privacy.mechanisms import DpSgd, ExampleType, SeededNoise
from privet.privacy.mechanisms.physical import BUDGET, physical_batch
from privet.randomness import numpy_generator, stream
from privet.tasks import check_examples
from privet.tasks.task import seeded_model
from privet.vectors import FlatModel
from tree_tasks import Pixels, Tokens

TRAINING = {"batch_size": 8, "lr": 0.3, "epochs": 1}


def work_of(task: Any, examples: Examples, **training: Any) -> LocalTraining:
    setup = Experiment.from_mapping({"task": "unused", "training": {**TRAINING, **training}})
    flat, count = FlatModel(seeded_model(task, 1)), len(examples)
    made = DpSgd(noise_multiplier=0.5, clip=0.1, sampling_rate=8 / count, steps=4, batch_size=8.0)
    plan = replace(plan_round(setup, n_records=count), mechanism=made, steps=4)
    return LocalTraining(
        lambda: flat,
        loss_of(task, setup.training),
        examples,
        flat.vector(),
        plan,
        setup.training,
        lr=0.3,
        noise=lambda: SeededNoise(stream(1, "noise")),
        chance=11,
        draws=numpy_generator(stream(1, "batches")),
    )


def plain(work: LocalTraining) -> LocalTraining:
    return replace(work, plan=replace(work.plan, mechanism=None))


class Items(torch.utils.data.Dataset[Any]):
    """What `Tokens` has in memory, item by item, of their own lengths."""

    def __init__(self) -> None:
        self.examples = Tokens().train_data()
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        ids, mask = (self.examples.inputs[name][index] for name in ("input_ids", "attention_mask"))
        return ids[: int(mask.sum())], int(self.examples.targets[index])


def lazily(**options: Any) -> LazyExamples:
    return LazyExamples(Items(), collate_fn=padded, **options)


def test_records_that_are_read_when_asked_train_as_those_in_memory() -> None:
    task = Tokens()
    for prepare in (plain, lambda work: work):
        held = train(prepare(work_of(task, task.train_data()))).update
        read = train(prepare(work_of(task, lazily()))).update
        np.testing.assert_array_equal(held, read)


def test_one_pass_recognises_records_as_those_in_memory() -> None:
    held, items = Tokens().train_data(), Items()
    read = LazyExamples(items, collate_fn=padded)
    check_examples(read, "they")
    assert read.fingerprint() == held.fingerprint()
    assert read.take([3, 1]).fingerprint() == held.take([1, 3]).fingerprint()
    assert read.take([3]).fingerprint() != read.take([4]).fingerprint()
    assert np.array_equal(read.labels, held.labels)
    assert items.read.count(5) == 1


def test_a_batch_is_padded_to_what_is_declared_and_no_record_decides_for_another() -> None:
    def longest(items: list[Any]) -> Any:
        return padded(items, length=max(len(words) for words, _ in items))

    with pytest.raises(DataError, match="let collate_fn pad each to one length"):
        LazyExamples(Items(), collate_fn=longest).batch(slice(0, 20))
    read = lazily()
    alone, _ = read.batch([7])
    among, _ = read.batch([1, 7, 30])
    assert torch.equal(alone["input_ids"][0], among["input_ids"][1])


def test_what_cannot_be_trained_on_is_found_in_the_pass() -> None:
    class Holes(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.full((2,), float("nan") if index in (3, 9) else 1.0), 0

    with pytest.raises(DataError, match="NaN or infinite values in 2 of 60 records"):
        check_examples(LazyExamples(Holes()), "the training data")
    with pytest.raises(DataError, match="use batch"):
        _ = LazyExamples(Holes()).inputs


def flipped(image: Tensor) -> Tensor:
    """Draws from all three generators."""
    moved = image.roll(int(torch.randint(0, 6, ())), -1)
    moved = moved.flip(-1) if random.random() < 0.5 else moved
    return moved.roll(int(np.random.randint(6)), -2)


def augmented() -> Examples:
    return replace(Pixels().train_data(), transform=flipped)


def copies_of(work: LocalTraining, index: int, step: int) -> tuple[Tensor, Tensor]:
    return work.reading(np.array([index]), step)


@pytest.mark.parametrize("copies", [1, 3])
def test_copies_of_a_record_are_clipped_as_one(copies: int) -> None:
    """Each record's mean gradient over its copies, by autograd; clipped, summed, with its noise."""
    task, examples = Pixels(), augmented()
    work = work_of(task, examples, augmentations=copies)
    model, made, noise = seeded_model(task, 1), work.plan.mechanism, work.noise()
    assert made is not None
    parameters = [*model.parameters()]
    weights = nn.utils.parameters_to_vector(parameters).detach()
    before = weights.clone()
    for step, batch in enumerate(work_of(task, examples).batches()):
        total = torch.zeros(len(weights), dtype=torch.float64)
        for index in batch:
            inputs, targets = copies_of(work, int(index), step)
            assert len(inputs) == copies
            parts = torch.autograd.grad(task.loss(model(inputs), targets), parameters)
            own = torch.cat([part.reshape(-1) for part in parts]).double()
            total += own * min(1.0, made.clip / float(own.norm()))
        total += noise.normal(total.shape, made.noise_multiplier * made.clip)
        weights = weights - 0.3 * (total / made.batch_size).float()
        nn.utils.vector_to_parameters(weights, parameters)
    got = torch.from_numpy(train(work).update)
    torch.testing.assert_close(got, weights - before, rtol=1e-3, atol=1e-5)


def test_a_record_is_read_anew_in_every_step_and_alike_in_every_run() -> None:
    work = work_of(Pixels(), augmented(), augmentations=2)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first, again = copies_of(work, 4, 0)[0], copies_of(work, 4, 0)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, copies_of(work, 4, 1)[0])
    among = work.reading(np.array([2, 4]), 0)[0][2:]
    assert torch.equal(first, among)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.array_equal(np.random.get_state()[1], state[2])


def test_copies_that_would_all_be_the_same_are_refused() -> None:
    with pytest.raises(ExperimentError, match=r"augmentations = 2, but .* no transform"):
        demand_transform(Pixels().train_data(), TrainingSettings(augmentations=2))


def test_evaluation_sees_records_as_they_are() -> None:
    examples = augmented()
    assert torch.equal(examples.batch(slice(0, 5))[0], examples.inputs[:5])
    assert examples.fingerprint() == Pixels().train_data().fingerprint()


@pytest.mark.parametrize("task", [Pixels, Tokens])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_batches_in_parts_give_the_same_step(task: type[Tokens], at_once: int) -> None:
    examples = task().train_data()
    whole = train(work_of(task(), examples, physical_batch=10_000)).update
    parts = train(work_of(task(), examples, physical_batch=at_once)).update
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    found = train(work_of(task(), examples)).update
    np.testing.assert_array_equal(found, whole)


def test_a_large_models_batches_come_in_small_parts() -> None:
    wide = nn.Sequential(
        nn.Unflatten(1, (4, 25)), nn.Conv1d(4, 20_000, 25), nn.Flatten(), nn.Linear(20_000, 2)
    )
    gradient = 20_000 * 100 * 4
    assert 1 <= physical_batch(Base.of(wide), ExampleType((100,))) <= BUDGET // gradient
    small = nn.Sequential(nn.Linear(100, 10), nn.Linear(10, 2))
    assert physical_batch(Base.of(small), ExampleType((100,))) > 10_000
