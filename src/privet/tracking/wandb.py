"""Weights & Biases: a run, and for a sweep a group of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privet.tracking.tracker import About, Status

PROJECT = "privet"
"""Unless WANDB_PROJECT says otherwise."""


def open_tracker(place: str | None, folder: Path) -> _Wandb:
    """`place` is a project; None: WANDB_PROJECT. WANDB_MODE=offline keeps everything here."""
    # Reports of errors go to the vendor and may quote settings.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    return _Wandb(place or os.environ.get("WANDB_PROJECT") or PROJECT, group=folder.name)


class _Wandb:
    def __init__(self, project: str, *, group: str) -> None:
        import wandb

        self._start = wandb.init
        self._project, self._group = project, group
        # Nothing of this machine, its code or its terminal is to be sent.
        self._settings = wandb.Settings(
            silent=True,
            host="",
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._runs: dict[str, Any] = {}

    def begin(self, key: str, about: About) -> None:
        self._runs[key] = self._start(
            project=self._project,
            name=about.name,
            group=self._group if about.parent or about.cells else None,
            config=dict(about.settings),
            # Cells of a sweep run side by side; by default a second run would be the first again.
            reinit="create_new",
            settings=self._settings,
        )

    def round(self, key: str, number: int, figures: Mapping[str, float]) -> None:
        self._runs[key].log(dict(figures), step=number)

    def end(self, key: str, status: Status, files: Sequence[Path]) -> None:
        run = self._runs.pop(key)
        for file in files:
            run.save(str(file), base_path=str(file.parent), policy="now", glob=False)
        run.finish(exit_code=0 if status == "FINISHED" else 1)
