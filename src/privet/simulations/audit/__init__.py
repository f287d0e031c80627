"""An audit of what runs and ledgers say: claims with verdicts, and the report of them."""

from privet.simulations.audit.audit import CHECKS, Check, audit, verify_report
from privet.simulations.audit.evidence import Evidence
from privet.simulations.audit.report import Report

__all__ = ["CHECKS", "Check", "Evidence", "Report", "audit", "verify_report"]
