"""What a panic of Bytewax's Rust half says, out of the exceptions that it arrives as."""

from __future__ import annotations

import re

from datastreamx.errors import DatastreamXError

ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""A panic arrives as a direct child of BaseException; these are no faults."""

_LOST_PEER = re.compile(r"(?:Send|Recv) thread panic|timely communication error")
_SQLITE_FAILURE = re.compile(r'SqliteFailure\(Error \{ code: (\w+).*?Some\("([^"]*)"\)')


def causes_of(error: BaseException) -> list[BaseException]:
    """The error and what lies below it, the innermost last: Bytewax wraps whatever a callback raises, several times."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(inner)
    return causes


def sqlite_failure(error: BaseException) -> str | None:
    """What SQLite said, if it was SQLite."""
    match = next((match for cause in causes_of(error) if (match := _SQLITE_FAILURE.search(str(cause)))), None)
    return f"{match[2]} ({match[1]})" if match else None


def refusal(error: BaseException) -> DatastreamXError | None:
    """The innermost error of ours, which says what happened; `None`: nobody foresaw this."""
    return next((cause for cause in reversed(causes_of(error)) if isinstance(cause, DatastreamXError)), None)


def is_lost_peer(error: BaseException) -> bool:
    """Whether the connection to another process of a cluster broke: Timely panics in the threads that serve it."""
    return any(_LOST_PEER.search(str(cause)) for cause in causes_of(error))
