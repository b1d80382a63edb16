"""What the boxes of a fleet report, as a pure function of a seed, event by event in time order.

Whether a box is on: it compares the daily curve with a number drawn for its present mood, so at any time exactly the
curve's share of boxes is on in expectation, and moods decide for how long. A box's randomness follows from (seed, box)
alone, so a larger fleet repeats a smaller one and adds to it.

A box takes about 190 bytes: 68 in arrays, its id, and one heap entry, which holds its next action.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from heapq import heapify, heapreplace

from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from simulator.fleet.breaks import BreakSchedule
from simulator.fleet.consent import CONSENTS, consent_index
from simulator.fleet.distributions import ChannelChoice, DailyCurve, LogLinearQuantiles
from simulator.fleet.draws import GAMMA, MASK64, UNIT, draw, mix, stream_seed, uniform, unit
from simulator.fleet.parameters import Behaviour
from simulator.fleet.timeline import Timeline

MAX_BOXES = 1 << 22
_BOX_BITS = 22
_BOX_MASK = MAX_BOXES - 1
_NEVER = 1 << 62
_OFF = -1
_BOOTING = -2
_ZAP_QUANTILE = 0.25


def box_name(box: int) -> str:
    """Raw id of box number `box`."""
    return f"stb-{box:06d}"


def box_number(box_id: str, boxes: int) -> int | None:
    """Invert `box_name`; `None` for a box that is not one of the first `boxes`."""
    digits = box_id.removeprefix("stb-")
    if not digits.isdecimal():
        return None
    box = int(digits)
    return box if box < boxes and box_name(box) == box_id else None


class Fleet:
    """The boxes. Not thread-safe.

    Args:
        seed: Chooses the viewers; equal seeds give equal fleets.
        boxes: How many, at most `MAX_BOXES`.
        timeline: Maps behaviour time to event time; may be replaced by one that `slipped` between calls.
        first_seq: Where the boxes' counters begin. Whoever starts a fleet again on the same topic begins above all
            earlier values, or its events are taken for duplicates.

    Raises:
        ValueError: `boxes` is not between 1 and `MAX_BOXES`.
    """

    def __init__(
        self, seed: int, boxes: int, timeline: Timeline, behaviour: Behaviour | None = None, *, first_seq: int = 0
    ) -> None:
        if not 1 <= boxes <= MAX_BOXES:
            raise ValueError(f"boxes is {boxes}, it must be between 1 and {MAX_BOXES}")
        self.timeline = timeline
        self.behaviour = behaviour = behaviour or Behaviour()
        self.boxes = boxes
        self.boxes_on = 0
        self._start = timeline
        self._moods_seed = stream_seed(seed, "moods")
        self._breaks = BreakSchedule(seed, behaviour)
        self._choice = ChannelChoice(behaviour.channels, behaviour.zipf_exponent)
        self._curve = DailyCurve(behaviour.watching_by_hour)
        self._stay = LogLinearQuantiles(behaviour.session_quantiles_s)
        self._channel_ids = [f"ch{channel + 1:02d}" for channel in range(behaviour.channels)]
        self._box_ids = [box_name(box) for box in range(boxes)]

        consent_seed, share = stream_seed(seed, "consent"), behaviour.consent_share
        self._consent = bytes(consent_index(uniform(consent_seed, box), share) for box in range(boxes))
        viewers_seed = stream_seed(seed, "viewers")
        self._random = array("Q", (draw(viewers_seed, box) for box in range(boxes)))
        self._seq = array("q", [first_seq]) * boxes
        self._channel = array("h", [_OFF]) * boxes
        self._zapping = bytearray(boxes)
        self._break_number = array("q", [0]) * boxes
        self._off_since = array("q", [0]) * boxes
        # The next time of each kind of action; the heap holds the least of them.
        never = array("q", [_NEVER]) * boxes
        self._tune_at, self._break_at, self._heartbeat_at = never[:], never[:], never[:]
        spread = behaviour.start_spread_ms * timeline.speed_up
        start = timeline.behaviour_ms
        self._power_at = array("q", (start + int(self._uniform(box) * spread) for box in range(boxes)))
        for box in range(boxes):
            self._zapping[box] = self._uniform(box) < _ZAP_QUANTILE
        self._heap = [at << _BOX_BITS | box for box, at in enumerate(self._power_at)]
        heapify(self._heap)

    @property
    def next_ms(self) -> int:
        """Behaviour time of the next action."""
        return self._heap[0] >> _BOX_BITS

    def advance(self, until_ms: int) -> Iterator[BoxEvent]:
        """Let viewers act until just before behaviour time `until_ms`; yields the events in time order.

        An iterator that is dropped half-way loses nothing: the next call goes on behind the last event yielded.
        """
        heap = self._heap
        limit = until_ms << _BOX_BITS
        power_at, tune_at, break_at, heartbeat_at = self._power_at, self._tune_at, self._break_at, self._heartbeat_at
        interval = self.behaviour.heartbeat_ms
        while heap[0] < limit:
            box = heap[0] & _BOX_MASK
            at = heap[0] >> _BOX_BITS
            event: BoxEvent | None
            if at == power_at[box]:
                event = self._check_power(box, at)
            elif at == tune_at[box]:
                event = self._tune(box, at)
            elif at == break_at[box]:
                event = self._report_break(box, at)
            else:
                heartbeat_at[box] = at + interval
                seq = self._next_seq(box)
                event = Heartbeat(
                    event_id=f"{box:x}-{seq:x}",
                    box_id=self._box_ids[box],
                    seq=seq,
                    event_time_ms=self.timeline.to_event_ms(at),
                )
            following = min(power_at[box], tune_at[box], break_at[box], heartbeat_at[box])
            heapreplace(heap, following << _BOX_BITS | box)
            if event is not None:
                yield event

    def ad_shown(self, box: int, *, event_time_ms: int, push_id: str, ad_id: str, shown_ms: int) -> AdShown:
        """The box's next event: the display of a pushed ad ended at `event_time_ms`."""
        seq = self._next_seq(box)
        return AdShown(
            event_id=f"{box:x}-{seq:x}",
            box_id=self._box_ids[box],
            seq=seq,
            event_time_ms=event_time_ms,
            push_id=push_id,
            ad_id=ad_id,
            shown_ms=shown_ms,
        )

    def is_on(self, box: int) -> bool:
        """Whether the box is switched on."""
        return self._channel[box] != _OFF

    def consent(self, box: int) -> Consent | None:
        """What the box's viewer allows, once and for all; `None` if the box does not tell."""
        return CONSENTS[self._consent[box]]

    def off_since_ms(self, box: int) -> int | None:
        """Event time at which the box went into standby, `None` while it is on."""
        return self._off_since[box] if self._channel[box] == _OFF else None

    def _uniform(self, box: int) -> float:
        state = (self._random[box] + GAMMA) & MASK64
        self._random[box] = state
        return (mix(state) >> 11) * UNIT

    def _next_seq(self, box: int) -> int:
        seq = self._seq[box]
        self._seq[box] = seq + 1
        return seq

    def _check_power(self, box: int, at: int) -> Power | None:
        mood_ms = self.behaviour.mood_ms
        phase = draw(self._moods_seed, box) % mood_ms
        mood = (at + phase) // mood_ms
        level = unit(draw(self._moods_seed, box, mood))
        wants_on = self._curve.share(at) > level
        mood_ends = (mood + 1) * mood_ms - phase
        self._power_at[box] = self._curve.next_crossing(level, at, mood_ends)
        if wants_on == (self._channel[box] != _OFF):
            return None
        if wants_on:
            self.boxes_on += 1
            self._channel[box] = _BOOTING
            self._tune_at[box] = at + self.behaviour.boot_ms
            self._heartbeat_at[box] = at + self.behaviour.heartbeat_ms
        else:
            self.boxes_on -= 1
            self._channel[box] = _OFF
            self._off_since[box] = self.timeline.to_event_ms(at)
            self._tune_at[box] = self._break_at[box] = self._heartbeat_at[box] = _NEVER
        seq = self._next_seq(box)
        return Power(
            event_id=f"{box:x}-{seq:x}",
            box_id=self._box_ids[box],
            seq=seq,
            event_time_ms=self.timeline.to_event_ms(at),
            state="on" if wants_on else "standby",
        )

    def _tune(self, box: int, at: int) -> Tune:
        current = self._channel[box]
        point = self._uniform(box)
        channel = self._choice.other(current, point) if current >= 0 else self._choice.first(point)
        self._channel[box] = channel
        self._tune_at[box] = at + self._stay_ms(box)
        self._plan_break(box, channel, at)
        seq = self._next_seq(box)
        return Tune(
            event_id=f"{box:x}-{seq:x}",
            box_id=self._box_ids[box],
            seq=seq,
            event_time_ms=self.timeline.to_event_ms(at),
            channel_id=self._channel_ids[channel],
            consent=self.consent(box),
        )

    def _stay_ms(self, box: int) -> int:
        """Length of the stay on a channel. Zaps come in bursts, yet every single draw is uniform."""
        if self._uniform(box) >= self.behaviour.zap_persistence:
            probability = self._uniform(box)
            self._zapping[box] = probability < _ZAP_QUANTILE
        elif self._zapping[box]:
            probability = self._uniform(box) * _ZAP_QUANTILE
        else:
            probability = _ZAP_QUANTILE + self._uniform(box) * (1 - _ZAP_QUANTILE)
        return int(self._stay.value(probability) * 1000)

    def _plan_break(self, box: int, channel: int, at: int) -> None:
        behaviour = self.behaviour
        delay = int(self._uniform(box) * behaviour.break_spread_ms)
        coming = self._breaks.next_after(channel, at + behaviour.break_lead_ms - delay)
        self._break_number[box] = coming.number
        self._break_at[box] = coming.start_ms - behaviour.break_lead_ms + delay

    def _report_break(self, box: int, at: int) -> AdBreak:
        channel = self._channel[box]
        current = self._breaks.get(channel, self._break_number[box])
        # A delay drawn shorter than this one's must not bring the same break again.
        self._plan_break(box, channel, max(at, current.start_ms))
        seq = self._next_seq(box)
        shrink = self.timeline.shrink
        channel_id = self._channel_ids[channel]
        return AdBreak(
            event_id=f"{box:x}-{seq:x}",
            box_id=self._box_ids[box],
            seq=seq,
            event_time_ms=self.timeline.to_event_ms(at),
            # By the fleet's start, not by the slipping timeline: all boxes of the channel must name it alike.
            break_id=f"{channel_id}-{self._start.event_ms + current.start_ms - self._start.behaviour_ms}",
            channel_id=channel_id,
            starts_in_ms=shrink(current.start_ms - at),
            # Not shrunk: this is what is sold, and no speed-up makes an ad fit into less.
            duration_ms=current.duration_ms,
            consent=self.consent(box),
        )
