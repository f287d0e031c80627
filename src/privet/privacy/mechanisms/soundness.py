"""One verdict on a model and a loss: does the claim of DP-SGD hold for them?

DP-SGD bounds what one record can move only if every example goes through the model by itself, if
its gradient is the one that it would have alone, and if nothing but the noisy gradient carries
anything of it into the next step. All of this is looked at on made-up examples of the declared
shape and type, in training mode: no record is read, and every silo of a job comes to the same
verdict. What cannot be compared is refused.
"""

from __future__ import annotations

import inspect
import pickle
import sys
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from logging import Logger
from operator import itemgetter
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from privet.base import Base
from privet.errors import ModelError, words_of
from privet.privacy.mechanisms.attention import check_attention
from privet.privacy.mechanisms.examples import ExampleType
from privet.privacy.mechanisms.gradients import Sums
from privet.privacy.mechanisms.losses import ExampleLoss
from privet.pytrees import (
    Tree,
    at,
    called,
    demand_rows,
    joined,
    leaves,
    mapped,
    one_by_one,
    rows,
)
from privet.randomness import one_thread

STATE_MOVED = (
    "{!r} changes when the model runs, and would carry data into the next step without noise: "
    "make it constant or compute it anew in each pass"
)
_DECLARED = "counters"
_LARGE = 2**17
"""Numbers in the largest batch that a model is tried on."""
_HOOKS = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}
_TORCHS_OWN = frozenset(vars(nn.Module())) - _HOOKS
_HELD_BY_MODULES = {"_parameters", "_buffers", "_modules"}
_FAR = 10**6
"""Passes that a declared counter is moved on, to see what a model does then."""


_FIXES = {
    nn.LSTMCell: "use nn.LSTM",
    nn.GRUCell: "use nn.GRU",
    nn.RNNCell: "use nn.RNN",
    nn.EmbeddingBag: "use nn.Embedding and add up its rows",
    nn.Bilinear: "use nn.Linear on the products of its inputs",
}


def check_model(model: nn.Module, base: Base | None = None) -> None:
    """Raise ModelError, with the layer's path and the fix, for what its layers show to be unfit.

    That is: any BatchNorm and anything that tracks running statistics, trained or frozen, affine or
    not; a layer that renormalises its weights (max_norm); parameters that two layers share;
    parameters that are not float32 or not yet initialised; layers that Opacus refuses; and a model
    with nothing to train. What a model does, `check_training` looks at.

    A frozen part in evaluation mode, where `base` holds it, needs no gradients of its own and may
    use statistics that it has: of its layers only those that renormalise are unfit.
    """
    held = {id(module) for part in (base.held if base else ()) for module in part.modules()}
    for path, module in model.named_modules():
        if problem := _problem(module, resting=_rests(module, held=id(module) in held)):
            raise ModelError(f"layer {_named(path, module)} {problem}")
    _check_parameters(model)


def check_training(
    model: nn.Module, loss: ExampleLoss, like: ExampleType, *, base: Base | None = None
) -> None:
    """Raise ModelError unless DP-SGD's claim holds for `model` and `loss` on examples `like` these.

    The model is looked at as `check_model` does, and then run: no state that a module can reach
    (parameters, buffers, tensors, arrays and numbers in attributes) changes in a pass, but for
    attributes that a class names in `counters` and that change in the same way whatever the inputs;
    a row's output depends on no other row and not on their number; per-example gradients are those
    of each example alone, by autograd. All of that at the model's weights and at others, since the
    verdict is for a whole training. Random draws are held at fixed values meanwhile (dropout
    keeps everything). For the loss see `ExampleLoss.check`; it may keep nothing from one call to
    the next. No record is read; the model and torch's random state stay as they are.

    `base` is the model's, with what its task declares constant; frozen parts are held in evaluation
    mode, as they are in training. Copies have the very tensors of the base: memory does not grow.
    """
    base = base or Base.of(model)
    check_model(model, base)
    with _threads_for(model):
        outputs = _probe(base, like)
        before = _held_by_loss(loss.loss)
        loss.check(outputs, like)
    if path := changed(before, _held_by_loss(loss.loss)):
        raise ModelError(STATE_MOVED.format(path).replace("the model runs", "the loss is taken"))


