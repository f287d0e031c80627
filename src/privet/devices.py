"""Where models are computed: one of torch's devices, and the precision of their passes.

A device has a model's parameters, its optimizer and, where they fit, the records. What travels, is
written down or is judged is on the CPU. float32 is what parameters, gradients and updates are in;
with "bf16" the matrix products of forward and backward passes are in bfloat16 (torch.autocast).
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from privet.errors import PrivetError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Precision = Literal["float32", "bf16"]

_NAMES = "auto", "cpu", "cuda", "mps"
_WITHOUT_DOUBLE = {"mps"}
"""Kinds of devices that have no float64."""
_SHARE = 0.5
"""Of the memory that is free, what records may take: the rest is for what layers make of them."""


class DeviceError(PrivetError):
    """A device that is not here, or cannot do what is asked of it."""


def check_device(text: str) -> str:
    """`text`, when it can name a device; ValueError else. Loads nothing."""
    if not re.fullmatch(r"auto|cpu|mps|[a-z]\w*(:\d{1,3})?", text):
        raise ValueError(f"{text[:64]!r} is no device: auto, cpu, cuda, cuda:N or mps")
    return text


@dataclass(frozen=True)
class Device:
    """A device that is there; `chosen` finds it."""

    name: str = "cpu"
    """torch's, without a number where it is the one that the process is at."""
    precision: Precision = "float32"

    @property
    def kind(self) -> str:
        """Its name without a number."""
        return self.name.partition(":")[0]

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU."""
        return self.kind == "cpu"

    @property
    def place(self) -> torch.device:
        """As torch knows it."""
        import torch

        return torch.device(self.name)

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}"

    def enter(self, number: int | None = None) -> None:
        """Keep float32 what it says in this process, which computes here.

        `number`: which it owns of the devices of a kind that was named without a number.
        """
        import torch

        if self.on_cpu:
            return
        if number is not None and self.name == "cuda":
            torch.cuda.set_device(number)
        # By default cuDNN cuts float32 to 10 bits of fraction, and takes whatever is quickest.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True

    def seed(self, number: int) -> None:
        """Seed what layers draw, here and on the CPU."""
        import torch

        # Unlike torch.manual_seed, this does not walk the stack for CUDA's sake.
        torch.default_generator.manual_seed(number)
        if not self.on_cpu:
            torch.get_device_module(self.kind).manual_seed_all(number)

    def moved(self, tree: Any) -> Any:
        """The same tensors here: a tensor, or a tree of them (`privet.pytrees`)."""
        from privet.pytrees import mapped

        return mapped(lambda tensor: tensor.to(self.place), tree)

    def resident(self, tree: Any) -> Any:
        """The same if they fit into the memory that is free, else `tree` itself."""
        if self.on_cpu or _bytes(tree) > _SHARE * free_memory(self):
            return tree
        return self.moved(tree)

    def twin(self, module: nn.Module) -> nn.Module:
        """A copy of a module whose parameters and buffers lie here, shared where they were."""
        from torch import nn

        memo: dict[int, Any] = {}
        for own in module.parameters():
            copied = own.detach().to(self.place, copy=True)
            memo[id(own)] = nn.Parameter(copied, own.requires_grad)
        for buffer in module.buffers():
            memo[id(buffer)] = buffer.detach().to(self.place, copy=True)
        return copy.deepcopy(module, memo)

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Forward passes in the block have this precision, and the backward passes of them."""
        import torch

        if self.precision == "float32":
            yield
            return
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            yield

    def told(self, outputs: Any) -> Any:
        """What a model has put out in such a pass, in float32."""
        return outputs if self.precision == "float32" else full(outputs)


CPU = Device()


def options(name: str, precision: str) -> list[str]:
    """What a command is told to compute so; nothing of what it does anyway."""
    given = [f"--device {name}"] if name != CPU.name else []
    return [*given, f"--precision {precision}"] if precision != CPU.precision else given


def chosen(name: str, precision: str = "float32") -> Device:
    """The device called `name`, "auto" being cuda, then mps, then the CPU.

    DeviceError, in one line that says what there is, for one that is not here.
    """
    if precision not in get_args(Precision):
        raise DeviceError(f"precision = {precision!r}: it is {' or '.join(get_args(Precision))}")

    here = found()
    if name == "auto":
        kinds = [each.partition(":")[0] for each in here]
        name = next((kind for kind in ("cuda", "mps") if kind in kinds), "cpu")
    elif name not in here and name not in {each.partition(":")[0] for each in here}:
        hint = "" if name.partition(":")[0] in _NAMES else nearest(name, _NAMES)
        raise DeviceError(f"device = {name!r} is not here: there is {', '.join(here)}.{hint}")
    device = Device(name, cast("Precision", precision))
    if precision != "float32" and not _has_bfloat16(device.kind):
        raise DeviceError(f"precision = {precision!r}: {name} has float32 only")
    return device


def found() -> list[str]:
    """The devices of this machine, the CPU first. Starts none, so that processes can be forked."""
    import torch

    # Not is_available(), which starts CUDA: it cannot be used in a fork then.
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    if not names and (other := torch.accelerator.current_accelerator()) is not None:
        count = torch.get_device_module(other.type).device_count()
        names = [f"{other.type}:{number}" for number in range(count)]
    return ["cpu", *names]


def may_fork() -> bool:
    """Whether a process that torch has worked in may fork others in which it is to work.

    Not where there is any accelerator, used or not: a first backward pass, also on the CPU, starts
    a thread for each of them, without which no child can have one of its own.
    """
    return "fork" in multiprocessing.get_all_start_methods() and found() == ["cpu"]


def _has_bfloat16(kind: str) -> bool:
    import torch

    return kind in ("cpu", "cuda", "mps", "xpu") and torch.amp.is_autocast_available(kind)


def processes(device: Device) -> int:
    """How many can work at once: a core for each, or a device."""
    return os.cpu_count() or 1 if device.on_cpu else len(_meant(device))


def _meant(device: Device) -> list[str]:
    """The devices that a name means: all of a kind, or the one with its number."""
    return [each for each in found() if device.name in (each, each.partition(":")[0])]


def demand_workers(device: Device, workers: int) -> None:
    """DeviceError for more processes than there are devices to own: each owns one."""
    own = _meant(device)
    if not device.on_cpu and workers > len(own):
        raise DeviceError(
            f"workers = {workers}: a process owns a device, and device = {device.name!r} is "
            f"{len(own)} ({', '.join(own)})"
        )


def free_memory(device: Device) -> int:
    """Bytes that are free on a device other than the CPU; 0 where nobody can say."""
    import torch

    if device.kind == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    ask = getattr(torch.get_device_module(device.kind), "mem_get_info", None)
    return int(ask(device.place)[0]) if ask else 0


def exact_place(device: torch.device) -> torch.device:
    """Where numbers on `device` are added up in float64: there, or on the CPU if it has none."""
    import torch

    return torch.device("cpu") if device.type in _WITHOUT_DOUBLE else device


def exact(values: Tensor) -> Tensor:
    """`values` in float64, at their `exact_place`."""
    return values.to(exact_place(values.device)).double()


def full(outputs: Any) -> Any:
    """What passes gave, with every bfloat16 tensor in float32."""
    from privet.pytrees import mapped

    return mapped(lambda tensor: tensor.float() if _is_short(tensor) else tensor, outputs)


def _is_short(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4


def _bytes(tree: Any) -> int:
    from privet.pytrees import leaves

    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(tree))
