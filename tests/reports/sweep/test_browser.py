"""The page of a sweep in Chromium: the chart can be read, chosen and switched by hand and keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

import browser
import sweep_samples as samples
from privet.reports.sweep.page import render
from privet.sweeps.results import Axis, Sweep

MANY = Axis("training.batch_size", (8, 16, 32, 64, 128, 256, 512))
SAMPLES: Mapping[str, Sweep] = {
    "plain": samples.sample(),
    "two axes": samples.sample(axes=(samples.BUDGETS, samples.RATES)),
    "hostile": samples.hostile(),
    "unfinished": samples.unfinished(),
    "tuned": samples.tuned(),
    "without privacy": samples.without_privacy(),
    "one budget": samples.sample(axes=(Axis("privacy.epsilon", (2,)),), seeds=(3,)),
    "nothing done": samples.nothing_done(),
    "many": samples.sample(axes=(samples.BUDGETS, MANY), seeds=(3, 4), by_silo=False),
}
DRAWN = [name for name in SAMPLES if name != "nothing done"]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Without the pictures, which take longer than all the rest."""
    folder = tmp_path_factory.mktemp("sweeps")
    found = {name: folder / f"{name.replace(' ', '-')}.html" for name in SAMPLES}
    for name, page in found.items():
        page.write_text(render(SAMPLES[name], again="sweep.toml"), encoding="utf-8")
    return found


def visit(chromium: webdriver.Chrome, page: Path, **how: Any) -> WebElement:
    """Open the page; return what is on it."""
    return browser.visit(chromium, page, **how).find_element(By.TAG_NAME, "body")


def shown(body: WebElement, what: str) -> list[WebElement]:
    """Lines have no area, so a driver would call them hidden."""
    found: list[WebElement] = body.parent.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter((e) => !e.closest('.gone'))",
        f"#chart svg {what}",
    )
    return found


def tip(body: WebElement) -> str:
    """Its text in lines; none while it is hidden."""
    return body.find_element(By.CSS_SELECTOR, "#chart .tip").text


def centre(mark: WebElement) -> tuple[float, float]:
    box = mark.rect
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def x_ticks(body: WebElement) -> list[str]:
    return [each.text for each in body.find_elements(By.CSS_SELECTOR, "#chart .ticks.x text")]


