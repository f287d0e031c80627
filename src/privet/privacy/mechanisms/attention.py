"""torch's multi-head attention, with another in its place that shows each example's gradients.

nn.MultiheadAttention holds three matrices in one parameter and multiplies by them in a function, in
which no hook sees a layer. While a model is trained privately an `Attention` does the same by
layers, on the very same parameters; `recurrent` says what that leaves as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privet.errors import ModelError


class InProjection(nn.Module):
    """One of the three projections: `rows` of a bias, and of a weight that has all three."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, rows: slice) -> None:
        super().__init__()
        self.weight, self.bias, self.rows = weight, bias, rows
        size = rows.stop - rows.start
        self.weight_rows = rows if len(weight) > size else slice(0, size)

    def forward(self, inputs: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[self.rows]
        return F.linear(inputs, self.weight[self.weight_rows], bias)


def check_attention(layer: nn.MultiheadAttention) -> str | None:
    """What is wrong with a layer for which `Attention` is to stand in."""
    if type(layer) is not nn.MultiheadAttention:
        return "is a class of its own over nn.MultiheadAttention: hold one instead"
    if layer.bias_k is not None or layer.add_zero_attn:
        return "gives no per-example gradients with add_bias_kv or add_zero_attn: leave them out"
    return None


class Attention(nn.Module):
    """What torch's layer does; attributes are as there."""

    num_heads: int
    batch_first: bool
    dropout: float

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ModelError("an attention layer has hooks, which would not run: remove them")
        if problem := check_attention(layer):
            raise ModelError(f"an attention layer {problem}")
        own = {name: value for name, value in vars(layer).items() if name not in vars(self)}
        self.__dict__.update({**own, **dict(layer.named_parameters(recurse=False))})
        self.in_projections = nn.ModuleList(_in_projections(layer))
        self.out_proj = layer.out_proj
        self.train(layer.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() != 3:
            raise ModelError("an attention layer takes tensors of three dimensions here")
        if is_causal and attn_mask is None:
            raise ModelError("an attention layer with is_causal needs its attn_mask, as in torch")
        given = [query, key, value]
        if not self.batch_first:
            given = [each.transpose(0, 1) for each in given]
        parts = [
            project(each).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, each in zip(self.in_projections, given, strict=True)
        ]
        mask = self._mask(parts, key_padding_mask, attn_mask)
        seen, weights = self._seen(parts, mask, need_weights=need_weights)
        output: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _mask(
        self, parts: list[Tensor], padding: Tensor | None, places: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores, for (n, heads, queries, keys)."""
        n, heads, queries, _ = parts[0].shape
        keys, found = parts[1].shape[2], []
        if padding is not None:
            found.append(_added(padding, parts[0]).view(n, 1, 1, keys))
        if places is not None:
            shape = (n, heads, queries, keys) if places.dim() == 3 else (1, 1, queries, keys)
            found.append(_added(places, parts[0]).view(shape))
        return sum(found[1:], found[0]) if found else None

    def _seen(
        self, parts: list[Tensor], mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = parts
        chance = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(query, key, value, mask, chance), None
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = F.dropout(weights, chance, self.training)
        return weights @ value, weights


def _in_projections(layer: nn.MultiheadAttention) -> Iterator[InProjection]:
    size = layer.embed_dim
    for place, name in enumerate("qkv"):
        weight: nn.Parameter | None = layer.in_proj_weight
        if weight is None:
            weight = getattr(layer, f"{name}_proj_weight")
        yield InProjection(weight, layer.in_proj_bias, slice(place * size, (place + 1) * size))


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
