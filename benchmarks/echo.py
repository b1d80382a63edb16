"""The yardstick of benchmarks.end_to_end: what broker, loopback and machine take for the same events and answers.

    python -m benchmarks.echo CONFIG_FILE TOPIC URL

One loop that reads the events with the client of the product, asks one aggregator about each that is
to end in an auction, and writes the answer to TOPIC in the shape of a decision. No state, no snapshots, no facts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import uvloop
from confluent_kafka import OFFSET_END, Consumer, Message, Producer, TopicPartition

from datastreamx.config import Config, load_config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.kafka import consumer_properties, producer_properties

POLL_S = 0.001
_HEARTBEAT = b'{"type":"heartbeat"'
_HELD = b'"bid":[{"id":"'
_ASKED = b'{"id":"' + b"0" * 32 + b'","imp":[{"id":"1"}],"tmax":300}'


async def echo(config: Config, topic: str, url: str) -> None:
    """Run until the process is ended."""
    producer = Producer(producer_properties(config.kafka, "echo"))
    # Each record as soon as it is there: that the product lets Kafka gather for a while is part of its overhead.
    consumer = Consumer({**consumer_properties(config.kafka, "echo", "echo"), "fetch.min.bytes": 1})
    partitions = range(config.events.partitions)
    consumer.assign([TopicPartition(config.topics.events, partition, OFFSET_END) for partition in partitions])
    tasks: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def answer(message: Message, handed_over_ns: int) -> None:
            begin_ns = time.perf_counter_ns()
            async with session.post(url, data=_ASKED) as response:
                body = await response.read()
            auction_us = (time.perf_counter_ns() - begin_ns) // 1000
            held = body.partition(_HELD)[2].partition(b'"')[0].decode()
            decision = (
                f'{{"emitted_ms":{message.timestamp()[1]},"decided_ms":{time.time_ns() // 1_000_000},"status":"won",'
                f'"trigger":"ad_break","queue_us":{(begin_ns - handed_over_ns) // 1000},"auction_us":{auction_us},'
                f'"outcomes":[{{"code":500,"called":true,"bid_id":"{held}"}}]}}'
            )
            producer.produce(topic, decision.encode(), message.key(), partition=message.partition() or 0)

        while True:
            for message in consumer.consume(5_000, 0):
                if message.error() is None and not (message.value() or b"").startswith(_HEARTBEAT):
                    task = asyncio.create_task(answer(message, time.perf_counter_ns()))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            producer.poll(0)
            await asyncio.sleep(POLL_S)


if __name__ == "__main__":
    spare_garbage_collection()
    uvloop.run(echo(load_config(Path(sys.argv[1])), *sys.argv[2:]))
