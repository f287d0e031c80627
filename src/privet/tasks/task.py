"""What a task is, so that a person can bring a model and data of their own.

A task is any class with the five methods of `Task`. Name it in the experiment file as
`task = "package.module:Class"`; it is made once per process, by keywords:

    class HospitalStay:
        def __init__(self, *, model=None, data_dir=None, **options): ...

`model` is the experiment's model name or None, `data_dir` the data folder or None, and `options`
the experiment's task options. Nothing else is needed: no base class, no registration.
`examples/custom_task` is complete and meant to be copied.

The built-in tasks share loss and accuracy of a classifier, and small models that train alike with
and without per-example clipping. They have no BatchNorm, which mixes the examples of a batch.
Without normalisation tanh survives noise better than ReLU (Papernot et al. 2021, "Tempered Sigmoid
Activations for Deep Learning with Differential Privacy"); after GroupNorm ReLU does. Initial
weights come from torch's global generator.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from privet.devices import CPU, Device
from privet.errors import DataError, ExperimentError, ModelError, PrivetError, nearest, words_of
from privet.privacy.ledger import Fingerprint, fingerprint_of
from privet.pytrees import Tree, applied, at, joined, leaves, mapped
from privet.randomness import drawing, stream, torch_seed

Indices = npt.NDArray[np.int64]
Transform = Callable[[Any], Any]
"""An example's input, a tensor or a tuple or dict of such, to another of the same shape."""


@dataclass(frozen=True)
class Examples:
    """n examples held in memory, row i of every tensor belonging to example i.

    `inputs` is a tensor (n, ...) of any type, or a tuple or dict of such: the model is called with
    the tensor, with the tuple's as its arguments or with the dict's by their names. `targets` is a
    tensor (int64 class numbers (n,) for classification), or a tuple or dict as well, and goes to
    the task's loss as it is.

    `silo` is None, or an int array (n,) that says which natural silo (hospital, branch, person)
    each example came from, as an index into `silo_names`. Where `inputs` are computed from what
    lies in the data folder, by a rule that depends on the task's model,
    `records` is what they are computed from, (n, ...): a ledger knows the records by it, and one
    model's training counts against another's.

    `transform` makes an example's input, without the first axis, anew each time that it is trained
    on (augmentation); it may draw from torch's, numpy's and Python's own generators, which are
    seeded for it. It is part of the example: whatever it makes of a record is clipped as one.

    Raises DataError when the lengths differ, and for what is neither tensor, tuple nor dict.
    """

    inputs: Tree
    targets: Tree
    silo: Indices | None = None
    silo_names: tuple[str, ...] = ()
    records: Tree | None = None
    transform: Transform | None = None

    def __post_init__(self) -> None:
        lengths = dict(_lengths("inputs", self.inputs))
        lengths.update(_lengths("targets", self.targets))
        if self.silo is not None:
            lengths["silo"] = len(self.silo)
        if self.records is not None:
            lengths.update(_lengths("records", self.records))
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise DataError(f"examples do not match up: {said}")

    def __len__(self) -> int:
        return len(leaves(self.inputs)[0])

    @property
    def known_by(self) -> Tree:
        """What distinguishes these examples from others, (n, ...): `records`, or else `inputs`."""
        return self.inputs if self.records is None else self.records

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        """The targets, (n,), where each is one number: what a partition by classes goes by."""
        single = isinstance(self.targets, Tensor) and self.targets.dim() == 1
        return np.asarray(self.targets.numpy()) if single else None

    @property
    def in_memory(self) -> bool:
        """Whether `inputs` and `targets` are there."""
        return True

    def fingerprint(self) -> Fingerprint:
        """What a ledger recognises the records by, whatever their order."""
        return fingerprint_of(*self._columns())

    def contents(self) -> list[bytes]:
        """For each record bytes that are others if anything about it is another."""
        rows = zip(*self._columns(), strict=True)
        return [b"".join(part.tobytes() for part in row) for row in rows]

    def raw(self) -> list[Tensor]:
        """Tensors (n, ...) that are others if anything about the records or their order is."""
        return leaves((self.inputs, self.targets))

    def demand_finite(self, name: str) -> None:
        """Raise DataError when inputs or targets hold NaN or infinite values."""
        for part, tree in (("inputs", self.inputs), ("targets", self.targets)):
            for values in leaves(tree):
                _check_finite(values, f"{name} holds", part)

    def _columns(self) -> list[npt.NDArray[Any]]:
        """All that a record consists of as arrays (n, ...): what it is known by, and targets."""
        return [array_of(leaf) for leaf in leaves((self.known_by, self.targets))]

    def batch(self, indices: Sequence[int] | Indices | slice) -> tuple[Tree, Tree]:
        """Inputs and targets of the examples at `indices`, as a model and a loss take them."""
        place = leaves(self.inputs)[0].device
        index = indices if isinstance(indices, slice) else torch.as_tensor(indices).to(place)
        return at(self.inputs, index), at(self.targets, index)

    def one(self, index: int) -> tuple[Tree, Tree]:
        """One example, with a first axis of length one."""
        return self.batch(slice(index, index + 1))

    def readings(
        self, indices: Indices, *, copies: int, chance: tuple[int, ...]
    ) -> tuple[Tree, Tree]:
        """The examples at `indices` as training reads them, `copies` in a row of each.

        What is drawn follows from the numbers `chance`, the example's place and the copy alone.
        """
        if (self.in_memory and self.transform is None and copies == 1) or not len(indices):
            return self.batch(indices)
        found = []
        with drawing() as seeded:
            for index, copy in itertools.product(map(int, indices), range(copies)):
                seeded(*chance, index, copy)
                inputs, targets = self.one(index)
                found.append((self._transformed(inputs), targets))
        return joined(found)  # type: ignore[no-any-return]

    def _transformed(self, inputs: Tree) -> Tree:
        if self.transform is None:
            return inputs
        made = self.transform(mapped(lambda leaf: leaf[0], inputs))
        return mapped(lambda leaf: leaf.unsqueeze(0), made)

    def take(self, indices: Sequence[int] | Indices | slice) -> Examples:
        """The examples at `indices`, in that order: a copy, or for a slice a view."""
        rows = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        silo = None if self.silo is None else self.silo[rows]
        inputs, targets, records = at((self.inputs, self.targets, self.records), index)
        return Examples(inputs, targets, silo, self.silo_names, records, self.transform)

    def of_silos(self, silo: Indices, names: tuple[str, ...]) -> Examples:
        """The same examples as records of natural silos, see the class."""
        return replace(self, silo=silo, silo_names=names)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """All examples of `parts`, one part after the other; they are of no silo."""
        return parts[0]._and(parts[1:])

    def _and(self, others: Sequence[Examples]) -> Examples:
        parts = [self, *others]
        records = [part.records for part in parts]
        known = None if any(each is None for each in records) else joined(records)
        inputs, targets = joined([(part.inputs, part.targets) for part in parts])
        return Examples(inputs, targets, records=known, transform=self.transform)

    def on(self, device: Device) -> Examples:
        """The same with inputs and targets on `device`, or these: where they do not fit there, are
        read when asked for, or are made anew each time."""
        if not self.in_memory or self.transform is not None:
            return self
        inputs, targets = device.resident((self.inputs, self.targets))
        return replace(self, inputs=inputs, targets=targets)

    @classmethod
    def of(cls, dataset: Dataset[Any]) -> Examples:
        """Read a torch `Dataset` of (input, target) pairs, one after the other, into memory.

        Both may be tensors, arrays, numbers, or tuples or dicts of such, of one shape for all
        examples. Tensors and arrays keep their types; of other numbers, and of targets that are one
        number each, whole ones become int64 and others float32. Raises DataError when the dataset
        is empty or shapes differ.
        """
        pairs = [dataset[i] for i in range(len(cast(Sized, dataset)))]
        if not pairs:
            raise DataError("the dataset holds no examples")
        return cls(*collated(pairs))


