"""The ads flow is killed at random moments while auctions run: one decision each, one push each, each notice once.

`DATASTREAMX_KILLS` says how often, `DATASTREAMX_KILL_SEED` chooses viewers, moments and misdeeds. The seed of a run and
what happened in it are printed (`pytest -s`, or on failure).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from confluent_kafka import Message

from datastreamx.model.auction import Decision
from datastreamx.wire.decisions import decode_decision, encode_decision
from simulator.aggregators.notices import Notice
from tests.integration.brokers import Broker
from tests.integration.kill_audit import (
    Aftermath,
    figures,
    heard_of,
    wrong_decisions,
    wrong_notices,
    wrong_pushes,
    wrong_repeats,
)
from tests.integration.kill_campaign import Campaign, running_aggregators

KILLS = int(os.environ.get("DATASTREAMX_KILLS", "6"))
SEED = int(os.environ.get("DATASTREAMX_KILL_SEED", "1"))

pytestmark = [pytest.mark.integration, pytest.mark.campaign, pytest.mark.timeout(300 + 30 * KILLS)]


@pytest.fixture(scope="module")
def left(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    directory = tmp_path_factory.mktemp("kills")
    print(f"DATASTREAMX_KILLS={KILLS} DATASTREAMX_KILL_SEED={SEED}, logs in {directory}")  # noqa: T201  to repeat it
    with (
        running_aggregators(directory, SEED) as aggregators,
        Campaign(directory, broker, aggregators, SEED) as campaign,
    ):
        aftermath = campaign.run(KILLS)
    print(json.dumps(figures(aftermath), indent=2))  # noqa: T201  the result of a long run
    return aftermath


def test_every_opportunity_has_one_decision_and_no_ad_comes_after_its_deadline(left: Aftermath) -> None:
    assert wrong_decisions(left) == [], f"seed {SEED}"


def test_no_auction_is_decided_twice(left: Aftermath) -> None:
    # A produce request that is under way at a kill could end up behind the decision of the next process. But that one
    # reads the log only after it has started, and by then the request has long been served.
    assert figures(left)["second records"] == [], f"seed {SEED}"


def test_second_record_of_an_auction_would_push_the_same(left: Aftermath) -> None:
    assert wrong_repeats(left) == [], f"seed {SEED}"


def test_no_box_sees_two_pushes_of_an_opportunity(left: Aftermath) -> None:
    assert wrong_pushes(left) == [], f"seed {SEED}"


def test_every_notice_is_heard_at_most_once_and_none_is_unaccounted_for(left: Aftermath) -> None:
    assert wrong_notices(left) == [], f"seed {SEED}"


def test_kills_met_auctions_in_flight_and_decisions_already_in_the_log(left: Aftermath) -> None:
    assert len(left.kills) >= KILLS
    assert sum(kill.in_flight or 0 for kill in left.kills) > 0, f"seed {SEED}"
    assert sum(count for attempt, count in left.attempts.items() if attempt > 1) > 0, f"seed {SEED}"
    assert left.reused > 0, f"seed {SEED}"
    assert left.displayed, f"seed {SEED}"
    assert {name.split("/")[1] for name in left.owed} == {"win", "loss", "billing"}, f"seed {SEED}"


Check = Callable[[Aftermath], list[str]]
Spoil = Callable[[Aftermath], Aftermath]


def edit_a_winner(edit: Callable[[Decision], Decision], *, keep: bool = False) -> Spoil:
    """Change a decision with ads; with `keep` the changed one is another record behind it."""

    def spoil(left: Aftermath) -> Aftermath:
        at = next(n for n, message in enumerate(left.decisions) if decoded(message).ads)
        message = left.decisions[at]
        changed = Message(
            value=encode_decision(edit(decoded(message))),
            partition=message.partition(),
            offset=10**9 if keep else message.offset(),
            timestamp=message.timestamp(),
        )
        records = [*left.decisions, changed] if keep else [*left.decisions[:at], changed, *left.decisions[at + 1 :]]
        return replace(left, decisions=records)

    return spoil


def decoded(message: Message) -> Decision:
    return decode_decision(message.value() or b"")


def without_ads(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, ads=(), push_id=None, status="no_bid")


def too_late(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, decided_ms=decision.deadline_ms + 1)


def of_another_box(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, box_id="stb-other")


def lose_a_decision(left: Aftermath) -> Aftermath:
    return replace(left, decisions=left.decisions[1:])


def invent_a_decision(left: Aftermath) -> Aftermath:
    decision = msgspec.structs.replace(decoded(left.decisions[0]), auction_id="0" * 32)
    message = Message(value=encode_decision(decision), partition=0, offset=10**9)
    return replace(left, decisions=[*left.decisions, message])


def lose_an_event(left: Aftermath) -> Aftermath:
    return replace(left, sent=left.sent + 1)


def display_another_push(left: Aftermath) -> Aftermath:
    return replace(left, displayed={**left.displayed, "push-other": next(iter(left.displayed.values()))})


def lose_a_push(left: Aftermath) -> Aftermath:
    return replace(left, pushes=left.pushes - Counter([next(iter(left.pushes))]))


def edit_a_heard_notice(edit: Callable[[Notice], list[Notice]], event: str) -> Spoil:
    def spoil(left: Aftermath) -> Aftermath:
        told = {name: [*notices] for name, notices in left.told.items()}
        for name, notice in heard_of(left.told).items():
            if notice.event == event and name not in left.letters:
                notices = told[name.split("/")[2]]
                at = notices.index(notice)
                notices[at : at + 1] = edit(notice)
                break
        return replace(left, told=told)

    return spoil


def changed(**changes: object) -> Callable[[Notice], list[Notice]]:
    return lambda notice: [msgspec.structs.replace(notice, **changes)]


SPOILT: dict[str, tuple[Check, Spoil]] = {
    "lost-decision": (wrong_decisions, lose_a_decision),
    "decision-about-nothing": (wrong_decisions, invent_a_decision),
    "decision-for-another-box": (wrong_decisions, edit_a_winner(of_another_box)),
    "ad-after-its-deadline": (wrong_decisions, edit_a_winner(too_late)),
    "lost-event": (wrong_decisions, lose_an_event),
    "second-record-without-the-push": (wrong_repeats, edit_a_winner(without_ads, keep=True)),
    "push-beside-the-first-record": (wrong_pushes, edit_a_winner(without_ads)),
    "second-push": (wrong_pushes, display_another_push),
    "lost-push": (wrong_pushes, lose_a_push),
    "notice-heard-twice": (wrong_notices, edit_a_heard_notice(changed(count=2), "billing")),
    "lost-notice": (wrong_notices, edit_a_heard_notice(lambda _: [], "loss")),
    "win-of-another-bid": (wrong_notices, edit_a_heard_notice(changed(bid="other"), "win")),
    "loss-told-as-win": (wrong_notices, edit_a_heard_notice(changed(event="win"), "loss")),
    "wrong-price": (wrong_notices, edit_a_heard_notice(changed(price="0.01"), "win")),
}


@pytest.mark.parametrize(("check", "spoil"), SPOILT.values(), ids=SPOILT.keys())
def test_audit_finds_a_planted_fault(left: Aftermath, check: Check, spoil: Spoil) -> None:
    assert len(check(spoil(left))) > len(check(left))
