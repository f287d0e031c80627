"""Examples that a map-style torch dataset reads when they are asked for: larger than memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from privet.errors import DataError
from privet.privacy.ledger import Fingerprint, fingerprint_from
from privet.privacy.mechanisms import ExampleType
from privet.pytrees import Tree, at, joined, leaves, rows
from privet.randomness import drawing
from privet.tasks.task import Examples, Indices, Transform, array_of, collated

Collate = Callable[[list[Any]], tuple[Tree, Tree]]
"""As a DataLoader takes it: of a list of items inputs and targets, with a first axis."""


class LazyExamples(Examples):
    """The items of `dataset`, pairs of input and target, each read whenever it is asked for.

    Items are as for `Examples.of`. With `collate_fn` they may be anything: it is called with one
    item at a time, and has to bring each to the same shapes, as by padding up to a length that is
    declared. A batch's own longest item decides nothing: how a record is padded would hang on whom
    it trains beside, and a record more could change the gradients of others.

    What is drawn while a record is read is seeded: for training anew at every reading, elsewhere
    always alike. All records are read once before they are used, to recognise them (32 bytes each
    are kept), for their labels, and to find what cannot be trained on.

    Raises DataError for a dataset without items and for one whose items differ in shape or type.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        collate_fn: Collate | None = None,
        transform: Transform | None = None,
        silo: Indices | None = None,
        silo_names: tuple[str, ...] = (),
    ) -> None:
        """`transform`, `silo` and `silo_names` are as those of `Examples`."""
        source = _Source(dataset, collate_fn or collated)
        if silo is not None and len(silo) != len(source):
            raise DataError(f"examples do not match up: {len(source)} items, {len(silo)} silo")
        self._set(source, np.arange(len(source)), transform, silo, silo_names)

    def _set(
        self,
        source: _Source,
        places: Indices,
        transform: Transform | None,
        silo: Indices | None,
        silo_names: tuple[str, ...],
    ) -> LazyExamples:
        given = {"source": source, "places": places, "transform": transform, "records": None}
        vars(self).update(given, silo=silo, silo_names=silo_names)
        return self

    def _with(self, places: Indices, silo: Indices | None, names: tuple[str, ...]) -> LazyExamples:
        made = LazyExamples.__new__(LazyExamples)
        return made._set(self._source, places, self.transform, silo, names)

    @property
    def _source(self) -> _Source:
        return cast(_Source, vars(self)["source"])

    @property
    def _places(self) -> Indices:
        return cast(Indices, vars(self)["places"])

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"LazyExamples({len(self)} of {len(self._source)})"

    def __getattr__(self, name: str) -> Any:
        if name in ("inputs", "targets"):
            raise DataError("these examples are read when asked for: use batch(indices)")
        raise AttributeError(name)

    @property
    def in_memory(self) -> bool:
        return False

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        found = self._source.facts.labels
        return None if found is None else found[self._places]

    def fingerprint(self) -> Fingerprint:
        digests = self._source.facts.digests[self._places]
        return fingerprint_from(self._source.schema, map(bytes, digests))

    def contents(self) -> list[bytes]:
        return [bytes(digest) for digest in self._source.facts.digests[self._places]]

    def raw(self) -> list[Tensor]:
        return [torch.from_numpy(self._source.facts.digests[self._places])]

    def demand_finite(self, name: str) -> None:
        lost = int(self._source.facts.unfit[self._places].sum())
        if lost:
            raise DataError(f"{name} holds NaN or infinite values in {lost} of {len(self)} records")

    def batch(self, indices: Sequence[int] | Indices | slice) -> tuple[Tree, Tree]:
        places = self._places[np.asarray(indices) if not isinstance(indices, slice) else indices]
        if not len(places):
            return at(self._source.first, slice(0, 0))  # type: ignore[no-any-return]
        with drawing() as seeded:
            seeded(0)
            return self._source.read(places)

    def one(self, index: int) -> tuple[Tree, Tree]:
        return self._source.read([int(self._places[index])])

    def take(self, indices: Sequence[int] | Indices | slice) -> LazyExamples:
        chosen = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        silo = None if self.silo is None else self.silo[chosen]
        return self._with(self._places[chosen], silo, self.silo_names)

    def of_silos(self, silo: Indices, names: tuple[str, ...]) -> LazyExamples:
        return self._with(self._places, silo, names)

    def _and(self, others: Sequence[Examples]) -> LazyExamples:
        same = [part for part in others if isinstance(part, LazyExamples)]
        if any(part._source is not self._source for part in same) or len(same) < len(others):
            raise DataError("examples of different data sets cannot be joined")
        places = np.concatenate([self._places, *(part._places for part in same)])
        return self._with(places, None, ())


