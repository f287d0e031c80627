"""An accelerator that needs no hardware: a device of torch's own over the CPU's memory.

Every operator runs as it does on the CPU, to the bit, on the very memory of its arguments; but a
tensor of the CPU among them is refused, as a GPU refuses it, and numpy gets none of it. Where
`DOUBLE` is off, nothing is float64 there, as on Apple's.
"""

from __future__ import annotations

import ctypes
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "paper"
MEMORY = 1 << 30
double = True
"""Whether it has float64."""
calls: list[str] = []
"""The operators that ran there, when a test clears it."""

_CPU, _EXTENSION = 1, 12  # DLPack's numbers for kinds of devices
_NATIVE = "native_group_norm", "native_group_norm_backward", "native_layer_norm"
"""What torch would otherwise put together of others, with another rounding."""
_COPIES = {"aten::_copy_from", "aten::_copy_from_and_resize"}


class _Header(ctypes.Structure):
    """How a DLPack tensor begins."""

    _fields_ = [("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("number", ctypes.c_int32)]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _relabelled(tensor: Tensor, kind: int) -> Tensor:
    """The same memory as a tensor of another device, which keeps it alive."""
    truth = tensor.dtype == torch.bool  # the capsules of older readers know none
    tensor = tensor.detach().view(torch.uint8) if truth else tensor.detach()
    capsule = torch.utils.dlpack.to_dlpack(tensor)
    address = _pointer(capsule, b"dltensor")
    assert address is not None
    _Header.from_address(address).kind = kind
    found: Tensor = torch.utils.dlpack.from_dlpack(capsule)
    return found.view(torch.bool) if truth else found


def _here(value: Tensor) -> Tensor:
    return _relabelled(value, _CPU)


def _there(value: Tensor) -> Tensor:
    if value.dtype == torch.float64 and value.dim() and not double:
        raise TypeError(f"{NAME} has no float64")
    return _relabelled(value, _EXTENSION)


def _is_there(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operator, with an argument on the device."""
    name = op._schema.name
    calls.append(name)

    def near(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu") if value.type == NAME else value
        if not isinstance(value, Tensor):
            return value
        if _is_there(value):  # memory that is borrowed cannot grow; an empty one is asked to
            return _here(value) if value.numel() else torch.empty_like(value, device="cpu")
        if value.dim() and name not in _COPIES:
            raise RuntimeError(f"{name}: a tensor of {value.device} among those of {NAME}")
        return value

    def far(value: Any) -> Any:
        return _there(value) if isinstance(value, Tensor) else value

    if name in _COPIES:
        source, target = near(args[0]), near(args[1])
        target.copy_(source)
        return args[1]
    found = op(*tree_map(near, args), **tree_map(near, kwargs))
    written = _written(op, args, kwargs)
    if not written:
        return tree_map(far, found)
    for given, grown in zip(written, found if len(written) > 1 else [found], strict=True):
        if given.shape != grown.shape:
            given.data = far(grown)
    return written[0] if len(op._schema.returns) < 2 else tuple(written)


def _written(op: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operator gives back because it has changed them."""
    if not all(each.alias_info and each.alias_info.is_write for each in op._schema.returns):
        return []
    return [
        kwargs[each.name] if each.kwarg_only else args[place]
        for place, each in enumerate(op._schema.arguments)
        if each.alias_info and each.alias_info.is_write
    ]


def _convolution(*args: Any) -> Tensor:
    return _run(torch.ops.aten.convolution.default, *args)  # type: ignore[no-any-return]


def _convolution_backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor | None, ...]:
    *how, groups, mask = rest
    biases = weight.shape[1] * groups if how[3] else weight.shape[0]
    op = torch.ops.aten.convolution_backward.default
    return _run(op, gradient, inputs, weight, [biases], *how, groups, mask)  # type: ignore[no-any-return]


class _Module(_DummyBackendModule):  # type: ignore[misc]
    """What torch knows the device by."""

    def manual_seed_all(self, seed: int) -> None:
        """What layers draw, they draw on the CPU."""
        torch.default_generator.manual_seed(seed)

    def mem_get_info(self, _device: object = None) -> tuple[int, int]:
        """Bytes that are free, and all."""
        return MEMORY, MEMORY


@cache
def register() -> tuple[torch.library.Library, ...]:
    """Make it one of this process's devices, for good."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    anything = torch.library.Library("_", "IMPL")
    anything.fallback(_run, "PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for kernel in _NATIVE:
        op = getattr(torch.ops.aten, kernel).default
        aten.impl(kernel, partial(_run, op), "PrivateUse1")
    aten.impl("convolution_overrideable", _convolution, "PrivateUse1")
    aten.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    return anything, aten
