from __future__ import annotations

import pytest

from datastreamx.model.events import Heartbeat, Tune
from simulator.fleet.loud import LoudBox


def test_loud_box_sends_its_share_in_order() -> None:
    box = LoudBox(0.6)
    others = [Heartbeat(event_id=f"{n}", box_id="stb-1", seq=n, event_time_ms=n) for n in range(400)]
    loud = [event for other in others for event in box.after(other)]
    assert abs(len(loud) / (len(loud) + len(others)) - 0.6) < 0.01
    assert [event.seq for event in loud] == list(range(1, len(loud) + 1))
    assert [event.event_time_ms for event in loud] == sorted(event.event_time_ms for event in loud)
    assert {type(event) for event in loud} == {Heartbeat, Tune}
    assert len({event.channel_id for event in loud if isinstance(event, Tune)}) > 1


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_of_all_events_or_of_none_of_them_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        LoudBox(share)


def test_box_without_a_share_is_silent() -> None:
    assert list(LoudBox(0).after(Heartbeat(event_id="e", box_id="stb-1", seq=1, event_time_ms=1))) == []
