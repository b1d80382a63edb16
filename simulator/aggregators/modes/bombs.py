"""Small bodies that decode to 200 MiB of blanks, built from one compressed MiB because nobody waits for the rest."""

from __future__ import annotations

import zlib
from functools import cache

DECODED_BYTES = 200 << 20
"""So that even gzip needs less than 256 KiB: the size on the wire must not give the bomb away."""

_MIB = 1 << 20
_BLANK = 0x20
_ADLER_MODULUS = 65_521
_ZSTD_BLOCK = 128 << 10


@cache
def gzip_bomb() -> bytes:
    """208 kB of gzip (RFC 1952)."""
    blanks, checksum = bytes([_BLANK]) * _MIB, 0
    for _ in range(DECODED_BYTES // _MIB):
        checksum = zlib.crc32(blanks, checksum)
    header = bytes.fromhex("1f8b08000000000002ff")
    return header + _raw_deflate() + checksum.to_bytes(4, "little") + DECODED_BYTES.to_bytes(4, "little")


@cache
def deflate_bomb() -> bytes:
    """208 kB of what HTTP calls deflate: zlib (RFC 1950)."""
    # Adler-32 of n equal bytes: a = 1 + n b and, as the sum of all a on the way, n + b n (n + 1) / 2.
    n = DECODED_BYTES
    low = (1 + n * _BLANK) % _ADLER_MODULUS
    high = (n + _BLANK * n * (n + 1) // 2) % _ADLER_MODULUS
    return bytes.fromhex("78da") + _raw_deflate() + (high << 16 | low).to_bytes(4, "big")


@cache
def zstd_bomb() -> bytes:
    """6 kB of Zstandard (RFC 8878): run-length blocks, four bytes for 128 KiB. A client need not have asked for it."""
    # Magic, no flags, a window of 128 KiB; then per block: last << 0 | run-length << 1 | size << 3, and the byte.
    blocks = DECODED_BYTES // _ZSTD_BLOCK
    block = (1 << 1 | _ZSTD_BLOCK << 3).to_bytes(3, "little") + bytes([_BLANK])
    last = (1 | 1 << 1 | _ZSTD_BLOCK << 3).to_bytes(3, "little") + bytes([_BLANK])
    return bytes.fromhex("28b52ffd0038") + block * (blocks - 1) + last


@cache
def _raw_deflate() -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # A full flush ends on a byte and forgets the history: the same bytes may follow any number of times.
    block = compressor.compress(bytes([_BLANK]) * _MIB) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * (DECODED_BYTES // _MIB) + bytes.fromhex("0300")