def check_evaluation(model: nn.Module, like: ExampleType, *, base: Base | None = None) -> None:
    """Raise ModelError unless one record moves nobody else's outputs in evaluation mode.

    Looked at as in `check_training`, for figures that are released with noise.
    """
    with _threads_for(model):
        _probe(base or Base.of(model), like, training=False)


def _probe(base: Base, like: ExampleType, *, training: bool = True) -> Any:
    """What the model puts out for made-up inputs, (4, ...), if nothing is wrong with it."""
    before = base.digest
    try:
        return _probed(base, like, training=training)
    finally:
        # Copies have the tensors of the base itself: what a pass does to them is found here.
        try:
            if before is not None:
                base.check()
        finally:
            for tensor in base.tensors.values():
                tensor.requires_grad_(False)


def _probed(base: Base, like: ExampleType, *, training: bool) -> Any:
    model = base.module
    try:
        twin = base.twin()
        twin = Base.of(twin, base.constant).train() if training else twin.eval()
    except Exception as error:
        raise ModelError(f"the model cannot be copied: {words_of(error)}") from error
    if path := changed(reachable(model, but=base.ids), reachable(twin, but=base.ids)):
        raise ModelError(f"a copy of the model differs from it in {path!r}: what runs is not seen")
    candidates = list(like.made_up())
    with torch.random.fork_rng(devices=[]), _WithoutChance():  # type: ignore[no-untyped-call]
        accepted = _accepted(base, twin, candidates)
        # Not only where training begins: a weight of zero may hide what it will let through.
        for place, tried in ((elsewhere(base, twin), accepted[:1]), (twin, accepted)):
            for inputs in tried:
                _check_state(base, place, inputs)
            outputs = [_check_rows(place, inputs) for inputs in tried]
            if training:
                _check_gradients(place, tried[0], outputs[0])
        _check_sizes(twin, accepted[0])
    return outputs[0]


def _threads_for(model: nn.Module) -> AbstractContextManager[None]:
    """One for a small model: on a few examples they would wait for each other and do little."""
    small = sum(each.numel() for each in model.parameters()) < 2**20
    return one_thread() if small else nullcontext()


def elsewhere(base: Base, twin: nn.Module) -> nn.Module:
    """A copy with other weights of usual size, and declared counters far on."""
    moved, drawn = base.twin(twin), np.random.default_rng(1)
    with torch.no_grad():
        for parameter in _trainable(moved, base):
            fan_in = parameter.numel() / (len(parameter) if parameter.dim() > 1 else 1)
            size = 0.5 / max(fan_in if parameter.dim() > 1 else 1.0, 1.0) ** 0.5
            step = torch.from_numpy(np.asarray(drawn.normal(scale=size, size=parameter.shape)))
            parameter.add_(step.to(parameter.dtype))
    for module in moved.modules():
        for name in getattr(type(module), _DECLARED, ()):
            if isinstance(value := getattr(module, name, None), int | float | Tensor):
                setattr(module, name, value + _FAR)
    return moved


def reachable(
    model: nn.Module, *, trained: bool = True, but: Collection[int] = ()
) -> dict[str, Any]:
    """Every value that the model's modules hold, by its path: tensors (copied), arrays, numbers.

    Without `trained` parameters are left out that training is to change, and so are the values of
    tensors whose ids are in `but`: those of a base, which has a digest.
    """
    found: dict[str, Any] = {}
    tensors = (*_named_tensors(model),)
    for path, tensor in tensors:
        found[f"{path}.requires_grad"] = tensor.requires_grad
        if (trained or not tensor.requires_grad) and id(tensor) not in but:
            found[path] = tensor.detach().clone()
    seen = {id(tensor) for _, tensor in tensors} | {id(module) for module in model.modules()}
    for path, module in model.named_modules():
        declared = getattr(type(module), _DECLARED, ())
        own = vars(module)
        for name, value in (*own.items(), *_of_class(type(module), shown_by=own)):
            if name not in _TORCHS_OWN and name not in declared:
                _collect(f"{path}.{name}".lstrip("."), value, found, seen)
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The path of something that is not as it was; None when all is."""
    for path in [*before, *(after.keys() - before.keys())]:
        if path not in before or path not in after or not _same(before[path], after[path]):
            return path
    return None


def _rests(module: nn.Module, *, held: bool) -> bool:
    """Whether nothing of it trains, and it is in evaluation mode or will be."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return (held or (not module.training and bool(trained))) and not any(trained)


