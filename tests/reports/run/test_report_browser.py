"""The report in Chromium: nothing breaks, nothing overflows, and it can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

import report_samples as samples
from browser import brightness, faults_on_screen, requests, visit
from privet.reports.run import write_report

SAMPLES = {
    "privacy": samples.with_privacy,
    "no-privacy": samples.without_privacy,
    "many": samples.many_silos,
    "hospitals": samples.hospitals,
    "hostile": samples.hostile,
    "guarded": samples.guarded,
    "kept": samples.kept,
    "many-guarded": samples.many_guarded,
    "hostile-guarded": samples.hostile_guarded,
    "sealed": samples.sealed,
    "sealed-no-privacy": samples.sealed_without_privacy,
    "void": samples.void_rounds,
    "hostile-sealed": samples.hostile_sealed,
}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_report(make().write(folder / name)) for name, make in SAMPLES.items()}


def measured(chromium: webdriver.Chrome, selector: str) -> list[dict[str, Any]]:
    """Of every element: place, size, colour and whether it is seen; asked for in one request,
    where the driver would take a handful for each."""
    script = """
        return [...document.querySelectorAll(arguments[0])].map(element => {
            const box = element.getBoundingClientRect();
            const paths = [...element.querySelectorAll("path")];
            return {
                x: box.x, width: box.width, height: box.height,
                shown: element.checkVisibility({visibilityProperty: true, opacityProperty: true}),
                colour: getComputedStyle(element).color,
                by_row: element.closest("#attendance") !== null,
                widest_path: Math.max(0, ...paths.map(p => p.getBoundingClientRect().width)),
            };
        });"""
    found: list[dict[str, Any]] = chromium.execute_script(script, selector)
    return found


def tip(plot: WebElement) -> str:
    return str(plot.find_element(By.CSS_SELECTOR, ".tip").get_attribute("innerText"))


@pytest.mark.parametrize("name", SAMPLES)
def test_no_console_message_and_no_request(
    name: str, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name])
    assert chromium.get_log("browser") == []
    assert requests(chromium) == [pages[name].as_uri()]


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_scrolls_sideways(
    name: str, width: int, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name], width=width)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_all_of_it_is_on_a_small_screen_and_charts_have_names(
    name: str, dark: bool, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name], width=360, dark=dark)
    assert faults_on_screen(chromium) == []


@pytest.mark.parametrize("width", [360, 500, 1280])
def test_epsilon_by_silo_is_seen_without_scrolling(
    width: int, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["privacy"], width=width)
    table = chromium.find_element(By.CSS_SELECTOR, "[aria-label='Privacy by silo']")
    head = next(h for h in table.find_elements(By.TAG_NAME, "th") if h.text == "Epsilon")
    assert head.rect["x"] + head.rect["width"] <= table.rect["x"] + table.rect["width"]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", SAMPLES)
def test_charts_are_large_enough_and_drawn(
    name: str, width: int, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name], width=width)
    charts = measured(chromium, ".plot > svg")
    assert len(charts) >= 2
    for chart in charts:
        assert chart["width"] >= 200
        assert chart["height"] >= (80 if chart["by_row"] else 100)  # by row: 20 pixels a silo
        assert chart["widest_path"] > 100


@pytest.mark.parametrize("width", [360, 1280])
def test_text_of_a_chart_keeps_its_size(
    width: int, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["privacy"], width=width)
    label = chromium.find_element(By.CSS_SELECTOR, ".ticks.y text")
    assert label.value_of_css_property("font-size") == "12px"


def test_dark_is_dark_and_light_is_light(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    for dark in (False, True):
        visit(chromium, pages["privacy"], dark=dark)
        body = chromium.find_element(By.TAG_NAME, "body")
        paper = brightness(body.value_of_css_property("background-color"))
        ink = brightness(body.value_of_css_property("color"))
        assert (paper < 40 and ink > 200) if dark else (paper > 240 and ink < 60)


def test_a_pointer_reads_the_value_of_a_round(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["privacy"])
    plot = chromium.find_element(By.CSS_SELECTOR, "#learning .plot")
    ActionChains(chromium).move_to_element(plot).perform()
    accuracy = samples.with_privacy().history[20]["accuracy"]
    assert tip(plot).split() == ["Round", "20", "all", "silos", f"{accuracy:.3f}"]
    ActionChains(chromium).move_by_offset(0, -400).perform()
    assert not plot.find_element(By.CSS_SELECTOR, ".tip").is_displayed()


def test_arrow_keys_read_the_values_too(chromium: webdriver.Chrome, pages: dict[str, Path]) -> None:
    visit(chromium, pages["hospitals"])
    plot = chromium.find_element(By.CSS_SELECTOR, "#privacy .plot")
    plot.send_keys(Keys.END)
    shown = tip(plot)
    assert shown.startswith("Round 30")
    assert all(name in shown for name in samples.HOSPITALS)
    plot.send_keys(Keys.ARROW_LEFT)
    assert tip(plot).startswith("Round 29")
    plot.send_keys(Keys.ESCAPE)
    assert not plot.find_element(By.CSS_SELECTOR, ".tip").is_displayed()


@pytest.mark.parametrize("name", ["many", "hostile", "many-guarded", "hostile-guarded"])
def test_every_reading_lies_within_a_phone(
    name: str, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name], width=360)
    for plot in chromium.find_elements(By.CSS_SELECTOR, ".plot[data-hover], .track[data-hover]"):
        for key in (Keys.HOME, Keys.END):
            plot.send_keys(key)
            box = plot.find_element(By.CSS_SELECTOR, ".tip").rect
            assert box["width"] > 40
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize("name", ["hostile", "hostile-guarded", "hostile-sealed"])
def test_injected_script_does_not_run(
    name: str, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name])
    for plot in chromium.find_elements(By.CSS_SELECTOR, "[data-hover]"):
        plot.send_keys(Keys.END)  # the readings are built from the same names
    assert chromium.execute_script("return window.hacked === undefined")
    assert chromium.find_elements(By.TAG_NAME, "img") == []
    assert len(chromium.find_elements(By.TAG_NAME, "script")) == 1


def test_the_policy_stops_a_script_that_got_in(
    chromium: webdriver.Chrome, pages: dict[str, Path], tmp_path: Path
) -> None:
    breached = tmp_path / "breached.html"
    source = pages["privacy"].read_text(encoding="utf-8")
    breached.write_text(
        source.replace("<main>", "<main><script>window.hacked=1</script>"), encoding="utf-8"
    )
    visit(chromium, breached)
    assert chromium.execute_script("return window.hacked === undefined")


def test_a_legend_brings_out_one_line(chromium: webdriver.Chrome, pages: dict[str, Path]) -> None:
    visit(chromium, pages["hospitals"])
    entry = chromium.find_element(By.XPATH, "//section[@id='privacy']//li[span='Hungarian']")
    ActionChains(chromium).move_to_element(entry).perform()
    clear = chromium.find_elements(By.CSS_SELECTOR, "#privacy .curve:not(.dim)")
    assert [
        curve.find_element(By.TAG_NAME, "title").get_attribute("textContent") for curve in clear
    ] == ["Hungarian"]


def test_print_unfolds_the_page(chromium: webdriver.Chrome, pages: dict[str, Path]) -> None:
    visit(chromium, pages["many"])
    details = chromium.find_element(By.TAG_NAME, "details")
    assert details.get_attribute("open") is None
    chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert details.get_attribute("open") is not None


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_ledger_can_be_read(
    width: int, dark: bool, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["guarded"], width=width, dark=dark)
    chromium.find_element(By.CSS_SELECTOR, "nav a[href='#ledger']").click()
    section = chromium.find_element(By.ID, "ledger")
    assert "Every hash and every signature is in place" in section.text
    row = section.find_element(By.XPATH, ".//tr[th[contains(., 'silo-3')]]")
    assert row.text.split() == ["silo-3", "the", "same", "3", "3", "0", "3", "3"]
    mark = row.find_element(By.CSS_SELECTOR, ".mark")
    assert mark.rect["x"] + mark.rect["width"] <= width  # seen without scrolling the table
    ink = brightness(mark.value_of_css_property("color"))
    paper = brightness(mark.value_of_css_property("background-color"))
    assert abs(ink - paper) > 80
    assert (ink > paper) is dark
    assert chromium.get_log("browser") == []


def test_a_refused_round_is_a_frame_and_not_a_block(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["guarded"], dark=True)
    took, refused = (
        chromium.find_element(By.CSS_SELECTOR, f"#attendance path.{style}")
        for style in ("took", "refused")
    )
    assert refused.value_of_css_property("fill") == "none"
    assert refused.value_of_css_property("stroke") != "none"
    assert took.value_of_css_property("fill") != "none"
    assert refused.rect["width"] > 100
    key = chromium.find_element(By.CSS_SELECTOR, "#attendance .key.refused path")
    for name in ("fill", "stroke", "stroke-width"):
        assert key.value_of_css_property(name) == refused.value_of_css_property(name)
    plot = chromium.find_element(By.CSS_SELECTOR, "#attendance .plot")
    plot.send_keys(Keys.END)
    assert tip(plot).split() == ["Round", "6", "took", "part", "3", "refused", "silo-3"]


def test_the_line_of_own_records_is_told_apart(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["guarded"], width=360)
    own, total = (
        chromium.find_element(By.CSS_SELECTOR, f"#learning .curve.{style}")
        for style in ("own", "total")
    )
    assert own.value_of_css_property("stroke") != total.value_of_css_property("stroke")
    assert own.value_of_css_property("stroke-dasharray") != "none"
    assert own.rect["width"] > 100


def test_the_policy_unfolds(chromium: webdriver.Chrome, pages: dict[str, Path]) -> None:
    visit(chromium, pages["guarded"], width=360)
    policy = chromium.find_element(By.CSS_SELECTOR, "details.policy")
    assert not policy.find_element(By.TAG_NAME, "ul").is_displayed()
    policy.find_element(By.TAG_NAME, "summary").click()
    assert policy.find_element(By.XPATH, ".//li[contains(., 'Anyone may ask.')]").is_displayed()
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["sealed", "sealed-no-privacy", "void"])
def test_the_encryption_can_be_read(
    name: str, width: int, dark: bool, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages[name], width=width, dark=dark)
    chromium.find_element(By.CSS_SELECTOR, "nav a[href='#encryption']").click()
    cells = measured(chromium, "#encryption tbody th, #encryption td")
    assert len(cells) == 9 * 3
    for cell in cells:
        assert cell["shown"]
        assert cell["width"] > 40
        assert cell["x"] + cell["width"] <= width
        assert (brightness(cell["colour"]) > 128) is dark
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert chromium.get_log("browser") == []


def test_an_update_of_a_void_round_looks_different(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    visit(chromium, pages["void"])
    took, void, dropped = (
        chromium.find_element(By.CSS_SELECTOR, f"#attendance path.{style}")
        for style in ("took", "void", "dropped")
    )
    tall, short, low = (each.rect["height"] for each in (took, void, dropped))
    assert tall > 1.5 * low > 1.5 * 1.1 * short > 0
    assert void.value_of_css_property("fill") != dropped.value_of_css_property("fill")
    key, other = (
        chromium.find_element(By.CSS_SELECTOR, f"#attendance .key.{style} path").rect["height"]
        for style in ("void", "took")
    )
    assert 3 < key < other / 2
    plot = chromium.find_element(By.CSS_SELECTOR, "#attendance .plot")
    plot.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert tip(plot).split("\n")[0] == "Round 3"
    assert "sent in vain" in tip(plot)
    assert "silo-0, silo-1" in tip(plot)