def _lengths(name: str, tree: Tree) -> Iterator[tuple[str, int]]:
    """How many rows each tensor of a tree has, by its path."""
    if isinstance(tree, Tensor):
        if tree.dim() == 0:
            raise DataError(f"{name} is a single number: the first axis counts the examples")
        yield name, len(tree)
        return
    if not isinstance(tree, tuple | dict) or not tree:
        kind = type(tree).__name__
        raise DataError(f"{name} is a {kind}: allowed are a tensor, and a tuple or dict of tensors")
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, part in parts:
        yield from _lengths(f"{name}[{key!r}]", part)


def array_of(leaf: Tensor) -> npt.NDArray[Any]:
    """The tensor as an array, of a type that numpy has."""
    if leaf.dtype == torch.bfloat16:
        leaf = leaf.contiguous().view(torch.int16)
    return np.asarray(leaf.numpy())


def collated(pairs: Sequence[Any]) -> tuple[Tree, Tree]:
    """Inputs and targets of pairs, with a first axis more; see `Examples.of`."""
    targets = _stacked("targets", pairs, 1)
    if isinstance(targets, Tensor) and targets.dim() == 1:
        targets = targets.float() if targets.is_floating_point() else targets.long()
    return _stacked("inputs", pairs, 0), targets


def _stacked(name: str, pairs: Sequence[Any], part: int) -> Tree:
    """Of all examples that part, with a first axis more."""
    trees = [_tree(pair[part]) for pair in pairs]
    try:
        return mapped(lambda *rows: torch.stack(rows), *trees)
    except (RuntimeError, KeyError) as error:
        shapes = {str(mapped(lambda leaf: tuple(leaf.shape), tree)) for tree in trees}
        said = ", ".join(sorted(shapes)[:3])
        raise DataError(f"{name} differ in shape: {said}") from error


