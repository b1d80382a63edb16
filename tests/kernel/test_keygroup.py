from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastreamx.model import identity
from datastreamx.model.keygroup import KeyGroup, group_of
from simulator.fleet.partitioner import partition_of


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_parse_inverts_key(partition: int, group: int) -> None:
    assert KeyGroup.parse(KeyGroup(partition, group).key) == KeyGroup(partition, group)


@pytest.mark.parametrize(
    ("key_group", "key"), [(KeyGroup(0, 0), "p000g0"), (KeyGroup(7, 3), "p007g3"), (KeyGroup(1234, 56), "p1234g56")]
)
def test_key_never_changes_its_form(key_group: KeyGroup, key: str) -> None:
    """State is stored under these keys: another form would silently begin with empty state."""
    assert key_group.key == key


@pytest.mark.parametrize(
    ("box_id", "group"),
    [("", 0), ("stb-000000", 235), ("stb-000001", 125), ("stb-299999", 121), ("d\u00e9codeur-7", 22)],
)
def test_group_of_a_box_never_changes(box_id: str, group: int) -> None:
    """State is stored by group: another hash would part every box from its state."""
    assert group_of(box_id.encode(), 256) == group


@pytest.mark.parametrize(("partitions", "groups"), [(1, 4), (8, 2), (64, 4), (6, 3)])
def test_boxes_of_every_partition_spread_evenly_over_its_groups(partitions: int, groups: int) -> None:
    keys = [f"stb-{number:06d}".encode() for number in range(20_000)]
    counts = Counter((partition_of(key, partitions), group_of(key, groups)) for key in keys)
    expected = len(keys) / partitions / groups
    for place in itertools.product(range(partitions), range(groups)):
        # Five standard deviations of a fair draw.
        assert abs(counts[place] - expected) < 5 * expected**0.5, place


def test_identities_never_change() -> None:
    """They name auctions, pushes, sessions and boxes in logs and tables that outlive every release."""
    auction = identity.auction_id("box-events", 3, 421, "stb-000123")
    assert auction == "23e1d4f10f80149689c37ffb19e102f9"
    assert identity.push_id(auction) == f"push-{auction}"
    assert identity.box_key(b"0123456789abcdef", "stb-000123") == "112727727638cd4fe068abf2a42afa34"
    assert identity.session_id("k" * 32, 1_700_000_000_000) == "81a7de66d439ea40e3354dda20b0cd0b"


@given(st.text(max_size=20), st.text(max_size=20))
def test_pseudonym_depends_on_the_secret_and_hides_the_box(one: str, other: str) -> None:
    secret = b"0123456789abcdef"
    assert (identity.box_key(secret, one) == identity.box_key(secret, other)) == (one == other)
    assert identity.box_key(secret, one) != identity.box_key(b"fedcba9876543210", one)


def test_auction_id_depends_on_every_part_of_the_position() -> None:
    places = itertools.product(["a", "b"], [1, 11], [1, 11, 111], ["x", "y"])
    ids = [identity.auction_id(*place) for place in places]
    assert len(set(ids)) == len(ids) == 24
