"""The report of a run, from its folder alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report_samples as samples
from privet.charts import formatting
from privet.errors import DataError
from privet.experiment import Experiment
from privet.privacy.accounting.events import plain_event
from privet.privacy.ledger import read_history
from privet.privacy.policy import Policy, explain
from privet.record.reading import read_run
from privet.record.run import read_books
from privet.reports.run import write_report
from privet.reports.run.assumptions import assumptions
from privet.reports.run.page import render
from privet.simulations.run import simulate

HTTP = re.compile(r"https?://|//[a-z]", re.IGNORECASE)


class Page(HTMLParser):
    """Elements, attributes and text of a page, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self.source = source
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag in ("td", "th", "dt", "dd", "p", "li"):
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).replace("\N{NO-BREAK SPACE}", " ").split())

    def having(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]

    def count(self, tag: str, **wanted: str) -> int:
        return sum(
            name == tag and all(attrs.get(key.rstrip("_")) == v for key, v in wanted.items())
            for name, attrs in self.elements
        )


def page_of(sample: samples.Sample, folder: Path) -> Page:
    return Page(render(read_run(sample.write(folder))))


ALL: dict[str, Callable[[], samples.Sample]] = {
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


def test_the_verdict_says_quality_and_guarantee_in_words(tmp_path: Path) -> None:
    page = page_of(samples.with_privacy(), tmp_path)
    assert "Accuracy 0.912 on 360 held-out records after 40 rounds." in page.text
    assert "Each silo’s records are protected with epsilon ≤ 3.99 at delta 1e-5." in page.text
    # e^3.987 = 53.9 and 1 / (1 + e^-3.987) = 98.18 %
    assert "by a factor of at most 54: from an even guess to at most 98.2 % sure" in page.text


def test_what_is_written(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    path = write_report(sample.write(tmp_path), plots=True)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == page_of(sample, tmp_path).source
    pictures = sorted((tmp_path / "plots").iterdir())
    assert [picture.name for picture in pictures] == ["accuracy.png", "epsilon.png", "silos.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 5000 for p in pictures)
    assert not list(tmp_path.glob("*.part"))


def test_pictures_are_made_when_asked_for_and_kept_up_to_date(tmp_path: Path) -> None:
    folder = samples.with_privacy().write(tmp_path)
    write_report(folder)
    assert not (folder / "plots").exists()
    write_report(folder, plots=True)
    picture = folder / "plots" / "accuracy.png"
    before = picture.read_bytes()
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:-1]))
    write_report(folder)
    assert picture.read_bytes() != before


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    first, second = (sample.write(tmp_path / name) for name in ("a", "b"))
    one, two = (write_report(folder, plots=True).read_bytes() for folder in (first, second))
    assert one == two
    for picture in ("accuracy", "epsilon", "silos"):
        name = f"plots/{picture}.png"
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_without_privacy_the_page_says_so_and_draws_no_epsilon(tmp_path: Path) -> None:
    page = page_of(samples.without_privacy(), tmp_path)
    write_report(tmp_path, plots=True)
    assert "No privacy guarantee." in page.text
    assert "The experiment has no [privacy] section: no noise was added" in page.text
    assert "Epsilon spent" not in page.text
    assert "are protected with epsilon" not in page.text
    assert not (tmp_path / "plots" / "epsilon.png").exists()


def test_who_sees_what_follows_the_settings(tmp_path: Path) -> None:
    noisy = page_of(samples.with_privacy(), tmp_path / "noisy").text
    exact = page_of(samples.without_privacy(), tmp_path / "exact").text
    sealed = page_of(samples.seal(samples.with_privacy()), tmp_path / "sealed").text
    assert "every silo’s noisy update" in noisy
    assert "Updates are covered by the silo’s epsilon (≤ 3.99)" in noisy
    assert "every silo’s exact update and training loss. not protected" in exact
    assert "ciphertexts that it can add up but not read" in sealed
    assert "every silo’s noisy update" not in sealed
    assert "The server together with" not in noisy + exact


@pytest.mark.parametrize(
    "premise",
    [
        "The number protects one record of one silo",
        "one holds a single record more than the other",
        "independent coin (Poisson sampling)",
        "How many records a silo holds is treated as known",
        "With probability 1e-5 the bound may not hold at all",
        "is not counted as amplification",
        "All 40 rounds are composed into one figure",
        "RDP gives 4.31, PRV 4.00. They agree with the figure",
        "chosen by looking at these data",
        "noise is drawn from the seed (7)",
        "this model is not for release",
        "For a person in several, the epsilons add up",
        "the computer rounds",
        "scaled to an L2 norm of at most 1.0",
    ],
)
def test_every_premise_of_the_number_is_stated(premise: str, tmp_path: Path) -> None:
    assert premise in page_of(samples.with_privacy(), tmp_path).text


