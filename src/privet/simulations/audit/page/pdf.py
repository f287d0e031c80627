"""The page as a PDF, by WeasyPrint: the optional extra `pdf`."""

from __future__ import annotations

import logging

from privet.errors import PrivetError


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
    page = HTML(string=html, url_fetcher=URLFetcher(allowed_protocols=()))
    return bytes(page.write_pdf(pdf_tags=True))
