"""An audit's report for its reader: `audit.html` and `audit.pdf`, made from `audit.json`."""

from privet.reports.audit.page import WrittenPages, write_pages

__all__ = ["WrittenPages", "write_pages"]
