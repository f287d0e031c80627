"""Keys of encrypted aggregation, between silos whose messages go through a server.

The server relays everything and is trusted with nothing but to do so: it holds no key, cannot read
what is sealed, and cannot put its own key in place of a silo's, because the silos know each other's
identity keys from a roster that their operators fixed beforehand.

    roster     who may take part, and which of them makes the key
    messages   each silo's fresh public key; the key, wrapped for each of the others; signed
               statements about what is sent to be added
    agreement  the encryption between two silos
    runkey     the key itself, in memory and in a file, and when the next one is due
    secret     bytes that are not shown

Two limits. A key holder that sides with the server can read every single update of its epoch;
pairwise masks (privet.privacy.encryption.masks) prevent that, up to the number of colluding silos
that they are set for. And nothing here makes a dishonest silo tell the truth about its update.
"""

from privet.privacy.encryption.errors import KeyFileError, KeysError, MessageError, RosterError
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.messages import (
    Offer,
    Offers,
    UploadStatement,
    gather,
    make_offer,
    read_offer,
    read_statement,
    sign_upload,
    unwrap,
    verify_upload,
    wrap,
)
from privet.privacy.encryption.keys.roster import Member, Roster, Session, elect, load_roster
from privet.privacy.encryption.keys.runkey import (
    KeyAge,
    Reason,
    Rotation,
    RunKey,
    alone_in,
    forget_key,
    read_agreement,
    rotation,
    write_agreement,
)
from privet.privacy.encryption.keys.secret import Secret

__all__ = [
    "AgreementKey",
    "KeyAge",
    "KeyFileError",
    "KeysError",
    "Member",
    "MessageError",
    "Offer",
    "Offers",
    "Reason",
    "Roster",
    "RosterError",
    "Rotation",
    "RunKey",
    "Secret",
    "Session",
    "UploadStatement",
    "alone_in",
    "elect",
    "forget_key",
    "gather",
    "load_roster",
    "make_offer",
    "read_agreement",
    "read_offer",
    "read_statement",
    "rotation",
    "sign_upload",
    "unwrap",
    "verify_upload",
    "wrap",
    "write_agreement",
]
