"""What the data sets of a silo have spent: durable, signed, and charged before a record is read."""

from privet.privacy.ledger.bundle import export, verify_bundle
from privet.privacy.ledger.chain import Finding
from privet.privacy.ledger.entries import Entry
from privet.privacy.ledger.errors import LedgerError, LedgerRefusal
from privet.privacy.ledger.fingerprint import Fingerprint, fingerprint_of
from privet.privacy.ledger.forecast import Forecast, fitting_noise, forecast, repeated
from privet.privacy.ledger.history import Charge, History
from privet.privacy.ledger.keys import SiloKey
from privet.privacy.ledger.ledger import Ledger
from privet.privacy.ledger.limits import BudgetExceeded, Limit, Projection
from privet.privacy.ledger.reservation import Reservation
from privet.privacy.ledger.verification import read_history, verify

__all__ = [
    "BudgetExceeded",
    "Charge",
    "Entry",
    "Finding",
    "Fingerprint",
    "Forecast",
    "History",
    "Ledger",
    "LedgerError",
    "LedgerRefusal",
    "Limit",
    "Projection",
    "Reservation",
    "SiloKey",
    "export",
    "fingerprint_of",
    "fitting_noise",
    "forecast",
    "read_history",
    "repeated",
    "verify",
    "verify_bundle",
]
