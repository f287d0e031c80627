"""What a test does with the browser that the fixture `chromium` opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@contextmanager
def opened() -> Iterator[webdriver.Chrome]:
    """Chromium without a window; the test is skipped where there is none."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chromium
    finally:
        chromium.quit()


def visit(
    chromium: webdriver.Chrome,
    page: Path,
    *,
    width: int = 1280,
    dark: bool = False,
    scripts: bool = True,
) -> webdriver.Chrome:
    """Open the page, whatever was set for the one before."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    for log in ("browser", "performance"):
        chromium.get_log(log)  # what belongs to the page before
    chromium.get(page.as_uri())
    return chromium


def requests(chromium: webdriver.Chrome) -> list[str]:
    """Everything that the page asked for, but for what it holds itself."""
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in asked if not url.startswith("data:")]


def brightness(colour: str) -> float:
    """Of a CSS colour, from 0 to 255."""
    red, green, blue = (float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    return (red + green + blue) / 3


_SCREEN = """
const wide = document.documentElement.clientWidth, faults = [];
const shown = each => each.getClientRects().length > 0;
const named = each => each.outerHTML.slice(0, 80);
if (document.documentElement.scrollWidth > wide) faults.push("the page scrolls sideways");
for (const each of document.querySelectorAll("table, pre, .scroll, figure, dl")) {
  const box = each.getBoundingClientRect(), holder = each.parentElement.closest(".scroll");
  const beyond = shown(each) && !holder && box.right > wide + 1;
  if (beyond) faults.push("beyond the screen: " + named(each));
}
for (const each of document.querySelectorAll("td, th, p, li, dd")) {
  const style = getComputedStyle(each);
  const cut = each.scrollWidth > each.clientWidth + 1 && style.overflowX === "hidden";
  if (shown(each) && each.clientWidth && cut) faults.push("cut off: " + named(each));
}
for (const each of document.querySelectorAll(".scroll"))
  if (each.tabIndex < 0 || !each.getAttribute("aria-label")) faults.push("no name: " + named(each));
for (const each of document.querySelectorAll("svg")) {
  if (each.closest("[aria-hidden=true]") || each.parentElement.closest("svg")) continue;
  const name = (each.getAttribute("aria-label") || "").trim();
  const unnamed = each.getAttribute("role") !== "img" || name.length < 8;
  if (unnamed) faults.push("a chart without a name: " + named(each));
}
return faults;
"""


def faults_on_screen(chromium: webdriver.Chrome) -> list[str]:
    """What of the page lies beyond its screen, and charts that have no name for who cannot see."""
    found: list[str] = chromium.execute_script(_SCREEN)
    return found
