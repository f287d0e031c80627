"""Transformers of Hugging Face's libraries, from folders and packages of this machine alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from privet.base import Base
from privet.errors import DataError, ExperimentError, ModelError, words_of
from privet.tasks.features import frozen

_HERE = {"local_files_only": True, "trust_remote_code": False}
"""Nothing of a hub, and no code that lies beside a model."""


class MeanPooled(nn.Module):
    """Features (n, width): the mean of what an encoder makes of the tokens that are no padding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Of token numbers and a mask, int64 (n, length) both."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        features: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return features


@dataclass(frozen=True)
class TextBase:
    """A frozen encoder under `MeanPooled`, with its tokenizer."""

    frozen: Base
    tokenizer: Any
    width: int

    def tokens(self, texts: Sequence[str], length: int) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, int64 (n, length): each text by itself, cut or padded.

        Never to the longest of a batch: how a record is padded must not hang on the others.
        """
        found = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length,
            return_tensors="pt",
        )  # fmt: skip
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def adapted(self, *, rank: int, alpha: float, targets: Sequence[str]) -> nn.Module:
        """A copy on the same frozen tensors with LoRA adapters, which train (Hu et al. 2021)."""
        peft = _library("peft")
        module = self.frozen.twin()
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=[*targets])
        try:
            peft.inject_adapter_in_model(config, module.encoder)
        except ValueError as error:
            names = {name.rpartition(".")[2] for name, part in module.named_modules()
                     if isinstance(part, nn.Linear)}  # fmt: skip
            raise ExperimentError(
                f"data.lora_targets = {[*targets]}: the base has no such layers; its linear ones "
                f"are called {', '.join(sorted(names))}"
            ) from error
        for name, parameter in module.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return module


def text_base(name: str, *, home: Path, digest: str | None) -> TextBase:
    """The encoder in the folder or package called `name`; see `TextOptions.base`.

    Raises ExperimentError for a missing extra, for what is not on this machine and for another
    digest than the one said; DataError for a folder that holds no model.
    """
    transformers = _library("transformers")
    folder = _folder(name, home)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_HERE)
        # Tensors only: other files of weights may hold code.
        encoder = transformers.AutoModel.from_pretrained(
            folder,
            **_HERE, use_safetensors=True, dtype=torch.float32,
            attn_implementation="eager",
        )  # fmt: skip
    # Of files from anywhere: each kind of model fails in a way of its own.
    except Exception as error:
        raise DataError(f"data.base: {folder} holds no model: {words_of(error)}") from error
    if tokenizer.pad_token is None:
        raise ModelError(f"data.base = {name!r}: its tokenizer has no token to pad with")
    for part in encoder.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # its parts rest or not by what trains in them; noise is enough
    base = frozen(MeanPooled(encoder), digest=digest)
    return TextBase(base, tokenizer, int(encoder.config.hidden_size))


def _folder(name: str, home: Path) -> Path:
    """Where the model lies."""
    place = home / Path(name).expanduser()
    if (place / "config.json").is_file():
        return place
    spec = find_spec(name) if name.isidentifier() else None
    roots = [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []
    for root in roots:
        for config in sorted(root.rglob("config.json")):
            if "model_type" in json.loads(config.read_text(encoding="utf-8")):
                return config.parent
    raise ExperimentError(
        f"data.base = {name!r}: there is no model in {place}, and no installed package of that "
        "name holds one; nothing is fetched from a hub"
    )


def _library(name: str) -> Any:
    # Before its first import, which reads it: whatever is asked for by mistake stays here.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        library = __import__(name)
    except ImportError as error:
        raise ExperimentError(f"task = 'text' needs {name}: pip install 'privet[hf]'") from error
    if name == "transformers":
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
    return library