def _tree(value: Any) -> Tree:
    """Numbers and arrays as tensors, within dicts and tuples."""
    if isinstance(value, Mapping):
        return {key: _tree(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_tree, value))
    found = torch.as_tensor(value)
    typed = isinstance(value, Tensor | np.ndarray | np.generic)
    return found.float() if found.is_floating_point() and not typed else found


class Task(Protocol):
    """The five things that training, in simulation or in a silo, asks of a task.

    A task may also have `uncovered: tuple[str, ...]`, sentences on preprocessing in which one
    record can move the inputs or the use of others, such as scaling by their own mean: no epsilon
    covers that. With [privacy] such a task is refused unless the experiment and the data holder's
    policy say that they know. The sentences go into the report. And it may have
    `described: tuple[str, ...]`, lines that `privet simulate` shows before it trains, of what was
    made of the files that it read. `declared_metrics: tuple[Metric, ...]` says of figures which way
    is better and in what unit; the first is the run's headline.

    And it may have `constant_buffers: tuple[str, ...]`, names or patterns ("*.running_mean") of
    buffers that no training changes. With frozen parameters and what frozen parts keep in buffers
    they are the model's base (`privet.base`): `model` has to give the same one at every place.

    Who uses the trained model asks for three more, each of which may be left out:
    `encode(records: Tensor) -> Tensor`, model inputs of new records (n, ...) as people have them,
    each by itself; `answers(outputs) -> dict[str, array]`, columns (n,) that say what the model's
    outputs mean; and `recipe: dict[str, object]`, options that make the same model without any
    file of the training.
    """

    def model(self) -> nn.Module:
        """A fresh model, initialised from torch's global generator (the caller seeds it).

        For record-level DP it must treat the examples of a batch apart: GroupNorm or LayerNorm
        instead of BatchNorm, and no parameters shared between layers. What is frozen
        (requires_grad=False) is neither trained nor sent; a BatchNorm in it stays as it is.
        """
        ...

    def train_data(self) -> Examples:
        """The training examples that lie in this place's data folder.

        In a simulation that is everybody's data (`Examples.silo` says whose); at a real silo its
        own. Every call gives the same examples in the same order.
        """
        ...

    def test_data(self) -> Examples | None:
        """Examples that are never trained on, or None when this place has none."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss over the batch, a scalar; `outputs` is what the model returned.

        That is a tensor, or what holds tensors (a tuple, a dict, Hugging Face's with `logits`),
        each with a row for each example. It must be a mean of terms that each depend on one
        example, or per-example clipping means nothing.
        """
        ...

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        """Named measures of `outputs` against `targets`; `declared_metrics` says what they are."""
        ...


def check_examples(examples: Examples, name: str) -> None:
    """Raise DataError when `examples` (called `name` in the message) cannot be trained on.

    That is: there are none, or inputs or targets hold NaN or infinite values.
    """
    if len(examples) == 0:
        raise DataError(f"{name} holds no records")
    examples.demand_finite(name)


def _check_finite(values: Tensor, told: str, part: str) -> None:
    # The sum is not finite when one value is not, and much quicker than looking at each.
    if not values.is_floating_point() or math.isfinite(values.sum()):
        return
    bad = ~torch.isfinite(values.reshape(len(values), -1))
    if bad.any():
        raise DataError(
            f"{told} {int(bad.sum())} NaN or infinite {part} "
            f"in {int(bad.any(dim=1).sum())} of {len(values)} records"
        )


Build = Callable[[], nn.Module]


def named_model(task: str, name: str, models: Mapping[str, Build]) -> Build:
    """The builder called `name` among the `models` of `task`, or ExperimentError."""
    return models[known_model(task, name, models)]


def known_model(task: str, name: str, models: Iterable[str]) -> str:
    """`name` if it is one of the `models` of `task`, or ExperimentError."""
    if name not in models:
        raise ExperimentError(
            f"model = {name!r}: {task} has {', '.join(models)}.{nearest(name, models)}"
        )
    return name


