"""The page of a sweep as text: any record gives one, and it says what the record says."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweep_samples as samples
from privet.commands.cli import main
from privet.reports.sweep import write_report
from privet.reports.sweep.axes import rounds_to, targets, values, views
from privet.reports.sweep.marks import marks
from privet.reports.sweep.marks import settings as settings_of
from privet.reports.sweep.page import render
from privet.sweeps.results import Axis, Cell, Estimate, PairedComparison, Selection, Sweep

TEXTS = st.text(max_size=12) | st.sampled_from([*samples.HOSTILE, "<!--", "</script>", "\x00"])
KEYS = st.sampled_from(
    ["privacy.epsilon", "privacy.noise_multiplier", "training.lr", "strategy.name", "rounds"]
)
NUMBERS = st.floats(min_value=1e-9, max_value=1e9) | st.integers(-5, 50)
VALUES = NUMBERS | TEXTS | st.booleans() | st.just(math.inf)
SETTINGS = st.dictionaries(KEYS, VALUES, max_size=3)
SHARES = st.none() | st.floats(0, 1)
EPSILONS = st.none() | st.floats(min_value=1e-6, max_value=1e6) | st.just(math.inf)
KINDS = st.sampled_from(["federated", "alone", "pooled"])
COUNTS = st.none() | st.integers(0, 10**13)
CELLS = st.builds(
    Cell,
    address=TEXTS,
    kind=KINDS,
    baseline=st.booleans(),
    settings=SETTINGS,
    seed=st.integers(0, 9),
    silo=st.none() | TEXTS,
    status=st.sampled_from(["waiting", "done", "failed"]),
    reason=st.none() | TEXTS,
    asked_epsilon=EPSILONS,
    epsilon=EPSILONS,
    delta=st.none() | st.floats(1e-12, 0.1),
    accuracy=SHARES | st.just(math.nan),
    accuracy_per_silo=st.none() | st.dictionaries(TEXTS, st.floats(0, 1), max_size=3),
    accuracies=st.lists(SHARES, max_size=4).map(tuple),
    seconds=st.none() | st.floats(0, 1e7),
    bytes_up=COUNTS,
    bytes_down=COUNTS,
)
ESTIMATES = st.builds(
    Estimate,
    kind=KINDS,
    baseline=st.booleans(),
    settings=SETTINGS,
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True).map(tuple),
    mean=st.floats(0, 1),
    half_width=SHARES,
    lowest=SHARES,
    highest=SHARES,
    asked_epsilon=EPSILONS,
    epsilon=EPSILONS,
)
COMPARISONS = st.builds(
    PairedComparison,
    first=st.integers(0, 3),
    second=st.integers(0, 3),
    key=st.none() | KEYS,
    seeds=st.integers(0, 9),
    difference=st.none() | st.floats(-1, 1),
    half_width=SHARES,
    p=SHARES,
    p_holm=SHARES,
    words=TEXTS,
)
SELECTIONS = st.builds(
    Selection,
    law=TEXTS,
    expected_runs=st.floats(1, 99),
    runs=st.integers(0, 99),
    chosen=st.just("c0ffee"),
    settings=SETTINGS,
    accuracy=st.floats(0, 1),
    run_epsilon=st.floats(0, 99),
    epsilon=st.floats(0, 99),
    delta=st.floats(1e-12, 0.1),
)
SWEEPS = st.builds(
    Sweep,
    schema=st.just(1),
    experiment=st.dictionaries(st.sampled_from(["task", "rounds", "training"]), TEXTS, max_size=3),
    engine=st.sampled_from(["auto", "in-process"]),
    axes=st.lists(st.builds(Axis, KEYS, st.lists(VALUES, max_size=3).map(tuple)), max_size=2).map(
        tuple
    ),
    seeds=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    baselines=st.sampled_from([(), ("alone", "pooled"), ("no-dp",)]),
    cells=st.lists(CELLS, max_size=6).map(tuple),
    estimates=st.lists(ESTIMATES, max_size=4).map(tuple),
    comparisons=st.lists(COMPARISONS, max_size=2).map(tuple),
    tried=st.lists(TEXTS, max_size=2).map(tuple),
    selection=st.none() | SELECTIONS,
    seconds=st.floats(0, 1e7),
    workers=st.integers(1, 64),
)


class Scripts(HTMLParser):
    """The scripts of a page and their content, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def page(sweep: Sweep) -> str:
    return render(sweep, again="sweep.toml")


