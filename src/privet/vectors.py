"""What trains of a model as one flat vector: parameters in order, then floating-point buffers.

Aggregation rules, encryption and checkpoints see vectors of shape (d,), float32, on the CPU; only
the two ends of a round know modules, and only they know devices. What no training changes is no
part of it (`privet.base`), and integer buffers (BatchNorm's batch counter) stay where they are.

With `federation.local` some of those numbers stay in their silo. A silo trains the whole vector,
shape (d,); what travels, is added up and kept by the server is the rest of it, the shared part, in
the same order. The silo's own part is trained with the same clipped and noised steps: it never
leaves, but the next shared update depends on it through the forward pass, so what is claimed of the
updates holds only if the steps of all coordinates are covered. As each step is, the own part is
covered by the same epsilon, though nobody is shown it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privet.devices import CPU, Device
from privet.errors import ExperimentError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from privet.base import Base

    Correction = Callable[[Sequence[nn.Parameter]], None]

Vector = NDArray[np.float32]


class FlatModel:
    """A module whose state lies in one piece of memory, so that loading it is a single copy.

    Parameters that train and buffers of `module` become views of that memory; they stay the same
    objects. Raises ModelError for one of them that is not float32 on the CPU, or on the device that
    is named, and for a model whose parameters are all frozen.
    """

    def __init__(
        self,
        module: nn.Module,
        vector: Vector | None = None,
        *,
        constant: Sequence[str] = (),
        local: Sequence[str] = (),
        device: Device = CPU,
    ) -> None:
        """`vector`, shape (d,), is that memory and the state from now on, where it is given.

        `constant`: buffers that the task declares to be of the base. `local`: names or patterns of
        what stays in its silo. ValueError for a vector of another length; ExperimentError for a
        pattern that fits nothing, and where nothing is left that trains and travels.
        """
        # Late: who only passes vectors on, as a silo's own process, is spared torch.
        import torch

        from privet.base import Base

        self.module = module
        self.base: Base = Base.of(module, constant)
        self.parameters = tuple(p for p in module.parameters() if p.requires_grad)
        """Those that train."""
        self.trained = tuple(n for n, p in module.named_parameters() if p.requires_grad)
        """Their names."""
        if self.base.tensors and not self.parameters:
            raise ModelError("the model has no trainable parameter: all of them are frozen")
        tensors = dict(_state(module, self.base))
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or tensor.device.type != device.kind:
                wanted = "CPU" if device.on_cpu else device.name
                raise ModelError(
                    f"{name!r} is {tensor.dtype} on {tensor.device}: use float32, {wanted}"
                )
        self.base.share()
        self.names = tuple(tensors)
        self.sizes = tuple(tensor.numel() for tensor in tensors.values())
        """Of the tensors, in their order."""
        if vector is None:
            self._memory = torch.empty(sum(self.sizes), device=device.place)
        else:
            self._memory = torch.from_numpy(_of_length(sum(self.sizes), vector))
        parts = torch.split(self._memory, list(self.sizes))
        for tensor, part in zip(tensors.values(), parts, strict=bool(tensors)):
            if vector is None:
                part.copy_(tensor.detach().reshape(-1))
            tensor.data = part.view(tensor.shape)  # what it had is free before the next is copied
        self.local = _local(self.names, local, self.trained)
        """Names of what stays in its silo, in order."""
        self._local_ids = frozenset(id(tensors[name]) for name in self.local)
        stays = [name in self.local for name in self.names]
        self._stays = np.repeat(stays, self.sizes) if self.local else None
        self.shared_sizes = tuple(n for n, own in zip(self.sizes, stays, strict=True) if not own)
        """Of the tensors that travel."""
        self._first = self.own(self.vector()) if self.local else np.empty(0, np.float32)

    def shared(self, vector: Vector) -> Vector:
        """Of a vector, shape (d,), what travels; the vector itself where all of it does."""
        return vector if self._stays is None else vector[~self._stays]

    def own(self, vector: Vector) -> Vector:
        """Of a vector, shape (d,), what stays in the silo: a copy, empty where nothing does."""
        return vector[:0] if self._stays is None else vector[self._stays]

    def joined(self, shared: Vector, own: Vector | None = None) -> Vector:
        """The whole of a shared part and an own one, shape (d,); ValueError for other lengths.

        Without `own` it is as the model was made: a silo's that has not trained yet.
        """
        if self._stays is None:
            return shared
        whole: Vector = np.empty(len(self._memory), np.float32)
        for part, where in (
            (shared, ~self._stays),
            (self._first if own is None else own, self._stays),
        ):
            if part.shape != (count := int(where.sum()),):
                raise ValueError(f"{count} values are expected, the vector has shape {part.shape}")
            whole[where] = part
        return whole

    def on_shared(self, correction: Correction | None) -> Correction | None:
        """A strategy's correction, made to see the parameters that travel alone.

        It knows no others: it begins from the shared part.
        """
        if correction is None or not self.local:
            return correction
        travels = [name not in self.local for name in self.trained]

        def on_those(parameters: Sequence[nn.Parameter]) -> None:
            correction([p for p, shared in zip(parameters, travels, strict=True) if shared])

        return on_those

    @cached_property
    def unsent(self) -> str | None:
        """A digest of what does not travel: the base, and which tensors are local; or None.

        Server and silos compare it, so that one's shared part is not another's.
        """
        if not self.local:
            return self.base.digest
        sizes = dict(zip(self.names, self.sizes, strict=True))
        facts = [_LOCAL_TITLE, self.base.digest, [[name, sizes[name]] for name in self.local]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def load(self, vector: Vector) -> None:
        """Take over `vector`, shape (d,); ValueError when the length differs."""
        import torch

        _of_length(len(self._memory), vector)
        if self._memory.is_cpu:
            np.copyto(self._memory.numpy(), vector)
        else:  # a copy first: torch takes over no array that it may not write to
            self._memory.copy_(torch.tensor(vector))

    def vector(self) -> Vector:
        """A copy of the state, shape (d,)."""
        copied: Vector = self._memory.to("cpu", copy=True).numpy()
        return copied

    def on(self, device: Device) -> FlatModel:
        """A model like this one on another device."""
        twin = device.twin(self.module)
        return FlatModel(twin, constant=self.base.constant, local=self.local, device=device)

    def check(self) -> None:
        """ModelError, with its name, for what a training must leave as it was and did not."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad == (id(parameter) in self.base.ids):
                raise ModelError(
                    f"'{name}.requires_grad' changes when the model runs: what trains is decided "
                    "when the task makes the model"
                )
        self.base.check()

    def state(self) -> dict[str, Tensor]:
        """The state dict of the module without what is of the base, or local; on the CPU."""
        whole = self.module.state_dict(keep_vars=True)
        without = self.base.ids | self._local_ids
        return {n: each.detach().cpu() for n, each in whole.items() if id(each) not in without}

    def own_state(self, own: Vector | None = None) -> dict[str, NDArray[np.float32]]:
        """The tensors of an own part by their names, or of the one that the model was made with."""
        left, tensors = self._first if own is None else own, dict(_state(self.module, self.base))
        found = {}
        for name in self.local:
            shape, size = tuple(tensors[name].shape), tensors[name].numel()
            found[name], left = left[:size].reshape(shape), left[size:]
        return found

    def marks(self) -> dict[str, bytes]:
        """For each parameter that trains and travels a digest of its numbers: two that differ have
        moved."""
        tensors = zip(self.trained, self.parameters, strict=True)
        shared = [(name, each.detach().cpu()) for name, each in tensors if name not in self.local]
        return {name: hashlib.sha256(each.numpy().data).digest() for name, each in shared}


