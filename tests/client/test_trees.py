"""Inputs and targets that are no single float tensor: the plain loop's results, and DP-SGD's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from privet import Examples, Experiment
from privet.client.training import LocalTraining, loss_of, plan_round, train
from privet.errors import ModelError
from privet.privacy.mechanisms import DpSgd, ExampleType, SeededNoise, check_training
from privet.randomness import numpy_generator, stream
from privet.tasks.task import Task, seeded_model
from privet.vectors import FlatModel
from tree_tasks import KINDS, Judging, Longest, Reader, Tokens

SETTINGS = Experiment.from_mapping(
    {"task": "unused", "training": {"batch_size": 8, "lr": 0.3, "epochs": 2, "momentum": 0.5}}
)


def work_of(task: Task, **changes: Any) -> LocalTraining:
    flat, examples = FlatModel(seeded_model(task, 1)), task.train_data()
    return replace(
        LocalTraining(
            lambda: flat,
            loss_of(task, SETTINGS.training),
            examples,
            flat.vector(),
            plan_round(SETTINGS, n_records=len(examples)),
            SETTINGS.training,
            lr=0.3,
            noise=lambda: SeededNoise(stream(1, "noise")),
            draws=numpy_generator(stream(1, "batches")),
        ),
        **changes,
    )


def private(work: LocalTraining, noise: float = 0.5) -> LocalTraining:
    count = len(work.examples)
    made = DpSgd(noise_multiplier=noise, clip=0.1, sampling_rate=8 / count, steps=6, batch_size=8.0)
    return replace(work, plan=replace(work.plan, mechanism=made, steps=6))


def picked(tree: Any, rows: Any) -> Any:
    if isinstance(tree, dict):
        return {name: part[rows] for name, part in tree.items()}
    return tuple(part[rows] for part in tree) if isinstance(tree, tuple) else tree[rows]


def outputs(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_on(task: Task, model: nn.Module, rows: Any) -> Tensor:
    examples = task.train_data()
    return task.loss(outputs(model, picked(examples.inputs, rows)), picked(examples.targets, rows))


def plain_loop(task: Task, work: LocalTraining) -> Tensor:
    model = seeded_model(task, 1)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    for batch in work.batches():
        optimizer.zero_grad()
        loss_on(task, model, torch.from_numpy(batch)).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach() - before


def slow_dp_sgd(task: Task, work: LocalTraining) -> Tensor:
    """Each example alone, by autograd; clipped, summed and covered by the same noise."""
    model, made = seeded_model(task, 1), work.plan.mechanism
    assert made is not None
    parameters, noise = [*model.parameters()], work.noise()
    before = nn.utils.parameters_to_vector(parameters).detach().clone()
    optimizer = torch.optim.SGD(parameters, lr=0.3, momentum=0.5)
    for batch in work.batches():
        total = torch.zeros(len(before), dtype=torch.float64)
        for row in batch:
            parts = torch.autograd.grad(loss_on(task, model, [row]), parameters)
            own = torch.cat([part.reshape(-1) for part in parts]).double()
            total += own * min(1.0, made.clip / float(own.norm()))
        total += noise.normal(total.shape, made.noise_multiplier * made.clip)
        nn.utils.vector_to_parameters(
            (total / made.batch_size).float(), [p.grad for p in _with_grads(parameters)]
        )
        optimizer.step()
    return nn.utils.parameters_to_vector(parameters).detach() - before


def _with_grads(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    for each in parameters:
        each.grad = torch.zeros_like(each)
    return parameters


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_a_plain_loop(kind: type[Tokens]) -> None:
    task = kind()
    got = train(work_of(task)).update
    torch.testing.assert_close(torch.from_numpy(got), plain_loop(task, work_of(task)))


@pytest.mark.parametrize("kind", KINDS)
def test_private_training_is_that_of_a_loop_over_single_examples(kind: type[Tokens]) -> None:
    task = kind()
    got = torch.from_numpy(train(private(work_of(task))).update)
    wanted = slow_dp_sgd(task, private(work_of(task)))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert wanted.norm() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_examples_vouch_for_models_of_each_kind(kind: type[Tokens]) -> None:
    task = kind()
    examples = task.train_data()
    like = ExampleType.of(examples.inputs, examples.targets)
    check_training(task.model(), loss_of(task, SETTINGS.training), like)


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    for kind in KINDS:
        task = kind()
        work = private(work_of(task))
        assert work.plan.mechanism is not None
        rare = replace(work.plan.mechanism, sampling_rate=1e-9, batch_size=6e-8)
        done = train(replace(work, plan=replace(work.plan, mechanism=rare)))
        assert done.steps == 6
        assert done.update.any()


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Longest, "depends on the others in its batch"), (Judging, "a loss of the whole batch")],
)
def test_a_model_in_which_padding_or_a_loss_couples_records_is_refused(
    kind: type[Tokens], told: str
) -> None:
    task = kind()
    examples = task.train_data()
    like = ExampleType.of(examples.inputs, examples.targets)
    with pytest.raises(ModelError, match=told):
        check_training(task.model(), loss_of(task, SETTINGS.training), like)


def test_a_record_is_trained_on_alike_among_short_ones_and_long_ones() -> None:
    """All are padded to one length, and what the mask leaves out has no gradient."""
    task = Tokens()
    examples = task.train_data()
    lengths = examples.inputs["attention_mask"].sum(1)
    order = torch.argsort(lengths)
    first, short, long = int(order[len(order) // 2]), order[:7].tolist(), order[-7:].tolist()
    model = seeded_model(task, 1)
    alone = model(**examples.take([first]).inputs).logits
    for others in (short, long):
        among = model(**examples.take([first, *others]).inputs).logits[:1]
        torch.testing.assert_close(among, alone)


def test_an_output_of_hugging_face_reaches_the_loss_as_it_is() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    seen: list[type] = []

    class Theirs(Tokens):
        def model(self) -> nn.Module:
            class Wrapped(Reader):
                def forward(self, **inputs: Tensor) -> Any:  # type: ignore[override]
                    found = super().forward(**inputs)
                    return outputs.SequenceClassifierOutput(logits=found.logits)

            return Wrapped()

        def loss(self, outputs: Any, targets: Any) -> Tensor:
            seen.append(type(outputs))
            return super().loss(outputs, targets)

    for prepare in (lambda work: work, private):
        got = train(prepare(work_of(Theirs()))).update
        wanted = train(prepare(work_of(Tokens()))).update
        torch.testing.assert_close(got, wanted)
    assert {*seen} == {outputs.SequenceClassifierOutput}


def test_examples_keep_the_types_that_a_dataset_has() -> None:
    class Words(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index >= 3:
                raise IndexError
            return {"ids": torch.tensor([index, 2]), "mask": torch.tensor([True, False])}, index

    read = Examples.of(Words())
    assert read.inputs["ids"].tolist() == [[0, 2], [1, 2], [2, 2]]
    assert read.inputs["ids"].dtype == torch.int64
    assert read.inputs["mask"].dtype == torch.bool
    assert read.targets.tolist() == [0, 1, 2]
