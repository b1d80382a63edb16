"""Kafka's default choice of a partition, for logs that never see a broker.

Murmur2 by Austin Appleby (public domain) with the seed of Kafka's Java client, as in librdkafka's `murmur2_random`.
"""

from __future__ import annotations

_MULTIPLIER = 0x5BD1_E995
_SEED = 0x9747_B28C
_MASK32 = 0xFFFF_FFFF


def murmur2(key: bytes) -> int:
    """Unsigned 32-bit Murmur2 of `key`."""
    value = (_SEED ^ len(key)) & _MASK32
    whole = len(key) & ~3
    for position in range(0, whole, 4):
        word = int.from_bytes(key[position : position + 4], "little") * _MULTIPLIER & _MASK32
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK32
        value = (value * _MULTIPLIER & _MASK32) ^ word
    if whole < len(key):
        value = (value ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _MASK32
    value = (value ^ value >> 13) * _MULTIPLIER & _MASK32
    return value ^ value >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Partition in which a record with `key` ends."""
    return (murmur2(key) & 0x7FFF_FFFF) % partitions
