"""What a set-top box reports.

One struct per event type; msgspec chooses it by the field `type`. Unknown fields are ignored, so a newer box may say
more than we read; an unknown type is a dead letter, because dropping it in silence would hide a roll-out error.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

# Identifiers come from outside: bound them, so that no single event can blow up state, logs or an aggregator's request.
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
# 2000-01-01 to 2100-01-01: anything outside is a broken clock, and BigQuery would refuse the partition anyway.
EpochMillis = Annotated[int, msgspec.Meta(ge=946_684_800_000, le=4_102_444_800_000)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
DurationMillis = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]


class Consent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the viewer allows, as the box knows it. The strings are passed on unread, as their frameworks demand.

    Attributes:
        history: The viewer agrees that viewing history (previous channel, last ad) is used for ads.
        gdpr: 1 when the GDPR applies, 0 when not, `None` unknown.
        tcf: Consent string of IAB's Transparency and Consent Framework.
        gpp: String of IAB's Global Privacy Platform.
        gpp_sid: Sections of `gpp` that apply.
        us_privacy: U.S. privacy string, e.g. `1YNN`.
        lmt: 1 when the viewer limits ad tracking.
    """

    history: bool = False
    gdpr: Literal[0, 1] | None = None
    tcf: Annotated[str, msgspec.Meta(max_length=2_048)] | None = None
    gpp: Annotated[str, msgspec.Meta(max_length=4_096)] | None = None
    gpp_sid: Annotated[tuple[Annotated[int, msgspec.Meta(ge=-1, le=255)], ...], msgspec.Meta(max_length=16)] | None = (
        None
    )
    us_privacy: Annotated[str, msgspec.Meta(max_length=16)] | None = None
    lmt: Literal[0, 1] | None = None


class _BoxEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event carries.

    Attributes:
        event_id: Unique id that the box gave the event.
        box_id: Raw id of the box; personal data together with what it watches (never in logs, metrics or facts).
        seq: Counter of the box; a repeated value is a duplicate, a jump is a gap.
        event_time_ms: When it happened by the box's clock, milliseconds since the epoch.
    """

    event_id: Identifier
    box_id: Identifier
    seq: Sequence
    event_time_ms: EpochMillis


class Tune(_BoxEvent, frozen=True, kw_only=True, omit_defaults=True, tag="tune"):
    """The viewer tuned the box to a channel.

    Attributes:
        consent: What the viewer allows for ads that follow from this tune; without it, nothing beyond the context.
    """

    channel_id: Identifier
    consent: Consent | None = None


class AdShown(_BoxEvent, frozen=True, kw_only=True, tag="ad_shown"):
    """The box displayed a pushed ad; from here on it is an impression."""

    push_id: Identifier
    ad_id: Identifier
    shown_ms: DurationMillis


class AdBreak(_BoxEvent, frozen=True, kw_only=True, omit_defaults=True, tag="ad_break"):
    """The channel that the box shows goes into an ad break: an opportunity.

    Attributes:
        consent: As in `Tune`.
    """

    break_id: Identifier
    channel_id: Identifier
    starts_in_ms: DurationMillis
    duration_ms: DurationMillis
    consent: Consent | None = None


class Power(_BoxEvent, frozen=True, kw_only=True, tag="power"):
    """The box was switched on or into standby."""

    state: Literal["on", "standby"]


class Heartbeat(_BoxEvent, frozen=True, kw_only=True, tag="heartbeat"):
    """The box is alive; keeps event time moving while nobody touches the remote control."""


BoxEvent = Tune | AdShown | AdBreak | Power | Heartbeat
TYPE_NAMES: dict[type, str] = {kind: str(kind.__struct_config__.tag) for kind in get_args(BoxEvent)}
"""Name of each event type on the wire, in tables and in metrics."""

EVENT_TYPES = tuple(TYPE_NAMES.values())