def _of_length(count: int, vector: Vector) -> Vector:
    if vector.shape != (count,):
        raise ValueError(f"the model has {count} values, the vector has shape {vector.shape}")
    return vector


_LOCAL_TITLE = "privet local parts 1"


def _local(
    names: Sequence[str], patterns: Sequence[str], trained: Sequence[str]
) -> tuple[str, ...]:
    """Those of the names that fit one of the patterns."""
    for pattern in patterns:
        if not any(is_local(name, [pattern]) for name in names):
            raise ExperimentError(
                f"federation.local: {pattern!r} is the name of nothing that trains; allowed are "
                f"names or patterns of {_some(names)}"
            )
    local = tuple(name for name in names if is_local(name, patterns))
    if local and set(trained) <= set(local):
        raise ExperimentError(
            f"federation.local = {list(patterns)}: every parameter that trains would stay in its "
            f"silo, and nothing be learned together; leave out some of {_some(trained)}"
        )
    return local


def is_local(name: str, patterns: Sequence[str]) -> bool:
    """Whether a tensor of this name stays in its silo, by `federation.local`."""
    return any(fnmatchcase(name, each) for each in patterns)


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _state(module: nn.Module, base: Base) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        if id(parameter) not in base.ids:
            yield name, parameter
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and id(buffer) not in base.ids:
            yield name, buffer
