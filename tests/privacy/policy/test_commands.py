"""`privet policy init` and `privet policy check`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from privet.commands.policy import policy_cli
from privet.privacy.policy import Policy, PolicyError, explain, starting_policy


def privet_policy(*arguments: object) -> Result:
    return CliRunner().invoke(policy_cli, [str(argument) for argument in arguments])


def test_init_writes_the_starting_policy_and_says_what_to_do_next(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    done = privet_policy("init", path)
    assert done.exit_code == 0
    assert path.read_text() == starting_policy()
    assert f"privet policy check {path}" in done.output


def test_init_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("precious")
    error = privet_policy("init", path).exception
    assert isinstance(error, PolicyError)
    assert str(error).startswith(f"{path} exists")
    assert path.read_text() == "precious"


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    error = privet_policy("init", tmp_path / "nowhere" / "policy.toml").exception
    assert isinstance(error, PolicyError)
    assert "No such file or directory" in str(error)


def test_check_explains_the_whole_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = tmp_path / "policy.toml"
    path.write_text(starting_policy())
    done = privet_policy("check", path)
    assert done.exit_code == 0
    assert done.output.split() == " ".join(explain(Policy.from_file(path))).split()
    assert all(len(line) <= 60 for line in done.output.splitlines() if str(path) not in line)


def test_check_refuses_what_is_absent_or_wrong(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    absent = privet_policy("check", path).exception
    assert isinstance(absent, PolicyError)
    assert f"privet policy init {path}" in str(absent)
    path.write_text(starting_policy().replace("epsilon = 1.0", "epsilon = -1.0"))
    wrong = privet_policy("check", path).exception
    assert isinstance(wrong, PolicyError)
    assert "data.my-data.budget.epsilon = -1.0" in str(wrong)
