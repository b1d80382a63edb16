"""Whether SQLite reads all of a write-ahead log: it takes a damaged one, without an error, for a shorter one.

See "The WAL File Format" in SQLite's documentation. Each frame has a checksum over all frames before it; from the first
wrong one on SQLite ignores the rest, and with a wrong header all of it. The database is then as it was some
transactions ago.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_SHM_MX_FRAME = 16
"""Where the shared-memory file holds the number of the last valid frame, in the byte order of the machine."""


def has_wrong_header(wal: Path) -> bool:
    """Whether there is a log of which SQLite would read nothing at all."""
    header = _header(wal)
    return header is not None and _salts(header) is None


@dataclass(frozen=True)
class Lost:
    """Frames of the log's present generation that SQLite ignores, a cut one included.

    Nothing is lost after a kill: what the kernel was given stays. A power failure may tear the last transaction, whose
    commit nobody was told of. With more than one commit lost, what follows the wrong frame was durable once.
    """

    frames: int = 0
    commits: int = 0


def lost_in(wal: Path) -> Lost:
    """What SQLite ignores of a log.

    Call it while a connection that has read from the database is open: only then is the shared-memory file there. The
    header must be right.
    """
    header = _header(wal)
    salts = _salts(header) if header is not None else None
    if header is None or salts is None:
        return Lost()
    frame_bytes = _FRAME.size + _HEADER.unpack(header)[2]
    body = wal.stat().st_size - _HEADER.size
    frames, commits = int(body % frame_bytes > 0), 0
    with wal.open("rb") as file:
        for frame in range(_valid_frames(wal), body // frame_bytes):
            file.seek(_HEADER.size + frame * frame_bytes)
            _, pages_after_commit, salt_1, salt_2, _, _ = _FRAME.unpack(file.read(_FRAME.size))
            # What an earlier generation left behind differs in both. One that agrees was ours, and has a flipped bit.
            if salt_1 == salts[0] or salt_2 == salts[1]:
                frames += 1
                commits += pages_after_commit > 0
    return Lost(frames, commits)


def _header(wal: Path) -> bytes | None:
    """`None` without a log; an empty file is none either."""
    try:
        with wal.open("rb") as file:
            return file.read(_HEADER.size) or None
    except FileNotFoundError:
        return None


def _salts(header: bytes) -> tuple[int, int] | None:
    if len(header) < _HEADER.size:
        return None
    magic, _, _, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(header)
    if magic not in {_MAGIC, _MAGIC | 1} or (sum_1, sum_2) != _checksum(header[:24], big=bool(magic & 1)):
        return None
    return salt_1, salt_2


def _checksum(data: bytes, *, big: bool) -> tuple[int, int]:
    one = two = 0
    words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return one, two


def _valid_frames(wal: Path) -> int:
    shared = wal.with_name(wal.name.removesuffix("-wal") + "-shm")
    with shared.open("rb") as file:
        file.seek(_SHM_MX_FRAME)
        valid: int = struct.unpack("=I", file.read(4))[0]
    return valid