def places(axis: list[Any], along: str) -> list[float]:
    """Where the texts of an axis stand, in per cent."""
    ticks = [each for each in axis[2:] if each[0] == "text"]
    assert ticks
    return [float(attributes[along].rstrip("%")) for _, attributes, *_ in ticks]


def text_of(sweep: Sweep) -> str:
    """What a person reads: no script, no style, no tags."""
    body = re.sub(r"(?s)<(script|style).*?</\1>", "", page(sweep))
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@given(SWEEPS)
def test_any_sweep_gives_a_page_whose_data_can_be_read(sweep: Sweep) -> None:
    scripts = Scripts(page(sweep)).found
    assert len(scripts) == 1 + bool(sweep.estimates)
    if not sweep.estimates:
        return
    data = json.loads(scripts[0])
    count = len(data["marks"])
    assert len(sweep.estimates) <= count <= len(sweep.estimates) + len(sweep.cells)
    for view in data["views"]:
        for scale in view["scales"].values():
            assert len(scale["at"]) == len(view["series"]) == count
            assert all(0 <= at <= 100 for at in scale["at"])
            assert all(0 <= at <= 100 for at in places(scale["axis"], "x"))
    for height in data["heights"]:
        assert len(height["at"]) == len(height["texts"]) == count
        for at in (*height["at"], *height["low"], *height["high"]):
            assert at is None or 0 <= at <= 100
        assert all(0 <= at <= 100 for at in places(height["axis"], "y"))


@given(SWEEPS)
def test_larger_numbers_stand_further_right_and_only_what_has_none_in_the_lane(
    sweep: Sweep,
) -> None:
    shown = marks(settings_of(sweep))
    for view in views(sweep, shown) if shown else ():
        if view.key != "epsilon":
            continue
        for scale in filter(None, (view.linear, view.log)):
            for series in range(len(view.names)):
                mine = [i for i, of in enumerate(view.series) if of == series]
                spent = [
                    (math.inf if (of := shown[i].of.epsilon) is None else of, scale.at[i])
                    for i in mine
                ]
                for (one, left), (two, right) in pairwise(sorted(spent)):
                    assert left <= right
                    assert one == two or not math.isinf(two) or right > left
                beyond = 86 if view.lane else 100
                assert all((at > beyond) is math.isinf(number) for number, at in spent)


@given(SWEEPS)
def test_higher_values_stand_higher_and_never_is_on_top(sweep: Sweep) -> None:
    found = settings_of(sweep)
    shown = marks(found)
    for quantity in [
        *values(shown, found, sweep.metric),
        rounds_to(0.5, shown, found, sweep.metric),
    ]:
        known = [
            (point.value, at)
            for point, at in zip(quantity.points, quantity.at, strict=True)
            if point.value is not None
        ]
        assert all(at is not None for _, at in known)
        for (one, low), (two, high) in pairwise(sorted(known)):
            assert low is not None
            assert high is not None
            assert low <= high
            assert two != math.inf or one == math.inf or high > low


def test_the_chart_without_script_is_the_default_view() -> None:
    sweep = samples.sample()
    static = page(sweep).split("<svg", 1)[1].split("</svg>", 1)[0]
    data = json.loads(Scripts(page(sweep)).found[0])
    view, height = data["views"][0], data["heights"][0]
    assert view["label"] == "Epsilon by the ledger"
    places = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)%"', static)]
    levels = [float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)%"', static)]
    assert places == view["scales"]["log" if view["log"] else "linear"]["at"]
    assert levels == pytest.approx([100 - at for at in height["at"]])
    assert len(places) == len(sweep.cells) + len(sweep.estimates)


def test_findings_come_first_and_say_what_is_not_shown() -> None:
    sweep = samples.sample()
    shown = [each for each in sweep.comparisons if each.p_holm is not None and each.p_holm < 0.05]
    assert 0 < len(shown) < len(sweep.comparisons) == 5
    told = text_of(sweep)
    rest = len(sweep.comparisons) - len(shown)
    assert f"{len(shown)} of 5 differences" in told
    assert f"{rest} {'is' if rest == 1 else 'are'} not shown over 3 seeds" in told
    assert told.index("not shown over") < told.index("Accuracy against epsilon")
    for each in sweep.comparisons:
        assert each.words.replace("+-", "±") in told
    assert "3 settings were tried on these data" in told
    first = sweep.estimates[0]
    assert f"{first.mean:.3f} ± {first.half_width:.3f} at epsilon 1" in told


