"""The switch for faults, which real BigQuery does not have, and what it does to the REST API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.bigquery.faults import Call, FaultInjector, FaultPlan, Method, Spoil

if TYPE_CHECKING:
    from bqemulator.api.dependencies import AppContext
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FAULTS_PATH = "/simulator/v1/faults"
STREAMS_PATH = "/simulator/v1/write-streams"

# How often a hanging request looks whether it may go on.
HANG_POLL_S = 0.1


class ControlRoutes:
    """`GET`, `PUT`, `DELETE` of the fault plan, and `DELETE` of the write streams."""

    def __init__(self, context: AppContext, faults: FaultInjector) -> None:
        self._context = context
        self._faults = faults

    def routes(self) -> list[Route]:
        """Routes that real BigQuery does not have."""
        return [
            Route(FAULTS_PATH, self.get, methods=["GET"]),
            Route(FAULTS_PATH, self.put, methods=["PUT"]),
            Route(FAULTS_PATH, self.delete, methods=["DELETE"]),
            Route(STREAMS_PATH, self.expire_streams, methods=["DELETE"]),
        ]

    async def get(self, _request: Request) -> Response:
        """The plan in force and its counters."""
        return Response(msgspec.json.encode(self._faults.report()), media_type="application/json")

    async def put(self, request: Request) -> Response:
        """Replace the plan."""
        try:
            plan = msgspec.json.decode(await request.body(), type=FaultPlan)
        except msgspec.MsgspecError as error:
            return JSONResponse({"error": {"code": 400, "message": f"bad fault plan: {error}"}}, status_code=400)
        self._faults.replace(plan)
        return await self.get(request)

    async def delete(self, request: Request) -> Response:
        """Stop spoiling."""
        self._faults.replace(FaultPlan())
        return await self.get(request)

    async def expire_streams(self, _request: Request) -> Response:
        """Forget all write streams, as BigQuery does days after their last use; unflushed rows are lost."""
        expired = len(self._context.write_streams.list_active())
        self._context.write_streams.clear()
        return JSONResponse({"expired": expired})


class SpoiledRest:
    """ASGI middleware that applies the `rest` fault to BigQuery's own paths."""

    def __init__(self, app: ASGIApp, faults: FaultInjector) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(("/bigquery/", "/upload/")):
            await self._app(scope, receive, send)
            return
        call = self._faults.count(Method.REST)
        await asyncio.sleep(call.delay_s)
        while not await asyncio.to_thread(self._faults.released, call, HANG_POLL_S):
            pass
        if call.spoil is Spoil.UNAVAILABLE:
            await _UNAVAILABLE(scope, receive, send)
        elif call.spoil is Spoil.EXHAUSTED:
            await _EXHAUSTED(scope, receive, send)
        elif call.spoil is Spoil.DROP_ACK:
            await self._app(scope, receive, _nowhere)
            await _UNAVAILABLE(scope, receive, send)
        elif call.hold_ack:
            await self._answer_later(call, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_later(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, keep)
        self._faults.carried_out(call)
        while not await asyncio.to_thread(self._faults.answered, call, HANG_POLL_S):
            pass
        for message in answer:
            await send(message)


def _error(code: int, reason: str, status: str, message: str) -> JSONResponse:
    error = {"domain": "global", "reason": reason, "message": message}
    return JSONResponse(
        {"error": {"code": code, "message": message, "errors": [error], "status": status}}, status_code=code
    )


_UNAVAILABLE = _error(503, "backendError", "UNAVAILABLE", "injected: unavailable")
_EXHAUSTED = _error(429, "rateLimitExceeded", "RESOURCE_EXHAUSTED", "injected: quota exceeded")


async def _nowhere(_message: Message) -> None:
    """Swallow what the application answers."""
