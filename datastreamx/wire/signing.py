r"""Signatures of pushes, so that a box displays nothing that a stranger wrote to the topic.

A push is signed with Ed25519 (RFC 8032). What is signed are these bytes, which a box rebuilds from the JSON record of
`ad-decisions` alone, in any language:

    "datastreamx-push-v1" 0x0A
    field(signature_key_id) field(box_id) field(push_id) field(deadline_ms) field(number of ads)
    then for each ad, in the record's order:
    field(push_id) field(ad_id) field(duration_ms) field(creative)

where `field(x)` is the length of x in bytes as a big-endian unsigned 32-bit integer, followed by x. Texts are UTF-8 as
they are after JSON decoding, not normalised. Integers are written in decimal ASCII. `duration_ms` is empty when the
record has none. `creative` is the SHA-256 digest (32 raw bytes) of the `creative_url` in UTF-8, or empty when the
record has none. Lengths come first because ad ids come from outside: with a separator, an id that contains it could
pass for two fields. The signature (64 bytes) travels as URL-safe base64 with padding (RFC 4648, section 5).

Covered is what a box acts upon: who shall display what, from where, how long and until when. Prices and outcomes are
not: no box reads them. A signature does not expire by itself: a box also refuses a push for another box, one past its
`deadline_ms`, and a `push_id` that it has seen. The first line changes with the format, so that a signature of one
version is never valid in another.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from datastreamx.errors import CrashError
from datastreamx.model.auction import Decision

_DOMAIN = b"datastreamx-push-v1\n"
_KEY_BYTES = 32


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key and the name under which boxes know its public half."""

    key_id: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_hex(cls, key_hex: str, key_id: str) -> Self:
        """Key from its 32 secret bytes as 64 hex digits.

        Raises:
            CrashError: It is no such text. The message does not repeat it.
        """
        try:
            seed = bytes.fromhex(key_hex)
        except ValueError:
            seed = b""
        if len(seed) != _KEY_BYTES:
            raise CrashError(
                f"signing key {key_id!r} is not {_KEY_BYTES} bytes in hex digits; make one with: "
                "python3 -c 'import secrets; print(secrets.token_hex(32))'"
            )
        return cls(key_id, Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public_key(self) -> bytes:
        """The public half, 32 raw bytes: what boxes are given beside the key id."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Signature of a message, 64 bytes; the same for the same message."""
        return self._private.sign(message)


def sign_push(decision: Decision, key: SigningKey) -> Decision:
    """The decision with `signature` and `signature_key_id`; one without ads pushes nothing and stays as it is.

    To be called last: taking the ads away afterwards would leave a signature of something else.
    """
    if not decision.ads:
        return decision
    signature = urlsafe_b64encode(key.sign(signed_bytes(decision, key.key_id))).decode()
    return msgspec.structs.replace(decision, signature=signature, signature_key_id=key.key_id)


def verify_push(decision: Decision, public_key: bytes) -> bool:
    """Whether the push was signed by the owner of `public_key` and is unchanged in all covered fields.

    Args:
        decision: With or without a signature; without one, or without ads, the answer is False.
        public_key: 32 raw bytes, those that the verifier keeps for `decision.signature_key_id`.

    Raises:
        ValueError: `public_key` is no key. That is the verifier's mistake; a record can never cause it.
    """
    verifier = Ed25519PublicKey.from_public_bytes(public_key)
    if not decision.ads or decision.signature is None or decision.signature_key_id is None:
        return False
    try:
        signature = urlsafe_b64decode(decision.signature)
        # The decoder skips what is not of its alphabet; only one text may stand for a signature.
        if urlsafe_b64encode(signature).decode() != decision.signature:
            return False
        verifier.verify(signature, signed_bytes(decision, decision.signature_key_id))
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_bytes(decision: Decision, key_id: str) -> bytes:
    """What is signed for a push: see the top of this module."""
    fields = [key_id, decision.box_id, decision.push_id or "", str(decision.deadline_ms), str(len(decision.ads))]
    parts = [_DOMAIN, *(_field(text.encode()) for text in fields)]
    for ad in decision.ads:
        parts += [
            _field(ad.push_id.encode()),
            _field(ad.ad_id.encode()),
            _field(b"" if ad.duration_ms is None else str(ad.duration_ms).encode()),
            _field(b"" if ad.creative_url is None else sha256(ad.creative_url.encode()).digest()),
        ]
    return b"".join(parts)


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
