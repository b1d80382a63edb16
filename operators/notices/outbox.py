"""The outbox of one partition: which notice may go on the wire, so that none goes there twice whatever crashes. Pure.

A notice is paid for, or stops being paid for, by being heard; so it is sent at most once. Every attempt is written
ahead into the state and made only when that is durable:

    waiting --snapshot--> armed --tick--> released --> delivered, refused, unconfirmed, forbidden
       ^                                     |
       +---- surely not accepted ------------+--> failed, after the last attempt

- `snapshot` arms what is due. Nothing armed has been sent by then.
- A tick that came straight from a source proves that snapshot durable (see `datastreamx.model.log.Tick`) and releases
  what it armed: from now on it may be on the wire.
- After a crash the last durable snapshot tells the two apart. What is waiting there was not sent since: it was not
  armed in any durable snapshot. What is armed there may have been sent, and nobody knows whether; it is given up as
  unconfirmed and never sent again.
- Notices that came after that snapshot come again by replay. They were never released, so this is no repeat.
- Before a clean stop `close` takes back what is armed and was not released; the last snapshot then shows it waiting,
  and the next process has to arm it anew before it sends: a crash of that one, too, resumes from the same snapshot.

A notice that is not to be sent at all passes the same way: it ends when a durable snapshot says so. Told at once, its
letter would be in the log, and after a crash the replay could find a place for the notice and send it.

An attempt that the receiver surely has not accepted puts the notice back to waiting, so the next attempt is written
ahead like the first.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable

import msgspec

from datastreamx.errors import CrashError
from datastreamx.snapshots import decode_versioned, encode_versioned
from operators.notices.notice import Notice
from operators.notices.recent import RecentKeys

VERSION = 2

ARMED_MAX = 256
"""Notices to one aggregator that a crash can leave unconfirmed, per partition. Also what is sent per epoch at most:
with 8 partitions and epochs of 1 s about 2,000 a second to each aggregator."""
ARMED_WHILE_AILING_MAX = 8
"""The same while the aggregator does not take notices: enough to learn when it does again, and few are risked."""
AILING_AFTER = 16
"""Attempts in a row that it did not take. One is no sign: who refuses a few in a hundred would, while a backlog is
caught up with, lose notices that it is well enough to take."""
WAITING_MAX = 1_000
"""Notices to one aggregator that wait while it does not take them, per partition; beyond it new ones fail unsent.
At 400 bytes each that is 400 kB of every snapshot. While an aggregator takes notices the bound is `CROWDED`."""
CROWDED = 1_000
"""With so many waiting for a healthy aggregator the source is to pause: they arrive faster than they are sent."""


class Result(enum.Enum):
    """How an attempt, or a notice, ended.

    DELIVERED: The receiver answered 2xx.
    REFUSED: It answered 3xx or 4xx: it has read the notice and does not want it.
    FAILED: It surely has not accepted it: no connection, a failed handshake, 429 or 5xx. Worth another attempt.
    UNCONFIRMED: It may have accepted it; asking again could make it count twice. Also what a gateway answers that has
        asked and heard nothing: 502, 504 and the like.
    FORBIDDEN: The notice may not be sent there.
    UNSENT: The attempt was not made, because the process is about to stop.
    """

    DELIVERED = "delivered"
    REFUSED = "refused"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"
    FORBIDDEN = "forbidden"
    UNSENT = "unsent"


class Reply(msgspec.Struct, frozen=True):
    """What became of one attempt; `detail` is for a human, and bounded."""

    result: Result
    detail: str = ""


class Ended(msgspec.Struct, frozen=True):
    """A notice for which nothing more is done."""

    notice: Notice
    result: Result
    attempts: int
    detail: str


class Terms(msgspec.Struct, frozen=True):
    """How often is tried: see `NoticesConfig`."""

    attempts: int
    retry_interval_ms: int


class _State(enum.Enum):
    WAITING = enum.auto()
    ARMED = enum.auto()
    RELEASED = enum.auto()


class _Pending:
    __slots__ = ("attempts", "due_ms", "notice", "state", "verdict")

    def __init__(self, notice: Notice, attempts: int = 0, due_ms: int = 0, *, verdict: Reply | None = None) -> None:
        self.notice = notice
        self.attempts = attempts
        self.due_ms = due_ms
        self.verdict = verdict
        self.state = _State.WAITING


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    notice: Notice
    attempts: int
    due_ms: int
    may_be_sent: bool
    verdict: Reply | None = None


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    entries: list[_Entry]
    recent: dict[int, bytes]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


class Outbox:
    """Notices that are owed. See the module.

    Notices are told apart by (auction, aggregator, bid, event). A second one is dropped while the first is pending and
    for a while after: see `RecentKeys`.

    Raises on construction:
        StateMismatchError: The snapshot cannot be read.
    """

    def __init__(self, terms: Terms, snapshot: bytes | None = None) -> None:
        self._terms = terms
        self._pending: dict[bytes, _Pending] = {}
        self._waiting_of: Counter[str] = Counter()
        self._untold: dict[bytes, _Pending] = {}
        self._recent = RecentKeys()
        self._ailing: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._closed = False
        if snapshot is not None:
            self._restore(decode_versioned(snapshot, _DECODER, VERSION, "pending notices"))

    def __len__(self) -> int:
        """Notices pending."""
        return len(self._pending)

    @property
    def has_untold(self) -> bool:
        """Whether `take_untold` has something to tell."""
        return bool(self._untold)

    @property
    def is_crowded(self) -> bool:
        """Whether notices arrive faster than healthy aggregators take them."""
        return any(count >= CROWDED and name not in self._ailing for name, count in self._waiting_of.items())

    def take_untold(self, now_ms: int) -> list[Ended]:
        """Notices that an earlier process may have sent, and those that are durably not to be sent."""
        untold, self._untold = self._untold, {}
        for key in untold:
            self._recent.add(key, now_ms)
        return [_ended(one) for one in untold.values()]

    def add(self, notice: Notice, verdict: Reply | None = None) -> None:
        """Take a notice over, unless it is a repeat.

        Args:
            notice: What is owed.
            verdict: How it ends without an attempt; unset: it is to be sent, if there is a place for it.
        """
        key, name = notice.key, notice.aggregator
        if key in self._pending or key in self._untold or key in self._recent:
            return
        if verdict is None and name in self._ailing and self._waiting_of[name] >= WAITING_MAX:
            detail = f"{self._waiting_of[name]} notices wait already for {name}, which does not take them"
            verdict = Reply(Result.FAILED, detail)
        if verdict is None:
            self._wait(key, _Pending(notice))
        else:
            self._pending[key] = _Pending(notice, verdict=verdict)

    def tick(self) -> list[tuple[bytes, Notice]]:
        """The last snapshot is durable: notices, with their keys, that are to be sent now, each by one attempt."""
        armed = [(key, one) for key, one in self._pending.items() if one.state is _State.ARMED]
        released = []
        for key, one in armed:
            if one.verdict is None:
                one.state = _State.RELEASED
                released.append((key, one.notice))
            else:
                self._untold[key] = self._pending.pop(key)
        return released

    def attempted(self, key: bytes, reply: Reply, now_ms: int) -> Ended | None:
        """Note how the attempt of a released notice ended; tells if that was the last one."""
        one = self._pending.get(key)
        if one is None or one.state is not _State.RELEASED:
            raise CrashError(f"a notice was attempted that was not released: {one.notice.id if one else key.hex()}")
        if reply.result is Result.UNSENT:
            self._wait(key, one)
            return None
        one.attempts += 1
        self._judge(one.notice.aggregator, reply.result)
        if reply.result is Result.FAILED and one.attempts < self._terms.attempts:
            one.due_ms = now_ms + self._terms.retry_interval_ms
            self._wait(key, one)
            return None
        del self._pending[key]
        self._recent.add(key, now_ms)
        return Ended(one.notice, reply.result, one.attempts, reply.detail)

    def close(self) -> None:
        """Nothing is released from now on, and nothing that was is without a reply: call it before a clean stop."""
        self._closed = True
        for key, one in self._pending.items():
            if one.state is _State.RELEASED:
                raise CrashError(f"the outbox was closed while a notice was on its way: {one.notice.id}")
            if one.state is _State.ARMED and one.verdict is None:
                self._wait(key, one)

    def snapshot(self, now_ms: int) -> bytes:
        """Arm what is due; sealed bytes of everything pending. Only `tick` may follow from it being durable."""
        if not self._closed:
            self._arm(now_ms)
        entries = [
            *(_Entry(one.notice, one.attempts, one.due_ms, True, one.verdict) for one in self._untold.values()),
            *(
                _Entry(one.notice, one.attempts, one.due_ms, one.state is not _State.WAITING, one.verdict)
                for one in self._pending.values()
            ),
        ]
        return encode_versioned(_Snapshot(VERSION, entries, self._recent.dump(now_ms)))

    def _arm(self, now_ms: int) -> None:
        at_risk = Counter(
            one.notice.aggregator
            for one in self._pending.values()
            if one.state is not _State.WAITING and one.verdict is None
        )
        for one in self._due(now_ms):
            name = one.notice.aggregator
            if one.verdict is not None:
                one.state = _State.ARMED
            elif at_risk[name] < (ARMED_WHILE_AILING_MAX if name in self._ailing else ARMED_MAX):
                at_risk[name] += 1
                self._waiting_of[name] -= 1
                one.state = _State.ARMED

    def _due(self, now_ms: int) -> Iterable[_Pending]:
        return (one for one in self._pending.values() if one.state is _State.WAITING and one.due_ms <= now_ms)

    def _wait(self, key: bytes, one: _Pending) -> None:
        one.state = _State.WAITING
        self._pending[key] = one
        self._waiting_of[one.notice.aggregator] += 1

    def _judge(self, aggregator: str, result: Result) -> None:
        if result in {Result.DELIVERED, Result.REFUSED}:
            self._failures[aggregator] = 0
            self._ailing.discard(aggregator)
        elif result in {Result.FAILED, Result.UNCONFIRMED}:
            self._failures[aggregator] += 1
            if self._failures[aggregator] >= AILING_AFTER:
                self._ailing.add(aggregator)

    def _restore(self, snapshot: _Snapshot) -> None:
        self._recent = RecentKeys(snapshot.recent)
        for entry in snapshot.entries:
            one = _Pending(entry.notice, entry.attempts, entry.due_ms, verdict=entry.verdict)
            if entry.may_be_sent or entry.verdict is not None:
                self._untold[entry.notice.key] = one
            else:
                self._wait(entry.notice.key, one)


def _ended(one: _Pending) -> Ended:
    if one.verdict is not None:
        return Ended(one.notice, one.verdict.result, one.attempts, one.verdict.detail)
    detail = "the process ended after it may have sent the notice, and before it knew the answer"
    return Ended(one.notice, Result.UNCONFIRMED, one.attempts + 1, detail)
