"""The PDF: its text, its pages and their feet, what it says of itself, and doing without it."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from pathlib import Path

import pytest
from pypdf import PdfReader

from privet.audits.claims import EXIT_CODES
from reports.audit.conftest import Audited, run_command


def squeezed(text: str) -> str:
    """Without blanks: a narrow column breaks lines where it likes."""
    return "".join(text.split())


@pytest.fixture(scope="module", params=["honest", "spoilt"])
def audited(request: pytest.FixtureRequest) -> Audited:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pages(audited: Audited) -> list[str]:
    return [page.extract_text() for page in PdfReader(audited.out / "audit.pdf").pages]


def test_the_command_says_what_it_wrote(audited: Audited) -> None:
    assert audited.code == EXIT_CODES[audited.report.verdict]
    for name in ("audit.json", "audit.html", "audit.pdf"):
        assert str(audited.out / name) in audited.said
        assert (audited.out / name).stat().st_size > 1000


def test_every_page_ends_with_verdict_digest_and_number(audited: Audited, pages: list[str]) -> None:
    digest = hashlib.sha256((audited.out / "audit.json").read_bytes()).hexdigest()
    for number, text in enumerate(pages, start=1):
        assert f"{audited.report.verdict} · audit.json {digest}" in text
        assert f"{number} of {len(pages)}" in text


def test_the_first_page_says_who_what_and_how_it_ended(audited: Audited, pages: list[str]) -> None:
    first = pages[0]
    assert audited.report.verdict in first
    assert "Claims and evidence" not in first
    assert all(f"silo-{index}" in first for index in range(4))
    for said in ("digits", "1,437 records", "epsilon ≤ 3 at delta 1e-5", "epsilon ≤ 8"):
        assert said in " ".join(first.split())
    for claim in audited.report.claims:
        if claim.verdict == "FAIL":
            assert squeezed(f"{claim.id} of {claim.subject}: {claim.evidence[0]}") in squeezed(
                first
            )


def test_all_claims_and_their_evidence_are_there(audited: Audited, pages: list[str]) -> None:
    text = squeezed("".join(pages[1:]))
    for claim in audited.report.claims:
        for said in (claim.id, claim.subject, claim.statement, *claim.evidence):
            assert squeezed(said) in text
    assert all(file.sha256 in text for file in audited.report.files)
    assert all(squeezed(each) in text for each in audited.report.assumptions)


def test_it_says_what_it_is(audited: Audited) -> None:
    told = PdfReader(audited.out / "audit.pdf")
    digest = hashlib.sha256((audited.out / "audit.json").read_bytes()).hexdigest()
    assert told.metadata
    assert (told.metadata.title or "").startswith(f"{audited.report.verdict} · audit of ")
    assert digest in (told.metadata.subject or "")
    titles = [each["/Title"] for each in _flat(told.outline)]
    assert {"Claims and evidence", "Epsilon", "By hand", "How to verify", "Files"} <= set(titles)
    assert any(title.startswith("The record") and "PASS" in title for title in titles)
    box = told.pages[0].mediabox
    assert (round(box.width), round(box.height)) == (595, 842)


def _flat(outline: object) -> list[dict[str, str]]:
    if not isinstance(outline, list):
        return [outline]  # type: ignore[list-item]
    return [each for part in outline for each in _flat(part)]


def test_without_weasyprint_there_is_a_page_and_a_way_to_a_pdf(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    run = shutil.copytree(runs / "sealed", tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.pdf").write_bytes(b"of an earlier audit")
    code, said = run_command(run, "--out", tmp_path / "out")
    assert code == EXIT_CODES["UNANCHORED"]
    assert "no PDF: it needs WeasyPrint: pip install 'privet[pdf]'" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.json", "audit.html"}


def test_nothing_is_fetched(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from privet.reports.audit.page import to_pdf

    secret = tmp_path / "secret.css"
    secret.write_text("p { display: none }")
    page = f'<link rel="stylesheet" href="{secret.as_uri()}"><p>still here</p>'
    with caplog.at_level(logging.ERROR, logger="weasyprint"):
        made = to_pdf(page)
    (tmp_path / "made.pdf").write_bytes(made)
    assert "still here" in PdfReader(tmp_path / "made.pdf").pages[0].extract_text()
