"""What a test means: its exit code, one line, and what to do. Pure."""

from __future__ import annotations

from typing import NamedTuple

from datastreamx.cli.aggregator.report import CasesTold, ProbeTold, Trouble
from datastreamx.cli.format import cpm, plural
from datastreamx.cli.output import Exit
from datastreamx.model.auction import Outcome

# OpenRTB 2.6, list 5.24 in AdCOM 1.0, as far as it tells what the two sides have to talk about.
NO_BID_REASONS = {
    0: "unknown error",
    1: "technical error",
    2: "invalid request",
    3: "known web crawler",
    4: "suspected non-human traffic",
    5: "proxy or data centre address",
    6: "unsupported device",
    7: "blocked publisher or site",
    8: "unmatched user",
    9: "daily user cap met",
    10: "daily domain cap met",
}
_DISHONEST = frozenset({1, 2})
"""No-bids that say that something does not work."""

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_TOO_MANY_REQUESTS = 429
_REDIRECTS, _CLIENT_ERRORS, _SERVER_ERRORS = 300, 400, 500


class Conclusion(NamedTuple):
    """How the command ends."""

    exit: Exit
    verdict: str
    remedy: str = ""


def conclude(name: str, cases: CasesTold, probe: ProbeTold | None) -> Conclusion:
    """Failing cases first: what an adapter does with a live reply means little when it does not do what it should."""
    of_probe = None if probe is None else _of_probe(probe)
    if cases.failures:
        told = f"; the probe: {of_probe.verdict}" if of_probe is not None else ""
        return Conclusion(
            Exit.FAILED,
            f"{name}: {', '.join(failure.case for failure in cases.failures)} failed{told}",
            f"compare the diffs with aggregators/{cases.dialect}/README.md, then repair the adapter or the case",
        )
    if of_probe is None:
        return Conclusion(Exit.OK, f"{name}: all {cases.total} cases pass, nobody was asked")
    return Conclusion(of_probe.exit, f"{name}: {of_probe.verdict}", of_probe.remedy)


def _of_probe(probe: ProbeTold) -> Conclusion:  # noqa: PLR0911  one per way to end
    after = "" if probe.phases is None else f" after {probe.phases.total_us / 1000:.1f} ms"
    if probe.answered_late:
        return _late(probe)
    match probe.outcome:
        case Outcome.WON.label:
            return Conclusion(Exit.OK, f"{_able(probe)}{after}")
        case Outcome.NO_BID.label:
            return _no_bid(probe, after)
        case Outcome.TIMEOUT.label:
            return _silence(probe)
        case Outcome.UNREACHABLE.label:
            trouble = probe.trouble or "other"
            return Conclusion(
                Exit.UNREACHABLE, f"{_TROUBLES[trouble]}: {probe.detail}", _remedy_of_trouble(trouble, probe)
            )
        case Outcome.NO_TIME.label:
            return Conclusion(
                Exit.CONFIG,
                f"it is never asked: {probe.detail}, auction.min_call_ms needs more",
                f"raise aggregators.{probe.aggregator}.timeout_ms or lower auction.min_call_ms",
            )
        case Outcome.ERROR.label:
            return Conclusion(Exit.FAILED, f"error{after}: {probe.detail}", _remedy_of_status(probe))
    told = f"{plural(len(probe.bids), 'bid')}, none can win" if probe.bids else probe.outcome
    why = probe.bids[0].detail if probe.bids else probe.detail
    remedy = _REMEDIES.get(probe.outcome, _READ_THE_DIALECT).format(name=probe.aggregator, currency=probe.currency)
    return Conclusion(Exit.FAILED, f"{told}{after}: {why}", remedy)


def _able(probe: ProbeTold) -> str:
    able = [bid for bid in probe.bids if bid.can_win]
    share = f"{len(able)} of {plural(len(probe.bids), 'bid')}" if len(able) < len(probe.bids) else ""
    best = cpm(able[0].price_micros or 0, probe.currency)
    return f"{share or plural(len(able), 'bid')} can win, the best at {best} CPM"


def _no_bid(probe: ProbeTold, after: str) -> Conclusion:
    if probe.no_bid_reason is None:
        return Conclusion(Exit.OK, f"an honest no-bid{after}")
    reason = f"reason {probe.no_bid_reason} ({NO_BID_REASONS.get(probe.no_bid_reason, 'see OpenRTB')})"
    if probe.no_bid_reason in _DISHONEST:
        remedy = "show the request above to the partner, with the time and the auction id"
        return Conclusion(Exit.FAILED, f"no bid{after}, {reason}", remedy)
    return Conclusion(Exit.OK, f"an honest no-bid{after}, {reason}")


