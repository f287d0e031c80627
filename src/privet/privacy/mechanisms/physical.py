"""How many examples fit into memory together, found on two made-up ones: no record is read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from privet.base import Base
from privet.privacy.mechanisms.examples import ExampleType
from privet.privacy.mechanisms.gradients import Gradients
from privet.pytrees import called, leaves, mapped

BUDGET = 2**28
"""Bytes for what the layers keep of a batch, and for its examples' gradients."""
_ROWS = 2


def physical_batch(base: Base, like: ExampleType) -> int:
    """How many examples `like` these the model takes at once within `BUDGET`, at least one.

    By what a pass over made-up examples keeps for its gradients, those themselves, and the largest
    of what it makes in between. The model and torch's random state stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        return max(1, BUDGET // _bytes(base, like))


def _bytes(base: Base, like: ExampleType) -> int:
    twin = Base.of(base.twin(), base.constant).train()
    trained = sum(p.numel() * p.element_size() for p in twin.parameters() if p.requires_grad)
    place = next(twin.parameters()).device
    for made_up in like.made_up(_ROWS):
        inputs = mapped(lambda leaf: leaf.to(place), made_up)
        with suppress(Exception):  # a task's own model, on made-up examples
            return max(1, _of_pass(twin, inputs) // _ROWS)
    return max(1, 2 * trained)


def _of_pass(model: nn.Module, inputs: Any) -> int:
    from privet.privacy.mechanisms.per_example import PerExampleModule

    kept: dict[int, int] = {p.data_ptr(): 0 for p in model.parameters()}
    seen = _Largest()  # type: ignore[no-untyped-call]

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.data_ptr(), _size(tensor))
        return tensor

    wrapped = PerExampleModule(model)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            outputs = [each for each in leaves(called(wrapped, inputs)) if each.requires_grad]
        with seen:
            torch.autograd.backward([each.sum() for each in outputs])
        gradients = sum(map(_held, wrapped.collect()))
    finally:
        wrapped.close()
    return sum(kept.values()) + gradients + 3 * seen.size


def _held(part: Gradients) -> int:
    """Of its tensors but for the parameters that it is about."""
    values = vars(part).values()
    held = [each for each in values if isinstance(each, Tensor)]
    return sum(_size(each) for each in held if not isinstance(each, nn.Parameter))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the bytes of the largest tensor that an operation makes."""

    size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        made = [_size(each) for each in tree_leaves(found) if isinstance(each, Tensor)]
        self.size = max([self.size, *made])
        return found
