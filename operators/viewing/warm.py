"""Everything compiled before the first event: in an image's build, and before a flow runs."""

from __future__ import annotations

from functools import cache

from datastreamx.config import ViewingConfig
from datastreamx.log import get_logger
from datastreamx.model.chunk import DecodedChunk
from datastreamx.model.events import Heartbeat
from datastreamx.model.keygroup import KeyGroup
from operators.viewing.compiling import troubles
from operators.viewing.snapshot import decode_snapshot, encode_snapshot
from operators.viewing.state import KeyGroupState

_log = get_logger("viewing")


@cache
def warm_up() -> None:
    """Run every compiled function once. Seconds when the cache is cold, half a second when it is not.

    Otherwise the first chunk would take that long, and a supervisor might take the worker for hung. Again in the same
    process it costs nothing.
    """
    state = _empty(KeyGroup(0, 0))
    # The second event closes the session of the first and forgets its box.
    for offset, (box_id, time_ms) in enumerate([("a", 0), ("b", 2**50)]):
        event = Heartbeat(event_id="e", box_id=box_id, seq=0, event_time_ms=time_ms)
        state.process(DecodedChunk(0, 0, [offset], [time_ms], [event], []))
    decode_snapshot(encode_snapshot(state), _empty)
    if troubles:
        _log.warning("viewing.compiler_cache_unusable", problem=troubles[0], functions=len(troubles))


def _empty(key_group: KeyGroup) -> KeyGroupState:
    return KeyGroupState(key_group, ViewingConfig(), "", lambda _: "0" * 32)
