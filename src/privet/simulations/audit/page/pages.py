"""`audit.html` and `audit.pdf` beside the `audit.json` that they are made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from privet.errors import DataError
from privet.simulations.audit.page.page import render
from privet.simulations.audit.page.pdf import NoPdf, to_pdf
from privet.simulations.audit.report import read
from privet.whole_file import replace_file

PAGE, PRINT = "audit.html", "audit.pdf"


@dataclass(frozen=True)
class Pages:
    """What was written."""

    html: Path
    pdf: Path | None
    no_pdf: str | None
    """Why there is no PDF, and how to get one."""


def write_pages(file: Path) -> Pages:
    """Write the report in `file` for a reader, beside it; each page whole or not at all.

    Both carry the digest of `file`. What the report does not repeat (tasks, budgets, canaries) is
    read from the audited files, as far as they are still what was audited. A PDF of an earlier
    report does not stay. Raises DataError when `file` is no report or nothing can be written.
    """
    report = read(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    page = render(report, base=file.parent, digest=digest)
    content = page.encode(errors="replace")  # half of a surrogate pair is no text
    html, pdf = file.with_name(PAGE), file.with_name(PRINT)
    try:
        pdf.unlink(missing_ok=True)
        replace_file(html, content)
        replace_file(pdf, to_pdf(content.decode()))
    except NoPdf as reason:
        return Pages(html, None, str(reason))
    except OSError as error:
        raise DataError(f"{html} cannot be written ({error.strerror})") from None
    return Pages(html, pdf, None)