def _problem(module: nn.Module, *, resting: bool) -> str | None:
    """What is wrong with this layer alone, and the fix."""
    if getattr(module, "max_norm", None) is not None:
        return "renormalises its weights by what it looks up: leave out max_norm"
    # In training mode frozen ones too, and in any without statistics: they mix the batch.
    if isinstance(module, _BatchNorm) and not (resting and module.running_mean is not None):
        return "mixes the examples of a batch and records their statistics: use nn.GroupNorm"
    if resting:
        return None
    if getattr(module, "scale_grad_by_freq", False):
        return "divides gradients by counts over the batch: leave out scale_grad_by_freq"
    if isinstance(module, _ConvNd) and module.padding_mode != "zeros" and _pads(module):
        return (
            f"pads by {module.padding_mode!r}, which its per-example gradients leave out: pad in a "
            "layer before"
        )
    if getattr(module, "track_running_stats", False):
        return "records statistics of the data without noise: set track_running_stats=False"
    if isinstance(module, nn.RNNBase):
        return _problem_of_recurrent(module)
    if isinstance(module, nn.MultiheadAttention):
        return check_attention(module)
    for kind, fix in _FIXES.items():
        if isinstance(module, kind):
            return f"gives no per-example gradients: {fix}"
    for refusal in _refusals(module):
        return f"is refused by Opacus: {str(refusal).split('. ')[0]}"
    return None


def _problem_of_recurrent(module: nn.RNNBase) -> str | None:
    """For private training another layer stands in, which does what torch's own classes do."""
    if type(module) not in (nn.LSTM, nn.GRU, nn.RNN):
        return "is a class of its own over a recurrent layer: hold an nn.LSTM, nn.GRU or nn.RNN"
    if module.proj_size:
        return "gives no per-example gradients with proj_size: use a linear layer behind it"
    return None


def _pads(module: _ConvNd) -> bool:
    return module.padding == "same" or (module.padding != "valid" and any(module.padding))


def _refusals(module: nn.Module) -> list[Exception]:
    """What Opacus' own validator for this type of layer says; it does not look at frozen layers."""
    from privet.privacy.mechanisms.per_example import ModuleValidator

    validate = ModuleValidator.VALIDATORS.get(type(module))
    return list(validate(module)) if validate else []


def _check_parameters(model: nn.Module) -> None:
    trainable = [(name, p) for name, p in _all_parameters(model) if p.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameter")
    first_name: dict[int, str] = {}
    for name, parameter in trainable:
        if is_lazy(parameter):
            raise ModelError(f"parameter {name!r} has no shape yet: run the model once first")
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ModelError(
                f"parameter {name!r} has hooks, which get the batch's gradient without clipping "
                "and noise: remove them"
            )
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name!r} is {parameter.dtype}: use float32")
        # By memory, not by identity: two parameters may be views of one tensor.
        earlier = first_name.setdefault(parameter.data_ptr(), name)
        if earlier != name:
            raise ModelError(
                f"parameters {earlier!r} and {name!r} share their memory, which breaks "
                "per-example gradients: give each layer its own"
            )


def _all_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A recurrent layer of Opacus shows the weights of its cells once more, under torch's names."""
    for path, module in model.named_modules(remove_duplicate=False):
        if not hasattr(module, "_register_renamed_parameters"):
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                yield f"{path}.{name}".lstrip("."), parameter


def _named(path: str, module: nn.Module) -> str:
    return f"{path!r} ({type(module).__name__})" if path else f"({type(module).__name__})"


