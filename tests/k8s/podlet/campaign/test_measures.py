from __future__ import annotations

from tests.k8s.podlet import Event
from tests.k8s.podlet.campaign.measures import (
    absences,
    first_after,
    is_within,
    longest_gap_s,
    overlaps,
    percentiles,
    unclean_stops,
)


def test_percentiles_are_values_that_were_seen() -> None:
    found = percentiles(range(1, 201))

    assert (found.count, found.p50, found.p99, found.max) == (200, 100, 198, 200)
    assert percentiles([7.0]) == percentiles([7.0])
    assert percentiles([7.0]).p99 == 7.0
    assert percentiles([]).p99 is None


def test_recovery_ends_with_the_first_record_after_the_kill() -> None:
    assert first_after([1.0, 2.0, 5.0], 2.0) == 5.0
    assert first_after([1.0], 2.0) is None


def test_gap_counts_silence_at_both_ends_of_the_span() -> None:
    assert longest_gap_s([0.5, 3.0, 4.0], (2.0, 9.0)) == 5.0
    assert longest_gap_s([], (2.0, 9.0)) == 7.0
    assert is_within(9.0, [(2.0, 9.0)])
    assert not is_within(9.1, [(2.0, 9.0)])


def test_pod_is_away_from_its_end_until_the_next_of_its_name_is_ready() -> None:
    events = [
        Event(1.0, "ads-1", "terminating"),
        Event(2.0, "ads-1", "deleted"),
        Event(3.0, "ads-0", "ready"),
        Event(4.0, "ads-1", "ready"),
        Event(5.0, "web-1", "terminating"),
    ]

    assert absences(events, {"ads-0", "ads-1"}) == {"ads-1": [(1.0, 4.0)]}


def test_two_pods_that_are_away_at_a_time_are_found_even_within_a_longer_absence() -> None:
    spans = {"ads-0": [(0.0, 10.0)], "ads-1": [(1.0, 2.0)], "ads-2": [(9.0, 12.0)], "ads-3": [(12.0, 13.0)]}

    assert overlaps(spans) == ["ads-1 went while ads-0 was away", "ads-2 went while ads-0 was away"]


def test_only_codes_of_containers_that_were_asked_to_end_count_as_unclean() -> None:
    events = [
        Event(0.0, "ads-1", "exited", "ads 137"),
        Event(1.0, "ads-0", "terminating"),
        Event(2.0, "ads-0", "exited", "prepare 143"),
        Event(3.0, "ads-0", "exited", "ads 137"),
        Event(4.0, "ads-0", "deleted"),
        Event(5.0, "ads-0", "exited", "ads 1"),
    ]

    assert unclean_stops(events, lambda pod: pod.partition("-")[0]) == ["ads-0 ended with 137 when it was asked to"]
