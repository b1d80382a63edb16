"""What the routes that go before `bqemulator`'s hand on to them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request


class EditedRequest(Request):
    """A request of which stock's endpoints read nothing but the JSON body."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__({"type": "http"})
        self._body_to_read = body

    async def json(self) -> dict[str, Any]:
        """The edited body."""
        return self._body_to_read