def test_an_interrupted_run_is_reported_up_to_its_last_round(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    sample.interrupt(after=17)
    page = page_of(sample, tmp_path)
    spent = formatting.bound(sample.history[17]["epsilon"]["max"])
    assert "Interrupted after round 17 of 40." in page.text
    assert f"epsilon ≤ {spent} at delta 1e-5" in page.text
    assert "Not cross-checked" in page.text
    assert "with --resume" in page.text


def test_a_run_without_a_single_round_still_has_a_page(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    sample.history, sample.summary = [], None
    page = page_of(sample, tmp_path)
    assert "Interrupted after round 0 of 40." in page.text
    assert "no finite epsilon" in page.text
    (tmp_path / "history.jsonl").unlink()
    (tmp_path / "silos.json").unlink()
    write_report(tmp_path, plots=True)
    assert "No privacy guarantee" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert list((tmp_path / "plots").iterdir()) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    sample.interrupt(after=5)
    sample.write(tmp_path)
    history = tmp_path / "history.jsonl"
    whole = render(read_run(tmp_path))
    next_line = json.dumps(sample.history[5] | {"round": 6})
    for cut in (1, len(next_line) // 2, len(next_line) - 1):
        torn = history.read_bytes() + next_line[:cut].encode()
        history.write_bytes(torn)
        assert render(read_run(tmp_path)) == whole
        history.write_bytes(torn[: -len(next_line[:cut])])


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    samples.with_privacy().write(tmp_path)
    history = tmp_path / "history.jsonl"
    lines = history.read_text().splitlines()
    lines[3] = lines[3][:40]
    history.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"history\.jsonl, line 4"):
        write_report(tmp_path, plots=True)
    assert not (tmp_path / "report.html").exists()


def test_of_a_round_that_ran_twice_the_later_line_counts(tmp_path: Path) -> None:
    sample = samples.without_privacy()
    sample.interrupt(after=10)
    sample.history.append(sample.history[10] | {"accuracy": 0.4321})
    assert "Accuracy 0.432 on" in page_of(sample, tmp_path).text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("experiment.toml", None, "experiment.toml is missing"),
        ("experiment.toml", "rounds = ", "experiment.toml is not TOML"),
        ("summary.json", '{"schema": 1', "summary.json is not JSON"),
        ("silos.json", "[1, 2]", "silos.json holds list; an object is expected"),
    ],
)
def test_an_unreadable_file_is_named(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    samples.with_privacy().write(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        write_report(tmp_path, plots=True)


@pytest.mark.parametrize("largest", [math.inf, math.nan, None])
def test_an_epsilon_that_is_no_number_is_no_guarantee(
    largest: float | None, tmp_path: Path
) -> None:
    sample = samples.with_privacy()
    assert sample.summary is not None
    sample.summary["epsilon"]["max"] = largest
    page = page_of(sample, tmp_path)
    write_report(tmp_path, plots=True)
    assert "No privacy guarantee: no finite epsilon was computed." in page.text
    assert "are protected with epsilon" not in page.text
    assert not (tmp_path / "plots" / "epsilon.png").exists()


def test_a_diverged_run_leaves_gaps_and_says_so(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    assert sample.summary is not None
    for entry in sample.history[20:]:
        entry["loss"], entry["accuracy"] = math.nan, None
    sample.summary["loss"] = math.nan
    page = page_of(sample, tmp_path)
    write_report(tmp_path, plots=True)  # the pictures bear it too
    assert "training diverged" in page.text
    assert not any("nan" in path for path in page.having("d"))


def test_nothing_measured(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    assert sample.summary is not None
    for entry in (*sample.history, sample.summary):
        entry["loss"] = entry["accuracy"] = None
    page = page_of(sample, tmp_path)
    write_report(tmp_path, plots=True)
    assert "Nothing was measured: there were no held-out records." in page.text
    assert not (tmp_path / "plots" / "accuracy.png").exists()


def test_alarms_for_numbers_not_to_rely_on(tmp_path: Path) -> None:
    sample = samples.Sample(delta="0.01")
    assert sample.summary is not None
    checks = {"agree": False, "problems": ["PRV says 5.1000, PLD 3.9870"]}
    sample.summary["epsilon"]["cross_checks"] |= checks
    sample.summary["epsilon"]["max"] = 4.2
    text = page_of(sample, tmp_path).text
    largest = max(silo["records"] for silo in sample.silos)
    assert "do not rely on this epsilon: PRV says 5.1000, PLD 3.9870." in text
    assert "Epsilon 4.20 is above the target of 4." in text
    assert "Delta 0.01 is not below one over the number of records" in text
    assert f"holds {largest} records)" in text
    assert "They do not agree." in text


@pytest.mark.parametrize(("records", "alarm"), [(100, True), (99, False)])
def test_a_delta_of_exactly_one_over_the_records_is_too_large(
    records: int, alarm: bool, tmp_path: Path
) -> None:
    """At delta = 1/n, publishing one of n records at random is (0, delta)-private."""
    sample = samples.Sample(delta="0.01")
    for silo in sample.silos:
        silo["records"] = 50
    sample.silos[0]["records"] = records
    page = page_of(sample, tmp_path)
    assert ("Delta 0.01 is not below one over" in page.text) is alarm
    (statement,) = [each for each in assumptions(read_run(tmp_path)) if each.term == "Delta"]
    assert statement.caution is alarm


def test_no_alarm_without_a_reason(tmp_path: Path) -> None:
    assert page_of(samples.with_privacy(), tmp_path).count("ul", class_="alarms") == 0
    assert page_of(samples.without_privacy(), tmp_path / "not").count("ul", class_="alarms") == 1


@pytest.mark.parametrize("name", ALL)
def test_the_page_loads_nothing(name: str, tmp_path: Path) -> None:
    page = page_of(ALL[name](), tmp_path)
    loading = [*page.having("src"), *page.having("srcset"), *page.having("href")]
    assert [link for link in loading if link != "data:," and not link.startswith("#")] == []
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    assert not HTTP.search(style)


@pytest.mark.parametrize("name", ALL)
def test_the_policy_allows_the_page_s_own_script_only(name: str, tmp_path: Path) -> None:
    page = page_of(ALL[name](), tmp_path)
    (policy,) = [value for value in page.having("content") if "default-src" in value]
    script = page.source.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert page.count("script") == 1


def test_hostile_names_and_reasons_stay_text(tmp_path: Path) -> None:
    page = page_of(samples.hostile(), tmp_path)
    write_report(tmp_path, plots=True)
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "b", "iframe", "object"})
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "<script>window.hacked=1</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "x" * 500 not in page.text  # a reason of 5,000 characters is cut
    assert (tmp_path / "plots" / "epsilon.png").exists()  # $\frac{1}{0 is no formula


def test_few_silos_have_a_row_and_a_line_each(tmp_path: Path) -> None:
    sample = samples.hospitals()
    page = page_of(sample, tmp_path)
    for silo in sample.silos:
        assert sample.summary is not None
        spent = formatting.bound(sample.summary["epsilon"]["per_silo"][silo["name"]])
        row = rf"{re.escape(silo['name'])} {re.escape(spent)} {silo['records']} [\d.]+ \d+ [\d.]+"
        assert re.search(row, page.text)
    curves = [value for value in page.having("class") if value.startswith("curve ")]
    assert len(curves) == (1 + 4) + 1 + (1 + 4)  # accuracy, loss, epsilon


def test_many_silos_are_drawn_as_a_band(tmp_path: Path) -> None:
    page = page_of(samples.many_silos(), tmp_path)
    curves = [value for value in page.having("class") if value.startswith("curve ")]
    assert len(curves) == 4  # accuracy, loss; highest and lowest epsilon
    assert page.count("path", class_="band") == 1
    assert page.count("svg", role="img") <= 5
    assert len(page.source) < 400_000
    assert "All 500 silos as a table" in page.text


def test_unlabelled_records_are_plain_bars(tmp_path: Path) -> None:
    sample = samples.Sample(labels=0)
    page = page_of(sample, tmp_path)
    total = sum(silo["records"] for silo in sample.silos)
    assert f"{total:,} records in 10 silos" in page.text
    assert page.count("ul", **{"aria-label": "Labels"}) == 0


def test_rare_labels_are_shown_together_and_none_is_lost(tmp_path: Path) -> None:
    sample = samples.Sample(labels=62)
    page = page_of(sample, tmp_path)
    assert "51 other labels" in page.text
    bars = [json.loads(value) for value in page.having("data-hover")]
    shown = [b for b in bars if len(b["names"]) == 12 and len(b["at"]) == 1]
    counts = [sum(int(text[0] or 0) for text in bar["texts"]) for bar in shown]
    assert counts == [silo["records"] for silo in sample.silos]


def test_attendance_in_a_sentence_when_everybody_came(tmp_path: Path) -> None:
    sample = samples.Sample(faults=0)
    page = page_of(sample, tmp_path)
    assert "All 10 silos took part in every one of 40 rounds." in page.text
    assert "Nothing failed." in page.text


def test_failures_with_one_reason_are_one_row(tmp_path: Path) -> None:
    sample = samples.Sample(faults=0)
    for number, silo in ((2, "silo-3"), (4, "silo-3"), (5, "silo-3"), (9, "silo-1")):
        sample.history[number]["participants"].remove(silo)
        failure = {"silo": silo, "stage": "load", "reason": "DataError: 3 features are NaN"}
        sample.history[number]["failures"].append(failure)
    page = page_of(sample, tmp_path)
    assert "396 updates arrived in 40 rounds; 4 failed, 0 dropped out." in page.text
    expected = "DataError: 3 features are NaN load 4 silo-3 in rounds 2, 4–5; silo-1 in round 9"
    assert expected in page.text


def test_failures_are_cut_short_and_the_rest_is_counted(tmp_path: Path) -> None:
    sample = samples.Sample(faults=0)
    sample.history[1]["failures"] = [
        {"silo": "silo-1", "stage": "train", "reason": f"error number {n}"} for n in range(57)
    ]
    assert "7 further reasons in history.jsonl" in page_of(sample, tmp_path).text


def test_a_round_with_nobody_and_a_skipped_round_are_told(tmp_path: Path) -> None:
    sample = samples.Sample(faults=0)
    sample.history[4]["participants"] = []
    sample.history[4]["skipped"] = "no update arrived"
    page = page_of(sample, tmp_path)
    assert "In 1 round nobody's update arrived." in page.text
    assert "Round 4 left the model as it was: no update arrived" in page.text


def test_settings_stand_as_they_are(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    page = page_of(sample, tmp_path)
    assert " ".join(sample.settings.split()) in page.text
    assert "privet simulate experiment.toml" in page.text


@pytest.mark.parametrize("name", ALL)
def test_pictures_and_tables_can_be_read_aloud(name: str, tmp_path: Path) -> None:
    page = page_of(ALL[name](), tmp_path)
    pictures = [
        attrs for tag, attrs in page.elements if tag == "svg" and "aria-hidden" not in attrs
    ]
    assert len(pictures) >= 2
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, privet.reports.run; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_task_says_of_its_data_stands_among_the_assumptions(tmp_path: Path) -> None:
    folder = samples.with_privacy().write(tmp_path)
    silos = json.loads((folder / "silos.json").read_text())
    silos["notes"] = ["Scaled by <each> silo's own statistics."]
    (folder / "silos.json").write_text(json.dumps(silos))
    page = write_report(folder).read_text()
    assert "About these data" in page
    assert "Scaled by &lt;each&gt; silo" in page


def worst_by_ledger(folder: Path, *silos: str) -> str:
    """The largest epsilon that the ledger in `folder` gives any of `silos`, as it is printed."""
    history = read_history(folder / "ledger.sqlite")
    return formatting.bound(max(history.spent(silo, delta=1e-5) for silo in silos))


def cells(page: Page, style: str) -> int:
    """How many cells of "Who took part" are drawn in one style."""
    paths = [attrs["d"] for tag, attrs in page.elements if tag == "path" and attrs.get("d")]
    styles = [attrs.get("class") for tag, attrs in page.elements if tag == "path"]
    return sum(path.count("M") for path, found in zip(paths, styles, strict=True) if found == style)


def test_the_ledger_is_counted_by_silo(tmp_path: Path) -> None:
    page = page_of(samples.guarded(), tmp_path)
    entries = len(read_history(tmp_path / "ledger.sqlite").entries)
    assert f"Entries {entries} last" in page.text
    assert "Rounds reserved 21 charged beforehand Committed 21 lowered to what ran" in page.text
    assert "Standing 0 charged in full Evaluations 9 with noise Refusals 3" in page.text
    assert "silo-1 the same 6 6 0 3 0 silo-2 the same 6 6 0 3 0 silo-3 the same 3 3 0 3 3" in (
        page.text
    )
    assert "Every hash and every signature is in place" in page.text
    assert "For every silo it charges exactly the events that the history reports" in page.text
    assert page.count("ul", class_="alarms") == 0


def test_a_folder_without_a_ledger_has_no_such_section(tmp_path: Path) -> None:
    page = page_of(samples.with_privacy(), tmp_path)
    assert page.count("section", id="ledger") == 0
    assert "#ledger" not in page.having("href")
    assert "ledger" not in page.text.lower()


def test_a_reservation_that_stands_is_charged_and_told(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.uses is not None
    assert sample.summary is not None
    sample.uses.append(samples.Use("silo-2", 5, committed=False))
    sample.summary["epsilon"]["max"] = 1.5
    page = page_of(sample, tmp_path)
    spent = worst_by_ledger(tmp_path, "silo-2")
    assert "For silo-2 it charges more than the history reports" in page.text
    assert f"silo-2 charged more epsilon ≤ {spent} by the ledger 7 6 1 3 0" in page.text
    assert f"By the ledger, silo-2 has spent epsilon {spent}, more than the 1.50" in page.text
    sample.summary["epsilon"]["max"] = 50.0
    assert "By the ledger, silo-2" not in page_of(sample, tmp_path / "again").text


def test_a_round_that_only_the_ledger_knows_is_named(tmp_path: Path) -> None:
    text = page_of(samples.many_guarded(), tmp_path).text
    spent = worst_by_ledger(tmp_path, "silo-7")
    assert f"silo-7 charged more round 3 epsilon ≤ {spent} by the ledger 3 2 1 1 0" in text
    assert "For 39 of 40 silos it charges exactly" in text


def test_a_use_that_the_ledger_does_not_know_is_an_alarm(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.uses is not None
    sample.uses.remove(samples.Use("silo-1", 4))
    page = page_of(sample, tmp_path)
    assert "uses of records that the ledger never charged (silo-1)" in page.text
    assert "silo-1 charged less round 4" in page.text
    assert page.count("li", class_="stop") == 1


def test_equal_numbers_of_other_events_do_not_agree(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.uses is not None
    place = sample.uses.index(samples.Use("silo-1", 4))
    sample.uses[place] = samples.Use("silo-1", 4, samples.MEASURED)
    assert "silo-1 charged less" in page_of(sample, tmp_path).text


def test_of_many_silos_only_those_that_stand_out_are_shown(tmp_path: Path) -> None:
    page = page_of(samples.many_guarded(), tmp_path)
    shown = page.source.split("Those that stand out")[1].split("<details>")[0]
    assert re.findall(r'title="(silo-\d+)"', shown) == ["silo-7", "silo-39"]
    assert "All 40 silos as a table" in page.text
    assert "Rounds reserved 80 charged beforehand Committed 79" in page.text


def test_many_that_stand_out_are_cut_short_and_counted(tmp_path: Path) -> None:
    sample = samples.many_guarded()
    assert sample.uses is not None
    sample.uses += [samples.Use(name, 3, committed=False) for name in sample.names[10:30]]
    page = page_of(sample, tmp_path)
    shown = page.source.split("Those that stand out")[1].split("<details>")[0]
    assert len(re.findall(r'title="silo-\d+"', shown)) == 12
    assert "10 more in the whole table" in page.text  # 21 charged more, 1 refused


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "not a database": lambda _: b"no ledger at all" * 400,
    "cut off": lambda content: content[: len(content) // 2],
    "edited": lambda content: content.replace(b'multiplier":1.5', b'multiplier":9.5'),
    "no text": lambda content: content.replace(b'"type":"poisson"', b'"type":"\xffoisson"'),
    "holes": lambda content: content[:6000] + bytes(3000) + content[9000:],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ledger_is_an_alarm_and_no_crash(name: str, tmp_path: Path) -> None:
    path = samples.guarded().write(tmp_path) / "ledger.sqlite"
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "The ledger of this run is damaged or was changed" in page.text
    assert "Every hash" not in page.text
    assert page.count("li", class_="stop") == 1
    assert "epsilon ≤ 3.99" in page.text  # the history still stands
    assert str(tmp_path) not in page.source


def test_what_verify_finds_is_an_alarm_beside_the_counts(tmp_path: Path) -> None:
    samples.guarded().write(tmp_path)
    (tmp_path / "ledger.sqlite.head").unlink()
    page = Page(render(read_run(tmp_path)))
    assert "do not take from it what was spent: ledger.sqlite.head is missing" in page.text
    assert "It is not what was written: see the top of this page." in page.text
    assert "Rounds reserved 21" in page.text


def test_a_long_ledger_says_that_signatures_were_not_checked(tmp_path: Path) -> None:
    samples.guarded().write(tmp_path)
    (tmp_path / "ledger.sqlite.head").unlink()  # so that a full check would find something
    run = read_run(tmp_path)
    page = Page(render(replace(run, books=read_books(tmp_path, most_signatures=10))))
    assert "Every hash is in place. Signatures and the end were not checked" in page.text
    assert page.count("ul", class_="alarms") == 0


def test_training_without_privacy_has_no_account_to_compare(tmp_path: Path) -> None:
    sample = samples.without_privacy()
    sample.uses = [samples.Use(name, 1, plain_event()) for name in sample.names]
    page = page_of(sample, tmp_path)
    assert "charged as a loss without bound" in page.text
    assert "silo-3 not compared 1 1 0 0 0" in page.text
    assert page.count("li", class_="stop") == 1  # that there is no [privacy] section, no more


def test_the_policy_is_explained(tmp_path: Path) -> None:
    page = page_of(samples.guarded(), tmp_path)
    inside = page.source.split('<details class="policy">')[1].split("</details>")[0]
    sentences = [
        line.rpartition(" (")[0]
        for line in explain(Policy.from_file(tmp_path / "policy.toml"))
        if line.endswith(")")
    ]
    assert len(sentences) > 10
    text = Page(inside).text
    assert [sentence for sentence in sentences[1:] if sentence not in text] == []
    assert "<h4>Every data set</h4>" in inside
    assert str(tmp_path) not in page.source
    assert "policy.toml (what was allowed)" in page.text


def test_without_a_policy_the_page_says_that_everything_was_allowed(tmp_path: Path) -> None:
    sample = samples.guarded()
    sample.policy = None
    page = page_of(sample, tmp_path)
    assert "the simulation’s own was, which allows everything" in page.text
    assert page.count("details", class_="policy") == 0


def test_a_policy_that_cannot_be_read_is_an_alarm(tmp_path: Path) -> None:
    sample = samples.guarded()
    sample.policy = "version = 2\n[data.x]\n"
    page = page_of(sample, tmp_path)
    assert "The policy of this run cannot be read: policy.toml:" in page.text
    assert "it is not said here what was allowed" in page.text


def test_a_refusal_is_no_failure_and_has_a_state_of_its_own(tmp_path: Path) -> None:
    page = page_of(samples.guarded(), tmp_path)
    assert cells(page, "took") == 21
    assert cells(page, "refused") == 3
    assert cells(page, "failed") == 0
    assert "0 failed, 0 dropped out, 3 were refused by a silo’s own policy or budget." in page.text
    assert f"{samples.LIMIT} training 3 silo-3 in rounds 4–6" in page.text  # figures left out
    assert "Nothing failed." in page.text


def test_budgets_too_small_for_the_run_are_told_beforehand(tmp_path: Path) -> None:
    told = "the budgets of 1 of 4 silos had room for fewer than the 6 rounds of the run"
    sample = samples.guarded()
    assert f"{told}: silo-3 for 3." in page_of(sample, tmp_path / "small").text
    enough = page_of(samples.guarded(last_affords=6), tmp_path / "enough").text
    assert "had room for fewer" not in enough


def test_a_silo_turned_away_before_the_first_round_did_not_enrol(tmp_path: Path) -> None:
    sample = samples.guarded()
    for entry in sample.history:
        entry["participants"] = [name for name in entry["participants"] if name != "silo-1"]
        entry["epsilon"]["per_silo"].pop("silo-1")
    sample.history[0]["refused"] = {"node 3": "requesters: asked for 'simulation'"}
    page = page_of(sample, tmp_path)
    assert cells(page, "out") == 6
    assert cells(page, "absent") == 0
    assert "1 silo fell away before the first round." in page.text
    assert "requesters: asked for 'simulation' enrolment 1 node 3 before round 1" in page.text


def test_a_refused_evaluation_is_listed_with_the_refusals(tmp_path: Path) -> None:
    sample = samples.guarded(last_affords=6)
    sample.history[4]["evaluation"]["failures"] = [
        {"silo": "silo-1", "stage": "guard", "reason": "hours: asked for now"},
        {"silo": "silo-2", "stage": "evaluate", "reason": "RuntimeError: gone"},
    ]
    text = page_of(sample, tmp_path).text
    assert "hours: asked for now evaluation 1 silo-1 in round 4" in text
    assert "RuntimeError: gone evaluate 1 silo-2 in round 4" in text


def test_a_run_that_was_stopped_says_so_first(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.summary is not None
    reason = "1 of 4 silos would go on, federation.min_silos = 2; one says: the limit is epsilon 2"
    sample.summary["stopped"] = {"round": 6, "reason": reason}
    sample.settings = sample.settings.replace("rounds = 6", "rounds = 40")
    page = page_of(sample, tmp_path)
    assert "after 6 rounds of 40, then stopped: 1 of 4 silos would go on" in page.text
    assert f"Stopped after round 6 of 40: {reason}." in page.text
    assert "Rounds 6 of 40" in page.text
    assert "Interrupted" not in page.text


def test_the_mean_on_own_records_is_drawn_beside_the_held_out_accuracy(tmp_path: Path) -> None:
    page = page_of(samples.guarded(), tmp_path)
    accuracy, loss = (json.loads(value) for value in page.having("data-hover")[:2])
    assert accuracy["names"] == ["held-out records", "silos’ own records, mean"]
    assert accuracy["texts"][1] == [None, None, "0.520", None, "0.540", None, "0.560"]
    assert loss["names"] == ["all silos"]
    (path,) = [attrs["d"] for tag, attrs in page.elements if attrs.get("class") == "curve own"]
    assert path.count("M") == 1  # one line over the rounds without an evaluation
    assert path.count("L") == 2
    assert "The dashed line is the mean" in page.text


def test_the_mean_on_own_records_stands_alone_without_held_out_records(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.summary is not None
    for entry in (*sample.history, sample.summary):
        entry["loss"] = entry["accuracy"] = None
    page = page_of(sample, tmp_path)
    write_report(tmp_path, plots=True)
    assert "Accuracy 0.560 on the silos’ own held-out records after 6 rounds." in page.text
    assert "Accuracy 0.560 on the silos’ own records" in page.text
    accuracy = json.loads(page.having("data-hover")[0])
    assert accuracy["names"] == ["silos’ own records, mean"]
    assert (tmp_path / "plots" / "accuracy.png").exists()


def test_the_last_evaluation_says_how_each_metric_left(tmp_path: Path) -> None:
    page = page_of(samples.guarded(), tmp_path)
    assert "Measured after round 6 on records that each silo keeps out of training." in page.text
    assert (
        "Accuracy left exactly, unprotected and not counted, from 1 silo; "
        "with noise, counted in epsilon, from 3 silos." in page.text
    )
    assert "Loss was withheld by all 4 silos." in page.text
    assert "silo-0 0.560 exact withheld silo-1 0.560 noise withheld" in page.text
    assert "Mean 0.560" in page.text


def test_an_evaluation_that_lets_nothing_out_has_no_table_and_no_line(tmp_path: Path) -> None:
    sample = samples.guarded()
    for entry in sample.history:
        if entry["evaluation"]:
            entry["evaluation"] |= {"metrics": {}, "per_silo": {}}
            for ways in entry["evaluation"]["released"].values():
                ways["accuracy"] = "withheld"
    page = page_of(sample, tmp_path)
    assert "Accuracy was withheld by all 4 silos." in page.text
    assert page.count("table", class_="measured") == 0
    assert "dashed line" not in page.text


def test_who_sees_what_names_what_leaves_besides_the_model(tmp_path: Path) -> None:
    text = page_of(samples.guarded(), tmp_path / "guarded").text
    assert "how many records each silo holds, and every silo’s noisy update" in text
    assert (
        "Besides: with each update its sampling rate, steps and noise; on the silos’ own records "
        "accuracy (exactly or with noise); why a silo refused." in text
    )
    assert "counts, exact metrics and participation are not" in text
    assert "What leaves exactly (accuracy) is neither protected nor counted" in text
    assert "Besides" not in page_of(samples.without_privacy(), tmp_path / "plain").text


def test_counts_that_the_policy_keeps_are_not_called_public(tmp_path: Path) -> None:
    text = page_of(samples.kept(), tmp_path).text
    assert "how many records each silo holds" not in text
    assert "How many records a silo holds is treated as known" not in text
    assert "Record counts stay in the silos" in text
    assert "exact metrics and participation are not" in text
    assert "sampling rate, steps and noise" not in text


def test_the_rules_of_an_only_data_set_hold_for_every_silo(tmp_path: Path) -> None:
    told = "what it says of heart, its only data set, held for all of them"
    sample = samples.kept()
    assert sample.policy is not None
    assert told not in page_of(sample, tmp_path / "any").text
    sample.policy = sample.policy.replace('data."*"', "data.heart")
    text = page_of(sample, tmp_path / "heart").text
    assert told in text
    assert "Record counts stay in the silos" in text
    sample.policy = sample.policy.replace("records_public = false", "records_public = true")
    assert "Record counts are public" in page_of(sample, tmp_path / "public").text


def test_counts_that_some_silos_keep(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.policy is not None
    closed = samples.POLICY.format(public="false").replace('"*"]', '"silo-2"]')
    closed = closed.replace('data."*"', "data.silo-2").removeprefix("version = 1\n")
    sample.policy += closed.replace('requesters = ["silo-2"]', 'requesters = ["*"]')
    text = page_of(sample, tmp_path).text
    assert "how many records 3 of 4 silos hold" in text
    assert "Some record counts are public For 1 of 4 silos the policy keeps" in text


def test_silos_that_keep_their_account_have_no_curve_and_the_page_says_why(
    tmp_path: Path,
) -> None:
    page = page_of(samples.kept(), tmp_path)
    write_report(tmp_path, plots=True)
    assert "4 silos keep the account of each round, because it would tell how many" in page.text
    assert "Epsilon spent" not in page.text
    assert "Each silo’s records are protected with epsilon ≤ 3.99" in page.text
    assert "For every silo the history has nothing to compare" in page.text
    assert "silo-0 account kept epsilon ≤ 3.99" in page.text
    assert not (tmp_path / "plots" / "epsilon.png").exists()


def test_a_single_silo_that_keeps_its_account_leaves_the_others_their_lines(
    tmp_path: Path,
) -> None:
    sample = samples.guarded(last_affords=6)
    for entry in sample.history[1:]:
        entry["epsilon"] = {
            "max": None,
            "per_silo": entry["epsilon"]["per_silo"] | {"silo-0": None},
        }
        entry["events"]["silo-0"] = None
    page = page_of(sample, tmp_path)
    write_report(tmp_path, plots=True)
    (epsilon,) = [
        chart
        for chart in map(json.loads, page.having("data-hover"))
        if "highest silo" in chart["names"]
    ]
    assert epsilon["names"] == ["highest silo", "silo-1", "silo-2", "silo-3"]
    assert None not in epsilon["texts"][0]
    assert "1 silo keeps the account of each round" in page.text
    assert "of those that tell their account" in page.text
    assert (tmp_path / "plots" / "epsilon.png").exists()


def test_the_epsilon_of_an_interrupted_run_comes_from_the_ledger_where_it_is_kept(
    tmp_path: Path,
) -> None:
    sample = samples.kept()
    sample.interrupt(after=4)
    assert sample.uses is not None
    sample.uses = [use for use in sample.uses if use.round <= 4]
    text = page_of(sample, tmp_path).text
    assert f"epsilon ≤ {worst_by_ledger(tmp_path, *sample.names)} at delta 1e-5" in text
    assert "epsilon 0" not in text


def test_without_a_ledger_a_kept_account_is_not_taken_for_nothing_spent(tmp_path: Path) -> None:
    sample = samples.kept()
    sample.interrupt(after=4)
    sample.uses = None
    text = page_of(sample, tmp_path).text
    assert "No epsilon for the whole run: some silos keep their account" in text
    assert "4 silos told nobody what the run has cost" in text
    assert "nothing was spent" not in text


def test_an_epsilon_above_the_target_is_explained_by_evaluations(tmp_path: Path) -> None:
    sample = samples.guarded()
    assert sample.summary is not None
    sample.summary["epsilon"]["max"] = 4.03
    expected = "Epsilon 4.03 is above the target of 4: the noise is set for training alone"
    assert expected in page_of(sample, tmp_path).text


def test_hostile_text_in_the_new_sections_stays_text(tmp_path: Path) -> None:
    page = page_of(samples.hostile_guarded(), tmp_path)
    write_report(tmp_path, plots=True)
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "b", "u", "iframe"})
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "<b>share</b> left <i>odd</i> the silo" in page.text
    assert "Data set <u>all</u>" in page.text
    assert "y" * 500 not in page.text


def test_the_same_folder_with_a_ledger_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = samples.guarded().write(tmp_path / "a")
    copied = shutil.copytree(folder, tmp_path / "b")
    assert write_report(folder).read_bytes() == write_report(copied).read_bytes()


def test_a_real_run_agrees_with_its_ledger(tmp_path: Path) -> None:
    policy = tmp_path / "holder.toml"
    policy.write_text(samples.POLICY.format(public="true"))
    settings = {
        "task": "digits",
        "rounds": 4,
        "federation": {"silos": 3},
        "training": {"steps": 2},
        "privacy": {"noise_multiplier": 1.2},
        "evaluation": {"every": 2},
    }
    out = tmp_path / "run"
    summary = simulate(Experiment.from_mapping(settings), out=out, policy=policy)
    page = Page(write_report(out).read_text(encoding="utf-8"))
    history = read_history(out / "ledger.sqlite")
    assert history.spent("silo-0", delta=1e-5) == pytest.approx(
        summary["epsilon"]["per_silo"]["silo-0"], rel=1e-3
    )
    assert "Every hash and every signature is in place" in page.text
    assert "For every silo it charges exactly the events that the history reports" in page.text
    assert "Accuracy left with noise, counted in epsilon, from all 3 silos." in page.text
    assert "refused by a silo’s own policy or budget" in page.text


def rows(page: Page) -> dict[str, str]:
    """Each row of a table by its head; a name that two tables have is the later one's."""
    found = {}
    for row in re.findall(r"<tr[^>]*>(<th scope=.row.>.*?)</tr>", page.source, re.DOTALL):
        head, *cells = Page(row.replace("</td>", "</td>|").replace("</th>", "</th>|")).text.split(
            "|"
        )
        found[head.strip()] = " | ".join(cell.strip() for cell in cells).removesuffix(" | ")
    return found


def test_encryption_has_a_section_with_its_figures(tmp_path: Path) -> None:
    page = page_of(samples.sealed(), tmp_path)
    found = rows(page)
    assert "the server adds the ciphertexts up, and silos open the sum" in page.text
    assert "what a sum or the model tells about records: epsilon does that" in page.text
    assert found["Scheme"] == "BFV | Sums of integers of 16 bits, exact once opened."
    assert found["Parameters"] == "60-bit modulus | Ring degree 4,096."
    assert found["Security level"].startswith("192 bits | ")
    assert "At least 128 is enforced" in found["Security level"]
    assert found["Sent by a silo"].startswith("47.5 bytes a parameter | ")
    assert "one ciphertext of about 8,000 values pays for a whole one" in found["Sent by a silo"]
    assert found["Smallest sum"].startswith("2 updates | Silos refuse to open a sum of fewer.")
    assert found["Keys"].startswith("3 epochs | A new key every 3 rounds, when silos change")
    assert found["Pairwise masks"].startswith("no | A single silo that sides with the server")
    assert found["Values cut off"] == "0 | None was too large for the encoding."
    assert "every silo that holds the key, and the host of this simulation" in found["The model"]
    assert page.having("href").count("#encryption") == 1
    assert "· encrypted sums" in page.text
    assert page.count("li", class_="stop") == 0


def test_a_run_without_encryption_has_no_such_section(tmp_path: Path) -> None:
    sample = samples.with_privacy()
    page = page_of(sample, tmp_path / "without")
    sample.settings += '\n[encryption]\nscheme = "none"\n'
    for each in (page, page_of(sample, tmp_path / "none")):
        assert "#encryption" not in each.having("href")
        assert "ciphertext" not in each.text
        assert "encrypted" not in each.text
        assert "keys/" not in each.text


def test_masks_say_how_many_colluding_silos_they_withstand(tmp_path: Path) -> None:
    sample = samples.seal(samples.Sample(faults=0), colluding=2, pairwise_masks=True)
    found = rows(page_of(sample, tmp_path))
    assert found["Pairwise masks"].startswith("yes, withstand 2 silos | ")
    assert "sees sums only; with more, single updates" in found["Pairwise masks"]
    assert "Masks ask for 4 at least" in found["Smallest sum"]
    assert "either silo" not in found["Smallest sum"]
    told = found["The server together with up to 2 silos"]
    assert told.startswith("Of each round one sum, less what these silos put in")
    assert "| in part | Masks hide single updates. With more than 2 silos on its side" in told


def test_values_that_were_cut_off_are_a_warning(tmp_path: Path) -> None:
    page = page_of(samples.seal(samples.Sample(faults=0), clipped=1234), tmp_path)
    assert rows(page)["Values cut off"].startswith("1,234 | They were too large for the encoding")
    assert "Encryption cut off 1,234 values that its encoding has no room for" in page.text
    cut = re.search(r'<tr class="caution"><th scope="row">Values cut off', page.source)
    assert cut is not None


def test_ckks_is_told_to_be_approximate(tmp_path: Path) -> None:
    found = rows(page_of(samples.sealed_without_privacy(), tmp_path))
    assert found["Scheme"].startswith("CKKS | Approximate. What silos open is rounded")
    assert "BFV is the scheme for models to be released" in found["Scheme"]
    assert found["Parameters"].startswith("109-bit modulus")
    assert found["Security level"].startswith("128 bits")
    assert "about 2,000 values" in found["Sent by a silo"]
    assert "mean of exact updates, rounded. | not protected" in found["Another silo"]
    assert "full precision would give away the key" in found["Anyone with the final model"]


SERVER, ONE_SILO = "The server", "The server together with one silo"
MODEL, OTHER = "Anyone with the final model", "Another silo"


@pytest.mark.parametrize(
    ("private", "encrypted", "masks", "states"),
    [
        (True, False, False, {SERVER: "in part", OTHER: "protected", MODEL: "protected"}),
        (False, False, False, dict.fromkeys((SERVER, OTHER, MODEL), "not protected")),
        (
            True,
            True,
            False,
            {SERVER: "in part", ONE_SILO: "in part", OTHER: "protected", MODEL: "protected"},
        ),
        (
            False,
            True,
            False,
            {SERVER: "in part", **dict.fromkeys((ONE_SILO, OTHER, MODEL), "not protected")},
        ),
        (
            True,
            True,
            True,
            {SERVER: "in part", ONE_SILO: "in part", OTHER: "protected", MODEL: "protected"},
        ),
        (
            False,
            True,
            True,
            {
                SERVER: "in part",
                ONE_SILO: "in part",
                OTHER: "not protected",
                MODEL: "not protected",
            },
        ),
    ],
)
def test_who_is_kept_from_what(
    private: bool, encrypted: bool, masks: bool, states: dict[str, str], tmp_path: Path
) -> None:
    sample = samples.Sample(private=private, rounds=4, faults=0)
    if encrypted:
        samples.seal(sample, pairwise_masks=masks)
    found = rows(page_of(sample, tmp_path))
    told = {
        name: found[name].split(" | ")[1]
        for name in (SERVER, ONE_SILO, OTHER, MODEL)
        if name in found
    }
    assert told == states


def test_what_a_server_with_a_silo_reads_hangs_on_masks_and_noise(tmp_path: Path) -> None:
    def told(name: str, *, private: bool, masks: bool) -> str:
        sample = samples.seal(
            samples.Sample(private=private, rounds=4, faults=0), pairwise_masks=masks
        )
        return rows(page_of(sample, tmp_path / name))[ONE_SILO]

    noisy, exact = told("a", private=True, masks=False), told("b", private=False, masks=False)
    assert noisy.startswith("Every update of the epochs that the silo takes part in")
    assert "noisy updates are covered by the silo’s epsilon (≤ 3.99)" in noisy
    assert "one by one: exact updates. | not protected | All silos hold the same key" in exact
    assert "epsilon" not in exact
    noisy, exact = told("c", private=True, masks=True), told("d", private=False, masks=True)
    assert "one sum, less what these silos put in: of at least two others’ updates" in noisy
    assert "With more than 1 silo on its side, the server reads single updates" in noisy
    assert "(≤ 3.99)" in noisy
    assert "nothing bounds what a sum tells" in exact


def test_no_training_loss_leaves_beside_a_sealed_update(tmp_path: Path) -> None:
    exact = rows(page_of(samples.sealed_without_privacy(), tmp_path / "exact"))[SERVER]
    noisy = rows(page_of(samples.sealed(), tmp_path / "noisy"))[SERVER]
    assert "loss" not in exact
    assert "Not protected: counts and participation." in exact
    assert "loss" not in noisy
    assert "Not protected: counts and participation." in noisy


def test_encryption_without_noise_is_no_privacy(tmp_path: Path) -> None:
    page = page_of(samples.sealed_without_privacy(), tmp_path)
    assert "No privacy guarantee." in page.text
    assert "although the server reads no update, sums and the model, which every silo has" in (
        page.text
    )
    assert "that needs noise, and here is none" in page.text


def test_the_number_of_records_is_told_for_weights_or_by_the_account(tmp_path: Path) -> None:
    def told(name: str, sample: samples.Sample) -> str:
        return rows(page_of(sample, tmp_path / name))[SERVER]

    plain = samples.Sample(private=False, rounds=4, faults=0)
    by_records = "how many records each silo holds (told before each round, for weights)"
    assert by_records in told("examples", samples.seal(plain))
    plain = samples.Sample(private=False, rounds=4, faults=0)
    uniform = told("uniform", samples.seal(plain, uniform=True))
    assert "records" not in uniform
    assert "Not protected: participation." in uniform
    private = samples.seal(samples.Sample(rounds=4, faults=0), uniform=True)
    account = told("account", private)
    assert "how many records each silo holds (by its sampling rate)" in account
    text = page_of(private, tmp_path / "statement").text
    assert "All silos weigh the same, but the number follows from the account" in text


def test_with_nothing_in_the_clear_the_server_learns_nothing_of_records(tmp_path: Path) -> None:
    sample = samples.seal(samples.kept(), uniform=True)
    for entry in sample.history:
        entry["evaluation"] = None
    found = rows(page_of(sample, tmp_path))[SERVER]
    assert "| protected | It holds no key" in found
    assert "Not protected: participation." in found
    assert "records" not in found


def test_void_rounds_are_told_first_and_with_who_took_part(tmp_path: Path) -> None:
    page = page_of(samples.void_rounds(), tmp_path)
    top, _, rest = page.text.partition("Who took part")
    assert "3 of 8 rounds were void, because a sum could not be opened (rounds 3, 5–6)" in top
    assert "Silos whose update arrived were charged all the same." in top
    _, _, rest = page.text.rpartition("Who took part")
    assert "Rounds 3, 6 were void: updates came: 2; the masks need 6." in rest
    assert "Round 5 was void: silos could not open the model" in rest
    assert "was given up, and with it the updates of the round that made it" in rest
    assert "Who reported it: silo-4." in rest
    assert "left the model as it was" not in page.text
    # 2 updates in rounds 3 and 6, 9 in round 5; 10 in four others and 9 in round 7.
    assert "62 updates arrived in 8 rounds, 13 of them in vain; 2 failed, 16 dropped out" in rest


def test_failures_with_keys_are_told_first(tmp_path: Path) -> None:
    page = page_of(samples.void_rounds(), tmp_path)
    expected = "A step with keys or masks failed at 2 silos: silo-2 in round 7, silo-8 in round 7."
    assert expected in page.text
    clean = page_of(samples.sealed(), tmp_path / "clean").text
    assert "keys or masks failed" not in clean
    assert "void" not in clean


def test_a_silo_that_fails_at_the_masks_has_sent_its_update(tmp_path: Path) -> None:
    run = read_run(samples.void_rounds().write(tmp_path))
    assert {"silo-2", "silo-8"} & run.rounds[7].updated == {"silo-2"}


def test_without_encryption_a_skipped_round_is_not_called_void(tmp_path: Path) -> None:
    sample = samples.Sample(faults=0)
    sample.history[4]["skipped"] = "too few updates"
    page = page_of(sample, tmp_path)
    assert "void" not in page.text
    assert "Round 4 left the model as it was: too few updates" in page.text


def test_an_interrupted_encrypted_run_is_still_an_encrypted_one(tmp_path: Path) -> None:
    sample = samples.sealed()
    sample.interrupt(after=4)
    found = rows(page_of(sample, tmp_path))
    assert "ciphertexts that it can add up but not read" in found[SERVER]
    assert found["Scheme"].startswith("BFV")
    assert "Values cut off" not in found  # only earlier versions tell it, when a run ends
    assert found["Sent by a silo"].startswith("– | ")


def test_traffic_is_that_of_ciphertexts_and_encryption_has_no_time_of_its_own(
    tmp_path: Path,
) -> None:
    sample = samples.sealed()
    found = rows(page_of(sample, tmp_path))
    total = sum(entry["bytes"]["up"] for entry in sample.history)
    assert found["Silos to server"].startswith(f"{formatting.size(total)} | ")
    assert "encrypted; messages about keys and masks not counted" in found["Silos to server"]
    assert "Encryption" not in found
    assert found["Training"].endswith("in the silos, encryption included")
    plain = rows(page_of(samples.with_privacy(), tmp_path / "plain"))
    assert "encrypted" not in plain["Silos to server"]


def test_hostile_text_about_encryption_stays_text(tmp_path: Path) -> None:
    page = page_of(samples.hostile_sealed(), tmp_path)
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "b", "u", "iframe"})
    assert "<b>bfv</b>" in page.text
    assert "Round 3 was void: <img src=x" in page.text
    assert "z" * 200 not in page.text
    assert "y" * 500 not in page.text


@pytest.mark.parametrize("described", [[], "bfv", {"epochs": "many", "clipped": None}, {"a": 1}])
def test_odd_descriptions_of_encryption_do_not_break_the_page(
    described: object, tmp_path: Path
) -> None:
    sample = samples.sealed()
    assert sample.summary is not None
    sample.summary["encryption"] = described
    assert rows(page_of(sample, tmp_path))["Scheme"].startswith("BFV")


def test_a_real_encrypted_run_is_reported_as_it_was(tmp_path: Path) -> None:
    settings = {
        "task": "digits",
        "rounds": 3,
        "federation": {"silos": 4},
        "training": {"steps": 2},
        "encryption": {"pairwise_masks": True, "rotate_every": 1},
    }
    out = tmp_path / "run"
    summary = simulate(Experiment.from_mapping(settings), out=out)
    found = rows(Page(write_report(out).read_text(encoding="utf-8")))
    told = summary["encryption"]
    assert found["Keys"].startswith(f"{told['epochs']} epochs | A new key every round.")
    sent = told["upload_bytes_per_parameter"]
    assert found["Sent by a silo"].startswith(f"{sent:.1f} bytes a parameter")
    assert found["Security level"].startswith(f"{told['security_bits']} bits")
    assert found["Pairwise masks"].startswith("yes, withstand 1 silo | ")
    assert "loss" not in found[SERVER]


def test_a_job_on_real_silos_is_not_called_a_simulation(tmp_path: Path) -> None:
    sample = samples.sealed()
    sample.summary["encryption"]["model_held_by"] = "every silo that holds the key"
    folder = sample.write(tmp_path / "run")
    (folder / "silos.json").unlink()  # what a server does not know
    told = {"id": "0123456789ab", "project": "lungs", "requester": "<b>ana</b>"}
    (folder / "job.json").write_text(json.dumps(told))
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "report of job 0123456789ab of project lungs, asked for by <b>ana</b>" in page.text
    assert "simulat" not in page.text
    assert "privet submit experiment.toml" in page.text
    assert "no seed gives it back" in page.text
    assert "TLS hides what they say" in rows(page)["The network"]
