"""The least state of every box on Quix Streams: channel, last channel, last ad; JSON from Kafka in, JSON out, dropped.

    python state.py BOOTSTRAP TOPIC EVENTS WARM_UP_SHARE FOLDER

Run by the environment of `benchmarks.quix`, which has nothing of this project. State is in RocksDB under FOLDER, with a
checkpoint each second, as the others take a snapshot each second; without a changelog topic, as the state of the others
is on their disk alone. Prints what the events after the warm-up took, as JSON.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
from quixstreams import Application, State  # type: ignore[import-not-found]  # not of our environment


class Enrich:
    """Applies events to the state of their box, writes the facts, and takes the time of those after the warm-up."""

    def __init__(self, warm: int, total: int) -> None:
        self._warm, self._total, self._seen = warm, total, 0
        self._begin: tuple[float, float] = (0.0, 0.0)
        self.took: dict[str, float] = {}

    def __call__(self, event: dict[str, Any], state: State) -> bytes:
        """One event."""
        if self._seen == self._warm:
            self._begin = (time.perf_counter(), time.process_time())
        channel_id, last_channel_id, last_ad_id = state.get("box") or (None, None, None)
        kind = event["type"]
        if kind == "tune" and event["channel_id"] != channel_id:
            last_channel_id, channel_id = channel_id, event["channel_id"]
            state.set("box", (channel_id, last_channel_id, last_ad_id))
        elif kind == "ad_shown":
            last_ad_id = event["ad_id"]
            state.set("box", (channel_id, last_channel_id, last_ad_id))
        fact = orjson.dumps(
            {
                "box_id": event["box_id"],
                "type": kind,
                "event_time_ms": event["event_time_ms"],
                "channel_id": channel_id,
                "last_channel_id": last_channel_id,
                "last_ad_id": last_ad_id,
            }
        )
        self._seen += 1
        if self._seen == self._total:
            wall_s, cpu_s = self._begin
            self.took = {
                "units": self._total - self._warm,
                "wall_s": time.perf_counter() - wall_s,
                "cpu_s": time.process_time() - cpu_s,
            }
        return fact


def main(bootstrap: str, topic: str, events: int, warm_up_share: float, folder: str) -> None:
    """Read the topic from its beginning until `events` are done."""
    application = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{uuid.uuid4()}",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        commit_interval=1.0,
        state_dir=folder,
        use_changelog_topics=False,
        loglevel="ERROR",
    )
    enrich = Enrich(int(events * warm_up_share), events)
    read = application.topic(topic, value_deserializer="json", key_deserializer="bytes")
    application.dataframe(read).apply(enrich, stateful=True)
    # The time is there for a broker that has lost events: then nothing is printed.
    application.run(count=events, timeout=60, collect=False)
    if not enrich.took:
        raise SystemExit(f"topic {topic} ended before {events} events")
    # getrusage(2) would tell the peak of the process that has started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak_mib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    sys.stdout.write(orjson.dumps({**enrich.took, "peak_mib": peak_mib}).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
