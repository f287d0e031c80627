"""What the page says in words, and that any report can be said."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import escape

import privet
from privet.audits import Report, audit
from privet.audits.claims import EXIT_CODES, Claim
from privet.audits.leaks import ReleasedField
from privet.audits.report import File, Person, Persons, Sum, to_json
from privet.errors import DataError
from privet.privacy.ledger import SiloKey
from privet.reports.audit import write_pages
from privet.reports.audit.claims import FAILURES, counts, families, in_one_sentence
from privet.reports.audit.page import render
from reports.audit.conftest import Audited

ROOT = Path(privet.__file__).parent.parent.parent
DIGEST = "ab" * 32

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
epsilons = st.floats(0, 1e9) | st.just(math.inf)
claims = st.builds(
    Claim,
    st.sampled_from([*FAILURES, "attack.of-a-new-kind"]) | texts,
    texts,
    texts,
    st.sampled_from(["PASS", "FAIL", "UNKNOWN"]),
    st.lists(texts, max_size=3).map(tuple),
)
somebodies = st.lists(
    st.builds(Person, st.integers(1, 9), epsilons, st.sampled_from(["composition", "mixture"])),
    max_size=3,
).map(tuple)
sums = st.builds(
    Sum,
    texts,
    texts,
    texts,
    st.none() | texts,
    epsilons,
    st.floats(1e-12, 0.5),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from(["1e-03", "1e-05", "odd"]), epsilons),
    st.lists(st.tuples(st.floats(0, 9), st.floats(0, 1), st.integers(0, 9)), max_size=2).map(tuple),
    texts,
)
lefts = st.builds(
    ReleasedField, texts, texts, texts, texts, st.integers(0, 9), texts, st.booleans()
)
persons = st.builds(Persons, texts, st.floats(1e-12, 0.5), somebodies, texts, somebodies)


def some(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=6).map(tuple)


def page_of(report: Report, base: Path) -> str:
    return render(report, base=base, digest=DIGEST)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_report_can_be_said(honest: Audited, data: st.DataObject) -> None:
    report = dataclasses.replace(
        honest.report,
        verdict=data.draw(st.sampled_from(sorted(EXIT_CODES))),
        audited_at=data.draw(texts),
        paths=data.draw(some(texts)),
        files=data.draw(some(st.builds(File, texts, texts, st.integers(0, 10**12)))),
        claims=data.draw(some(claims)),
        sums=data.draw(some(sums)),
        persons=data.draw(some(persons)),
        leaks=data.draw(some(lefts)),
        assumptions=data.draw(some(texts)),
    )
    page = page_of(report, honest.out)
    assert str(escape(in_one_sentence(report))) in page
    assert "<script" not in page
    for claim in report.claims:
        for said in (claim.id, *claim.evidence):
            assert str(escape(said)) in page


@given(given=st.lists(claims, max_size=30))
def test_every_claim_is_in_one_group_with_its_evidence(given: list[Claim]) -> None:
    found = families(given)
    told = [
        (group.id, group.verdict, subject, said.evidence)
        for family in found
        for group in family.groups
        for said in group.said
        for subject in said.subjects
    ]
    assert sorted(told) == sorted((c.id, c.verdict, c.subject, c.evidence) for c in given)
    for family in found:
        order = [["FAIL", "UNKNOWN", "PASS"].index(group.verdict) for group in family.groups]
        assert order == sorted(order)
        assert all(group.size == 1 for group in family.groups if group.verdict == "FAIL")


def test_every_claim_of_the_documentation_has_words_for_its_failure() -> None:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| ([a-z]+\.[a-z-]+) \|", text, re.MULTILINE))
    assert len(documented) >= 22
    assert documented <= set(FAILURES)


def test_the_sentence_names_what_fails_and_where(spoilt: Audited, honest: Audited) -> None:
    said = in_one_sentence(spoilt.report)
    for claim in spoilt.report.claims:
        if claim.verdict == "FAIL":
            assert FAILURES[claim.id] in said
            assert f"{claim.id} of {claim.subject}" in said
    assert "by keys that nobody vouched for" in in_one_sentence(honest.report)
    key = SiloKey.load(honest.folder / "sealed" / "ledger.key").public
    sealed = audit([honest.folder / "sealed"], base=honest.folder, keys={"simulation": key})
    said = in_one_sentence(sealed)
    assert (
        f"{counts(sealed)['UNKNOWN']} claim could not be. The verdict leans on mechanism." in said
    )


def test_a_failure_takes_the_promise_back(spoilt: Audited) -> None:
    assert "If what fails did hold" in page_of(spoilt.report, spoilt.out)


def test_a_count_that_the_policy_keeps_is_not_printed(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "sealed", tmp_path / "run")
    policy = run / "policy.toml"
    policy.write_text(policy.read_text().replace("records_public = true", ""))
    page = page_of(audit([run], base=tmp_path), tmp_path)
    assert "How many records the silos hold was not told." in page
    assert ">359<" not in page
    assert ">359<" in page_of(audit([runs / "sealed"], base=tmp_path), tmp_path)


def test_what_has_changed_since_the_audit_is_not_quoted(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "clear", tmp_path / "run")
    report = audit([run], base=tmp_path)
    assert "epsilon ≤ 3 at delta" in page_of(report, tmp_path)
    assert "Lower bound against claim" in page_of(report, tmp_path)
    settings_ = run / "experiment.toml"
    settings_.write_text(settings_.read_text().replace("epsilon = 3.0", "epsilon = 1.0"))
    seen = next((run / "canaries").glob("*.jsonl"))
    seen.write_bytes(seen.read_bytes() * 2)
    page = page_of(report, tmp_path)
    assert "epsilon ≤ 1" not in page
    assert "epsilon ≤ 3 at delta" not in page
    assert "Lower bound against claim" not in page
    assert "canaries of 1 further run are not drawn" in page


def test_a_job_on_real_silos_says_who_asked(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "sealed", tmp_path / "run")
    for name in ("ledger.sqlite", "ledger.sqlite.head", "silos.json"):
        (run / name).unlink()
    told = {"id": "00ab", "project": "p<b>", "requester": "somebody"}
    (run / "job.json").write_text(json.dumps(told))
    page = page_of(audit([run], base=tmp_path), tmp_path)
    assert "Job 00ab of project p&lt;b&gt;, asked for by somebody" in page


def test_a_long_audit_is_short(honest: Audited) -> None:
    """85 runs: what passes stands together, and no run is left out."""
    report = honest.report
    names = [f"../sweep/{number:03}" for number in range(85)]
    long = dataclasses.replace(
        report,
        claims=tuple(dataclasses.replace(c, subject=n) for n in names for c in report.claims),
        sums=tuple(dataclasses.replace(s, subject=n) for n in names for s in report.sums),
        leaks=tuple(dataclasses.replace(left, subject=n) for n in names for left in report.leaks),
        persons=tuple(dataclasses.replace(p, subject=n) for n in names for p in report.persons),
    )
    page = page_of(long, honest.out)
    assert len(page) < 2_000_000
    assert all(name in page for name in names)
    printed = re.sub(r"(?s)<details.*?</details>", "", page)
    assert len(printed) < 200_000


def test_what_is_no_report_has_no_page(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("[]")
    with pytest.raises(DataError, match="no report of an audit"):
        write_pages(tmp_path / "audit.json")
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]


def test_one_report_has_one_page(honest: Audited) -> None:
    digest = hashlib.sha256(to_json(honest.report).encode()).hexdigest()
    page = render(honest.report, base=honest.out, digest=digest)
    assert page == (honest.out / "audit.html").read_text()
