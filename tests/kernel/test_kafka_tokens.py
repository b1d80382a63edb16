from __future__ import annotations

import time
from datetime import UTC, datetime

import google.auth
import pytest

from datastreamx.kafka import google_token_callback


class Credentials:
    """As google-auth has them: `expiry` is UTC, without a time zone."""

    token = "secret"  # noqa: S105  of nobody
    service_account_email = "ads@example.iam.gserviceaccount.com"
    expiry = datetime(2026, 7, 1, 12, 0, 0)  # noqa: DTZ001  see above

    def refresh(self, _request: object) -> None:
        """It is fresh."""


def test_token_of_google_expires_when_it_does_wherever_the_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: (Credentials(), None))
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        token, expiry = google_token_callback()("")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert expiry == datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC).timestamp()
    assert token.count(".") == 2
