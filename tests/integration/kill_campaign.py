"""Kill the ads flow, and now and then the notices flow, again and again while auctions are under way.

Broker, aggregators and both flows are processes; nothing is told to behave because it is a test.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, Self

from confluent_kafka import Message

from datastreamx.config import load_config
from datastreamx.topics import apply_topics
from datastreamx.wire.dead_letters import parse_dead_letter
from simulator.aggregators.handle import LocalAggregator
from simulator.aggregators.notices import Notice
from simulator.processes import Child
from tests.integration.brokers import Broker
from tests.integration.kill_audit import Aftermath, Kill, Moment, heard_of, owed
from tests.integration.kill_viewers import Viewers
from tests.integration.oracle import decided, expect
from tests.integration.pipeline import environment, now_ms
from tests.integration.reading import read_topic

FlowName = Literal["ads", "notices"]

WAIT_S = 90.0
POLL_S = 0.02
EVIDENCE_POLL_S = 1.0

_MOMENTS: tuple[Moment, ...] = ("working", "snapshot", "starting")
_SPARE_KILLS = 12
"""As many more at most, if those of the campaign have met too little."""
_LONGEST_S = 2.5
"""As long as a start takes on a busy machine: so a kill meets any part of one."""
_NOTICES_EVERY = 3
"""One of so many kills of the ads flow comes shortly after one of the notices flow."""
_LATENCIES = {"latency_p50_ms": 150.0, "latency_p99_ms": 900.0}
_MISDEEDS = ("ok", "silent", "slow", "drip", "http_500", "reset", "garbage", "wrong_id", "nan_price", "http_creative")
_DEAF = ("ok", "ok", "http_500", "silent", "flaky")

_numbers = itertools.count()

# Box state is quick, so that there is an auction at every moment. A deadline outlives a restart, so that auctions are
# run again after one; several kills in a row let some expire.
CONFIG = """\
[kafka]
bootstrap = "{bootstrap}"
[topics]
events = "{name}-events"
decisions = "{name}-decisions"
facts = "{name}-facts"
dead_letters = "{name}-dead"
[events]
partitions = 4
groups_per_partition = 2
[viewing]
dwell_ms = 300
min_push_interval_ms = 600
decision_budget_ms = 8000
[auction]
timeout_ms = 1200
push_reserve_ms = 300
floor_micros = 500000
[notices]
timeout_ms = 1000
retry_interval_ms = 300
attempts = 10
[bigquery]
project = "unused"
[recovery]
directory = "{recovery}"
epoch_ms = 300
[privacy]
box_key_secret = "0123456789abcdef"
[metrics]
port = 0
"""

AGGREGATOR = """\
[[aggregators]]
name = "{name}"
adapter = "{adapter}"
url = "{url}"
notices = ["win", "loss", "billing"]
notice_hosts = ["127.0.0.1"]
notice_network = "any"
options = {options}
"""

_OPTIONS = {"openrtb": '{ publisher_id = "pub-1", app_bundle = "tv.datastreamx.box" }', "simple": "{}"}


@contextmanager
def running_aggregators(directory: Path, seed: int) -> Iterator[tuple[LocalAggregator, ...]]:
    """Three, slow enough that a kill finds calls under way; all want notices. The last one will misbehave."""
    dialects: dict[str, Literal["openrtb", "simple"]] = {"alpha": "openrtb", "beta": "simple", "gamma": "openrtb"}
    made = [LocalAggregator(name, dialect, log_dir=directory, seed=seed) for name, dialect in dialects.items()]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        for future in [pool.submit(stack.enter_context, one) for one in made]:
            future.result()
        for one in made:
            one.control(notices=True, **_LATENCIES)
        yield tuple(made)


class Campaign:
    """Topics, configuration and both flows of one run. Use it as a context manager.

    Args:
        directory: Configuration, recovery stores and logs go below it.
        broker: Where the topics are made.
        aggregators: Running, in the order of the configuration.
        seed: Decides what viewers do, when is killed, and how the last aggregator misbehaves.
    """

    def __init__(self, directory: Path, broker: Broker, aggregators: tuple[LocalAggregator, ...], seed: int) -> None:
        name = f"kills-{os.getpid()}-{next(_numbers)}"
        text = CONFIG.format(bootstrap=broker.bootstrap, name=name, recovery=directory / "recovery")
        for one in aggregators:
            options = _OPTIONS[one.dialect]
            text += AGGREGATOR.format(name=one.name, adapter=one.dialect, url=one.url, options=options)
        path = directory / "datastreamx.toml"
        path.write_text(text, encoding="utf-8")
        self.config = load_config(path)
        self.kills: list[Kill] = []
        self._directory = directory
        self._broker = broker
        self._aggregators = aggregators
        self._seed = seed
        self._rng = random.Random(f"{seed}/kills")
        self._flows: dict[FlowName, Child] = {}
        names: tuple[FlowName, ...] = ("ads", "notices")
        for flow in names:
            argv = [sys.executable, "-m", "datastreamx.cli", "run", flow, "--config", str(path)]
            log_path = directory / f"flow-{flow}.log"
            self._flows[flow] = Child(f"flow {flow}", argv, log_path=log_path, env=environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for flow in self._flows.values():
            flow.kill()

    def run(self, kills: int) -> Aftermath:
        """Kill that often, then let everything come to its end, stop cleanly and gather what is left."""
        apply_topics(self.config)
        for flow in self._flows.values():
            flow.start()
        # The notices flow begins at the end of the log; what is decided before it reads is not its business.
        self._wait_until(lambda: all(map(_reads, self._flows.values())), "both flows read")
        with Viewers(self.config, self._seed) as viewers:
            # Without a durable snapshot it would begin at the end once more.
            self._wait_until(lambda: any(heard_of(self._told())), "the first notice is heard")
            for number, moment in enumerate(self._moments(kills)):
                if number >= kills and self._has_met_all():
                    break
                viewers.check()
                self._kill(moment, with_notices=number % _NOTICES_EVERY == 1)
            self._aggregators[-1].control(mode="ok", notice_mode="ok")
            viewers.lean_back()
            self._wait_for(lambda: self._is_settled(viewers))
        self._wait_for(self._is_all_told)
        reused = self._measured()[1]
        codes = {name: flow.stop(grace_s=WAIT_S) for name, flow in self._flows.items()}
        assert codes == {"ads": 0, "notices": 0}, self._logs()
        return Aftermath(
            config=self.config,
            events=self._events(),
            decisions=self._decisions(),
            told=self._told(),
            letters=self._letters(),
            sent=viewers.sent,
            pushes=viewers.pushes,
            displayed=viewers.displayed,
            late=viewers.late,
            kills=self.kills,
            reused=sum(kill.reused or 0 for kill in self.kills) + (reused or 0),
        )

    def _moments(self, kills: int) -> list[Moment]:
        """Each kind at least once, most of them in the middle of work; then some to spare, all of these at work."""
        drawn = self._rng.choices(_MOMENTS, (6, 2, 2), k=max(0, kills - len(_MOMENTS)))
        moments = [*_MOMENTS[:kills], *drawn]
        self._rng.shuffle(moments)
        return [*moments, *(_MOMENTS[0] for _ in range(_SPARE_KILLS))]

    def _has_met_all(self) -> bool:
        """Whether kills met auctions in flight, and decisions that were in the log already and not in a snapshot."""
        attempts = (outcome.attempt for one in decided(self._decisions()).decisions for outcome in one.outcomes)
        return (
            any(kill.in_flight for kill in self.kills)
            and any(attempt > 1 for attempt in attempts)
            and any(kill.reused for kill in self.kills)
        )

    def _kill(self, moment: Moment, *, with_notices: bool) -> None:
        rng, ads = self._rng, self._flows["ads"]
        self._aggregators[-1].control(
            mode=rng.choice(_MISDEEDS), mode_probability=rng.choice((0.3, 1.0)), notice_mode=rng.choice(_DEAF)
        )
        wait_s, notices_at = rng.uniform(0, _LONGEST_S), rng.random()
        in_flight = reused = None
        if moment != "starting":
            self._wait_until(lambda: _reads(ads), "the ads flow reads")
        # Random moments are the very point.
        time.sleep(wait_s * notices_at)
        if with_notices:
            self._end("notices")
            self._flows["notices"].start()
        time.sleep(wait_s * (1 - notices_at))
        if moment != "starting":
            in_flight, reused = self._measured()
        if moment == "snapshot":
            stamp = self._store_stamp()
            self._wait_until(lambda: self._store_stamp() != stamp, "a snapshot is written", poll_s=0.001)
        at_ms = now_ms()
        self._end("ads")
        ads.start()
        self.kills.append(Kill(moment, at_ms, in_flight, reused, with_notices))

    def _end(self, name: FlowName) -> None:
        assert self._flows[name].kill() == -signal.SIGKILL, f"flow {name} had ended by itself\n{self._logs()}"

    def _measured(self) -> tuple[int | None, int | None]:
        """What the ads flow says of itself: auctions in flight, and decisions found in the log; `None` if nothing."""
        address = re.search(r"(http://[\d.]+:\d+/metrics)", self._flows["ads"].output())
        if address is None:
            return None, None
        with contextlib.suppress(OSError), urllib.request.urlopen(address[1], timeout=10) as answer:  # noqa: S310  ours
            text = answer.read().decode()
            return _gauge(text, "datastreamx_auctions_in_flight"), _gauge(text, "datastreamx_decisions_reused_total")
        return None, None

    def _store_stamp(self) -> int:
        stamps = [0]
        for path in (self._directory / "recovery" / "ads-0").iterdir():
            with contextlib.suppress(FileNotFoundError):  # journals come and go
                stamps.append(path.stat().st_mtime_ns)
        return max(stamps)

    def _is_settled(self, viewers: Viewers) -> bool:
        viewers.check()
        time.sleep(EVIDENCE_POLL_S)
        sent = viewers.sent
        events, decisions = self._events(), self._decisions()
        opportunities = expect(self.config, events).opportunities
        return (
            len(events) == sent == viewers.sent
            and decided(decisions).firsts.keys() >= opportunities.keys()
            and viewers.records == len(decisions)
        )

    def _is_all_told(self) -> bool:
        time.sleep(EVIDENCE_POLL_S)
        wanted = owed(self.config, decided(self._decisions()), self._events())
        return wanted.keys() <= {*heard_of(self._told()), *self._letters()}

    def _told(self) -> dict[str, list[Notice]]:
        return {one.name: one.notices() for one in self._aggregators}

    def _events(self) -> list[Message]:
        return read_topic(self._broker, self.config.topics.events, self.config.events.partitions)

    def _decisions(self) -> list[Message]:
        return read_topic(self._broker, self.config.topics.decisions, self.config.events.partitions)

    def _letters(self) -> dict[str, set[str]]:
        """Reasons by what the letter is about: a notice, or else the key of a record."""
        found: dict[str, set[str]] = {}
        for message in read_topic(self._broker, self.config.topics.dead_letters, 1):
            letter = parse_dead_letter(message.key(), message.value(), message.headers() or [])  # type: ignore[arg-type]
            found.setdefault((letter.key or b"").decode(errors="replace"), set()).add(letter.reason)
        return found

    def _wait_until(self, holds: Callable[[], bool], what: str, poll_s: float = POLL_S) -> None:
        assert self._wait_for(holds, poll_s), f"waited in vain: {what}\n{self._logs()}"

    def _wait_for(self, holds: Callable[[], bool], poll_s: float = POLL_S) -> bool:
        """Wait until it holds, or for too long; if it is about evidence, the audit will say what is missing."""
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            ended = [name for name, flow in self._flows.items() if flow.poll() is not None]
            assert not ended, f"flows {ended} have ended by themselves\n{self._logs()}"
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(poll_s)
        return True

    def _logs(self) -> str:
        return "\n".join(f"--- {name}\n{flow.log_tail(30)}" for name, flow in self._flows.items())


def _reads(flow: Child) -> bool:
    return "source.started" in flow.output()


def _gauge(text: str, name: str) -> int | None:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return None if found is None else int(float(found[1]))
