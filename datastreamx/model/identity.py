"""Identities that follow from positions and secrets, so that every replay computes the same ones."""

from __future__ import annotations

from hashlib import blake2b


def auction_id(topic: str, partition: int, offset: int, box_id: str) -> str:
    """Id of the opportunity that the event at this position caused for this box: BLAKE2b-128, 32 hex digits."""
    return blake2b(f"{topic}\0{partition}\0{offset}\0{box_id}".encode(), digest_size=16).hexdigest()


def push_id(auction: str, place: int = 0) -> str:
    """Idempotency key of the push that answers `auction`; boxes and the gateway drop a second one.

    Args:
        auction: Id of the auction.
        place: Which ad of the break, from 0. The first ad's key is that of the whole push.
    """
    return f"push-{auction}-{place}" if place else f"push-{auction}"


def box_key(secret: bytes, box_id: str) -> str:
    """Keyed pseudonym of a box (decision 0011): 32 hex digits of keyed BLAKE2b, useless without the secret."""
    return blake2b(box_id.encode(), key=secret, digest_size=16).hexdigest()


def partner_key(secret: bytes, aggregator: str, key: str) -> str:
    """Pseudonym of a box that only one aggregator gets, so that two of them cannot compare notes: 32 hex digits."""
    return blake2b(f"{aggregator}\0{key}".encode(), key=secret, digest_size=16).hexdigest()


def session_id(key: str, start_ms: int) -> str:
    """Id of the viewing session of the box with pseudonym `key` that began at `start_ms` event time."""
    return blake2b(f"{key}\0{start_ms}".encode(), digest_size=16).hexdigest()


def rank(box_id: str) -> int:
    """Place of a box among others that are due at the same time, 64 bits: the same in every process and for ever."""
    return int.from_bytes(blake2b(box_id.encode(), digest_size=8).digest(), "big")