def _accepted(base: Base, twin: nn.Module, candidates: list[Tree]) -> list[Tree]:
    """Those inputs that the model takes, the most numbers first; ModelError when it takes none."""
    accepted, problems = [], []
    for inputs in candidates:
        try:
            outputs = _outputs(base.twin(twin), inputs)
        except ModelError:
            raise
        except Exception as error:
            problems.append(error)
            continue
        accepted.append((_lost(outputs), inputs))
    if accepted:
        # Where all is NaN (a mask of large numbers) rows look alike whatever the model does.
        return [inputs for _, inputs in sorted(accepted, key=itemgetter(0))]
    raise ModelError(
        f"the model fails on made-up inputs of {_described(candidates[0])}: {words_of(problems[0])}"
    ) from problems[0]


def _lost(outputs: Any) -> int:
    return sum(int((~leaf.isfinite()).sum()) for leaf in leaves(outputs))


def _described(inputs: Tree) -> str:
    if isinstance(inputs, dict):
        return ", ".join(f"{name} of {_described(each)}" for name, each in inputs.items())
    each = [f"shape {tuple(leaf.shape)}, {leaf.dtype}" for leaf in leaves(inputs)]
    return " and ".join(each)


def _outputs(model: nn.Module, inputs: Tree) -> Any:
    with torch.no_grad():
        return demand_rows(called(model, inputs), rows(inputs))


def _check_state(base: Base, twin: nn.Module, inputs: Tree) -> None:
    """Large weights bring out what acts on them alone, such as a norm that is held down."""
    for scale in (1.0, 1000.0):
        model = base.twin(twin)
        with torch.no_grad():
            for parameter in _trainable(model, base):
                parameter.mul_(scale)
        before = reachable(model, but=base.ids)
        # Zeros may look like the first state.
        for given in (mapped(torch.zeros_like, inputs), inputs):
            with torch.enable_grad():
                moved = [each.sum() for each in leaves(called(model, given)) if each.requires_grad]
                if moved:
                    torch.autograd.backward(moved)
            model.zero_grad(set_to_none=True)
            if (path := changed(before, reachable(model, but=base.ids))) is not None:
                raise ModelError(STATE_MOVED.format(path))
    _check_counters(base, twin, inputs)


def _check_counters(base: Base, twin: nn.Module, inputs: Tree) -> None:
    """What a class declares as a counter must count alike whatever the inputs are."""
    ends = []
    for given in (inputs, mapped(torch.zeros_like, inputs)):
        model = base.twin(twin)
        _outputs(model, given)
        ends.append(_declared(model))
    if (path := changed(*ends)) is not None:
        raise ModelError(f"{path!r} is declared a counter, but it depends on the inputs")


