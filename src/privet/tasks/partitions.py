"""Dealing records to silos for a simulation, by Flower's partitioners.

Importing them costs two seconds, so it happens only for a partition that needs them. `iid` does
not: it is Flower's `IidPartitioner`, contiguous parts of equal size, on shuffled records.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from privet.errors import DataError, ExperimentError, nearest
from privet.randomness import numpy_generator, stream
from privet.tasks.task import Examples, Indices

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

PARTITIONS = ("iid", "dirichlet", "shards", "linear", "exponential", "natural")

_SMALLEST_DIRICHLET = 10
_DRAWS = 20


def partition(
    examples: Examples,
    *,
    silos: int | None,
    how: str,
    alpha: float = 0.5,
    shards_per_silo: int = 2,
    seed: int = 0,
) -> list[Indices]:
    """Deal `examples` to `silos` silos: for each a sorted array of its example numbers.

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
    if how == "dirichlet":
        return _dirichlet(examples, order, silos=silos, alpha=alpha, seed=seed)
    return _dealt(examples, order, _partitioner(how, len(examples), silos, shards_per_silo, seed))


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


def _dirichlet(
    examples: Examples, order: Indices, *, silos: int, alpha: float, seed: int
) -> list[Indices]:
    """The first of twenty seeded tries (of eleven draws each) in which no silo is too small."""
    from_share = len(examples) // (2 * silos)
    smallest = max(1, min(_SMALLEST_DIRICHLET, from_share))
    for draw in range(_DRAWS):
        try:
            return _dealt(examples, order, _dirichlet_draw(silos, alpha, smallest, (seed, draw)))
        except DataError:
            continue
    raise DataError(
        f"federation.partition = 'dirichlet' with alpha = {alpha} never gave each of {silos} silos "
        f"{smallest} of {len(examples)} records; raise federation.alpha or have fewer silos"
    )


def _dirichlet_draw(
    silos: int, alpha: float, smallest: int, names: tuple[int, int]
) -> Callable[[], Partitioner]:
    def make() -> Partitioner:
        from flwr_datasets.partitioner import DirichletPartitioner

        return DirichletPartitioner(
            num_partitions=silos,
            partition_by="label",
            alpha=float(alpha),
            min_partition_size=smallest,
            shuffle=False,
            seed=_seed("dirichlet", *names),
        )

    return make


def _partitioner(
    how: str, records: int, silos: int, shards_per_silo: int, seed: int
) -> Callable[[], Partitioner]:
    def make() -> Partitioner:
        from flwr_datasets import partitioner as flower

        if how == "linear":
            return flower.LinearPartitioner(silos)
        if how == "exponential":
            return flower.ExponentialPartitioner(silos)
        # Flower drops the remainder when it is asked for a number of shards; when it is asked for
        # their size it keeps all records, in one shard more.
        return flower.ShardPartitioner(
            num_partitions=silos,
            partition_by="label",
            shard_size=max(1, records // (silos * shards_per_silo)),
            keep_incomplete_shard=True,
            shuffle=False,
            seed=_seed("shards", seed),
        )

    return make


def _seed(*names: int | str) -> int:
    return int(stream(0, *names).generate_state(1, np.uint32)[0])


def _dealt(examples: Examples, order: Indices, make: Callable[[], Partitioner]) -> list[Indices]:
    """Run a Flower partitioner over the labels in `order`; DataError when it cannot."""
    _keep_offline()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        partitioner = make()
        labels = examples.targets.numpy()[order]
        columns = {"label": labels, "record": order}
        # In arrow format a column becomes an array at once, not item by item (17 s for 60,000).
        partitioner.dataset = datasets.Dataset.from_dict(columns).with_format("arrow")
        try:
            parts = [
                np.sort(partitioner.load_partition(i)["record"].to_numpy())
                for i in range(partitioner.num_partitions)
            ]
        except ValueError as error:
            raise DataError(f"the records cannot be dealt so: {error}") from error
    return parts


def _keep_offline() -> None:
    """`datasets` reads these once, when it is first imported: no network, no progress bars."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
