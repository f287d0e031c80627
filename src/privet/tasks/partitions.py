"""Dealing records to silos for a simulation, and to a training and a test set.

The deals are those of flwr-datasets 0.6 (IidPartitioner, DirichletPartitioner, ShardPartitioner,
LinearPartitioner, ExponentialPartitioner), draw by draw and to the last bit, on shuffled records;
training and test set are those of scikit-learn 1.9 (StratifiedShuffleSplit).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privet.errors import DataError, ExperimentError, nearest
from privet.randomness import numpy_generator, stream
from privet.tasks.task import Examples, Indices

PARTITIONS = ("iid", "dirichlet", "shards", "linear", "exponential", "natural")

_SMALLEST_DIRICHLET = 10
_DRAWS = 20
# As many as flwr-datasets makes with one seed before it gives up.
_TRIES = 11

Labels = NDArray[np.generic]


def partition(
    examples: Examples,
    *,
    silos: int | None,
    how: str,
    alpha: float = 0.5,
    shards_per_silo: int = 2,
    seed: int = 0,
) -> list[Indices]:
    """Partition `examples` to `silos` silos: for each a sorted array of its example numbers.

    Every example goes to exactly one silo, the same one for the same seed and data. `how`:

    - "iid": shuffled, equal sizes (to one record).
    - "dirichlet": each class is divided by proportions from Dirichlet(`alpha`) (Yurochkin et al.
      2019); drawn again until every silo has 10 records, or half its fair share if that is less.
    - "shards": sorted by class and cut into shards, of which each silo gets `shards_per_silo`
      (McMahan et al. 2017), and some silos one more where the cut leaves a remainder.
    - "linear", "exponential": shuffled, silo i gets a share proportional to i or to exp(i).
    - "natural": the examples' own silos, in the order of `silo_names`; a silo may be empty.
      `silos` must be None or their number.

    Raises ExperimentError for an unknown `how` or silos that the examples do not have, DataError
    when there are fewer records than silos or no draw gives every silo enough.
    """
    if how not in PARTITIONS:
        raise ExperimentError(
            f"federation.partition = {how!r}: it is one of {', '.join(PARTITIONS)}."
            f"{nearest(how, PARTITIONS)}"
        )
    if how == "natural":
        return _natural(examples, silos)
    if silos is None or silos < 1:
        raise ExperimentError(f"federation.silos = {silos}: {how} needs a number, 1 or more")
    if len(examples) < silos:
        raise DataError(f"federation.silos = {silos}, but there are only {len(examples)} records")
    order = numpy_generator(stream(seed, "partition")).permutation(len(examples))
    if how == "iid":
        return [np.sort(part) for part in np.array_split(order, silos)]
    if how in ("linear", "exponential"):
        parts = _growing(len(order), silos=silos, how=how)
        return [np.sort(order[part]) for part in parts]
    if examples.labels is None:
        raise DataError(
            f"federation.partition = {how!r} goes by classes, and the targets are not one number "
            "for each record; allowed are iid, linear, exponential and natural"
        )
    labels = examples.labels[order]
    if how == "dirichlet":
        parts = _dirichlet(labels, silos=silos, alpha=alpha, seed=seed)
    else:
        parts = _shards(labels, silos=silos, shards_per_silo=shards_per_silo, seed=seed)
    return [np.sort(order[part]) for part in parts]


def stratified(
    labels: Labels, *, train: int, test: int, rng: np.random.RandomState
) -> tuple[Indices, Indices]:
    """Sorted numbers of `train` and of `test` records in which every class has its share.

    scikit-learn's own takes two seconds to import, in every process that trains.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    of_train = _shares(counts, train, rng)
    of_test = _shares(counts - of_train, test, rng)
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    shuffled = [each[rng.permutation(len(each))] for each in members]
    cuts = list(zip(shuffled, of_train, of_train + of_test, strict=True))
    return (
        np.sort(np.concatenate([each[:cut] for each, cut, _ in cuts])),
        np.sort(np.concatenate([each[cut:end] for each, cut, end in cuts])),
    )


