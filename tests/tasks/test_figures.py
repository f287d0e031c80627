"""Figures are scikit-learn's on the same predictions; losses are means of one example's terms."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from torch import Tensor

from privet.tasks import figures as of
from privet.tasks.objectives import Classes, Number, Objective, Ordinal, Survival

NAMES = ("a", "b", "c", "d")


def drawn(classes: int, *, rows: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs with many ties, and classes that they say something of."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (rows,), generator=generator)
    outputs = torch.randn(rows, classes, generator=generator).mul(2).round().div(2)
    outputs[torch.arange(rows), targets] += 1
    return outputs, targets


def test_figures_of_two_classes_are_those_of_scikit_learn() -> None:
    outputs, targets = drawn(2)
    found = Classes(NAMES[:2]).metrics(outputs, targets)
    scores = torch.softmax(outputs.double(), 1)[:, 1].numpy()
    said, truth = outputs.argmax(1).numpy(), targets.numpy()
    precision, recall, _, _ = reference.precision_recall_fscore_support(truth, said)
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(truth, said),
            "auc": reference.roc_auc_score(truth, scores),
            "average_precision": reference.average_precision_score(truth, scores),
            "f1": reference.f1_score(truth, said),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, said),
            "ece": found["ece"],
            "recall_a": recall[0],
            "recall_b": recall[1],
            "precision_a": precision[0],
            "precision_b": precision[1],
        },
        abs=1e-7,
    )
    assert {metric.name for metric in Classes(NAMES[:2]).declared_metrics} == found.keys()


def test_figures_of_more_classes_are_means_over_them() -> None:
    outputs, targets = drawn(4)
    found = Classes(NAMES).metrics(outputs, targets)
    shares = torch.softmax(outputs.double(), 1).numpy()
    said, truth = outputs.argmax(1).numpy(), targets.numpy()
    assert found["f1"] == pytest.approx(reference.f1_score(truth, said, average="macro"))
    assert found["auc"] == pytest.approx(
        reference.roc_auc_score(truth, shares, multi_class="ovr", average="macro")
    )
    one_hot = np.eye(4)[truth]
    assert found["average_precision"] == pytest.approx(
        reference.average_precision_score(one_hot, shares, average="macro")
    )
    assert of.confusion(truth, said, 4).tolist() == reference.confusion_matrix(truth, said).tolist()


def test_calibration_is_as_it_is_defined() -> None:
    confidence = np.array([0.05, 0.06, 0.5, 0.9, 0.95, 1.0])
    right = np.array([False, True, True, True, False, True])
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        (bins == b).mean() * abs(confidence[bins == b].mean() - right[bins == b].mean())
        for b in set(bins.tolist())
    )
    assert of.calibration_error(confidence, right) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["squared", "absolute", "poisson"])
def test_figures_of_numbers_are_scikit_learns_in_their_own_unit(kind: str) -> None:
    objective = Number(kind, 0.0, 400.0, "days")  # type: ignore[arg-type]
    generator = np.random.default_rng(3)
    truth = generator.gamma(2, 40, 300)
    said = np.abs(truth + generator.normal(0, 20, 300)) + 1
    scaled = torch.from_numpy(objective.scaled(said))
    outputs = (scaled.log() if kind == "poisson" else scaled)[:, None]
    found = objective.metrics(outputs, torch.from_numpy(objective.scaled(truth)))
    assert found == pytest.approx(
        {
            "rmse": reference.root_mean_squared_error(truth, said),
            "mae": reference.mean_absolute_error(truth, said),
            "r2": reference.r2_score(truth, said),
        }
    )
    first = objective.declared_metrics[0]
    assert (first.name, first.unit) == ("mae" if kind == "absolute" else "rmse", "days")


def test_concordance_counts_pairs_whose_order_is_known() -> None:
    generator = np.random.default_rng(1)
    until, event = generator.integers(0, 6, 80), generator.random(80) < 0.6
    risk = generator.integers(0, 5, 80).astype(float)
    right = pairs = 0.0
    for i, j in combinations(range(80), 2):
        i, j = (i, j) if until[i] < until[j] else (j, i)
        if event[i] and until[i] < until[j]:
            pairs += 1
            right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    assert of.concordance(risk, until, event) == pytest.approx(right / pairs)


def test_without_censoring_the_brier_score_is_the_squared_distance() -> None:
    generator = np.random.default_rng(1)
    until = generator.integers(0, 4, 50)
    event = until < 3
    survival = np.sort(generator.random((50, 3)))[:, ::-1]
    expected = np.mean([((until > end) - survival[:, end]) ** 2 for end in range(3)])
    assert of.brier(survival, until, event) == pytest.approx(expected)


def test_who_left_early_is_weighted_by_those_who_stayed() -> None:
    # Of four, one leaves in interval 1: the three who stay count 4/3 each from there on.
    until, event = np.array([0, 1, 2, 2]), np.array([True, False, False, False])
    survival = np.full((4, 2), 0.5)
    staying = 1 - 1 / 3  # of the three at risk in interval 1
    expected = [0.25, (0.25 * 1 + 2 * 0.25 / staying) / 4]
    assert of.brier(survival, until, event) == pytest.approx(np.mean(expected))


OBJECTIVES: list[tuple[Objective, Tensor]] = [
    (Classes(NAMES), torch.tensor([0, 3, 1, 2, 2])),
    (Ordinal(NAMES), torch.tensor([0, 3, 1, 2, 2])),
    (Number("squared", 0, 10), torch.tensor([0.1, -0.4, 0.9, 0.0, 1.0])),
    (Number("absolute", 0, 10), torch.tensor([0.1, -0.4, 0.9, 0.0, 1.0])),
    (Number("poisson", 0, 10), torch.tensor([0.1, 0.4, 0.9, 0.0, 1.0])),
    (Survival((1.0, 2.0, 5.0)), torch.tensor([0, 1, 4, 5, 6])),
]


@pytest.mark.parametrize(("objective", "targets"), OBJECTIVES)
def test_a_loss_is_the_mean_of_its_examples_own(objective: Objective, targets: Tensor) -> None:
    outputs = torch.randn(5, objective.width, generator=torch.Generator().manual_seed(2))
    alone = [objective.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(5)]
    assert torch.allclose(objective.loss(outputs, targets), torch.stack(alone).mean())
    found = objective.metrics(outputs, targets)
    assert found.keys() == {metric.name for metric in objective.declared_metrics}
    assert objective.metrics(outputs[:1], targets[:1]).keys() == found.keys()
    assert all(len(each) == 5 for each in objective.answers(outputs).values())


@pytest.mark.parametrize(("objective", "targets"), OBJECTIVES)
def test_no_constant_has_a_smaller_loss_than_the_baseline(
    objective: Objective, targets: Tensor
) -> None:
    if isinstance(objective, Number) and objective.kind == "absolute":
        pytest.skip("the mean is no median")
    targets = targets.repeat(20)
    constant = objective.constant(targets).float()
    least = objective.loss(constant, targets)
    generator = torch.Generator().manual_seed(4)
    for _ in range(50):
        moved = constant + 0.3 * torch.randn(1, objective.width, generator=generator)
        assert objective.loss(moved, targets) >= least - 1e-6


def test_the_baseline_of_classes_is_the_commonest_one() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    objective = Classes(("no", "yes"))
    found = objective.metrics(objective.constant(targets), targets)
    assert (found["accuracy"], found["auc"], found["average_precision"]) == (0.75, 0.5, 0.25)
    assert found["recall_yes"] == 0.0
    assert found["ece"] == pytest.approx(0, abs=1e-6)


def test_probabilities_of_an_order_are_probabilities() -> None:
    outputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(2)) * 5
    answers = Ordinal(NAMES).answers(outputs)
    total = sum(answers[f"probability_{name}"] for name in NAMES)
    assert np.allclose(total, 1)


def test_what_is_not_defined_is_not_a_number() -> None:
    alone = Classes(("no", "yes")).metrics(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert math.isnan(alone["auc"])
    assert math.isnan(of.concordance(np.zeros(2), np.array([1, 1]), np.array([True, True])))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("rows", [1, 3])
def test_outputs_that_are_no_numbers_have_figures_too(value: float, rows: int) -> None:
    """At a silo a failure would tell of the records that it hangs on."""
    numbers = [Number(kind, 0.0, 9.0) for kind in ("squared", "absolute", "poisson")]
    for objective in (Classes(NAMES[:2]), Classes(NAMES), Ordinal(NAMES), Survival((1.0, 2.0))):
        for target in range(2):
            outputs = torch.full((rows, objective.width), value)
            assert objective.metrics(outputs, torch.full((rows,), target))
    for number in numbers:
        outputs = torch.full((rows, 1), value)
        assert number.metrics(outputs, torch.full((rows,), 0.5))