def choose(body: WebElement, control: str, text: str) -> None:
    Select(body.find_element(By.ID, control)).select_by_visible_text(text)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_all_of_it_is_on_a_small_screen_and_charts_have_names(
    name: str, dark: bool, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    browser.visit(chromium, pages[name], width=360, dark=dark)
    assert browser.faults_on_screen(chromium) == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_is_loaded_nothing_breaks_and_nothing_scrolls_sideways(
    name: str, width: int, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages[name], width=width)
    for plot in body.find_elements(By.CSS_SELECTOR, ".plot, .track[data-hover]")[:4]:
        plot.send_keys(Keys.END)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert chromium.execute_script("return window.hacked === undefined")
    assert body.find_elements(By.TAG_NAME, "img") == []
    assert chromium.get_log("browser") == []
    assert browser.requests(chromium) == [pages[name].as_uri()]


@pytest.mark.parametrize("name", DRAWN)
def test_every_estimate_and_every_run_has_a_mark_within_the_chart(
    name: str, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    sweep = SAMPLES[name]
    body = visit(chromium, pages[name])
    done = [cell for cell in sweep.cells if cell.status == "done"]
    points, cells = shown(body, ".point"), shown(body, ".cell")
    intervals = shown(body, ".interval")
    assert len(points) == len(sweep.estimates)
    assert len(cells) == len(done)
    assert len(intervals) == sum(each.half_width is not None for each in sweep.estimates)
    plot = body.find_element(By.CSS_SELECTOR, "#chart .plot").rect
    for mark in (*points, *cells[:9]):
        x, y = centre(mark)
        assert plot["x"] <= x <= plot["x"] + plot["width"]
        assert plot["y"] <= y <= plot["y"] + plot["height"]


def test_the_script_draws_what_stands_there_without_it(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    drawn = []
    for scripts in (False, True):
        body = visit(chromium, pages["two axes"], scripts=scripts)
        assert body.find_element(By.CSS_SELECTOR, ".controls").is_displayed() is scripts
        drawn.append(
            (
                [centre(mark)[0] for mark in shown(body, "circle")],
                [mark.rect["height"] for mark in shown(body, ".interval")],
                len(shown(body, ".join")),
                len(shown(body, ".across")),
                x_ticks(body),
                body.find_element(By.ID, "series").text,
            )
        )
    without, with_it = drawn
    assert with_it[0] == pytest.approx(without[0], abs=0.6)
    assert with_it[1] == pytest.approx(without[1], abs=0.6)
    assert with_it[2:] == without[2:]


def test_a_pointer_reads_an_estimate_and_a_run(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    sweep = SAMPLES["plain"]
    body = visit(chromium, pages["plain"])
    chromium.execute_script("document.getElementById('accuracy').scrollIntoView()")
    first = sweep.estimates[0]
    ActionChains(chromium).move_to_element(shown(body, ".point")[0]).perform()
    assert tip(body).split("\n") == [
        "epsilon 1",
        "Mean accuracy",
        f"{first.mean:.4f} ± {first.half_width:.4f}",
        "seeds",
        "3, 4, 5",
        "epsilon asked",
        "1",
        "epsilon by the ledger",
        "≤ 0.990",
    ]
    cells = [cell for cell in sweep.cells if cell.settings == first.settings]
    lowest = min(cells, key=lambda cell: cell.accuracy or 0)
    mark = max(shown(body, ".cell")[:3], key=lambda each: each.rect["y"])
    ActionChains(chromium).move_to_element_with_offset(mark, 0, 3).perform()
    assert tip(body).startswith(f"epsilon 1, seed {lowest.seed}")
    assert f"{lowest.accuracy:.4f}" in tip(body)
    heading = body.find_element(By.CSS_SELECTOR, "#accuracy h2")
    ActionChains(chromium).move_to_element(heading).perform()
    assert tip(body) == ""


def test_keys_go_through_settings_and_runs(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["plain"])
    plot = body.find_element(By.CSS_SELECTOR, "#chart .plot")
    heads = []
    for key in (Keys.HOME, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_RIGHT):
        plot.send_keys(key)
        heads.append(tip(body).split("\n")[0])
    assert heads == ["epsilon 1", "epsilon 1, seed 3", "epsilon 1, seed 4", "epsilon 1, seed 3",
                     "epsilon 4"]  # fmt: skip
    plot.send_keys(Keys.END)
    assert tip(body).startswith("pooled data")
    plot.send_keys(Keys.ESCAPE)
    assert tip(body) == ""


def test_keys_go_from_left_to_right_along_any_axis(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["two axes"])
    choose(body, "along", "training.lr")
    plot = body.find_element(By.CSS_SELECTOR, "#chart .plot")
    heads = []
    for key in (Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT):
        plot.send_keys(key)
        heads.append(tip(body).split("\n")[0])
    assert heads == [f"{budget}, lr 0.1" for budget in ("epsilon 1", "epsilon 4", "no DP")]


def test_no_dp_stands_beyond_a_broken_axis(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["plain"])
    assert x_ticks(body) == ["1", "4", "no DP"]
    gap = body.find_element(By.CSS_SELECTOR, "#chart .ticks.x .break").rect["x"]
    places = [centre(mark)[0] for mark in shown(body, ".point")]
    assert [x > gap for x in places] == [False, False, True, True, True]
    body = visit(chromium, pages["one budget"])
    assert x_ticks(body)[0] == "2"


def test_the_axis_can_be_chosen(chromium: webdriver.Chrome, pages: dict[str, Path]) -> None:
    body = visit(chromium, pages["two axes"])
    before = [centre(mark)[0] for mark in shown(body, ".point")]
    options = Select(body.find_element(By.ID, "along")).options
    assert [each.text for each in options] == [
        "Epsilon by the ledger",
        "Epsilon asked",
        "training.lr",
    ]
    choose(body, "along", "training.lr")
    assert x_ticks(body) == ["0.1", "1"]
    series = body.find_elements(By.CSS_SELECTOR, "#series button")
    assert [each.text for each in series] == [
        "epsilon 1",
        "epsilon 4",
        "no DP",
        "silos alone",
        "pooled data",
    ]
    assert [centre(mark)[0] for mark in shown(body, ".point")] != before
    assert body.find_element(By.ID, "axis-name").text == "training.lr"
    body = visit(chromium, pages["without privacy"])
    assert x_ticks(body) == ["fedavg", "fedprox", "any"]
    assert not body.find_element(By.ID, "log").is_enabled()


def test_the_scale_can_be_logarithmic_or_not(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["many"])
    choose(body, "along", "training.batch_size")
    log = body.find_element(By.ID, "log")
    assert log.is_selected()
    places = {}
    for is_log in (True, False):
        assert log.is_selected() is is_log
        marks = shown(body, ".point")[:7]  # of the first budget, one for each size
        places[is_log] = [centre(mark)[0] for mark in marks]
        log.click()
    first, last = places[True][0], places[True][-1]
    assert places[False][0] == pytest.approx(first, abs=1)
    assert places[False][-1] == pytest.approx(last, abs=1)
    assert places[True][3] - first > 3 * (places[False][3] - first)


def test_what_is_drawn_upwards_can_be_chosen(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["plain"])
    options = [each.text for each in Select(body.find_element(By.ID, "upwards")).options]
    assert options[:2] == ["Mean accuracy", "Accuracy of the worst silo"]
    assert all(each.startswith("Rounds to accuracy 0.") for each in options[2:])
    choose(body, "upwards", options[1])
    plot = body.find_element(By.CSS_SELECTOR, "#chart .plot")
    plot.send_keys(Keys.HOME)
    worst = [
        min((cell.accuracy_per_silo or {}).values())
        for cell in SAMPLES["plain"].cells
        if cell.settings == {"privacy.epsilon": 1}
    ]
    assert f"Accuracy of the worst silo\n{sum(worst) / 3:.4f} ±" in tip(body)
    choose(body, "upwards", options[-1])
    assert "never" in [e.text for e in body.find_elements(By.CSS_SELECTOR, "#chart .ticks.y text")]
    assert body.find_element(By.CSS_SELECTOR, "#chart .ticks.y .break").is_displayed()
    plot.send_keys(Keys.HOME)
    assert f"{options[-1]}\nnot reached" in tip(body)


def test_a_legend_hides_and_shows_a_series(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["two axes"])
    count = len(shown(body, ".point")), len(shown(body, ".cell")), len(shown(body, ".join"))
    assert count == (10, 42, 2)
    button = body.find_element(By.CSS_SELECTOR, "#series button")
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-pressed") == "false"
    assert (len(shown(body, ".point")), len(shown(body, ".cell"))) == (7, 33)
    assert len(shown(body, ".join")) == 1
    plot = body.find_element(By.CSS_SELECTOR, "#chart .plot")
    plot.send_keys(Keys.HOME)
    assert tip(body).startswith("epsilon 1, lr 1")
    button.click()
    assert len(shown(body, ".point")) == 10


def test_the_target_can_be_chosen(chromium: webdriver.Chrome, pages: dict[str, Path]) -> None:
    body = visit(chromium, pages["plain"])
    rounds = body.find_elements(By.CSS_SELECTOR, "td.rounds")
    before = [each.text for each in rounds]
    target = Select(body.find_element(By.ID, "target"))
    assert "(95 %)" in target.first_selected_option.text
    target.select_by_index(0)
    assert [each.text for each in rounds] != before
    assert all(each.text[0].isdigit() for each in rounds)
    said = body.find_element(By.CSS_SELECTOR, "#cost p").text
    level = body.find_element(By.ID, "target-said").text
    assert said.startswith(f"The target is accuracy {level}, 50 % of")


def test_who_pays_can_be_read_silo_by_silo(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["plain"], width=360)
    tracks = body.find_elements(By.CSS_SELECTOR, ".track[data-hover]")
    assert len(tracks) == len(SAMPLES["plain"].estimates)
    tracks[0].send_keys(Keys.HOME)
    reading = tracks[0].find_element(By.CSS_SELECTOR, ".tip")
    assert reading.text.startswith("silo-2")
    assert reading.rect["x"] >= 0
    assert reading.rect["x"] + reading.rect["width"] <= 360
    counts = body.find_elements(By.CSS_SELECTOR, ".rows .count")
    names = body.find_elements(By.CSS_SELECTOR, ".rows .name")
    for name, count in zip(names, counts, strict=True):
        assert name.rect["x"] + name.rect["width"] <= count.rect["x"]


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_have_contrast(
    dark: bool, chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["two axes"], dark=dark)
    paper = luminance(body.value_of_css_property("background-color"))
    assert (paper < 0.1) is dark

    def contrast(element: WebElement, what: str) -> float:
        light, deep = sorted((luminance(element.value_of_css_property(what)), paper), reverse=True)
        return (light + 0.05) / (deep + 0.05)

    for text in ("#series button", ".controls label", ".axis-name", ".count", ".sentences li"):
        assert contrast(body.find_element(By.CSS_SELECTOR, text), "color") >= 4.5
    for point in shown(body, ".point"):
        assert contrast(point, "fill") >= 3


def test_paper_shows_the_chart_and_every_table_without_controls(
    chromium: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    body = visit(chromium, pages["plain"])
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not body.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
    assert len(shown(body, ".point")) == 5
    assert all(each.get_attribute("open") for each in body.find_elements(By.TAG_NAME, "details"))
    rows = body.find_elements(By.CSS_SELECTOR, ".cells tbody tr")
    assert len([row for row in rows if row.is_displayed()]) == len(SAMPLES["plain"].cells)
