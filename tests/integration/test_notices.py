"""The notices flow as a process, killed at seeded moments, between a real broker and a real HTTP receiver."""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from confluent_kafka import Producer

from datastreamx.config import Config, load_config
from datastreamx.model.auction import BidNotice, Decision, NoticeUrls, Outcome
from datastreamx.topics import apply_topics
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.decisions import encode_decision
from datastreamx.wire.facts import encode_facts
from simulator.processes import Child
from tests.builders import T0, decision, outcome, shown, winning_ad
from tests.integration.brokers import Broker
from tests.integration.pipeline import environment
from tests.integration.reading import read_topic
from tests.operators.test_impressions import facts

pytestmark = pytest.mark.integration

SEED = 20_260_131
KILLS = 4
AUCTIONS = 150
WAIT_S = 60.0
POLL_S = 0.05

_numbers = itertools.count()

CONFIG = """\
[kafka]
bootstrap = "{bootstrap}"
[topics]
events = "{name}-events"
decisions = "{name}-decisions"
facts = "{name}-facts"
dead_letters = "{name}-dead"
[events]
partitions = 2
[bigquery]
project = "unused"
[notices]
timeout_ms = 1000
retry_interval_ms = 100
attempts = 20
[recovery]
directory = "{recovery}"
epoch_ms = 100
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "alpha"
adapter = "simple"
url = "http://127.0.0.1:9/bid"
notices = ["win", "loss", "billing"]
notice_hosts = ["127.0.0.1"]
notice_network = "any"
"""


class Receiver(BaseHTTPRequestHandler):
    """Accepts most notices, answers some with 503, hangs up on a few after it has heard them."""

    protocol_version = "HTTP/1.1"
    rng: ClassVar[random.Random]
    answers: ClassVar[defaultdict[str, list[str]]]
    lock = threading.Lock()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        with self.lock:
            answer = self.rng.choices(["200", "503", "none"], [0.8, 0.15, 0.05])[0]
            delay_s = self.rng.choice((0.0, 0.0, 0.02))
            self.answers[f"{query['id'][0]}/{query['e'][0]}"].append(answer)
        # A notice that is on its way when its sender is killed is what this test is about.
        time.sleep(delay_s)
        if answer == "none":
            self.close_connection = True
            return
        self.send_response(int(answer))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def receiving(seed: int) -> Iterator[str]:
    """URL of a receiver, up to the query."""
    Receiver.rng = random.Random(seed)
    Receiver.answers = defaultdict(list)
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as http:
        http.daemon_threads = True
        http.handle_error = lambda *_: None  # type: ignore[method-assign]  # senders are killed in mid-request
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/notice"
        finally:
            http.shutdown()
            thread.join()


def told(number: int, base: str) -> Decision:
    """One ad won, one bid lost; every fourth winner names a host that it must not."""
    auction = f"{number:032x}"
    ad = winning_ad(auction, bid_id="won")

    def url(event: str, root: str = base) -> str:
        return f"{root}?id=${{AUCTION_ID}}&e={event}"

    win = url("win", "http://evil.example/notice") if number % 4 == 0 else url("win")
    bids = (
        BidNotice(
            bid_id="won",
            code=Outcome.WON,
            price_micros=2_500_000,
            urls=NoticeUrls(win=win, billing=url("billing")),
            push_id=ad.push_id,
        ),
        BidNotice(bid_id="lost", code=Outcome.OUTBID, price_micros=1, urls=NoticeUrls(loss=url("loss"))),
    )
    return decision(
        outcome("alpha", Outcome.WON, notices=bids),
        auction_id=auction,
        ads=(ad,),
        decided_ms=T0 + number,
        partition=number % 2,
        offset=number,
    )


EXPECTED = {f"{number:032x}/{event}" for number in range(AUCTIONS) for event in ("win", "loss", "billing")}


