"""The live page: who may see it, and what it shows, in Chromium and over bare HTTP."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

from browser import faults_on_screen
from gate_project import GateProject
from privet.commands.cli import cli
from privet.deployment.admin import AdminClient
from privet.deployment.parties import PartiesFile, Party
from privet.deployment.parties.orders import Order
from privet.deployment.parties.requests import Checking
from privet.deployment.server import viewers as pages_module
from privet.deployment.server.flower import Link
from privet.deployment.server.gate import Gate
from privet.deployment.server.grid import Notifier
from privet.deployment.server.jobs import Job, JobStore
from privet.deployment.server.live import MOST_JOBS, ChartedRound, LivePage, charts
from privet.deployment.server.membership import Membership
from privet.deployment.server.routes import application
from privet.deployment.server.runner import Runner
from privet.deployment.server.serving import listener
from privet.deployment.server.viewers import COOKIE, LINK_SECONDS, SESSION_SECONDS, PagePasses
from rounds_written import a_round

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
ROUNDS = 30


@dataclass
class Live:
    project: GateProject
    pages: PagePasses
    store: JobStore

    def link(self, admin: str = "ana") -> str:
        with AdminClient(self.project.admin_kit(admin)) as client:
            return client.page()

    @contextmanager
    def session(self, admin: str = "ana") -> Iterator[httpx.Client]:
        """A browser that has followed a link."""
        with self.project.http(None) as browser:
            assert browser.get(self.link(admin)).status_code == 303
            assert browser.get("/page").status_code == 200
            yield browser

    def job(self, state: Any, *, task: str = "digits", rounds: int = ROUNDS, **told: Any) -> str:
        order = Order(
            project=self.project.name,
            job=f"{len(self.store.all()):012x}",
            requester="ana",
            at=time.time(),
            until=time.time() + 3600,
            experiment={"task": task, "rounds": rounds},
        )
        job = self.store.add(order.signed(self.project.key("ana")), self.project.parties())
        job.run.mkdir()
        (job.run / "history.jsonl").write_text("".join(map(line, range(told.get("done", 20) + 1))))
        job.become(state, told.get("detail", ""))
        return job.id


def line(round_: int) -> str:
    every = {"metrics": {"accuracy": 0.75 - 0.6 / (1 + round_)}} if round_ % 5 == 0 else None
    told = {
        "round": round_,
        "accuracy": 0.9 - 0.8 / (1 + round_ / 3),
        "loss": 0.3 + 2 / (1 + round_ / 3),
        "evaluation": every,
        "epsilon": {"max": 0.7 * round_**0.5},
    }
    return json.dumps(told) + "\n"


@contextmanager
def serving(project: GateProject) -> Iterator[Live]:
    kit = project.server_kit()
    kit.state.mkdir(exist_ok=True)
    link, notifier = Link(kit.state / "link.sqlite"), Notifier()
    file = PartiesFile(kit.parties, project_key=kit.project_key)
    members = Membership(file, link, folder=kit.state)
    members.current()
    store, pages = JobStore(kit.state / "jobs"), PagePasses(members.current)
    gate = Gate(
        fleet=link.app(),
        own=application(store, Runner(store, members, link, notifier), members, pages=pages),
        link=link,
        checking=Checking(members.current),
        notifier=notifier,
        members=members,
        largest=1_000_000,
        pages=pages,
    )
    server = listener(gate, kit)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Live(project, pages, store)
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    project = GateProject(tmp_path_factory.mktemp("page"))
    with serving(project) as live, project.connection("north"), project.connection("west"):
        live.job("finished", done=ROUNDS)
        live.job("failed", task=HOSTILE, detail=HOSTILE)
        live.job("running")
        live.job("queued", done=-1)
        yield live


def read_out(element: list[Any]) -> dict[str, Any]:
    """What a pointer reads in a figure of the live page."""
    _, attributes, *children = element
    if "data-hover" in attributes:
        return dict(json.loads(attributes["data-hover"]))
    found = (read_out(child) for child in children if not isinstance(child, str))
    return next((each for each in found if each), {})


# --- sessions, over bare HTTP


def test_a_link_begins_a_session_once(live: Live) -> None:
    link = live.link()
    with live.project.http(None) as browser:
        first = browser.get(link)
        assert (first.status_code, first.headers["location"]) == (303, "/page")
        cookie = first.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        for part in ("Path=/page", "Max-Age=3600", "Secure", "HttpOnly", "SameSite=Strict"):
            assert f"; {part}" in cookie
        assert browser.get("/page").status_code == 200
        browser.cookies.clear()
        second = browser.get(link)
        assert second.status_code == 403
        assert "set-cookie" not in second.headers


@pytest.mark.parametrize("path", ["/page", "/page/", "/page/state", "/page/enter/", "/page/x"])
def test_without_a_session_there_is_nothing_to_see(path: str, live: Live) -> None:
    with live.project.http(None) as stranger:
        for headers in ({}, {"cookie": f"{COOKIE}=wrong"}, {"cookie": f"{COOKIE}="}):
            answer = stranger.get(path, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["error"]
            assert answer.headers.get("cache-control", "no-store") == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_a_session_can_only_read(method: str, live: Live) -> None:
    with live.session() as browser:
        assert browser.request(method, "/page/state").status_code == 405


@pytest.mark.parametrize("path", ["/privet/v1/status", "/privet/v1/pages", "/pages", "/page2"])
def test_a_session_opens_nothing_else(path: str, live: Live) -> None:
    with live.session() as browser:
        cookie = browser.cookies[COOKIE]
        assert browser.get(path, headers={"cookie": f"{COOKIE}={cookie}"}).status_code in (403, 404)


def test_only_administrators_get_a_link(live: Live) -> None:
    with live.project.http("north") as silo, live.project.http(None) as stranger:
        assert silo.post("/privet/v1/pages").status_code == 403
        assert stranger.post("/privet/v1/pages").status_code == 403


def test_a_session_ends_with_its_administrator(live: Live) -> None:
    with live.session("bob") as bob, live.session("ana") as ana:
        unused = live.link("bob")
        live.project.change(lambda party: revoked(party, "bob"))
        assert bob.get("/page/state").status_code == 403
        assert bob.get(unused).status_code == 403
        assert ana.get("/page/state").status_code == 200
        live.project.change(lambda party: replace(party, revoked=False))
        assert bob.get("/page/state").status_code == 403


def revoked(party: Party, name: str) -> Party:
    return replace(party, revoked=True) if party.name == name else party


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_links_and_sessions_have_their_time(live: Live) -> None:
    clock = _Clock()
    pages = PagePasses(live.project.parties, clock)
    ana = live.project.parties().named("ana")
    assert ana
    late, early = (pages.invite(ana).removeprefix("/page/enter/") for _ in range(2))
    clock.now = LINK_SECONDS - 1
    cookie = pages.enter(early)
    assert cookie
    clock.now = LINK_SECONDS
    assert pages.enter(late) is None
    clock.now = LINK_SECONDS + SESSION_SECONDS - 2
    assert pages.viewer(cookie) == "ana"
    clock.now += 1
    assert pages.viewer(cookie) is None


def test_a_new_key_ends_the_old_keys_sessions(live: Live) -> None:
    parties = live.project.parties()
    now = [parties]
    pages = PagePasses(lambda: now[0])
    ana = parties.named("ana")
    assert ana
    cookie = pages.enter(pages.invite(ana).removeprefix("/page/enter/"))
    assert cookie
    assert pages.viewer(cookie) == "ana"
    members = tuple(
        replace(each, identity="ab" * 32) if each.name == "ana" else each
        for each in parties.members
    )
    now[0] = replace(parties, members=members)
    assert pages.viewer(cookie) is None


def test_passes_do_not_pile_up(live: Live) -> None:
    pages = PagePasses(live.project.parties)
    ana = live.project.parties().named("ana")
    assert ana
    first = pages.invite(ana).removeprefix("/page/enter/")
    tokens = [pages.invite(ana) for _ in range(pages_module._MOST)]
    assert pages.enter(first) is None
    assert len(pages._links) == len(set(tokens)) == pages_module._MOST
    assert not any(first in str(each) for each in pages._links)


# --- what it says


def test_the_state_names_silos_jobs_and_curves(live: Live) -> None:
    with live.session() as browser:
        told = browser.get("/page/state?job=000000000000").json()
    assert told["project"] == live.project.name
    silos = {silo["name"]: silo for silo in told["silos"]}
    assert silos["north"]["online"]
    assert silos["north"]["since"]
    assert not silos["gone"]["online"]
    assert [job["state"] for job in told["jobs"]] == ["queued", "running", "failed", "finished"]
    assert told["chosen"] == "000000000000"
    accuracy, loss, epsilon = map(read_out, told["charts"])
    assert accuracy["names"] == ["test records", "silos' records"]
    assert len(loss["texts"][0]) == ROUNDS + 1
    assert epsilon["heads"][-1] == f"Round {ROUNDS}"
    assert float(epsilon["texts"][0][-1]) == pytest.approx(0.7 * ROUNDS**0.5, abs=5e-4)


def test_without_a_choice_the_running_job_is_shown(live: Live) -> None:
    with live.session() as browser:
        told = browser.get("/page/state").json()
    assert told["chosen"] == "000000000002"


def test_figures_that_are_none_make_no_curve() -> None:
    rounds = [
        a_round(0, accuracy=None, loss=float("nan")),
        a_round(1, accuracy=0.5, loss=float("inf"), epsilon={"max": None, "per_silo": {}}),
    ]
    (chart,) = charts([ChartedRound.of(each) for each in rounds])
    assert chart.title == "Accuracy"
    assert [(shape.name, shape.parts) for shape in chart.shapes] == [
        ("test records", [[(100.0, pytest.approx(50.0))]])
    ]
    assert json.loads(chart.hover)["texts"] == [[None, "0.500"]]


def lossy(rounds: int) -> list[ChartedRound]:
    return [ChartedRound.of(a_round(number, accuracy=None, loss=1.0)) for number in range(rounds)]


def test_long_histories_are_thinned_and_keep_their_end() -> None:
    (chart,) = charts(lossy(5000))
    read = json.loads(chart.hover)
    assert len(read["at"]) == len(read["texts"][0]) <= 400
    assert (read["heads"][-1], read["texts"][0][-1]) == ("Round 4999", "1.000")


def test_the_axis_goes_as_far_as_the_job_will() -> None:
    (chart,) = charts(lossy(6), planned=20)
    assert max(x for shape in chart.shapes for part in shape.parts for x, _ in part) == 25
    assert chart.x_ticks[-1].text == "20"


def test_the_command_prints_a_link(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    kit = str(live.project.folder / "kits/ana")
    done = CliRunner().invoke(cli, ["page", "--kit", kit, "--no-open"])
    assert done.stdout.startswith(f"{live.project.url}/page/enter/")
    assert opened == []
    done = CliRunner().invoke(cli, ["page", "--kit", kit])
    assert opened == [done.stdout.strip()]


def test_only_what_changed_is_read_again(live: Live, tmp_path: Path) -> None:
    store, read = JobStore(tmp_path), []

    def row(job: Job) -> dict[str, str]:
        read.append(job.id)
        return {"id": job.id}

    for number in range(MOST_JOBS + 5):
        (tmp_path / f"{number:02}").mkdir()
        job = Job(tmp_path / f"{number:02}")
        order = {"project": "lungs", "requester": "ana", "at": 0.0, "experiment": {}}
        (job.folder / "order.json").write_text(json.dumps({"order": order}))
        job.become("running")
    page = LivePage(store, dict, row)
    assert len(page._state("")["jobs"]) == len(read) == MOST_JOBS
    page._state("")
    assert len(read) == MOST_JOBS
    job.become("failed")
    page._state("")
    assert read[MOST_JOBS:] == [job.id]


# --- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument("--ignore-certificate-errors")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def visit(driver: webdriver.Chrome, url: str, *, width: int = 1280, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get_log("browser")
    driver.get(url)
    wait(driver, "#jobs button")


def wait(driver: webdriver.Chrome, selector: str) -> None:
    WebDriverWait(driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, selector))


def brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    return (red + green + blue) / 3


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_can_be_read(
    width: int, dark: bool, live: Live, chromium: webdriver.Chrome
) -> None:
    visit(chromium, live.link(), width=width, dark=dark)
    assert chromium.current_url == f"{live.project.url}/page"  # the token is gone
    wait(chromium, "path.curve")
    curves = chromium.find_elements(By.CSS_SELECTOR, "path.curve")
    assert len(curves) == 4
    assert all(curve.rect["width"] > 100 and curve.rect["height"] > 40 for curve in curves)
    assert faults_on_screen(chromium) == []
    body = chromium.find_element(By.TAG_NAME, "body")
    paper, ink = (
        brightness(body.value_of_css_property(name)) for name in ("background-color", "color")
    )
    assert (paper < 40 and ink > 200) if dark else (paper > 240 and ink < 60)
    assert "2 of 5 silos online, 1 job running" in body.text
    assert not chromium.find_element(By.ID, "alarm").is_displayed()
    assert chromium.get_log("browser") == []


@pytest.mark.browser
def test_the_page_renews_itself(live: Live, chromium: webdriver.Chrome) -> None:
    visit(chromium, live.link())
    job = live.store.get("000000000002")
    assert job
    with (job.run / "history.jsonl").open("a") as file:
        file.write(line(21))
    note = chromium.find_element(By.ID, "chosen-note")
    WebDriverWait(chromium, 10).until(lambda _: "round 21 of 30" in note.text)
    assert not chromium.find_element(By.ID, "alarm").is_displayed()
    assert chromium.get_log("browser") == []


@pytest.mark.browser
def test_what_others_wrote_is_text(live: Live, chromium: webdriver.Chrome) -> None:
    visit(chromium, live.link(), width=360)
    chromium.find_element(By.CSS_SELECTOR, "[data-job='000000000001']").click()
    title = chromium.find_element(By.ID, "chosen-title")
    WebDriverWait(chromium, 10).until(lambda _: HOSTILE in title.text)
    row = chromium.find_element(By.CSS_SELECTOR, "[data-job='000000000001']")
    assert row.text.count(HOSTILE) == 2  # as task and as detail
    assert chromium.execute_script("return window.hacked === undefined")
    assert chromium.find_elements(By.CSS_SELECTOR, "img, main script") == []
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 360
    assert chromium.get_log("browser") == []


@pytest.mark.browser
def test_the_policy_stops_what_got_in(live: Live, chromium: webdriver.Chrome) -> None:
    visit(chromium, live.link())
    refused = chromium.execute_script(
        "try { document.body.innerHTML = '<img src=x onerror=window.hacked=1>'; return false; }"
        "catch { return true; }"
    )
    assert refused
    with live.session() as browser:
        policy = browser.get("/page").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.browser
def test_a_finished_session_is_told(live: Live, chromium: webdriver.Chrome) -> None:
    visit(chromium, live.link())
    live.pages._sessions.clear()
    alarm = chromium.find_element(By.ID, "alarm")
    WebDriverWait(chromium, 10).until(lambda _: "This page is closed" in alarm.text)