def _shares(counts: Indices, draws: int, rng: np.random.RandomState) -> Indices:
    """Of each class so many that all are `draws`; the last go to the largest remainders."""
    exact = counts / counts.sum() * draws
    shares: Indices = np.floor(exact).astype(np.int64)
    remainders = exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if missing := draws - shares.sum():
            tied = np.flatnonzero(remainders == remainder)
            shares[rng.choice(tied, size=min(len(tied), missing), replace=False)] += 1
    return shares


def _natural(examples: Examples, silos: int | None) -> list[Indices]:
    if examples.silo is None:
        raise ExperimentError(
            'federation.partition = "natural": the task\'s data name no silos; '
            f"use one of {', '.join(PARTITIONS[:-1])}"
        )
    count = len(examples.silo_names) or int(examples.silo.max(initial=-1)) + 1
    if silos not in (None, count):
        raise ExperimentError(
            f"federation.silos = {silos}: the data have {count} natural silos; leave it out"
        )
    return [np.flatnonzero(examples.silo == i) for i in range(count)]


def _dirichlet(labels: Labels, *, silos: int, alpha: float, seed: int) -> list[Indices]:
    """The first of twenty seeded draws, of eleven tries each, in which no silo is too small."""
    from_share = len(labels) // (2 * silos)
    smallest = max(1, min(_SMALLEST_DIRICHLET, from_share))
    for draw in range(_DRAWS):
        rng = _rng("dirichlet", seed, draw)
        for _ in range(_TRIES):
            parts = _by_proportions(labels, np.full(silos, float(alpha)), rng)
            if min(map(len, parts)) >= smallest:
                return parts
    raise DataError(
        f"federation.partition = 'dirichlet' with alpha = {alpha} never gave each of {silos} silos "
        f"{smallest} of {len(labels)} records; raise federation.alpha or have fewer silos"
    )


def _by_proportions(
    labels: Labels, alpha: NDArray[np.float64], rng: np.random.Generator
) -> list[Indices]:
    """Each class divided by proportions from Dirichlet(`alpha`), of shape (silos,)."""
    pieces: list[list[Indices]] = [[] for _ in alpha]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        cuts = (np.cumsum(rng.dirichlet(alpha)) * len(members)).astype(int)[:-1]
        for silo, piece in zip(pieces, np.split(members, cuts), strict=True):
            silo.append(piece)
    return [np.concatenate(each) for each in pieces]


def _shards(labels: Labels, *, silos: int, shards_per_silo: int, seed: int) -> list[Indices]:
    size = max(1, len(labels) // (silos * shards_per_silo))
    order = np.argsort(labels, kind="stable")
    shards = np.split(order, np.arange(size, len(labels), size))
    dealt = np.array_split(_rng("shards", seed).permutation(len(shards)), silos)
    return [np.concatenate([shards[number] for number in each]) for each in dealt]


def _growing(records: int, *, silos: int, how: str) -> list[Indices]:
    """Contiguous parts of linearly or exponentially growing sizes; the last takes what is left."""
    units = np.arange(1.0, silos + 1)
    with np.errstate(over="ignore", invalid="ignore"):  # e^710 is too large: no size is left
        units = units if how == "linear" else np.exp(units)
        sizes = (units / units.sum() * records).astype(np.int64)
    sizes[-1] += records - sizes.sum()
    if sizes.min() < 1:
        raise DataError(
            f"federation.silos = {silos}: {records} records cannot be dealt so, for {how} sizes "
            "leave a silo with none; have fewer silos"
        )
    return np.split(np.arange(records), np.cumsum(sizes)[:-1])


def _rng(*names: int | str) -> np.random.Generator:
    # From a plain number, as flwr-datasets seeds its own: the draws can be compared.
    return np.random.default_rng(int(stream(0, *names).generate_state(1, np.uint32)[0]))
