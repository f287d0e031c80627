"""compare.html in Chromium: it loads nothing, breaks nothing, and can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import report_samples as samples
from browser import faults_on_screen, requests, visit
from privet.reports.compare import compare
from privet.reports.compare.page import render, write
from privet.reports.compare.rows import to_csv

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, sweeps, and a folder whose name and settings try to become markup."""
    hostile = samples.hostile()
    hostile.settings = hostile.settings.replace('"digits"', '"<img src=x onerror=window.hacked=1>"')
    folder = hostile.write(folders / "<script>window.hacked=1<")
    names = ("avg-3", "slow-3", "fast", "slow", "plain")
    found = compare([*(folders / name for name in names), folder], target=0.5)
    return write(found, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("width", [360, 1200])
def test_it_opens_without_a_fault(chromium: webdriver.Chrome, page: Path, width: int) -> None:
    visit(chromium, page, width=width)
    assert chromium.get_log("browser") == []
    assert requests(chromium) == [page.as_uri()]
    assert chromium.execute_script("return window.hacked") is None
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
def test_all_of_it_is_on_a_small_screen_and_charts_have_names(
    chromium: webdriver.Chrome, page: Path, dark: bool
) -> None:
    visit(chromium, page, width=360, dark=dark)
    assert faults_on_screen(chromium) == []


def test_every_entry_is_in_the_table_and_the_chart(chromium: webdriver.Chrome, page: Path) -> None:
    visit(chromium, page)
    rows = chromium.find_elements(By.CSS_SELECTOR, "#figures tbody tr")
    curves = chromium.find_elements(By.CSS_SELECTOR, "#charts figure:first-of-type .curve")
    dots = chromium.find_elements(By.CSS_SELECTOR, "#charts circle.point")
    assert len(rows) == len(curves) == len(dots) == 9
    assert len(chromium.find_elements(By.CSS_SELECTOR, "#settings tbody tr")) == 9
    assert "not the same task" in chromium.find_element(By.CSS_SELECTOR, ".alarms").text


def test_values_are_read_with_the_keys(chromium: webdriver.Chrome, page: Path) -> None:
    visit(chromium, page)
    rounds, epsilons = chromium.find_elements(By.CSS_SELECTOR, ".plot")
    rounds.send_keys(Keys.ARROW_RIGHT)
    assert "Round 0" in str(rounds.find_element(By.CSS_SELECTOR, ".tip").get_attribute("innerText"))
    epsilons.send_keys(Keys.END)
    told = str(epsilons.find_element(By.CSS_SELECTOR, ".tip").get_attribute("innerText"))
    assert "no differential privacy" in told
    assert "pooled data" in told


def test_the_same_folders_give_the_same_bytes(folders: Path) -> None:
    pages = [render(compare([folders / "avg-3", folders / "fast"])) for _ in range(2)]
    assert pages[0] == pages[1]


def test_where_folders_lie_is_told_nobody(folders: Path) -> None:
    found = compare([folders / "avg-3", folders / "cut"])
    assert "cut: unfinished" in " ".join(found.warnings)
    for told in (render(found), to_csv(found), json.dumps(found.to_plain())):
        assert str(folders) not in told
