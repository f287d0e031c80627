"""The page in Chromium: nothing breaks, nothing is loaded, its figures are those of the audit."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from browser import brightness, faults_on_screen, requests, visit
from privet.audits.claims import Claim
from privet.reports.audit.page import render
from reports.audit.conftest import Audited

NAMES = (
    "<script>window.hacked = 1</script>",
    "</style><img src=x onerror='window.hacked = 1'>",
    "silo-" + "x" * 300,
    "\u202egnorw",
    '{{ 7 * 7 }} & "quoted"',
)
pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def hostile(honest: Audited, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The honest report with names that would like to be more than names."""
    report, folder = honest.report, tmp_path_factory.mktemp("hostile")
    claims = [Claim("record.chain", name, name, "FAIL", (name,) * 2) for name in NAMES]
    sums = [dataclasses.replace(report.sums[0], silo=n, subject=n, by_hand=n) for n in NAMES]
    leaks = [dataclasses.replace(report.leaks[0], silo=n, field=n, protection=n) for n in NAMES]
    changed = dataclasses.replace(
        report,
        verdict="FAIL",
        claims=(*claims, *report.claims),
        sums=tuple(sums),
        leaks=tuple(leaks),
        paths=NAMES,
        audited_at=NAMES[0],
    )
    page = folder / "audit.html"
    page.write_text(render(changed, base=folder, digest="ab" * 32), encoding="utf-8")
    return page


@pytest.fixture
def page(request: pytest.FixtureRequest, hostile: Path) -> Path:
    if request.param == "hostile":
        return hostile
    return Path(request.getfixturevalue(request.param).out / "audit.html")


every_page = pytest.mark.parametrize("page", ["honest", "spoilt", "hostile"], indirect=True)


@every_page
def test_no_console_message_and_no_request(page: Path, chromium: webdriver.Chrome) -> None:
    visit(chromium, page)
    assert chromium.get_log("browser") == []
    assert requests(chromium) == [page.as_uri()]


@every_page
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_scrolls_sideways(page: Path, width: int, chromium: webdriver.Chrome) -> None:
    visit(chromium, page, width=width)
    for folded in chromium.find_elements(By.TAG_NAME, "details"):
        chromium.execute_script("arguments[0].open = true", folded)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


@every_page
@pytest.mark.parametrize("dark", [False, True])
def test_all_of_it_is_on_a_small_screen_and_charts_have_names(
    page: Path, dark: bool, chromium: webdriver.Chrome
) -> None:
    visit(chromium, page, width=360, dark=dark)
    for folded in chromium.find_elements(By.TAG_NAME, "details"):
        chromium.execute_script("arguments[0].open = true", folded)
    assert faults_on_screen(chromium) == []


def test_dark_is_dark_and_light_is_light(honest: Audited, chromium: webdriver.Chrome) -> None:
    for dark in (False, True):
        visit(chromium, honest.out / "audit.html", dark=dark)
        body = chromium.find_element(By.TAG_NAME, "body")
        paper = brightness(body.value_of_css_property("background-color"))
        label = chromium.find_element(By.CSS_SELECTOR, "#canaries .plot .y text")
        ink = brightness(label.value_of_css_property("fill"))
        assert (paper < 40 and ink > 200) if dark else (paper > 240 and ink < 60)


def test_the_verdict_and_what_fails_are_seen_at_once(
    spoilt: Audited, chromium: webdriver.Chrome
) -> None:
    visit(chromium, spoilt.out / "audit.html", width=360)
    stamp = chromium.find_element(By.CSS_SELECTOR, ".stamp")
    assert stamp.is_displayed()
    assert stamp.rect["y"] + stamp.rect["height"] < 800
    said = stamp.text
    assert said.startswith("FAIL")
    assert "the epsilon that was claimed is not what the ledger's entries give" in said
    alarms = " ".join(each.text for each in chromium.find_elements(By.CSS_SELECTOR, ".alarms li"))
    rows = chromium.find_elements(By.CSS_SELECTOR, ".claims tr.fail")
    failed = [claim for claim in spoilt.report.claims if claim.verdict == "FAIL"]
    assert len(rows) == len(failed)
    for claim, row in zip(failed, rows, strict=True):
        assert claim.evidence[0] in alarms
        assert all(line in row.text for line in claim.evidence)


def test_every_claim_is_on_the_page_once(honest: Audited, chromium: webdriver.Chrome) -> None:
    visit(chromium, honest.out / "audit.html")
    count = 0
    for row in chromium.find_elements(By.CSS_SELECTOR, ".claims tbody tr"):
        subjects = row.find_elements(By.CSS_SELECTOR, ".of")
        count += sum(len(str(each.get_attribute("innerText")).split(", ")) for each in subjects)
    assert count == len(honest.report.claims)


def test_figures_are_the_reports(honest: Audited, chromium: webdriver.Chrome) -> None:
    visit(chromium, honest.out / "audit.html")
    digest = hashlib.sha256((honest.out / "audit.json").read_bytes()).hexdigest()
    assert chromium.find_element(By.CSS_SELECTOR, ".digest").text == digest
    programs = chromium.find_elements(By.CSS_SELECTOR, ".recipe pre")
    shown = {str(each.get_attribute("textContent")).strip() for each in programs}
    assert shown == {each.by_hand.strip() for each in honest.report.sums}
    rows = chromium.find_elements(By.CSS_SELECTOR, "header table.silos tbody tr")
    most = max(honest.report.sums, key=lambda each: each.epsilon)
    spent, left = (float(rows[0].find_elements(By.TAG_NAME, "td")[at].text) for at in (3, 6))
    assert most.epsilon <= spent < most.epsilon + 0.01
    assert 8.0 - most.epsilon - 0.001 < left <= 8.0 - most.epsilon


def test_canaries_are_drawn(honest: Audited, chromium: webdriver.Chrome) -> None:
    for width in (360, 1280):
        visit(chromium, honest.out / "audit.html", width=width)
        drawn = chromium.find_elements(By.CSS_SELECTOR, "#canaries .plot > svg")
        assert len(drawn) == 3
        for each in drawn:
            assert each.rect["width"] >= 200
            assert each.find_elements(By.CSS_SELECTOR, "path.curve, circle")
        claims = drawn[0].find_elements(By.CSS_SELECTOR, "line.claim")
        shown = drawn[0].find_elements(By.CSS_SELECTOR, "circle.good")
        assert len(claims) == len(shown) == 5
        for claim, bound in zip(claims, shown, strict=True):
            assert bound.rect["x"] < claim.rect["x"]


def test_names_stay_names(hostile: Path, chromium: webdriver.Chrome) -> None:
    visit(chromium, hostile)
    assert chromium.execute_script("return window.hacked === undefined")
    assert chromium.find_elements(By.CSS_SELECTOR, "script, img") == []
    text = str(chromium.find_element(By.TAG_NAME, "body").get_attribute("textContent"))
    assert all(name in text for name in NAMES)


def test_the_policy_stops_a_script_that_got_in(
    honest: Audited, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    page = (honest.out / "audit.html").read_text()
    got_in = tmp_path / "audit.html"
    got_in.write_text(page.replace("</main>", "<script>window.hacked = 1</script></main>"))
    visit(chromium, got_in)
    assert chromium.execute_script("return window.hacked === undefined")
    assert chromium.get_log("browser") != []
