"""An audit of what runs and ledgers say: claims with verdicts, and the report of them.

Do the claims hold? Checks of the record, of the sum, and of the mechanism itself. Pure.
"""

from privet.audits.audit import CHECKS, Check, audit, look_away, verify_report
from privet.audits.evidence import Evidence
from privet.audits.report import Report

__all__ = ["CHECKS", "Check", "Evidence", "Report", "audit", "look_away", "verify_report"]
