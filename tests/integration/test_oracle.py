"""The oracle must notice what it is for: each broken promise about decisions is planted once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from datastreamx.model.auction import Decision, Opportunity, Outcome
from datastreamx.model.events import Consent
from tests.builders import config, decision, opportunity, outcome, winning_ad
from tests.integration.oracle import Decided, Expected, _decision_differences

AGREED = Consent(history=True)
ADS = (winning_ad(place=0), winning_ad(place=1))
SOUND = decision(outcome(code=Outcome.WON, ads_won=2), ads=ADS, history_allowed=True)


def found(told: Decision, because: Opportunity | None = None, *, copies: int = 1) -> list[str]:
    """Differences of a log that holds one decision, in words."""
    because = because or opportunity(consent=AGREED)
    log = Decided({told.auction_id: (told, 0)})
    log.copies[told.auction_id] = copies
    expected = Expected(opportunities={because.auction_id: because})
    return [difference.text for difference in _decision_differences(config(), expected, log)]


def test_sound_decision_differs_in_nothing() -> None:
    assert found(SOUND) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "no_bid"}, "no_bid with 2 ads"),
        ({"ads": (ADS[1], ADS[0])}, "has the pushes"),
        ({"ads": (ADS[0], ADS[0])}, "has the pushes"),
        ({"push_id": "push-x"}, "has the push push-x"),
        ({"ads": ADS[:1]}, "its outcomes say otherwise"),
        ({"decided_ms": SOUND.deadline_ms + 1}, "1 ms after its deadline"),
        ({"channel_id": "ch9"}, "opportunities decided"),
        ({"outcomes": ()}, "has outcomes of []"),
    ],
    ids=str,
)
def test_broken_promise_is_named(changes: dict[str, Any], words: str) -> None:
    assert any(words in difference for difference in found(msgspec.structs.replace(SOUND, **changes)))


@pytest.mark.parametrize("consent", [None, Consent(), Consent(gdpr=0)])
def test_viewing_history_that_left_without_consent_is_named(consent: Consent | None) -> None:
    (difference,) = found(SOUND, opportunity(consent=consent))
    assert "without consent" in difference


def test_second_record_and_late_auction_are_named() -> None:
    assert any("2 records" in difference for difference in found(SOUND, copies=2))
    assert any("had expired" in difference for difference in found(SOUND, opportunity(consent=AGREED, expired=True)))
