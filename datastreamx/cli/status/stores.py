"""Recovery stores on this machine."""

from __future__ import annotations

from pathlib import Path

from datastreamx.cli.status.report import Store


def look_at_store(directory: Path) -> Store:
    """Files of a store and when they were last written; SQLite's write-ahead logs count, too."""
    files = sorted(directory.glob("part-*.sqlite3"))
    found = [path.stat() for path in directory.glob("part-*.sqlite3*")]
    return Store(
        directory=str(directory),
        files=len(files),
        bytes=sum(stat.st_size for stat in found),
        written_ms=max((stat.st_mtime_ns // 1_000_000 for stat in found), default=None),
    )
