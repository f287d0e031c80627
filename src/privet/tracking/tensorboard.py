"""TensorBoard: event files, and for a sweep a folder of them for each cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privet.tracking.tracker import About, Status

FOLDER = "tensorboard"


def open_tracker(place: str | None, folder: Path) -> _TensorBoard:
    """`place` is a folder; None: `tensorboard` beside what the run or the sweep writes."""
    return _TensorBoard(Path(place) if place else folder / FOLDER)


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def begin(self, key: str, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder / _file_name(about.name)
        # Whoever watches sees a round soon: the default is to wait for two minutes.
        writer = self._writers[key] = SummaryWriter(str(folder), flush_secs=5)
        rows = "".join(f"| {name} | {value} |\n" for name, value in about.settings.items())
        writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def round(self, key: str, number: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writers[key].add_scalar(name, value, number)

    def end(self, key: str, status: Status, files: Sequence[Path]) -> None:  # noqa: ARG002
        """TensorBoard keeps no files: of those that are given, texts in JSON are shown."""
        writer = self._writers.pop(key)
        for file in files:
            if file.suffix == ".json":
                # TensorBoard takes texts for Markdown, in which four blanks begin code.
                indented = file.read_text(encoding="utf-8").replace("\n", "\n    ")
                writer.add_text(file.stem, f"    {indented}")
        writer.close()


def _file_name(name: str) -> str:
    # A name holds settings, and these may hold what begins another folder.
    return re.sub(r"[^\w .,=+-]", "_", name)