def test_epsilon_asked_stands_beside_the_ledgers() -> None:
    told = page(samples.sample())
    row = told[told.index('id="table"') :].split("<tr>")[2]
    assert re.findall(r'<td class="number">([^<]*)</td>', row)[2:] == ["1", "≤ 0.990"]


def test_private_tuning_tells_the_release_and_that_the_page_is_not_for_it() -> None:
    told = text_of(samples.tuned())
    assert "Private tuning in 4 runs. The release is epsilon 4, lr" in told
    assert "it costs epsilon ≤ 9.10 at delta 1e-5 with the choice included" in told
    assert "tells the other results too: it is not for release" in told
    assert "privet sweep sweep.toml --private-tuning geometric:4.0 --out again" in told


def test_what_failed_and_what_waits_is_said() -> None:
    sweep = samples.unfinished()
    told = text_of(sweep)
    assert "Not finished: 1 cell of 42 waits." in told
    assert "1 cell of 42 failed." in told
    assert f"bad {samples.HOSTILE[0]}" in html.unescape(page(sweep))
    assert samples.HOSTILE[0] not in page(sweep)
    assert "To go on: the command that began this sweep, with --resume" in told


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        (samples.nothing_done(), "Nothing was measured: no cell is done."),
        (samples.sample(seeds=(3,)), "One seed: no intervals"),
        (samples.without_privacy(), "Nothing here is private"),
        (samples.sample(by_silo=False, baselines=()), "Accuracy by silo is not known"),
        (replace(samples.sample(), engine="in-process"), "sweep.toml --engine in-process --out"),
    ],
)
def test_sensible_words_for_every_kind_of_sweep(sweep: Sweep, says: str) -> None:
    assert says in text_of(sweep)


def test_the_worst_silo_is_named_with_its_settings() -> None:
    sweep = samples.sample(baselines=())
    told = text_of(sweep)
    worst = min(
        sum((c.accuracy_per_silo or {})["silo-2"] for c in sweep.cells if c.settings == e.settings)
        / 3
        for e in sweep.estimates
    )
    assert f"The worst silo has {worst:.3f} (silo-2) with epsilon 1" in told


def test_rounds_to_the_target_count_every_seed() -> None:
    sweep = samples.sample(seeds=(3, 4), baselines=())
    found = settings_of(sweep)
    shown = marks(found)
    goals = targets(sweep)
    assert goals is not None
    assert goals.private
    assert goals.best == max(each.mean for each in sweep.estimates if each.epsilon)
    lines = {0: [c for c in sweep.cells if c.settings == found[0].estimate.settings]}
    low, high = sorted(cell.accuracy or 0 for cell in lines[0])
    texts = {
        level: rounds_to(level, shown, found, sweep.metric).points[0].text
        for level in (low, high, 2.0)
    }
    assert float(texts[low].split(" ±")[0]) in (3.5, 4)
    assert texts[high] == "with 1 of 2 seeds"
    assert texts[2.0] == "not reached"


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    names = ("report.html", "accuracy.png", "accuracy.svg")
    one, two = (samples.write(samples.hostile(), tmp_path / name) for name in "ab")
    assert write_report(one) == one / "report.html"
    assert main_report(two) == 0
    assert [(one / n).read_bytes() for n in names] == [(two / n).read_bytes() for n in names]
    assert (one / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (one / "accuracy.svg").read_text()


def test_no_picture_of_nothing(tmp_path: Path) -> None:
    folder = samples.write(samples.nothing_done(), tmp_path / "a")
    write_report(folder)
    assert {path.name for path in folder.iterdir()} == {"sweep.json", "sweep.toml", "report.html"}
    assert "accuracy.png" not in (folder / "report.html").read_text()


def test_a_damaged_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.json").write_text("{")
    assert main_report(tmp_path) == 2
    assert "sweep.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def main_report(folder: Path) -> int:
    try:
        main(("report", str(folder)))
    except SystemExit as end:
        return int(end.code or 0)
    return 0
