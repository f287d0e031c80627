"""The page for data holders: its figures are what its own commands print."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import privet
from privet.commands.ledger import ledger_cli
from privet.privacy.ledger import Ledger, SiloKey
from privet.privacy.policy import starting_policy

PAGE = Path(privet.__file__).parents[2] / "docs" / "data-holders.md"


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.exists():
        pytest.skip("not a checkout")
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def printed(page: str) -> list[list[str]]:
    """The words of each line that the page's commands print; guesses rounded up."""
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "data-holders.md", "exec"), {})
    lines = [line.split() for line in out.getvalue().splitlines()]
    return [
        [*line[:2], f"{math.ceil(10 * float(line[2])) / 10:.1f}"] if line[0] == "guess" else line
        for line in lines
    ]


def test_the_output_that_is_shown_is_the_output(page: str, printed: list[list[str]]) -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    for line in shown.splitlines():
        assert line.split() in printed


def test_every_row_of_a_table_is_a_line_of_the_output(page: str, printed: list[list[str]]) -> None:
    rows = re.findall(r"^\| ([\d.,]+) \| (.*) \|$", page, flags=re.MULTILINE)
    assert len(rows) == 15
    for first, rest in rows:
        figures = [first.replace(",", ""), *re.findall(r"^[\d.]+|(?<=\| )[\d.]+", rest)]
        assert figures in [line[1:] for line in printed]


def test_every_other_figure_with_two_decimals_is_in_the_output(
    page: str, printed: list[list[str]]
) -> None:
    text = page[: page.index("## How the numbers were computed")].replace(_what_if(page), "")
    figures = set(re.findall(r"\b\d+\.\d{2,4}\b", text))
    assert len(figures) > 15
    assert figures <= {word for line in printed for word in line}


def _what_if(page: str) -> str:
    """The part about asking beforehand, whose figures are another command's."""
    return page[page.index("Before you say yes to a job") : page.index("## What is not covered")]


def test_the_answer_to_what_if_is_the_one_that_is_shown(page: str, tmp_path: Path) -> None:
    """The page says under which policy: that of `privet policy init` with these changes."""
    changes = {
        "requesters = []": 'requesters = ["*"]',
        "\ntasks = []": '\ntasks = ["digits"]',
        "records_public = false": "records_public = true",
        "epsilon_per_job = 0.5": "epsilon_per_job = 0.8",
    }
    policy = starting_policy()
    for before, after in changes.items():
        assert before in policy
        policy = policy.replace(before, after)
    (tmp_path / "policy.toml").write_text(policy)
    Ledger.create(tmp_path / "ledger.sqlite", SiloKey.create(tmp_path / "silo.key")).close()
    job = PAGE.parents[1] / "examples" / "digits.toml"
    arguments = ["what-if", str(job), "--ledger", str(tmp_path / "ledger.sqlite")]
    arguments += ["--policy", str(tmp_path / "policy.toml")]
    runner = CliRunner(env={"COLUMNS": "80"})
    answer = runner.invoke(ledger_cli, arguments)
    assert answer.exit_code == 1, answer.output
    (shown,) = re.findall(r"```console\n(.*?)```", _what_if(page), flags=re.DOTALL)
    printed = [line.split() for line in answer.output.splitlines() if line.strip()]
    assert [line.split() for line in shown.splitlines()[1:] if line.strip()] == printed
    fitted = runner.invoke(ledger_cli, [*arguments, "--set", "privacy.on_budget=calibrate"])
    for figure in re.findall(r"\d+\.\d+", _what_if(page).rpartition("```")[2]):
        assert figure in fitted.output