def linear(inputs: int, classes: int) -> nn.Module:
    """Softmax regression, starting at zero: its loss is convex, so no start is better."""
    layer = nn.Linear(inputs, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def mlp(inputs: int, classes: int, *, hidden: int) -> nn.Module:
    """One hidden layer of `hidden` tanh units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)
    )


def cnn_28(classes: int) -> nn.Module:
    """Two convolutions for grey 28x28 images, inputs (n, 1, 28, 28), 14,490 weights for 10 classes.

    The convolutions of Papernot et al. (2021) without their hidden layer of 32, with GroupNorm and
    ReLU: fewer weights get noise.
    """
    first = _normalised(nn.Conv2d(1, 16, 8, stride=2, padding=3))
    second = _normalised(nn.Conv2d(16, 32, 4, stride=2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 4 * 4, classes))


def cnn_8(classes: int) -> nn.Module:
    """Two convolutions for grey 8x8 images, inputs (n, 1, 8, 8)."""
    first = _normalised(nn.Conv2d(1, 16, 3, padding=1))
    second = _normalised(nn.Conv2d(16, 32, 3, padding=1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 6 * 6, classes))


def cnn_rgb(classes: int) -> nn.Module:
    """Three convolutions for colour images of any size from 8 pixels, inputs (n, 3, size, size)."""
    layers = [
        layer
        for inputs, outputs in ((3, 16), (16, 32), (32, 64))
        for layer in _normalised(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
    ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 4 * 4, classes)
    )


def _normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    """A convolution, GroupNorm in four groups, ReLU, and overlapping 2x2 maxima."""
    norm = nn.GroupNorm(4, convolution.out_channels)
    return [convolution, norm, nn.ReLU(), nn.MaxPool2d(2, stride=1)]


def occurrences(contents: Iterable[Hashable]) -> list[int]:
    """For each of some contents how many equal ones came before it.

    >>> occurrences(["a", "b", "a", "a"])
    [0, 0, 1, 2]
    """
    seen: Counter[Hashable] = Counter()
    found = []
    for content in contents:
        found.append(seen[content])
        seen[content] += 1
    return found


def seeded_model(task: Task, seed: int) -> nn.Module:
    """The task's model with weights that follow from the experiment's seed.

    At every end the same, so that a base that is drawn and not read is the same as well.
    """
    # Of the CPU alone: by default torch starts every accelerator to save its state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(stream(seed, "weights")))
        return task.model()


def evaluated(
    model: nn.Module, examples: Examples, *, at_once: int, device: Device = CPU
) -> tuple[Any, Tree]:
    """What the model puts out for the examples, `at_once` of them together, and their targets.

    The model lies on `device`, the examples there or on the CPU; what is found is on the CPU.
    """
    starts = range(0, max(1, len(examples)), at_once)
    outputs, targets = [], []
    for start in starts:
        inputs, true = examples.batch(slice(start, start + at_once))
        with device.passes():
            found = applied(model, device.moved(inputs))
        outputs.append(CPU.moved(device.told(found)))
        targets.append(CPU.moved(true))
    return joined(outputs), joined(targets)


def constant_buffers(task: Task) -> tuple[str, ...]:
    """Names or patterns of buffers that the task declares to be of the base; usually none."""
    return tuple(getattr(task, "constant_buffers", ()))


def uncovered(task: Task) -> tuple[str, ...]:
    """Sentences on the task's preprocessing that epsilon does not cover; usually none."""
    return tuple(getattr(task, "uncovered", ()))


@contextmanager
def task_errors(what: str) -> Iterator[None]:
    """Turn an error of a task's own code into a ModelError that says where in it that was."""
    try:
        yield
    except PrivetError:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {words_of(error)}") from error


def drawn_by_content(contents: Sequence[bytes], fraction: float) -> npt.NDArray[np.bool_]:
    """Which of the records are in a sample of about `fraction`, each by a coin of its own content.

    One record more or less then moves no other in or out, which epsilon is about. Equal records
    have coins of their own, by how many of them came before: which is which nobody can say.
    """
    # A purpose of its own: whom a silo holds out (`evaluation.holdout`) is drawn by other coins.
    digests = (
        hashlib.blake2b(content + b"%d" % before, key=b"test rows", digest_size=8).digest()
        for content, before in zip(contents, occurrences(contents), strict=True)
    )
    return np.array([int.from_bytes(digest) / 2.0**64 < fraction for digest in digests], dtype=bool)


class Classification:
    """Cross entropy and accuracy for outputs (n, classes) and int64 targets (n,)."""

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Preprocessing that epsilon does not cover: nothing here."""
        return ()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over the batch, in nats."""
        return F.cross_entropy(outputs, targets)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the outputs stand for, in their order; None: they go by their numbers."""
        return None

    def answers(self, outputs: Tensor) -> dict[str, npt.NDArray[np.generic]]:
        """By column of a table: the likeliest class and the probability of each, (n,)."""
        names = self.class_names or tuple(map(str, range(outputs.shape[1])))
        shares = torch.softmax(outputs, dim=1).numpy()
        likeliest = np.array(names, dtype=object)[outputs.argmax(dim=1).numpy()]
        return {
            "prediction": likeliest,
            **{f"probability_{name}": share for name, share in zip(names, shares.T, strict=True)},
        }

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """ "accuracy": the share of examples whose largest output is their class."""
        return {"accuracy": (outputs.argmax(dim=1) == targets).float().mean().item()}
