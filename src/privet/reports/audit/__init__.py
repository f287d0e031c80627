"""An audit's report for its reader: `audit.html` and `audit.pdf`, made from `audit.json`."""

from privet.reports.audit.page import PAGE, WrittenPages, page_of, write_pages

__all__ = ["PAGE", "WrittenPages", "page_of", "write_pages"]
