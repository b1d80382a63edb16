from __future__ import annotations

from base64 import urlsafe_b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from datastreamx.errors import CrashError
from datastreamx.model.auction import Decision, WinningAd
from datastreamx.wire.decisions import decode_decision, encode_decision
from datastreamx.wire.signing import SigningKey, sign_push, signed_bytes, verify_push
from tests.builders import T0

GOLDEN = Path(__file__).parent / "golden" / "push-signature-v1.json"
SEED = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
KEY = SigningKey.from_hex(SEED, "2024-06")
AUCTION = "a" * 32

FIRST = WinningAd(
    push_id=f"push-{AUCTION}",
    aggregator="alpha",
    bid_id="b1",
    ad_id="ad-1",
    price_micros=2_500_000,
    currency="USD",
    creative_url="https://cdn.example.com/vast/1?x=é",
    duration_ms=15_000,
    advertiser_domain="example.com",
)
SECOND = WinningAd(
    push_id=f"push-{AUCTION}-1", aggregator="beta", bid_id="b2", ad_id="ad-2", price_micros=1_000_000, currency="USD"
)


def push(**changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "auction_id": AUCTION,
        "box_id": "stb-1",
        "box_key": "k" * 32,
        "partition": 0,
        "group": 0,
        "offset": 5,
        "emitted_ms": T0,
        "trigger": "ad_break",
        "opportunity_ms": T0,
        "deadline_ms": T0 + 2_000,
        "decided_ms": T0 + 100,
        "slot_ms": 30_000,
        "channel_id": "ch1",
        "last_channel_id": None,
        "last_ad_id": None,
        "break_id": "break-1",
        "status": "won",
        "push_id": f"push-{AUCTION}",
        "ads": (FIRST, SECOND),
    }
    return Decision(**{**fields, **changes})


def first_ad(**changes: Any) -> dict[str, Any]:
    return {"ads": (msgspec.structs.replace(FIRST, **changes), SECOND)}


SIGNED = sign_push(push(), KEY)


def test_signed_push_is_verified_after_its_way_through_json() -> None:
    assert verify_push(decode_decision(encode_decision(SIGNED)), KEY.public_key)
    assert SIGNED.signature_key_id == "2024-06"


@pytest.mark.parametrize(
    "tampering",
    [
        {"box_id": "stb-2"},
        {"push_id": f"push-{'b' * 32}"},
        {"deadline_ms": T0 + 2_001},
        {"signature_key_id": "2024-07"},
        {"ads": (FIRST,)},
        {"ads": (SECOND, FIRST)},
        {"ads": (FIRST, SECOND, SECOND)},
        first_ad(push_id=f"push-{'b' * 32}"),
        first_ad(ad_id="ad-9"),
        first_ad(creative_url="https://cdn.example.com/vast/2"),
        first_ad(creative_url=None),
        first_ad(duration_ms=15_001),
        first_ad(duration_ms=None),
    ],
    ids="-".join,
)
def test_tampering_with_what_the_box_acts_upon_is_found(tampering: dict[str, Any]) -> None:
    assert not verify_push(msgspec.structs.replace(SIGNED, **tampering), KEY.public_key)


def test_what_no_box_reads_is_not_covered() -> None:
    changed = msgspec.structs.replace(SIGNED, decided_ms=T0, ads=(msgspec.structs.replace(FIRST, bid_id="x"), SECOND))
    assert verify_push(changed, KEY.public_key)


def test_text_cannot_move_from_one_field_to_the_next() -> None:
    split, joined = (
        signed_bytes(push(**first_ad(ad_id=ad_id, push_id=push_id)), "key")
        for ad_id, push_id in (("1\nx", "p"), ("x", "p\n1"))
    )
    assert split != joined


@pytest.mark.parametrize("key_hex", ["ff" * 32, "0" * 64])
def test_another_key_does_not_verify(key_hex: str) -> None:
    assert not verify_push(SIGNED, SigningKey.from_hex(key_hex, "2024-06").public_key)


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "no base64 at all!",
        "A" * 88,
        str(SIGNED.signature)[:-2],
        str(SIGNED.signature) + "\n",
        # 64 bytes leave four bits of the last letter unused: "A" and "B" decode to the same byte.
        str(SIGNED.signature)[:-3] + chr(ord(str(SIGNED.signature)[-3]) + 1) + "==",
    ],
)
def test_a_missing_or_damaged_signature_is_refused_and_never_an_error(signature: str | None) -> None:
    assert not verify_push(msgspec.structs.replace(SIGNED, signature=signature), KEY.public_key)


def test_a_decision_without_ads_is_neither_signed_nor_verified() -> None:
    without = push(status="no_bid", push_id=None, ads=())
    assert sign_push(without, KEY) is without
    assert not verify_push(msgspec.structs.replace(SIGNED, ads=(), push_id=None), KEY.public_key)


def test_signing_again_gives_the_same_signature() -> None:
    assert sign_push(SIGNED, KEY) == SIGNED


def test_record_of_the_committed_vector_has_the_committed_signature() -> None:
    vector = msgspec.json.decode(GOLDEN.read_bytes())
    assert SigningKey.from_hex(vector["private_key_hex"], "2024-06").public_key.hex() == vector["public_key_hex"]
    record = msgspec.json.encode(vector["record"])
    decision = decode_decision(record)
    assert signed_bytes(decision, "2024-06").hex() == vector["signed_bytes_hex"]
    assert decision == SIGNED
    assert verify_push(decision, bytes.fromhex(vector["public_key_hex"]))


def test_a_box_can_rebuild_the_signed_bytes_from_the_json_record_alone() -> None:
    """The documented layout, written down a second time without the module's code."""

    def text(value: object) -> bytes:
        raw = "" if value is None else str(value)
        return len(raw.encode()).to_bytes(4, "big") + raw.encode()

    record = msgspec.json.decode(encode_decision(SIGNED))
    message = b"datastreamx-push-v1\n"
    for name in ("signature_key_id", "box_id", "push_id", "deadline_ms"):
        message += text(record[name])
    message += text(len(record["ads"]))
    for ad in record["ads"]:
        message += text(ad["push_id"]) + text(ad["ad_id"]) + text(ad.get("duration_ms"))
        url = ad.get("creative_url")
        digest = b"" if url is None else sha256(url.encode()).digest()
        message += len(digest).to_bytes(4, "big") + digest
    public_key = Ed25519PublicKey.from_public_bytes(KEY.public_key)
    public_key.verify(urlsafe_b64decode(record["signature"]), message)


@pytest.mark.parametrize("key_hex", ["", "00" * 31, "00" * 33, "zz" * 32])
def test_a_key_that_is_none_is_refused_without_being_repeated(key_hex: str) -> None:
    with pytest.raises(CrashError, match="key 'k1' is not 32 bytes") as caught:
        SigningKey.from_hex(key_hex, "k1")
    assert not key_hex or key_hex not in str(caught.value)


def test_the_secret_does_not_show_in_the_keys_text() -> None:
    assert repr(KEY) == "SigningKey(key_id='2024-06')"


def test_a_verifier_with_a_broken_public_key_hears_of_it() -> None:
    with pytest.raises(ValueError, match="32"):
        verify_push(SIGNED, b"short")
