"""The commands, as a person meets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from privet.commands.provision import join_cli, provision
from privet.errors import PrivetError

cli = typer.Typer()
cli.command()(provision)
cli.add_typer(join_cli, name="join")


def _said(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_from_a_file_to_kits_and_on(
    operators: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    operators.file.write_text(operators.text + "[silos.west]\nown_key = true\n")
    text = _said("provision", "project.toml")
    assert "north silo made until" in text
    assert "west silo waiting not on the list yet: no west.public.toml" in text
    assert "list of parties: version 1" in text
    assert "kits/project.key and kits/ca.key are the project: keep them off every" in text

    text = _said("join", "init", "west", "--out", "mine")
    assert "Identity: " in text
    assert "Send mine/west.public.toml to the project's operators" in text
    (tmp_path / "mine" / "west.public.toml").rename("west.public.toml")

    text = _said("provision", "project.toml", "--revoke", "south")
    assert "west silo made until" in text
    assert "own key: compare" in text
    assert "south silo revoked" in text
    assert "Bring kits/parties.json to the server, in the place of its own." in text


def test_nothing_is_made_for_those_who_bring_their_keys(operators: Any, tmp_path: Path) -> None:
    operators.file.write_text(operators.text)
    out = tmp_path / "kits"
    text = _said("provision", str(operators.file), "--out", str(out), "--bring-your-own-key")
    assert text.count("waiting") == 3
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["server"]


def test_a_typing_error_is_one_line(operators: Any, tmp_path: Path) -> None:
    operators.file.write_text(operators.text.replace("hosts", "hsts"))
    with pytest.raises(PrivetError, match=r"unknown key 'server\.hsts'\. Did you mean 'hosts'\?"):
        _said("provision", str(operators.file), "--out", str(tmp_path / "kits"))
    assert not (tmp_path / "kits").exists()


def test_the_commands_load_no_heavy_library() -> None:
    probe = (
        "import sys, privet.commands.provision\n"
        "print(*{'torch', 'flwr', 'cryptography', 'jinja2', 'rich', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
