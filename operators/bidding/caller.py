"""One call to one aggregator: HTTP, deadline and size limit. Whatever happens is a value, never an exception."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from aggregators.contract import Adapter, HttpCall, HttpReply, ReplyError
from datastreamx.config import AggregatorConfig, AuctionConfig
from datastreamx.model.auction import Bid, BidRequest, Outcome
from operators.bidding.auction import CallResult

_DETAIL_LENGTH = 200


class Caller:
    """Asks one configured aggregator. Lives on the event loop of the auction house.

    Args:
        config: Name, address and headers.
        adapter: The aggregator's dialect.
        auction: Limits.
    """

    def __init__(self, config: AggregatorConfig, adapter: Adapter, auction: AuctionConfig) -> None:
        self.name = config.name
        self._adapter = adapter
        self._headers = {name: secret.reveal() for name, secret in config.headers.items()}
        self._max_response_bytes = auction.max_response_bytes

    async def call(self, session: aiohttp.ClientSession, request: BidRequest) -> CallResult:
        """Ask for bids; returns within `request.tmax_ms`, plus what the event loop is late."""
        started = time.perf_counter_ns()
        called = False
        reply: HttpReply | None = None
        bids: list[Bid] = []
        failure: Outcome | None = None
        detail: str | None = None
        try:
            async with asyncio.timeout(request.tmax_ms / 1000):
                for call in self._adapter.make_requests(request):
                    called = True
                    reply = await self._exchange(session, call)
                    bids += self._adapter.make_bids(call, reply)
        except TimeoutError:
            failure = Outcome.TIMEOUT
        except ReplyError as error:
            failure, detail = error.code, error.detail
        except (aiohttp.ClientError, OSError) as error:
            failure, detail = Outcome.UNREACHABLE, f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - a faulty adapter costs its aggregator the auction, not the flow
            failure, detail = Outcome.ERROR, f"{type(error).__name__}: {error}"
        if not called and failure is None:
            failure, detail = Outcome.UNSUITABLE, "the adapter has no request for this opportunity"
        return CallResult(
            aggregator=self.name,
            called=called,
            failure=failure,
            bids=() if failure is not None else tuple(bids),
            tmax_ms=request.tmax_ms if called else None,
            latency_us=(time.perf_counter_ns() - started) // 1000 if called else None,
            http_status=reply.status if reply else None,
            response_bytes=len(reply.body) if reply else None,
            detail=detail[:_DETAIL_LENGTH] if detail else None,
        )

    async def _exchange(self, session: aiohttp.ClientSession, call: HttpCall) -> HttpReply:
        # A redirect would let a reply choose the host that is called next.
        async with session.request(
            call.method, call.url, data=call.body, headers={**call.headers, **self._headers}, allow_redirects=False
        ) as response:
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > self._max_response_bytes:
                    raise ReplyError(Outcome.OVERSIZE, f"more than {self._max_response_bytes} bytes")
            headers = {name.lower(): value for name, value in response.headers.items()}
            return HttpReply(status=response.status, headers=headers, body=bytes(body))
