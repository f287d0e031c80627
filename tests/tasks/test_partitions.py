"""Dealing records to silos: nothing lost, nothing twice, the same again for the same seed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from privet.errors import DataError, ExperimentError
from privet.tasks.partitions import PARTITIONS, partition, stratified
from privet.tasks.task import Examples

DEALT = [how for how in PARTITIONS if how != "natural"]


def labelled(labels: list[int] | np.ndarray) -> Examples:
    targets = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    return Examples(torch.zeros(len(targets), 1), targets)


def ten_classes(n: int = 1000) -> Examples:
    return labelled(np.random.default_rng(0).integers(0, 10, n))


def classes_per_silo(examples: Examples, parts: list[np.ndarray]) -> list[int]:
    return [len(torch.unique(examples.targets[torch.from_numpy(part)])) for part in parts]


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    silos=st.integers(1, 12),
    how=st.sampled_from(DEALT),
    alpha=st.sampled_from([0.05, 0.5, 5.0]),
    shards=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=80)
def test_every_record_goes_to_exactly_one_silo_and_no_silo_is_empty(
    labels: list[int], silos: int, how: str, alpha: float, shards: int, seed: int
) -> None:
    try:
        parts = partition(
            labelled(labels), silos=silos, how=how, alpha=alpha, shards_per_silo=shards, seed=seed
        )
    except DataError:
        assert len(labels) < silos or how in ("dirichlet", "linear", "exponential")
        return
    assert len(parts) == silos
    assert all(len(part) for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


@pytest.mark.parametrize("how", DEALT)
def test_the_seed_decides(how: str) -> None:
    def deal(seed: int) -> list[list[int]]:
        return [part.tolist() for part in partition(ten_classes(), silos=5, how=how, seed=seed)]

    assert deal(3) == deal(3)
    assert deal(3) != deal(4)


@pytest.mark.parametrize(
    ("how", "silos", "alpha", "shards", "seed", "digest"),
    [
        ("iid", 10, 0.5, 2, 7, "d0ceb7dd5bb4100b"),
        ("iid", 3, 0.5, 2, 8, "d1551813768dbaf2"),
        ("dirichlet", 10, 0.5, 2, 7, "fdf88e7ba0358010"),
        ("dirichlet", 5, 0.1, 2, 8, "b21722599dd017fa"),
        ("dirichlet", 30, 0.3, 2, 9, "c406450bcb6c1d13"),
        ("dirichlet", 1, 5.0, 2, 7, "955e655b833ac151"),
        ("shards", 10, 0.5, 2, 7, "504a3c441dd134ab"),
        ("shards", 7, 0.5, 3, 8, "cdf42eb2ca88b235"),
        ("linear", 10, 0.5, 2, 7, "3c859b5be0ed5df1"),
        ("linear", 44, 0.5, 2, 8, "f244177ee094b4bf"),
        ("exponential", 5, 0.5, 2, 7, "8f217792af2ef49b"),
        ("exponential", 6, 0.5, 2, 8, "7cb4daebf29fe303"),
    ],
)
def test_records_are_dealt_as_flowers_partitioners_deal_them(
    how: str, silos: int, alpha: float, shards: int, seed: int, digest: str
) -> None:
    """The digests are those of flwr-datasets 0.6.1: whose each of 1,007 records was."""
    owner = np.empty(1007, dtype=np.uint8)
    parts = partition(
        ten_classes(1007), silos=silos, how=how, alpha=alpha, shards_per_silo=shards, seed=seed
    )
    for silo, part in enumerate(parts):
        owner[part] = silo
    assert hashlib.sha256(owner.tobytes()).hexdigest().startswith(digest)


@given(silos=st.integers(1, 40), alpha=st.sampled_from([0.1, 0.5, 5.0]), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_dirichlet_silo_has_ten_records_or_half_its_share(
    silos: int, alpha: float, seed: int
) -> None:
    try:
        parts = partition(ten_classes(500), silos=silos, how="dirichlet", alpha=alpha, seed=seed)
    except DataError:
        return
    assert min(map(len, parts)) >= min(10, 500 // (2 * silos))


def test_sizes_are_equal_linear_or_exponential() -> None:
    sizes = {
        how: [len(part) for part in partition(ten_classes(), silos=4, how=how)]
        for how in ("iid", "linear", "exponential")
    }
    assert sizes["iid"] == [250] * 4
    assert sizes["linear"] == [100, 200, 300, 400]
    weights = np.exp([1, 2, 3, 4])
    np.testing.assert_allclose(sizes["exponential"], 1000 * weights / weights.sum(), atol=4)


def test_linear_parts_are_shuffled_and_not_the_file_in_order() -> None:
    examples = labelled(np.repeat([0, 1], 500))
    assert classes_per_silo(examples, partition(examples, silos=4, how="linear")) == [2] * 4


def test_a_small_alpha_is_less_even_than_a_large_one() -> None:
    examples = ten_classes(2000)

    def distance(alpha: float) -> float:
        parts = partition(examples, silos=5, how="dirichlet", alpha=alpha, seed=1)
        shares = [np.bincount(examples.targets[part], minlength=10) / len(part) for part in parts]
        return float(np.abs(np.array(shares) - 0.1).sum(axis=1).mean())

    assert distance(0.1) > 1.0 > 0.2 > distance(1000.0)


def test_shards_give_few_classes() -> None:
    examples = labelled(np.repeat(np.arange(10), 100))
    parts = partition(examples, silos=10, how="shards", shards_per_silo=2)
    assert [len(part) for part in parts] == [100] * 10
    assert max(classes_per_silo(examples, parts)) <= 2


def test_shards_that_do_not_divide_the_records_lose_none() -> None:
    parts = partition(ten_classes(1007), silos=10, how="shards", shards_per_silo=2)
    assert sum(map(len, parts)) == 1007


def test_natural_silos_are_the_datas_own_and_may_be_empty() -> None:
    examples = Examples(
        torch.zeros(4, 1), torch.zeros(4), np.array([2, 0, 2, 0]), ("north", "east", "south")
    )
    for silos in (None, 3):
        parts = partition(examples, silos=silos, how="natural")
        assert [part.tolist() for part in parts] == [[1, 3], [], [0, 2]]
    with pytest.raises(ExperimentError, match=r"federation.silos = 4.*3 natural silos"):
        partition(examples, silos=4, how="natural")


def test_natural_without_silos_is_refused() -> None:
    with pytest.raises(ExperimentError, match="natural"):
        partition(ten_classes(), silos=None, how="natural")


def test_an_unknown_partition_and_no_number_of_silos_are_refused() -> None:
    with pytest.raises(ExperimentError, match="Did you mean 'dirichlet'"):
        partition(ten_classes(), silos=3, how="dirichlett")
    with pytest.raises(ExperimentError, match=r"federation.silos = None"):
        partition(ten_classes(), silos=None, how="iid")


@pytest.mark.parametrize("how", DEALT)
def test_more_silos_than_records_is_refused(how: str) -> None:
    with pytest.raises(DataError, match=r"silos = 5.*only 4 records"):
        partition(labelled([0, 1, 0, 1]), silos=5, how=how)


def test_an_impossible_dirichlet_ends_with_what_to_change() -> None:
    with pytest.raises(DataError, match=r"raise federation.alpha or have fewer silos"):
        partition(labelled([0] * 100), silos=50, how="dirichlet", alpha=1e-3)


def test_too_steep_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be dealt"):
        partition(ten_classes(), silos=30, how="exponential")


def test_nothing_is_written(tmp_path: Path) -> None:
    code = (
        "import torch; from privet.tasks import Examples; "
        "from privet.tasks.partitions import partition; "
        "e = Examples(torch.zeros(90, 1), torch.arange(90) % 3); "
        "[partition(e, silos=3, how=how) for how in ('dirichlet', 'shards', 'linear')]"
    )
    environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "MPLCONFIGDIR": "/nonexistent"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file() and "matplotlib" not in str(p)] == []


@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    train=st.integers(6, 40),
    test=st.integers(6, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_a_stratified_split_is_scikit_learns(
    counts: list[int], train: int, test: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    assume(train + test <= len(labels))
    expected = train_test_split(
        np.arange(len(labels)), train_size=train, test_size=test, random_state=seed, stratify=labels
    )
    split = stratified(labels, train=train, test=test, rng=np.random.RandomState(seed))
    for ours, theirs in zip(split, expected, strict=True):
        assert ours.tolist() == sorted(theirs)
