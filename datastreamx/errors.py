"""The three ways in which something can go wrong.

Every failure is one of: try again (`RetryableError`), set this one input aside (`DeadLetterError`), or stop
(`CrashError`). Ordinary results of an auction (no bid, timeout) are values, never exceptions.
"""

from __future__ import annotations


class DatastreamXError(Exception):
    """Base of all errors raised on purpose by this project."""


class RetryableError(DatastreamXError):
    """The outside world is unwell; the same call may succeed later."""


class DeadLetterError(DatastreamXError):
    """This one input can never be processed; it belongs into the dead letter topic.

    Attributes:
        reason: A short, bounded word that is used as a metric label and in the dead letter's header.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CrashError(DatastreamXError):
    """Going on would lose data or compute wrong results; the process must stop and say why."""


class ConfigError(CrashError):
    """The configuration is not usable. Carries every problem that was found, not only the first.

    Attributes:
        problems: One line each: where, what, and how to fix it.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{source} has {len(problems)} problem{'s' if len(problems) != 1 else ''}:\n{lines}")


class StateMismatchError(CrashError):
    """A recovery store does not belong to this configuration (other counts, other version, other flow)."""


class DamagedStoreError(StateMismatchError):
    """A recovery store is not as it was left: bits have flipped, a file is missing or of another time."""


class StaleStoreError(StateMismatchError):
    """A recovery store is older than what its flow has done, of another history, or gone; the broker is the witness."""


class ExpiredOffsetError(CrashError):
    """The broker no longer holds the offset at which this flow must go on."""


class MissingTopicError(CrashError):
    """A topic that the flow reads or writes does not exist."""


class UnsafeTableError(CrashError):
    """A BigQuery table exists, but without the partitioning or filter that keeps queries affordable."""


HOPELESS = (ConfigError, StateMismatchError, ExpiredOffsetError, MissingTopicError, UnsafeTableError)
"""Starting again cannot help before somebody has changed something."""