def _late(probe: ProbeTold) -> Conclusion:
    phases = probe.phases
    total_ms = 0.0 if phases is None else phases.total_us / 1000
    told = "a bid" if probe.late_outcome == Outcome.WON.label else probe.late_outcome
    verdict = f"too late: {told} after {total_ms:.1f} ms, {probe.timeout_ms} ms are allowed"
    opening_ms = 0.0 if phases is None else ((phases.dns_us or 0) + (phases.connect_us or 0)) / 1000
    if total_ms - opening_ms <= probe.timeout_ms:
        remedy = (
            f"without opening a connection ({opening_ms:.1f} ms) it is in time, and a flow keeps "
            f"aggregators.{probe.aggregator}.warm_connections open: ask again, and see that it is not 0"
        )
    else:
        remedy = f"raise aggregators.{probe.aggregator}.timeout_ms, or ask the partner for a nearer endpoint"
    return Conclusion(Exit.FAILED, verdict, remedy)


def _silence(probe: ProbeTold) -> Conclusion:
    begun = probe.phases is not None and probe.phases.first_byte_us is not None
    verdict = f"no {'complete ' if begun else ''}answer within {probe.timeout_ms} ms, nor in the grace period"
    connected = probe.phases is not None and (probe.phases.connect_us is not None or probe.phases.connection_reused)
    if connected:
        remedy = f"raise aggregators.{probe.aggregator}.timeout_ms to see how long it takes, then ask the partner why"
    else:
        remedy = (
            "no connection came about: check host and port of the url, and whether a firewall drops what goes there "
            "(`datastreamx doctor`)"
        )
    return Conclusion(Exit.UNREACHABLE, verdict, remedy)


_TROUBLES: dict[Trouble, str] = {
    "name": "the name does not resolve",
    "refused": "nobody listens there",
    "untrusted": "its certificate is not trusted",
    "tls": "the TLS handshake failed",
    "closed": "the connection ended before the reply did",
    "other": "no exchange came about",
}


def _remedy_of_trouble(trouble: Trouble, probe: ProbeTold) -> str:
    path = f"aggregators.{probe.aggregator}"
    match trouble:
        case "name":
            return f"check the host in {path}.url, and the DNS here"
        case "refused":
            return f"check host and port in {path}.url; is the partner's server up?"
        case "untrusted":
            return f"set {path}.ssl_ca_file to the authority that signed it, or have the partner install a public one"
        case "tls":
            return (
                f"check that {path}.url is really https there; a partner that demands a client certificate needs "
                f"{path}.ssl_certificate_file and ssl_key_file"
            )
        case _:
            return "ask again; if it stays, show the time and the auction id to the partner"


def _remedy_of_status(probe: ProbeTold) -> str:  # noqa: PLR0911  one per kind of status
    path = f"aggregators.{probe.aggregator}"
    status = next((one.reply.status for one in reversed(probe.exchanges) if one.reply is not None), None)
    if status is None:
        return "the adapter failed: reproduce it with a case, then repair the adapter"
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        return f"the partner does not accept who we are: check the credentials in {path}.headers or in its url"
    if status == _NOT_FOUND:
        return f"check the path in {path}.url"
    if status == _TOO_MANY_REQUESTS:
        return "the partner limits how often it is asked: talk about the rate that production needs"
    if status >= _SERVER_ERRORS:
        return "the partner's server failed: show the time and the auction id to the partner"
    if status >= _CLIENT_ERRORS:
        return f"the partner refuses the request; its reply may say why, else check {path}.options"
    if status >= _REDIRECTS:
        return f"redirects are not followed: write the final address into {path}.url"
    return _READ_THE_DIALECT


_READ_THE_DIALECT = "compare the reply above with the dialect's README in aggregators/, and show it to the partner"
_REMEDIES = {
    Outcome.CURRENCY.label: "set auction.rates_file, or have the partner bid in {currency}",
    Outcome.BELOW_FLOOR.label: "`--floor 0` asks without a floor; if bids stay so low, see auction.floor_micros",
    Outcome.CREATIVE_REJECTED.label: "compare the ad with the slot (`--slot-s`) and with auction.creative_hosts",
    Outcome.ADVERTISER_BLOCKED.label: "see auction.blocked_advertisers; the request names them, so tell the partner",
    Outcome.OVERSIZE.label: "have the partner send less, or raise auction.max_response_bytes",
    Outcome.UNSUITABLE.label: "choose another slot with `--slot-s`, or see the options in aggregators.{name}.options",
}
