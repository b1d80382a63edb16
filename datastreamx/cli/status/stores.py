"""Recovery stores and supervisors on this machine."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import msgspec

from datastreamx.cli.status.report import ProcessStatus, Store
from datastreamx.errors import StateMismatchError
from datastreamx.supervisor import read_status, status_path
from datastreamx.supervisor.status import SUFFIX
from flows.recovery.quarantine import Refusal, refusal_file
from flows.recovery.swap import unfinished_rescale


def look_at_processes(recovery: Path, flow: str, expected: str | None) -> list[ProcessStatus]:
    """All cells or cluster processes of `flow` that have left a trace here; if none has, `expected` without one."""
    pattern = re.compile(rf"{re.escape(flow)}-(\d+|cluster|cluster-peer-\d+)")
    names = {path.name.removesuffix(SUFFIX) for path in recovery.glob(f"{flow}-*")}
    found = sorted((name for name in names if pattern.fullmatch(name)), key=_in_order)
    return [look_at_process(recovery, name) for name in found or ([] if expected is None else [expected])]


def look_at_process(recovery: Path, name: str) -> ProcessStatus:
    """What the process with the store `name` shows."""
    return ProcessStatus(
        name=name,
        store=look_at_store(recovery / name),
        supervisor=read_status(status_path(recovery, name)),
        refusal=look_at_refusal(recovery / name),
    )


def look_at_refusal(store: Path) -> str | None:
    """Why no flow starts with `store`, as far as the file that keeps it from starting can be read."""
    path = refusal_file(store)
    with suppress(FileNotFoundError):
        content = path.read_bytes()
        try:
            return msgspec.json.decode(content, type=Refusal).reason
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return f"{path} cannot be read"
    return None


def look_at_replacement(recovery: Path) -> str | None:
    """A rescale or a restore of the stores below `recovery` that was interrupted, or is under way; in words."""
    try:
        return unfinished_rescale(recovery)
    except StateMismatchError as error:
        return str(error)


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


def _in_order(name: str) -> tuple[int, str]:
    """`ads-2` before `ads-10`."""
    number = name.rpartition("-")[2]
    return (int(number), name) if number.isdecimal() else (-1, name)
