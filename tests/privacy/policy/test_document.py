"""The page for data holders: its figures are what its own commands print."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path

import pytest

import privet

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
    text = page[: page.index("## How the numbers were computed")]
    figures = set(re.findall(r"\b\d+\.\d{2,4}\b", text))
    assert len(figures) > 15
    assert figures <= {word for line in printed for word in line}
