from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastreamx.errors import StateMismatchError
from datastreamx.snapshots import seal, unseal


@given(st.binary(max_size=200))
def test_sealed_payload_comes_back(payload: bytes) -> None:
    assert unseal(seal(payload), "anything") == payload


@given(st.binary(max_size=200), st.data())
def test_any_flipped_bit_breaks_the_seal(payload: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(payload))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StateMismatchError, match="wrong checksum"):
        unseal(bytes(sealed), "anything")


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_cut_breaks_the_seal(payload: bytes, data: st.DataObject) -> None:
    sealed = seal(payload)
    kept = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(StateMismatchError, match="recovery store is damaged"):
        unseal(sealed[:kept], "viewing state")
