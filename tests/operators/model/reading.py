"""What the compiled state machine holds, in the terms of the model."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from datastreamx.config import Config
from datastreamx.model import identity
from datastreamx.model.keygroup import KeyGroup
from operators.viewing.kernel import NO_OFFSET, NONE
from operators.viewing.snapshot import decode_snapshot
from operators.viewing.state import KeyGroupState
from tests.operators.model.box import Box, Session
from tests.operators.model.state import KeyGroupModel


class Viewed(NamedTuple):
    """State of a key group: what counts of it, for bytes depend on how the log was cut."""

    watermark_ms: int
    boxes: dict[str, Box]


def viewed(state: KeyGroupState | KeyGroupModel) -> Viewed:
    """All of a state."""
    if isinstance(state, KeyGroupModel):
        return Viewed(state.watermark_ms, state.boxes)
    found = {box_id: _box(state, slot) for box_id, slot in state.slots.items() if state.boxes["is_present"][slot]}
    assert len(found) == len(state)
    return Viewed(int(state.heads["watermark_ms"][0]), found)


def viewed_in(snapshot: bytes, config: Config) -> Viewed:
    """What a snapshot holds."""
    return viewed(decode_snapshot(snapshot, partial(state_of, config)))


def state_of(config: Config, key_group: KeyGroup) -> KeyGroupState:
    """State of a key group that has seen nothing, as the ads flow makes it."""
    return KeyGroupState(key_group, config.viewing, config.topics.events, _pseudonym(config))


def model_of(config: Config, key_group: KeyGroup) -> KeyGroupModel:
    """The same of the model."""
    return KeyGroupModel(key_group, config.viewing, config.topics.events, _pseudonym(config))


def _pseudonym(config: Config) -> partial[str]:
    return partial(identity.box_key, config.privacy.box_key_secret.reveal().encode())


def _box(state: KeyGroupState, slot: int) -> Box:
    fields = _fields(state, state.boxes, slot)
    armed = fields["tune_offset"] != NO_OFFSET
    fields["box_key"] = f"{fields['key_high']:016x}{fields['key_low']:016x}"
    fields["tune_consent"] = state.consents.get(fields["tune_offset"]) if armed else None
    fields["tune_offset"] = fields["tune_offset"] if armed else None
    fields["standby"] = bool(fields["is_standby"])
    fields["sessions"] = []
    at = fields["first_session"]
    while at != NONE:
        session = _fields(state, state.sessions, at)
        assert session["slot"] == slot
        fields["sessions"].append(Session(**{name: session[name] for name in Session.__struct_fields__}))
        at = session["next"]
    return Box(**{name: fields[name] for name in Box.__struct_fields__})


def _fields(state: KeyGroupState, records: Any, at: int) -> dict[str, Any]:
    fields = dict(zip(records.dtype.names, records[at].tolist(), strict=True))
    named = ("channel", "last_channel", "first_channel", "last_ad")
    return fields | {f"{name}_id": state.names.text(fields[name]) for name in named if name in fields}
