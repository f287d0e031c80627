"""The base of a model: what no training changes, so that nobody sends it.

Every end of a run loads it by the task, and its digest tells whether it is the same. To it belong

- parameters with requires_grad=False, of any type;
- buffers of a frozen part: one with parameters, all of them frozen;
- buffers that the task declares constant, by names or patterns (`constant_buffers`).

A frozen part is held in evaluation mode while the rest trains: its statistics stay as they are, and
its dropout is off. So is a layer with running statistics that are declared constant.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from privet.errors import ModelError

_TITLE = "privet base 1"


class BaseDiffers(ModelError):  # noqa: N818 - says what is the matter
    """Two ends of a run have loaded models with different bases."""


@dataclass(frozen=True, eq=False)
class Base:
    """What of `module` no training changes; see above."""

    module: nn.Module
    tensors: Mapping[str, Tensor]
    """By name: parameters in their order, then buffers."""
    held: tuple[nn.Module, ...]
    """In evaluation mode while the rest trains."""
    constant: tuple[str, ...] = ()
    """As the task declares them."""

    @classmethod
    def of(cls, module: nn.Module, constant: Sequence[str] = ()) -> Base:
        """The base of `module`; ModelError for a pattern in `constant` that is no buffer's."""
        parts = tuple(_frozen_parts(module))
        theirs = {id(buffer) for part in parts for buffer in part.buffers()}
        tensors: dict[str, Tensor] = {
            name: each for name, each in module.named_parameters() if not each.requires_grad
        }
        declared = _declared(module, constant)
        for name, buffer in module.named_buffers():
            if id(buffer) in theirs or name in declared:
                tensors[name] = buffer
        return cls(module, tensors, (*parts, *_with_statistics(module, declared)), tuple(constant))

    def __len__(self) -> int:
        """How many numbers."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @cached_property
    def ids(self) -> frozenset[int]:
        """By which its tensors are known among a module's."""
        return frozenset(map(id, self.tensors.values()))

    @cached_property
    def digest(self) -> str | None:
        """SHA-256 over names, types, shapes and bytes, hexadecimal; None of an empty base.

        As it was when it was first asked for: `check` compares with that.
        """
        if not self.tensors:
            return None
        facts = [
            [name, str(tensor.dtype), list(tensor.shape), self._digests[name]]
            for name, tensor in self.tensors.items()
        ]
        return hashlib.sha256(json.dumps([_TITLE, facts]).encode()).hexdigest()

    def train(self) -> nn.Module:
        """The module in training mode, but for what is held in evaluation mode."""
        self.module.train()
        self.hold()
        return self.module

    def hold(self) -> None:
        """Put what rests into evaluation mode."""
        for part in self.held:
            part.eval()

    def check(self) -> None:
        """ModelError, with its name, for a tensor that is not as it was at first."""
        if (name := self.moved()) is not None:
            raise ModelError(
                f"{name!r} changes when the model runs, but it is frozen or declared constant: "
                "what no training changes is not sent, and must stay as the task loads it"
            )

    def moved(self) -> str | None:
        """The name of a tensor that is not as it was at first, or of what is not about it."""
        now = self._tensors_now()
        for name, before in self._digests.items():
            tensor = now.get(name)
            if tensor is not None and tensor.requires_grad:
                return f"{name}.requires_grad"
            if tensor is None or _digest(name, tensor) != before:
                return name
        return None

    def twin(self, of: nn.Module | None = None) -> nn.Module:
        """A copy of the module, or of another such copy, that has the very tensors of the base."""
        return copy.deepcopy(of or self.module, {id(t): t for t in self.tensors.values()})

    def share(self) -> None:
        """Take the memory of an equal base that is in this process: one copy does for all."""
        if self.digest is None:
            return
        place = next(iter(self.tensors.values())).device
        other = _shared.get(key := f"{self.digest} {place}")
        if other is None or other.moved() is not None:
            _shared[key] = self
            return
        for own, its in zip(self.tensors.values(), other.tensors.values(), strict=True):
            own.data = its.data

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: _digest(name, tensor) for name, tensor in self.tensors.items()}

    def _tensors_now(self) -> dict[str, Tensor]:
        """By name as the module has them now: a pass may have put others in their place."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


_shared: WeakValueDictionary[str, Base] = WeakValueDictionary()


def _frozen_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that have parameters, all of them frozen."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if trained and not any(trained):
        yield module
        return
    for child in module.children():
        yield from _frozen_parts(child)


def _declared(module: nn.Module, patterns: Sequence[str]) -> set[str]:
    names = [name for name, _ in module.named_buffers()]
    found = {pattern: [n for n in names if fnmatchcase(n, pattern)] for pattern in patterns}
    for pattern, matching in found.items():
        if not matching:
            raise ModelError(f"constant_buffers: {pattern!r} is the name of no buffer of the model")
    return {name for matching in found.values() for name in matching}


def _with_statistics(module: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    """The layers that would move buffers of these names in training mode."""
    for owner in {name.rpartition(".")[0] for name in names}:
        layer = module.get_submodule(owner)
        if getattr(layer, "track_running_stats", False):
            yield layer


def _digest(name: str, tensor: Tensor) -> str:
    try:
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{name!r} is {tensor.dtype} on {tensor.device}: a base needs plain tensors with memory"
        ) from error
    return hashlib.sha256(content.data).hexdigest()
