"""An audit as one HTML page that runs nothing.

`audit.html` and `audit.pdf` beside the `audit.json` that they are made from.

The page as a PDF, by WeasyPrint: the optional extra `pdf`.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from privet.audits.claims import undecided
from privet.audits.report import Persons, Report, read
from privet.audits.spent import TIMES
from privet.charts.formatting import listed
from privet.charts.page import Page
from privet.errors import DataError, PrivetError
from privet.files import write_whole
from privet.reports.audit.canaries import canaries, rocs_of_deep, runs_with_canaries
from privet.reports.audit.claims import FEW, counts, families, in_one_sentence, kinds
from privet.reports.audit.figures import roc_chart
from privet.reports.audit.opening import Files, facts
from privet.reports.audit.spent import accountants, balances, dearest, deltas, person_cells, recipes

_HERE = Path(__file__).parent
_PAGE = Page(
    _HERE / "audit.html.jinja",
    styles=(_HERE / "audit.css",),
    filters={"person": person_cells},
)

_MOST_ROCS = 12
_NOT_COVERED = (
    "Whether the mechanism that ran is the one in the entry, where there are no canaries. Where "
    "there are, these were looked at, steps at some coordinates and dry runs on made-up examples, "
    "and nothing else of what ran: code that knows them can do right by them alone.",
    "Records that two silos share: their digests are sealed with each silo's key.",
    "A ledger that its silo wrote anew with its own key, unless an earlier export was given.",
    "Changes to what no ledger vouches for: of a job on real silos, its model and the accuracy of "
    "a round before the last.",
    "Messages of enrolment, keys and masks, which are not counted among what left.",
    "What the model says of everybody, whether or not they are among the records: that is what it "
    "was trained for.",
)


def render(report: Report, *, base: Path, digest: str) -> str:
    """The whole page of the report in `base`, whose file has the SHA-256 `digest`."""
    files = Files(report, base)
    seen = canaries(files)
    rocs = [*(run.roc for run in seen), *rocs_of_deep(report)]
    return _PAGE.render(
        style=_foot(report.verdict, digest),
        report=report,
        digest=digest,
        # Whichever names fewer: a sweep's folder, or the one run in a folder of runs.
        subjects=listed(min(list(report.paths), [*files.runs], key=len) or ["nothing"], most=3),
        moment=_moment(report.audited_at),
        sentence=in_one_sentence(report),
        counts=counts(report),
        undecided=len(undecided(report.claims)) if report.verdict != "FAIL" else 0,
        failed=[claim for claim in report.claims if claim.verdict == "FAIL"],
        facts=facts(files),
        balances=balances(files),
        families=families(report.claims),
        few=FEW,
        sums=dearest(report.sums),
        deltas=deltas(report),
        persons=sorted(report.persons, key=_most_of_somebody),
        times=TIMES,
        accountants=accountants(report),
        kinds=kinds(report.leaks),
        seen=seen,
        unseen=len(runs_with_canaries(report)) - len(seen),
        rocs=[*map(roc_chart, rocs[:_MOST_ROCS])],
        more_rocs=max(0, len(rocs) - _MOST_ROCS),
        not_covered=_NOT_COVERED,
        recipes=recipes(report),
    )


def _most_of_somebody(persons: Persons) -> float:
    found = [*persons.in_one_silo, *persons.in_silos]
    return -max((each.epsilon for each in found), default=0.0)


def _foot(verdict: str, digest: str) -> str:
    """What stands below every printed page; both texts are of a few known characters."""
    return f'@page {{ @bottom-left {{ content: "{verdict} · audit.json {digest}" }} }}'


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


class NoPdf(PrivetError):  # noqa: N818 - it is an answer, not a fault
    """There is nothing here that could make a PDF; says what to install."""


def to_pdf(html: str) -> bytes:
    """The page on A4, tagged, with bookmarks; nothing that it might name is fetched.

    Raises NoPdf without WeasyPrint, or without the Pango that it needs from the system.
    """
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except ImportError:
        raise NoPdf("it needs WeasyPrint: pip install 'privet[pdf]'") from None
    except OSError:
        told = "WeasyPrint needs Pango: apt-get install libpango-1.0-0 libpangoft2-1.0-0"
        raise NoPdf(told) from None
    for name in ("weasyprint", "fontTools"):
        logging.getLogger(name).setLevel(logging.ERROR)  # properties that only screens know
    # A report's texts come from silos: what they might name must not be fetched by who prints it.
    page = HTML(string=html, url_fetcher=URLFetcher(allowed_protocols=()))
    return bytes(page.write_pdf(pdf_tags=True))


PAGE, PRINT = "audit.html", "audit.pdf"


@dataclass(frozen=True)
class WrittenPages:
    """What was written."""

    html: Path
    pdf: Path | None
    no_pdf: str | None
    """Why there is no PDF, and how to get one."""


def page_of(file: Path) -> bytes:
    """The page of the report in `file`; DataError when it is none."""
    report = read(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    page = render(report, base=file.parent, digest=digest)
    return page.encode(errors="replace")  # half of a surrogate pair is no text


def write_pages(file: Path) -> WrittenPages:
    """Write the report in `file` for a reader, beside it; each page whole or not at all.

    Both carry the digest of `file`. What the report does not repeat (tasks, budgets, canaries) is
    read from the audited files, as far as they are still what was audited. A PDF of an earlier
    report does not stay. Raises DataError when `file` is no report or nothing can be written.
    """
    content = page_of(file)
    html, pdf = file.with_name(PAGE), file.with_name(PRINT)
    try:
        # First: if no new one can be made, an old one must not lie beside another report.
        pdf.unlink(missing_ok=True)
        write_whole(html, content)
        # Of the bytes and not of the text, which may hold half of a surrogate pair.
        write_whole(pdf, to_pdf(content.decode()))
    except NoPdf as reason:
        return WrittenPages(html, None, str(reason))
    except OSError as error:
        raise DataError(f"{html} cannot be written ({error.strerror})") from None
    return WrittenPages(html, pdf, None)
