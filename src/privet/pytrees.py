"""Tensors in tuples, dicts and what models put out, as one value whose first axis counts examples.

Inputs and targets are trees of tensors: a tensor, or a tuple or dict of trees. What a model puts
out may also be a list, a mapping that is made by keywords (Hugging Face's), a dataclass, or an
object with `logits`. Leaves come in the order of places and keys.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from privet.errors import DataError, ModelError

Tree = Any
"""A tensor, or a tuple or dict of trees."""

_PLAIN = (bool, int, float, str, bytes, type(None))


def mapped(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """`tree` with `function(leaf, *leaves of others)` in the place of each tensor.

    Numbers and text stay; of what is no tree, such as a model's cache, None is left.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    parts = _parts(tree)
    if parts is None:
        return tree if isinstance(tree, _PLAIN) else None
    theirs = [_parts(other) or {} for other in others]
    made = {key: mapped(function, part, *(t[key] for t in theirs)) for key, part in parts.items()}
    return _rebuilt(tree, made)


def _parts(tree: Tree) -> dict[Any, Any] | None:
    """What a tree consists of, by place or name; None of what is no tree."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, tuple | list):
        return dict(enumerate(tree))
    if is_dataclass(tree) or hasattr(tree, "logits"):
        return dict(vars(tree))
    return None


def _rebuilt(tree: Tree, parts: dict[Any, Any]) -> Tree:
    if type(tree) is dict:
        return parts
    if isinstance(tree, Mapping):
        return type(tree)(**parts)
    if isinstance(tree, tuple | list):
        named = hasattr(tree, "_fields")
        return type(tree)(*parts.values()) if named else type(tree)(parts.values())
    made = copy.copy(tree)
    vars(made).update(parts)
    return made


def leaves(tree: Tree) -> list[Tensor]:
    """Its tensors, in their order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in (_parts(tree) or {}).values() for leaf in leaves(part)]


def with_leaves(tree: Tree, tensors: Sequence[Tensor]) -> Tree:
    """The same tree of other tensors, in the order of `leaves`."""
    given = iter(tensors)
    return mapped(lambda _: next(given), tree)


def rows(tree: Tree) -> int:
    """How many examples: the length of the first axis, of all tensors alike.

    DataError where they differ, or there is no tensor.
    """
    counts = [len(leaf) if leaf.dim() else None for leaf in leaves(tree)]
    if not counts or counts[0] is None or counts.count(counts[0]) < len(counts):
        raise DataError(
            f"tensors with {', '.join(map(str, counts)) or 'no'} rows: one for each example"
        )
    return counts[0]


def at(tree: Tree, index: Tensor | slice) -> Tree:
    """The examples at `index`: a copy, or of a slice a view."""
    return mapped(lambda leaf: leaf[index], tree)


def joined(trees: Sequence[Tree]) -> Tree:
    """One tree after another along the first axis; a single one as it is."""
    if len(trees) == 1:
        return trees[0]
    return mapped(lambda *parts: torch.cat(parts), *trees)


def one_by_one(tree: Tree) -> list[Tree]:
    """Each example's own tree, with a first axis of length one."""
    return [at(tree, slice(place, place + 1)) for place in range(rows(tree))]


def called(model: nn.Module, inputs: Tree) -> Any:
    """What the model makes of a tensor, of a tuple as its arguments, of a dict by their names."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def demand_rows(outputs: Any, count: int) -> Any:
    """`outputs` if each tensor in it has a row for each of `count` examples, else ModelError."""
    found = leaves(outputs)
    if found and all(leaf.dim() and len(leaf) == count for leaf in found):
        return outputs
    if isinstance(outputs, Tensor) or not found:
        raise ModelError("the model must return one tensor with one row for each example")
    raise ModelError(
        "the model must return tensors with one row for each example: a loss of the whole batch, "
        "say, is the task's to compute (leave targets out of the inputs)"
    )


@torch.no_grad()
def applied(model: nn.Module, inputs: Tree) -> Any:
    """What the model puts out, as `demand_rows` asks; of no examples no rows."""
    count = rows(inputs)
    # Not every layer takes no rows at all.
    given = inputs if count else mapped(lambda leaf: leaf.new_zeros(1, *leaf.shape[1:]), inputs)
    found = demand_rows(called(model, given), max(1, count))
    return found if count else at(found, slice(0, 0))


def scores(outputs: Any) -> Tensor | None:
    """The tensor that targets are compared with: the only one, or that called logits, or none."""
    if isinstance(outputs, Tensor):
        return outputs
    named = (_parts(outputs) or {}).get("logits")
    if isinstance(named, Tensor):
        return named
    found = leaves(outputs)
    return found[0] if len(found) == 1 else None
