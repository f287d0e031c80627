"""Pairwise masks: updates of which only the sum over enough silos can ever be seen.

Secure aggregation with double masks (Bonawitz et al., CCS 2017, arXiv 1611.04482), of the short
secrets that uploads are encrypted under. Every two silos share a mask that one adds and the other
subtracts, and each silo adds one of its own. What masks grow from is shared out among the silos
beforehand, so that they can be taken out of the sum when silos have dropped out.

    statements  the plan that all agree on, with its bound on silos that side with the server;
                adverts: fresh public keys and commitments; consents: one list of survivors
    shares      both secrets of each silo, shared and encrypted to the others; seeds and masks
    unmasking   one share of one secret of each silo; what takes the masks out of the sum
    rounds      a silo's steps in order, with its phases on disk

Who learns what. The server works out the correction from the reveals and takes the masks out of a
sum that is still encrypted: alone it learns nothing, for lack of the run key. If `colluding` silos
side with it, it sees the sum of the survivors, from which those silos can subtract their own
updates; a single honest update stays hidden as long as the plan's bound holds, whatever the server
says about who dropped out. A run key that leaks later is enough to read the sums that the server
has stored.

Limits. Masks protect up to the plan's number of colluding silos; above it, single updates can be
read. A sum says something about each summand, more so if silos come and go between rounds. A silo
can spoil a sum: a wrong update is not found here, wrong shares are found and not mended. Silos that
go missing before all shares are dealt make the others begin again; those that go missing later cost
nothing, down to the threshold, below which the round is lost. Arithmetic on shares is not constant
in time.
"""

from privet.privacy.encryption.errors import MaskError, TooFewSilos
from privet.privacy.encryption.masks.rounds import Closed, MaskRound
from privet.privacy.encryption.masks.statements import (
    Advert,
    Adverts,
    RoundPlan,
    check_confirmations,
    gather_adverts,
    least_threshold,
    read_advert,
    read_confirmation,
    read_consent,
    sum_label,
    upload_parameters,
    write_confirmation,
)
from privet.privacy.encryption.masks.unmasking import correction, read_reveal

__all__ = [
    "Advert",
    "Adverts",
    "Closed",
    "MaskError",
    "MaskRound",
    "RoundPlan",
    "TooFewSilos",
    "check_confirmations",
    "correction",
    "gather_adverts",
    "least_threshold",
    "read_advert",
    "read_confirmation",
    "read_consent",
    "read_reveal",
    "sum_label",
    "upload_parameters",
    "write_confirmation",
]