@dataclass(frozen=True)
class _Facts:
    """What one pass over all items finds out."""

    digests: npt.NDArray[np.uint8]
    """SHA-256 of each, (n, 32)."""
    labels: npt.NDArray[Any] | None
    unfit: npt.NDArray[np.bool_]
    """Which have NaN or infinite values."""


@dataclass(frozen=True, eq=False)
class _Source:
    dataset: Dataset[Any]
    collate: Collate

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise DataError("the dataset holds no examples")

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    @cached_property
    def first(self) -> tuple[Tree, Tree]:
        with drawing() as seeded:
            seeded(0)
            return self._item(0)

    @cached_property
    def like(self) -> ExampleType:
        return ExampleType.of(*self.first)

    @property
    def schema(self) -> str:
        columns = [array_of(leaf) for leaf in leaves(self.first)]
        said = [[c.dtype.newbyteorder("<").str, list(c.shape[1:])] for c in columns]
        return json.dumps(said)

    def read(self, places: Sequence[int] | Indices) -> tuple[Tree, Tree]:
        """The items at `places`, at least one of them."""
        return joined([self._checked(int(place)) for place in places])  # type: ignore[no-any-return]

    def _checked(self, place: int) -> tuple[Tree, Tree]:
        found = self._item(place)
        if not self.like.fits(*found):
            own = ExampleType.of(*found)
            raise DataError(
                f"item {place} has inputs of {own.inputs} and targets of {own.targets}, where the "
                f"first has {self.like.inputs} and {self.like.targets}: let collate_fn pad each to "
                "one length, and keep one type"
            )
        return found

    def _item(self, place: int) -> tuple[Tree, Tree]:
        found = self.collate([self.dataset[place]])
        if not (isinstance(found, tuple | list) and len(found) == 2 and rows(tuple(found)) == 1):
            raise DataError("collate_fn must give inputs and targets with a first axis of length 1")
        return found[0], found[1]

    @cached_property
    def facts(self) -> _Facts:
        count = len(self)
        digests, unfit = np.zeros((count, 32), np.uint8), np.zeros(count, np.bool_)
        labels: list[float | int] | None = []
        with drawing() as seeded:
            for place in range(count):
                seeded(0)  # for each alike, so that none hangs on those before it
                item = self._checked(place)
                digests[place] = np.frombuffer(_digest(item), np.uint8)
                unfit[place] = not all(map(_finite, leaves(item)))
                single = isinstance(item[1], Tensor) and item[1].dim() == 1
                if labels is not None and single:
                    labels.append(item[1].item())
                else:
                    labels = None
        return _Facts(digests, None if labels is None else np.array(labels), unfit)


def _digest(item: tuple[Tree, Tree]) -> bytes:
    columns = [array_of(leaf) for leaf in leaves(item)]
    content = b"".join(c.astype(c.dtype.newbyteorder("<"))[0].tobytes() for c in columns)
    return hashlib.sha256(content).digest()


def _finite(leaf: Tensor) -> bool:
    return not leaf.is_floating_point() or bool(leaf.isfinite().all())