def _declared(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name in getattr(type(module), _DECLARED, ()):
            _collect(f"{path}.{name}".lstrip("."), getattr(module, name, None), found, set())
    return found


def _check_rows(twin: nn.Module, inputs: Tree) -> Any:
    together = _outputs(twin, inputs)
    if not _close(_outputs(twin, inputs), together):
        raise ModelError(
            "two passes over the same inputs differ although torch's random draws were held fixed: "
            "the model draws its randomness elsewhere, and rows cannot be compared"
        )
    twice = at(_outputs(twin, joined([inputs, inputs])), slice(0, rows(inputs)))
    others = [_rolled(inputs, 1), mapped(torch.zeros_like, inputs)]
    if _numbers(inputs):
        others.append(mapped(lambda leaf: leaf.roll(2, 0) * 30 if _number(leaf) else leaf, inputs))
    among = [_among(twin, inputs, other) for other in others]
    _demand_close(together, _alone(twin, inputs), twice, *among)
    return together


def _number(leaf: Tensor) -> bool:
    """Whether it has numbers, not indices or a mask."""
    return leaf.is_floating_point() and not torch.equal(leaf, leaf.round())


def _numbers(inputs: Tree) -> bool:
    return any(map(_number, leaves(inputs)))


def _rolled(inputs: Tree, by: int) -> Tree:
    return mapped(lambda leaf: leaf.roll(by, 0), inputs)


def _alone(twin: nn.Module, inputs: Tree) -> Any:
    return joined([_outputs(twin, row) for row in one_by_one(inputs)])


def _check_sizes(twin: nn.Module, inputs: Tree) -> None:
    """Rows among as many as in a batch, and small ones and outliers among others.

    What a batch scales or cuts off, it may leave alone where all rows look alike.
    """
    size, own = sum(leaf.numel() for leaf in leaves(inputs)), slice(0, rows(inputs))
    many = joined([inputs] * max(2, min(64, _LARGE // max(size, 1))))
    _demand_close(_outputs(twin, inputs), at(_outputs(twin, many), own))
    if not _numbers(inputs):
        return
    outlying = _of_numbers(lambda leaf: torch.sinh(3 * leaf), inputs)
    for each in (_of_numbers(lambda leaf: leaf / 100, inputs), outlying):
        among = [_among(twin, each, other) for other in (_rolled(inputs, 1), _rolled(outlying, 2))]
        _demand_close(_alone(twin, each), *among)


def _of_numbers(change: Callable[[Tensor], Tensor], inputs: Tree) -> Tree:
    return mapped(lambda leaf: change(leaf) if _number(leaf) else leaf, inputs)


def _demand_close(wanted: Any, *found: Any) -> None:
    if not all(_close(each, wanted) for each in found):
        raise ModelError(
            "the model's output for one example depends on the others in its batch: "
            "remove what averages, sorts or counts over the first dimension"
        )


def _among(twin: nn.Module, inputs: Tree, others: Tree) -> Any:
    """Each row's output with `others` in place of the rows beside it."""
    found = []
    for place, own in enumerate(one_by_one(inputs)):
        batch = joined([at(others, slice(0, place)), own, at(others, slice(place + 1, None))])
        found.append(at(_outputs(twin, batch), slice(place, place + 1)))
    return joined(found)


def _close(found: Any, wanted: Any) -> bool:
    pairs = zip(leaves(found), leaves(wanted), strict=True)
    return all(_close_tensors(*pair) for pair in pairs)


def _close_tensors(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or not wanted.numel():
        return found.shape == wanted.shape
    size = float(torch.nan_to_num(wanted.abs().float()).max())
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    return torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(size, 1.0), equal_nan=True)


def _check_gradients(twin: nn.Module, inputs: Tree, outputs: Any) -> None:
    """Per-example gradients of a random linear function of the outputs, in a batch and alone."""
    # A plain sum of outputs has gradient zero behind a softmax; a random direction has not.
    # Not by torch's generator: its draws are held fixed here.
    drawn = np.random.default_rng(0)
    direction = mapped(lambda leaf: _direction(leaf, drawn), outputs)
    pairs = zip(one_by_one(inputs), one_by_one(direction), strict=True)
    wanted = [_gradient(twin, row, part) for row, part in pairs]
    found = _by_hooks(twin, inputs, direction)
    for expected, got in zip(wanted, found, strict=True):
        size = max(float(expected.abs().max()), 1e-3)
        got = got.to(expected.dtype)
        if not torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * size, equal_nan=True):
            raise ModelError(
                "per-example gradients differ from the gradients of each example alone: a layer "
                "that Opacus does not see whole, such as a weight used through a function"
            )


def _direction(outputs: Tensor, rng: np.random.Generator) -> Tensor:
    drawn = rng.normal(size=tuple(outputs.shape))
    # Of very different lengths: what holds a batch's gradient down acts on long ones only.
    lengths = np.array([1e4, 1.0, 1e2, 1e-2]).reshape(-1, *(1,) * (drawn.ndim - 1))
    return torch.from_numpy(drawn * lengths).to(outputs.dtype)


def _along(outputs: Any, direction: Any) -> Tensor:
    """The scalar products of outputs that train with a direction, shape (n,)."""
    pairs = zip(leaves(outputs), leaves(direction), strict=True)
    products = [(o * d).reshape(len(o), -1).sum(1) for o, d in pairs if o.requires_grad]
    return torch.stack(products).sum(0)


def _gradient(model: nn.Module, row: Tree, direction: Any) -> Tensor:
    """The gradient over all trainable parameters for one example, shape (d,); unused ones are 0."""
    trainable = _trainable(model)
    with torch.enable_grad():
        value = _along(called(model, row), direction).sum()
        parts = torch.autograd.grad(value, trainable, allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(trainable, parts, strict=True)]
    return torch.cat([(g.to_dense() if g.is_sparse else g).reshape(-1) for g in whole])


def _by_hooks(twin: nn.Module, inputs: Tree, direction: Any) -> Iterator[Tensor]:
    """Each example's gradient as the training gets it, shape (d,), one after the other."""
    from privet.privacy.mechanisms.per_example import PerExampleModule

    trainable = _trainable(twin)
    try:
        wrapped = PerExampleModule(twin)
    except (NotImplementedError, ValueError) as error:
        raise ModelError(f"per-example gradients fail: {words_of(error)}") from error
    try:
        with torch.enable_grad():
            _along(called(wrapped, inputs), direction).mean().backward()  # type: ignore[no-untyped-call]
        parts = wrapped.collect()
        for place in range(count := rows(inputs)):
            sums: Sums = {p: torch.zeros_like(p, dtype=torch.float64) for p in trainable}
            chosen = torch.zeros(count, dtype=torch.float64)
            chosen[place] = 1.0
            with torch.no_grad():
                for part in parts:
                    part.add_weighted(chosen, sums)
            yield torch.cat([sums[parameter].reshape(-1).float() for parameter in trainable])
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"per-example gradients fail: {words_of(error)}") from error
    finally:
        wrapped.close()


def _trainable(model: nn.Module, base: Base | None = None) -> list[nn.Parameter]:
    # A pass may have flipped what is of the base, and it is the very tensor of the model.
    known = base.ids if base else ()
    return [each for each in model.parameters() if each.requires_grad and id(each) not in known]


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _of_class(kind: type, *, shown_by: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Attributes of classes that are no library's: values may be kept there as well.

    One that the object hides behind its own, of the same name, is another value.
    """
    for each in kind.__mro__:
        if not _of_library(each.__module__):
            for name, value in vars(each).items():
                if not name.startswith("__") or name == "__slots__":
                    yield f"{each.__name__}.{name}" if name in shown_by else name, value


_LIBRARIES = sys.stdlib_module_names | {
    *("torch", "opacus", "numpy", "scipy", "privet"),
    *("transformers", "peft", "timm", "huggingface_hub"),
}


def _of_library(module: str | None) -> bool:
    return (module or "builtins").split(".")[0] in _LIBRARIES


def _collect(path: str, value: Any, found: dict[str, Any], seen: set[int]) -> None:
    """Put `value` and all that it holds into `found`; ModelError for what cannot be compared."""
    if isinstance(value, int | float | complex | str | bytes | None):
        found[path] = value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found[path] = value.detach().clone()
    elif isinstance(value, torch.Generator):
        found[path] = value.get_state()
    elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        found[path] = torch.from_numpy(np.array(value))
    elif isinstance(value, bytearray | memoryview | array):
        found[path] = bytes(value)
    else:
        parts = dict(_parts(value))
        found[f"len({path})"] = len(parts)
        for name, part in parts.items():
            _collect(f"{path}{name}", part, found, seen)
        if not parts:
            _collect_whole(path, value, found)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value consists of, and the paths from it."""
    if isinstance(value, Logger):
        return  # it leads to every stream of the process, and keeps no records
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"[{place}]", each) for place, each in enumerate(value))
    elif isinstance(value, np.ndarray):
        yield from ((f"[{place}]", each) for place, each in enumerate(value.ravel().tolist()))
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType | staticmethod | classmethod):
        yield ".__func__", value.__func__
        yield ".__self__", getattr(value, "__self__", None)
    elif isinstance(value, partial):
        yield from ((f".{name}", getattr(value, name)) for name in ("func", "args", "keywords"))
    elif isinstance(value, property):
        yield from ((f".{name}", getattr(value, name)) for name in ("fget", "fset"))
    elif isinstance(value, type):
        yield from ((f".{name}", each) for name, each in _of_class(value, shown_by={}))
    elif not isinstance(value, ModuleType):
        slots = [n for kind in type(value).__mro__ for n in _names(getattr(kind, "__slots__", ()))]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        yield from ((f".{name}", each) for name, each in {**held, **_attributes(value)}.items())


