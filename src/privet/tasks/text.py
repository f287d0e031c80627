"""Texts with a label, and a transformer that was trained before: adapters, or a head alone."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from privet.errors import DataError, ExperimentError, nearest
from privet.files import read_file
from privet.pytrees import Tree
from privet.tasks.encoders import TextBase, text_base
from privet.tasks.features import HEADS, FeatureStore, Headed, digests_of
from privet.tasks.files import cache_folder, demand_inside, read_inside
from privet.tasks.options import TextOptions
from privet.tasks.task import Classification, Examples, drawn_by_content, known_model

_LORA = "lora"
_PATHS = ("base", "file", "test_file", "cache")
_OWN_CLASSES = (
    "Which classes there are is read from the records; epsilon does not cover it. data.classes "
    "says it beforehand."
)


@dataclass(frozen=True)
class _Record:
    text: str
    label: str
    silo: str | None = None


class Texts(Classification):
    """Predict the label of a text. Options (`[data]`) are those of `TextOptions`.

    Models: "lora" (default), adapters in the layers of a frozen transformer and a linear head on
    the mean of its tokens; "linear" and "mlp", a head alone, on features (n, width) that the frozen
    transformer gives of each text once and that are kept (`cache`). Inputs of "lora" are
    `input_ids` and `attention_mask`, int64 (n, length). A record is known by its text and label.

    Raises ExperimentError for settings, a missing extra and bases that are not on this machine;
    DataError (file, line) for what files hold.
    """

    held = False
    """Whether a data holder describes it."""

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: object
    ) -> None:
        self._model = known_model("text", model or _LORA, (_LORA, *HEADS))
        self._options = TextOptions.of(options)
        self._data_dir = data_dir

    def model(self) -> nn.Module:
        options, width, classes = self._options, self._base.width, len(self._classes)
        if self._model != _LORA:
            return Headed(self._base.frozen.twin(), HEADS[self._model](width, classes))
        adapted = self._base.adapted(
            rank=options.lora_rank, alpha=options.lora_alpha, targets=options.lora_targets
        )
        return Headed(adapted, HEADS["linear"](width, classes))

    @property
    def constant_buffers(self) -> tuple[str, ...]:
        """All: places of tokens and the like."""
        return tuple(f"base.{name}" for name, _ in self._base.frozen.module.named_buffers())

    def train_data(self) -> Examples:
        return self._halves[0]

    def test_data(self) -> Examples | None:
        return self._halves[1]

    @property
    def uncovered(self) -> tuple[str, ...]:
        return () if self._options.classes else (_OWN_CLASSES,)

    @cached_property
    def _base(self) -> TextBase:
        return text_base(self._options.base, home=self._home, digest=self._options.base_digest)

    @property
    def _home(self) -> Path:
        return (self._data_dir or Path.cwd()).absolute()

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        found = self._options.classes or sorted({record.label for record in self._records})
        if len(found) < 2:
            raise DataError(f"records of two classes are needed, there is {found}")
        return tuple(found)

    @cached_property
    def _records(self) -> list[_Record]:
        """All that are trained on, or kept of those for testing."""
        return [record for name, silo in self._files() for record in self._read(name, silo)]

    def _files(self) -> list[tuple[str, str | None]]:
        """Names relative to the data folder, each with the silo whose it is."""
        options = self._options
        if options.file:
            return [(options.file, None)]
        names = options.files or []
        if isinstance(names, str):
            names = sorted(p.relative_to(self._home).as_posix() for p in self._home.glob(names))
        if not names:
            raise DataError(f"data.files = {options.files!r}: nothing in {self._home} fits")
        return [(name, Path(name).stem) for name in names]

    def _read(self, name: str, silo: str | None) -> list[_Record]:
        options = self._options
        wanted = (options.text, options.label, *([options.silo] if options.silo else []))
        found = []
        for line, row in _rows(name, self._content(name)):
            for column in wanted:
                if not str(row.get(column) or "").strip():
                    raise DataError(
                        f"{name}, line {line}: {column!r} is empty or missing; there are "
                        f"{', '.join(map(str, row))}.{nearest(column, map(str, row))}"
                    )
            whose = row[options.silo] if options.silo else silo
            found.append(_Record(row[options.text], row[options.label].strip(), whose))
        if not found:
            raise DataError(f"{name} has no records")
        return found

    def _content(self, name: str) -> bytes:
        path = self._home / Path(name).expanduser()
        if not path.is_file():
            raise DataError(
                f"{name} not found: there is no file {path}; paths in [data] are relative to the "
                "data folder (--data-dir or PRIVET_DATA)"
            )
        return read_file(path)

    @cached_property
    def _halves(self) -> tuple[Examples, Examples | None]:
        options = self._options
        train = self._examples(self._records)
        if options.test_file:
            tests = self._examples(self._read(options.test_file, None))
            return train, replace(tests, silo=None, silo_names=())
        contents = [f"{record.label}\n{record.text}".encode() for record in self._records]
        kept = drawn_by_content(contents, options.test_fraction)
        test = train.take(np.flatnonzero(kept))
        return train.take(np.flatnonzero(~kept)), test if len(test) else None

    def _examples(self, records: Sequence[_Record]) -> Examples:
        for record in records:
            if record.label not in self._classes:
                raise DataError(
                    f"{record.label[:64]!r} is no class: there are {', '.join(self._classes)}."
                    f"{nearest(record.label, self._classes)}"
                )
        targets = torch.tensor([self._classes.index(record.label) for record in records])
        digests = digests_of([record.text.encode() for record in records])
        texts = [record.text for record in records]
        examples = Examples(
            self._inputs(texts, digests), targets, records=torch.from_numpy(digests)
        )
        names = tuple(dict.fromkeys(r.silo for r in records if r.silo is not None))
        if not names:
            return examples
        silo = np.array([names.index(str(r.silo)) for r in records], dtype=np.int64)
        return replace(examples, silo=silo, silo_names=names)

    def _inputs(self, texts: Sequence[str], digests: np.ndarray) -> Tree:
        base, length = self._base, self._options.length
        if self._model == _LORA:
            return base.tokens(texts, length)
        store = FeatureStore(self._cache, base.frozen, f"text {length}", width=base.width)
        return store.features(digests, lambda at: base.tokens([texts[i] for i in at], length))

    @property
    def _cache(self) -> Path | None:
        return cache_folder(self._options.cache, self._data_dir)


class HeldTexts(Texts):
    """`Texts` of a real silo, and of a server's own records to test on.

    Records without text or with a label that is no class are left out. Features are kept where
    the holder's description says (`cache`), and else in memory alone.
    """

    held = True

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: object
    ) -> None:
        super().__init__(model=model, data_dir=data_dir, **options)
        if self._options.classes is None or self._options.files or self._options.silo:
            raise ExperimentError(
                "texts on real silos: data.classes names the classes, and data.file one file"
            )
        # Else a job could have a server look for any file.
        demand_inside({name: getattr(self._options, name) for name in _PATHS})

    def train_data(self) -> Examples:
        return self._examples(self._records)

    def test_data(self) -> Examples | None:
        return self._tested

    @cached_property
    def _tested(self) -> Examples | None:
        name = self._options.test_file
        records = self._read(name, None) if name else []
        return self._examples(records) if records else None

    def _read(self, name: str, silo: str | None) -> list[_Record]:  # noqa: ARG002
        options = self._options
        rows = (row for _, row in _rows(name, self._content(name), strict=False))
        pairs = ((str(row.get(options.text) or ""), str(row.get(options.label) or "").strip())
                 for row in rows)  # fmt: skip
        return [
            _Record(text, label) for text, label in pairs if text.strip() and label in self._classes
        ]

    def _content(self, name: str) -> bytes:
        return read_inside(self._data_dir, name)

    @property
    def _cache(self) -> Path | None:
        return super()._cache if self._options.cache else None


def _rows(name: str, raw: bytes, *, strict: bool = True) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Each record with its line; DataError for lines that are none, or they are left out."""
    try:
        text = raw.decode("utf-8-sig", errors="strict" if strict else "replace")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: byte 0x{raw[error.start]:02x} is no UTF-8") from None
    yield from (_json_rows if name.endswith(".jsonl") else _csv_rows)(name, text, strict)


def _json_rows(name: str, text: str, strict: bool) -> Iterator[tuple[int, Mapping[str, str]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield line, {key: value if isinstance(value, str) else json.dumps(value)
                         for key, value in row.items() if value is not None}  # fmt: skip
        elif strict:
            raise DataError(f"{name}, line {line} is no JSON object")


def _csv_rows(name: str, text: str, strict: bool) -> Iterator[tuple[int, Mapping[str, str]]]:
    csv.field_size_limit(sys.maxsize)
    separator = "\t" if name.endswith(".tsv") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header = [each.strip() for each in next(reader, [])]
    for row in reader:
        if len(row) == len(header):
            yield reader.line_num, dict(zip(header, row, strict=True))
        elif row and strict:
            raise DataError(
                f"{name}, line {reader.line_num} has {len(row)} cells, the header {len(header)}"
            )
