"""What `privet status` prints of texts that come from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from privet.commands.cli import main
from privet.commands.jobs import _show


@pytest.mark.parametrize("detail", ["[privacy] asked for less", "[/x]", "[bold]"])
def test_brackets_are_shown_as_they_are(detail: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = {"id": "j", "requester": "r", "task": "t", "round": 1, "rounds": 2, "state": "failed"}
    _show({"silos": [], "jobs": [{**job, "detail": detail}]})
    assert detail in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[validation]\nshare = 0.1\n", "on real silos [evaluation] measures the model"),
        ('[start]\nfile = "w.safetensors"\n', "or set start.sha256 to that of the server's file"),
    ],
)
def test_what_no_server_can_run_is_not_submitted(
    tmp_path: Path, settings: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "job.toml").write_text(f'task = "digits"\n{settings}')
    with pytest.raises(SystemExit) as end:
        main(["submit", str(file), "--kit", str(tmp_path)])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