def _held_by_loss(loss: Any) -> dict[str, Any]:
    """What a loss can keep values in: of a task, the attributes that its loss names."""
    found: dict[str, Any] = {}
    if not isinstance(loss, MethodType):
        _collect("loss", loss, found, set())
        return found
    owner, function = loss.__self__, loss.__func__
    names = _named_by(function.__code__) if isinstance(function, FunctionType) else []
    for name in names:  # grows by what its own methods name
        value = inspect.getattr_static(owner, name, None)
        if isinstance(value, FunctionType) and value is not function:
            names.extend(n for n in _named_by(value.__code__) if n not in names)
    for name in dict.fromkeys(names):
        if (value := inspect.getattr_static(owner, name, None)) is not None:
            _collect(name, value, found, set())
    _collect("loss", function, found, set())
    return found


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _attributes(value: Any) -> dict[str, Any]:
    own = getattr(value, "__dict__", {})
    left_out = _TORCHS_OWN - _HELD_BY_MODULES  # of a module that no other one knows of
    return {name: each for name, each in own.items() if name not in left_out}


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function can keep values in: its closure, defaults, attributes and named globals."""
    if _of_library(function.__module__):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            yield f".{name}", cell.cell_contents
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__
    yield from ((f".{name}", each) for name, each in vars(function).items())
    for name in set(_named_by(function.__code__)) & function.__globals__.keys():
        each = function.__globals__[name]
        if isinstance(each, ModuleType) and not _of_library(each.__name__):
            used = {n: vars(each)[n] for n in _named_by(function.__code__) if n in vars(each)}
            yield from ((f" ({name}.{inner})", value) for inner, value in used.items())
        elif not isinstance(each, ModuleType):
            yield f" ({name})", each


def _named_by(code: CodeType) -> list[str]:
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return [*code.co_names, *(name for each in inner for name in _named_by(each))]


def _collect_whole(path: str, value: Any, found: dict[str, Any]) -> None:
    """A value without parts, such as a dtype or an iterator, by its pickled form."""
    if isinstance(value, ModuleType | type | FunctionType) or type(value) is object:
        return
    try:
        found[path] = pickle.dumps(value)
    except Exception as error:
        if _of_library(type(value).__module__) and type(value).__module__ != "builtins":
            return
        raise ModelError(
            f"{path!r} is a {type(value).__name__}, which cannot be compared before and after a "
            "pass: keep it out of the model"
        ) from error


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        return bool(((first == second) | (first.isnan() & second.isnan())).all())
    both_nan = bool(first != first and second != second)
    return type(first) is type(second) and (both_nan or bool(first == second))


class _WithoutChance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Random draws at fixed values, alike for every row: dropout keeps all, normal noise is 0."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name == "native_dropout":
            kept = torch.ones_like(args[0], dtype=torch.bool)
            return args[0] / (1 - args[1]) if args[2] and args[1] < 1 else args[0].clone(), kept
        if name in ("rrelu_with_noise", "rrelu_with_noise_"):
            return self._rrelu(name, *args)
        value = _FIXED.get(name.rstrip("_").removesuffix("_like"))
        result = func(*args, **kwargs)
        if value is None or not isinstance(result, Tensor):
            return result
        if name == "uniform_":
            low, high = args[1:3] if len(args) > 2 else (0.0, 1.0)
            value = (low + high) / 2
        return result.fill_(value)

    def _rrelu(self, name: str, inputs: Tensor, noise: Tensor, *rest: Any) -> Tensor:
        lower, upper = rest[:2] if len(rest) > 1 else (1 / 8, 1 / 3)
        noise.copy_(torch.where(inputs <= 0, (lower + upper) / 2, torch.ones_like(inputs)))
        return inputs.mul_(noise) if name.endswith("_") else inputs * noise


_FIXED = {
    "bernoulli": 1.0,
    "uniform": 0.5,
    "rand": 0.5,
    "normal": 0.0,
    "randn": 0.0,
    "randint": 0,
    "exponential": 1.0,
    "geometric": 1.0,
    "log_normal": 1.0,
    "cauchy": 0.0,
}
