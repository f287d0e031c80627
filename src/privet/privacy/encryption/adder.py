"""The server's half: add uploads that belong together, and nothing else."""

from __future__ import annotations

from privet.privacy.encryption.backend import Accumulator
from privet.privacy.encryption.errors import EncryptionError, Malformed, UploadRefused
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.header import Header, Terms, assembled, read_header
from privet.privacy.encryption.residues import ResidueSum


class Adder:
    """A running sum of the uploads of one round; holds no key and learns none.

    Made by `Cipher.adder`. A method that raises leaves the sum as it was.
    """

    def __init__(
        self, accumulator: Accumulator, *, digest: bytes, terms: Terms, max_clients: int
    ) -> None:
        self._accumulator = accumulator
        self._digest, self._terms, self._max_clients = digest, terms, max_clients
        self._clients: set[str] = set()

    @property
    def clients(self) -> tuple[str, ...]:
        """Whose uploads are in the sum, sorted."""
        return tuple(sorted(self._clients))

    def add(self, upload: bytes, *, client: str) -> None:
        """Add an upload that came, as the transport knows, from `client`.

        Raises Malformed for bytes that are no upload, Refused for an upload of somebody else, of
        other terms or parameters, of a client that is in the sum, or of one client too many.
        """
        header, body = read_header(upload)
        self._admit(header, client)
        self._accumulator.add(body)
        self._clients.add(client)

    def correct(self, coefficients: Integers, *, plain_modulus: int) -> None:
        """Add a known plaintext, shape (cipher.coefficients(d),), such as one that takes out masks.

        Only in the seeded layout of BFV, whose sums the server keeps itself; else EncryptionError.
        """
        if not isinstance(self._accumulator, ResidueSum):
            raise EncryptionError("masks need the seeded layout of BFV")
        self._accumulator.add_plain(coefficients, plain_modulus=plain_modulus)

    def to_bytes(self) -> bytes:
        """The encrypted sum as it stands; EncryptionError while it is empty."""
        if not self._clients:
            raise EncryptionError("the sum is empty: no client has been added")
        header = Header(kind="sum", digest=self._digest, terms=self._terms, clients=self.clients)
        return assembled(header, self._accumulator.body())

    def _admit(self, header: Header, client: str) -> None:
        if header.kind != "upload":
            raise Malformed("a sum is no upload")
        if header.digest != self._digest:
            raise UploadRefused(f"{client!r} uses another cipher or other parameters")
        if header.terms != self._terms:
            raise UploadRefused(f"{client!r} sent {header.terms}, the sum is of {self._terms}")
        if header.clients != (client,):
            raise UploadRefused(f"{client!r} sent an upload of {header.clients[0]!r}")
        if client in self._clients:
            raise UploadRefused(f"{client!r} is in the sum already")
        if len(self._clients) >= self._max_clients:
            raise UploadRefused(
                f"{client!r} would be client {self._max_clients + 1}: the sum is full"
            )