class Topics:
    """Writes what the ads flow would: decisions, some of them twice, and displays."""

    def __init__(self, config: Config, base: str) -> None:
        self._config, self._base = config, base
        self._producer = Producer({"bootstrap.servers": config.kafka.bootstrap, "linger.ms": 0, "log_level": 2})

    def write(self, number: int) -> None:
        value = encode_decision(told(number, self._base))
        displayed, headers = encode_facts(facts(shown(number, f"{number:032x}", seq=number), first_offset=number))
        for copy in (value, value) if number % 7 == 0 else (value,):
            self._producer.produce(self._config.topics.decisions, copy, partition=number % 2)
        self._producer.produce(self._config.topics.facts, displayed, partition=number % 2, headers=dict(headers))
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def dead_letters(broker: Broker, config: Config) -> dict[str, str]:
    """Reason by notice."""
    found = {}
    for message in read_topic(broker, config.topics.dead_letters, 1):
        letter = parse_dead_letter(message.key(), message.value(), message.headers() or [])  # type: ignore[arg-type]
        auction, event = (letter.key or b"").decode().split("/")[:2]
        found[f"{auction}/{event}"] = letter.reason
    return found


def test_killed_again_and_again_every_notice_is_heard_once_or_accounted_for(broker: Broker, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    path = tmp_path / "datastreamx.toml"
    name = f"notices-{os.getpid()}-{next(_numbers)}"
    path.write_text(CONFIG.format(bootstrap=broker.bootstrap, name=name, recovery=tmp_path / "recovery"))
    config = load_config(path)
    apply_topics(config)
    argv = [sys.executable, "-m", "datastreamx.cli", "run", "notices", "--config", str(path)]
    flow = Child("flow notices", argv, log_path=tmp_path / "flow.log", env=environment(), is_ready=_reads)
    with receiving(SEED) as base:
        topics = Topics(config, base)
        try:
            flow.start()
            # Begins at the end of the log: before its first snapshot is durable it has no place to come back to.
            topics.write(0)
            _wait_until(lambda: bool(Receiver.answers), flow)
            kills = sorted(rng.sample(range(10, AUCTIONS - 10), KILLS))
            for number in range(1, AUCTIONS):
                topics.write(number)
                time.sleep(rng.uniform(0.005, 0.04))
                if number in kills:
                    flow.kill()
                    flow.start()
            topics.flush()
            _wait_until(lambda: _ended(broker, config) >= EXPECTED, flow)
            assert flow.stop(grace_s=WAIT_S) == 0
        finally:
            flow.kill()
    letters = dead_letters(broker, config)
    for notice, answers in Receiver.answers.items():
        assert set(answers[:-1]) <= {"503"}, f"seed {SEED}: {notice} was sent again: {answers}"
    assert set(Receiver.answers) <= EXPECTED
    forbidden = {notice for notice, reason in letters.items() if reason == "notice_forbidden"}
    assert forbidden == {f"{number:032x}/win" for number in range(0, AUCTIONS, 4)}
    assert set(letters.values()) <= {"notice_forbidden", "notice_unconfirmed"}
    unheard = {notice for notice, reason in letters.items() if reason == "notice_unconfirmed"}
    assert {notice for notice, answers in Receiver.answers.items() if answers[-1] == "none"} <= unheard
    # Almost all were heard, or the crashes have cost far more than what was under way.
    assert len(unheard) < len(EXPECTED) / 2


def _reads(flow: Child) -> bool:
    return "source.started" in flow.output()


def _ended(broker: Broker, config: Config) -> set[str]:
    heard = {notice for notice, answers in list(Receiver.answers.items()) if answers[-1] == "200"}
    return heard | set(dead_letters(broker, config))


def _wait_until(holds: Callable[[], bool], flow: Child) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert flow.poll() is None, flow.log_tail(30)
        assert time.monotonic() < deadline_s, f"waited in vain\n{flow.log_tail(30)}"
        time.sleep(POLL_S)
