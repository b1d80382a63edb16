"""Bytewax shell of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream

from datastreamx.config import Config
from datastreamx.model.chunk import Chunk, DeadLetter, DecodedChunk
from operators.decode.records import decode_chunk


@dataclass(frozen=True)
class DecodeOut:
    """Streams out of `decode`, keyed by key group.

    Attributes:
        chunks: What is usable, one item per chunk.
        dead_letters: What is not, one item per record.
    """

    chunks: KeyedStream[DecodedChunk]
    dead_letters: KeyedStream[DeadLetter]


@operator
def decode(step_id: str, up: KeyedStream[Chunk], config: Config) -> DecodeOut:
    """Decode the records of each chunk.

    Args:
        step_id: Unique id of the step; an interface, see the golden file of step ids.
        up: Chunks keyed by key group.
        config: `topics.events` and `events.max_clock_skew_ms` matter here.

    Returns:
        Decoded chunks and dead letters.
    """
    topic, max_clock_skew_ms = config.topics.events, config.events.max_clock_skew_ms

    def decode_value(chunk: Chunk) -> DecodedChunk:
        return decode_chunk(chunk, topic, max_clock_skew_ms)

    decoded = op.map_value("decode", up, decode_value)
    dead_letters = op.flat_map_value("dead_letters", decoded, lambda chunk: chunk.dead_letters)
    return DecodeOut(decoded, dead_letters)
