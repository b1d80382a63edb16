"""What the flows depend on fails for a while: BigQuery, aggregators, the network, brokers, the clock."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from simulator.bigquery.faults import Fault as BigQueryFault
from simulator.bigquery.faults import FaultPlan
from simulator.proxy.condition import Condition
from tests.chaos.crew import name_of
from tests.chaos.faults.fault import Struck
from tests.chaos.rig import Rig

SPELL_S = (1.0, 5.0)
SLOW_SPELL_S = (60.0, 150.0)
SLOW_SHARE = 0.1
CLOCK_OFFSET_S = 60
UNREACHABLE = "did not|does not answer|unreachable|[Cc]onnect|[Tt]imed? ?out|UNAVAILABLE|Kafka|BigQuery"
"""Last words of a flow that found nobody."""

_MODES = ("silent", "slow", "drip", "http_500", "reset", "garbage", "oversized", "wrong_id", "nan_price")
_NOTICE_MODES = ("ok", "http_500", "silent", "flaky")


@dataclass(frozen=True)
class BigQueryFails:
    """503, 429, calls that hang, answers that get lost: the repeated append then already exists."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        down, exhausted = BigQueryFault(unavailable_every=1), BigQueryFault(exhausted_every=rng.choice((1, 2)))
        hangs, lost = BigQueryFault(hang=True), BigQueryFault(drop_ack_every=rng.choice((1, 2, 3)))
        slow = BigQueryFault(delay_ms=rng.choice((100, 400)))
        plans = {
            "503 to everything but REST": FaultPlan(down, down, down, down),
            "429 to appends and flushes": FaultPlan(exhausted, exhausted),
            "appends hang": FaultPlan(append_rows=hangs),
            "flushes hang": FaultPlan(flush_rows=hangs),
            "answers to appends are lost": FaultPlan(append_rows=lost),
            "answers to flushes are lost": FaultPlan(flush_rows=lost),
            "every call is slow": FaultPlan(slow, slow, slow, slow),
        }
        what = rng.choice([*plans])
        seconds = _spell(rig, rng)
        rig.servers.bigquery.inject(plans[what])
        rig.weather.begin("bigquery", what, seconds, lambda: rig.servers.bigquery.inject(FaultPlan()))
        return Struck("bigquery", f"{what} for {seconds:.1f} s")


@dataclass(frozen=True)
class AggregatorMisbehaves:
    """Silent, slow, 5xx, reset, garbage, to bid requests or to notices."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        one = rng.choice(rig.aggregators)
        mode, notice_mode, share = rng.choice(_MODES), rng.choice(_NOTICE_MODES), rng.choice((0.3, 1.0))
        seconds = _spell(rig, rng)
        one.control(mode=mode, mode_probability=share, notice_mode=notice_mode)

        def behave() -> None:
            one.control(mode="ok", notice_mode="ok")

        rig.weather.begin(one.name, mode, seconds, behave)
        return Struck(one.name, f"{mode} in {share:.0%} of the auctions, notices {notice_mode}, for {seconds:.1f} s")


@dataclass(frozen=True)
class NetworkFails:
    """Between the flows and one thing that they talk to: slow, narrow, cut in one direction or both, reset."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        route = rng.choice(rig.routes)
        conditions = {
            "is slow": Condition(delay_ms=rng.choice((50, 300))),
            "is narrow": Condition(bytes_per_s=rng.choice((20_000, 200_000))),
            "is a black hole": Condition(cut="black_hole"),
            "brings no answers": Condition(cut="one_way"),
            "is half-open": Condition(cut="half_open"),
            "resets connections": Condition(cut="reset"),
        }
        what = rng.choice([*conditions])
        seconds = _spell(rig, rng)
        rig.proxy.change(route, conditions[what])
        # A flow that is killed meanwhile may find nobody when it starts, and say so and end.
        rig.crew.excuse(seconds + 20.0, UNREACHABLE)
        rig.weather.begin("network", f"{route} {what}", seconds, rig.proxy.heal)
        return Struck(route, f"{what} for {seconds:.1f} s")


@dataclass(frozen=True)
class BrokerRestart:
    """A broker is killed, or stopped in order, and comes back with what it had acknowledged."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        cluster = rig.broker.require_cluster()
        node, is_killed = rng.choice(sorted(cluster.running)), rng.random() < 0.5
        rig.weather.end("network")
        rig.crew.excuse(60.0, UNREACHABLE)
        (cluster.kill_node if is_killed else cluster.stop_node)(node)
        rig.crew.rest(rng.uniform(0, 3.0))
        cluster.start_node(node)
        return Struck(f"broker-{node}", "killed" if is_killed else "stopped in order")


@dataclass(frozen=True)
class LeaderMove:
    """The leader of a partition that the flows use goes; another one takes over."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        cluster, topics = rig.broker.require_cluster(), rig.pipeline.config.topics
        topic, partition = rng.choice((topics.events, topics.decisions, topics.facts)), rng.randrange(4)
        rig.weather.end("network")
        rig.crew.excuse(60.0, UNREACHABLE)
        node = cluster.leader_of(topic, partition)
        (cluster.kill_node if rng.random() < 0.5 else cluster.stop_node)(node)
        successor = cluster.leader_of(topic, partition)
        rig.crew.rest(rng.uniform(0, 2.0))
        cluster.start_node(node)
        cluster.wait_in_sync(topic, partition)
        return Struck(f"{topic}[{partition}]", f"from node {node} to node {successor}")


@dataclass(frozen=True)
class ClockStep:
    """The wall clocks of the flows are wrong for a while, and one flow starts in that time.

    Promised is what does not rest on the wall clock: nothing is lost, doubled or decided twice. A flow judges deadlines
    by its own clock: if that is behind, it may send pushes that come too late, and boxes drop them by theirs.
    """

    def strike(self, rig: Rig, rng: Random) -> Struck:
        clocks = rig.clocks
        assert clocks is not None
        offset_s = rng.choice((-1, 1)) * rng.randint(1, CLOCK_OFFSET_S)
        seconds = _spell(rig, rng) + 2.0
        clocks.set(offset_s)
        # The Kafka client waits by the wall clock: when that goes back, a start may wait in vain for as much longer.
        rig.crew.excuse(seconds + abs(offset_s) + 30.0, UNREACHABLE)
        rig.weather.begin("clocks", f"{offset_s:+d} s", seconds, lambda: clocks.set(0))
        spot = rig.crew.pick(rng)
        rig.crew.kill(spot)
        rig.crew.start(spot)
        return Struck("clocks", f"{offset_s:+d} s for {seconds:.1f} s, {name_of(spot)} starts with it")


def _spell(rig: Rig, rng: Random) -> float:
    is_slow = rng.random() < SLOW_SHARE
    return rng.uniform(*(SLOW_SPELL_S if is_slow and rig.options.slow else SPELL_S))
