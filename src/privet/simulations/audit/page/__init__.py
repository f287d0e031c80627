"""An audit's report for its reader: `audit.html` and `audit.pdf`, made from `audit.json`."""

from privet.simulations.audit.page.pages import Pages, write_pages

__all__ = ["Pages", "write_pages"]
