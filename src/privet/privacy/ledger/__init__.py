"""What the data sets of a silo have spent: durable, signed, and charged before a record is read."""

from privet.privacy.ledger.entries import Entry
from privet.privacy.ledger.errors import LedgerError, LedgerRefusal
from privet.privacy.ledger.forecast import Forecast, fitting_noise, forecast, repeated
from privet.privacy.ledger.history import (
    BudgetExceeded,
    Charge,
    History,
    JobTerms,
    Limit,
    Projection,
    TermsRefused,
)
from privet.privacy.ledger.keys import Fingerprint, SiloKey, fingerprint_from, fingerprint_of
from privet.privacy.ledger.ledger import Ledger
from privet.privacy.ledger.reservation import Reservation
from privet.privacy.ledger.verification import Finding, export, read_history, verify, verify_bundle

__all__ = [
    "BudgetExceeded",
    "Charge",
    "Entry",
    "Finding",
    "Fingerprint",
    "Forecast",
    "History",
    "JobTerms",
    "Ledger",
    "LedgerError",
    "LedgerRefusal",
    "Limit",
    "Projection",
    "Reservation",
    "SiloKey",
    "TermsRefused",
    "export",
    "fingerprint_from",
    "fingerprint_of",
    "fitting_noise",
    "forecast",
    "read_history",
    "repeated",
    "verify",
    "verify_bundle",
]
