"""Watching a job from afar as one watches a simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from privet.remote.desk import Desk, NoAnswer

OVER = frozenset({"finished", "failed", "cancelled"})
_PAUSE = 1.0


def follow(
    desk: Desk,
    job: str,
    *,
    watch: Callable[[Mapping[str, Any]], None],
    say: Callable[[str], None],
    patience: float = 600.0,
) -> dict[str, Any]:
    """Pass every entry of the history to `watch` until the job is over, and return its end.

    `say` hears of everything else that a person should know: what the job waits for, and that the
    server does not answer, which is borne for `patience` seconds and raises NoAnswer then.
    """
    seen, said, since = 0, "", None
    while True:
        try:
            entries, told = desk.history(job, start=seen)
        except NoAnswer as lost:
            now = time.monotonic()
            since = since or now
            if now - since > patience:
                raise
            if said != str(lost):
                say(f"{lost}; trying on")
                said = str(lost)
            time.sleep(_PAUSE)
            continue
        since = None
        for entry in entries:
            watch(entry)
        seen += len(entries)
        text = f"{told['state']} {told['detail']}" if told["state"] == "waiting" else ""
        if text and text != said:
            say(text)
        said = text
        if told["state"] in OVER and not entries:
            return told
