"""What `privet status` prints of texts that come from elsewhere."""

from __future__ import annotations

import pytest

from privet.commands.jobs import _show


@pytest.mark.parametrize("detail", ["[privacy] asked for less", "[/x]", "[bold]"])
def test_brackets_are_shown_as_they_are(detail: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = {"id": "j", "requester": "r", "task": "t", "round": 1, "rounds": 2, "state": "failed"}
    _show({"silos": [], "jobs": [{**job, "detail": detail}]})
    assert detail in capsys.readouterr().out
