"""The global model and a silo's answer, as they travel when the server may see only their sum."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from privet.client.keyring import Keyring, cipher_of, secret_of
from privet.experiment import Encryption
from privet.privacy.encryption import Cipher, Malformed, SecretKey, Tampered, Terms, read_header
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.keys import RunKey, sign_upload
from privet.privacy.ledger import SiloKey
from privet.vectors import Vector
from privet.wire import Sealed, SealedUpdate

CLAMP_OVER_LARGEST = 4.0
"""Room for a round's change, over the largest value of the model."""
SMALLEST_CLAMP = 1.0


@dataclass(frozen=True)
class KeyHolder:
    """What opens the models of one epoch and seals the answers to them."""

    keyring: Keyring
    key: RunKey
    secret: SecretKey
    cipher: Cipher
    smallest_sum: int

    @classmethod
    def of(cls, keyring: Keyring, encryption: Encryption, sealed: Sealed) -> KeyHolder:
        """The holder of the key that `sealed` names; KeyFileError when it is not kept here."""
        key = keyring.key(keyring.session(sealed.run, sealed.epoch))
        cipher = cipher_of(encryption)
        return cls(keyring, key, secret_of(key), cipher, encryption.smallest_sum)

    def models(self, sealed: Sealed, public: Vector | None) -> tuple[Vector, Vector]:
        """The global model and the one before it, each of shape (d,).

        `public` is the first model: the global one in round 1, the one before in round 2. Tampered
        for anything that the silos of this epoch did not make, TooFewClients for a sum that would
        tell too much about single updates.
        """
        if sealed.now is None:
            if public is None:
                raise Malformed("neither a sealed nor a public model came")
            return public, public
        now = self._open(sealed.now)
        if sealed.before is not None:
            return now, self._open(sealed.before)
        return now, now if public is None else public

    def seal(
        self,
        proposal: Vector,
        *,
        weight: float,
        round_: int,
        rng: np.random.Generator,
        now: Vector,
        mask: Integers | None = None,
    ) -> SealedUpdate:
        """A silo's proposal for the next global model, masked, encrypted and signed."""
        terms = Terms(
            run=update_label(self.key),
            round=round_,
            size=proposal.size,
            clamp=clamp_for(now),
        )
        sealed = self.cipher.encrypt(
            proposal,
            key=self.secret,
            terms=terms,
            weight=weight,
            client=self.keyring.name,
            rng=rng,
            mask=mask,
        )
        return SealedUpdate(sealed.data, self._signed(sealed.data, round_), sealed.clipped)

    def reseal(self, model: Vector, *, round_: int, rng: np.random.Generator) -> bytes:
        """The global model, which every holder may see, as a sum of its own under this key."""
        terms = Terms(
            run=model_label(self.key), round=round_, size=model.size, clamp=clamp_for(model)
        )
        name = self.keyring.name
        upload = self.cipher.encrypt(
            model, key=self.secret, terms=terms, weight=1.0, client=name, rng=rng
        )
        total = self.cipher.adder(terms)
        total.add(upload.data, client=name)
        return total.to_bytes()

    def _open(self, total: bytes) -> Vector:
        terms = read_header(total)[0].terms
        # Labels keep a model that one silo sealed anew apart from an update that a server took for
        # a sum: only the first may be opened though a single silo made it.
        least = {update_label(self.key): self.smallest_sum, model_label(self.key): 1}
        if terms.run not in least:
            raise Tampered
        opened = self.cipher.decrypt(
            total, key=self.secret, run=terms.run, round=terms.round, at_least=least[terms.run]
        )
        return opened.mean

    def _signed(self, upload: bytes, round_: int) -> bytes:
        return sign_upload(
            upload,
            session=self.key.session,
            name=self.keyring.name,
            identity=SiloKey.load(self.keyring.identity),
            round=round_,
            parameters=parameters_of(self.cipher),
        )


def parameters_of(cipher: Cipher) -> bytes:
    """32 bytes that are equal where uploads can be added."""
    return hashlib.sha256(cipher.digest).digest()


def clamp_for(model: Vector) -> float:
    """The largest value that an answer to `model` can carry: a power of two, at least 1.

    Every key holder finds the same; the server learns this much about the model.
    """
    largest = float(np.abs(model).max(initial=0.0))
    wanted = max(SMALLEST_CLAMP, CLAMP_OVER_LARGEST * largest)
    return 2.0 ** math.ceil(math.log2(wanted))


def update_label(key: RunKey) -> str:
    """What uploads of the epoch are labelled with."""
    return f"{key.session.run}/{key.session.epoch}/update"


def model_label(key: RunKey) -> str:
    """What models that were sealed anew in the epoch are labelled with."""
    return f"{key.session.run}/{key.session.epoch}/model"
