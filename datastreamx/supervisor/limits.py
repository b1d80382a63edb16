"""How patient a supervisor is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

_Seconds = Annotated[float, Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations in seconds. They are no configuration: the defaults fit every flow, and tests need shorter ones.

    Attributes:
        running_silence_s: A running worker that reports nothing for so long hangs. It reports twice a second, also
            while it waits for Kafka or BigQuery.
        starting_silence_s: Likewise for one that starts or loads its state, where single steps take longer.
        grace_s: A worker may take so long for its last snapshot before it is killed.
        starting_grace_s: Likewise for one that does not work yet: it has nothing to save.
        leaving_s: Copying the store of a worker that was stopped to the others may take so long. With `grace_s` less
            than what a container is given to end.
        first_delay_s: From the first failure to the next start; each further one doubles it.
        longest_delay_s: Where doubling ends.
        healthy_s: A worker that ran so long was well: the next delay is the first again.
        failures_max: So many failures within `failures_within_s` end the supervisor.
        failures_within_s: See there.
        lag_small_s: Data younger than that is no backlog.
        lag_small_records: Neither are so few records, however old: a topic may have been idle.
        lag_window_s: A backlog that is smaller than so long ago falls.
        tick_s: The supervisor looks around at least that often.
    """

    running_silence_s: _Seconds = 30.0
    starting_silence_s: _Seconds = 300.0
    grace_s: _Seconds = 60.0
    starting_grace_s: _Seconds = 5.0
    leaving_s: _Seconds = 45.0
    first_delay_s: _Seconds = 0.2
    longest_delay_s: _Seconds = 5.0
    healthy_s: _Seconds = 60.0
    failures_max: Annotated[int, Meta(ge=1)] = 5
    failures_within_s: _Seconds = 300.0
    lag_small_s: _Seconds = 10.0
    lag_small_records: int = 1_000
    lag_window_s: _Seconds = 30.0
    tick_s: _Seconds = 1.0
