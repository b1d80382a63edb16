"""Exchange rates: a file that somebody else keeps fresh, and integer conversion between its currencies."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

from datastreamx import metrics
from datastreamx.clock import Clock
from datastreamx.errors import ConfigError
from datastreamx.log import get_logger

LOOK_INTERVAL_S = 10.0
"""How often the file is looked at."""

_HOUR_MS = 3_600_000
# Whoever wrote the file may have a clock slightly ahead of ours.
_MAX_AHEAD_MS = 300_000
_YEAR_2000_MS = 946_684_800_000
_CURRENCY = re.compile(r"[A-Z]{3}")
# Far beyond the weakest and the strongest currency; a rate outside is a slip of the keyboard. They also bound the
# integers that a conversion multiplies.
_MIN_RATE = Decimal("1e-9")
_MAX_RATE = Decimal("1e9")
_MAX_DIGITS = 30

_LOG = get_logger("rates")


@dataclass(frozen=True, slots=True)
class Rates:
    """Exchange rates of one moment.

    Attributes:
        id: Names these rates in decisions: their time, and a hash of the file's content.
        as_of_ms: When they applied, milliseconds since the epoch.
        per_unit: How much of the base currency one unit of a currency is; the base itself has 1.
    """

    id: str
    as_of_ms: int
    per_unit: Mapping[str, Decimal]

    def convert(self, micros: int, source: str, target: str) -> int | None:
        """`micros` of the currency `source` in millionths of `target`; `None` if either has no rate.

        Exact arithmetic, rounded down: nobody is charged a fraction that was not offered.
        """
        worth, price = self.per_unit.get(source), self.per_unit.get(target)
        if worth is None or price is None:
            return None
        worth_numerator, worth_denominator = worth.as_integer_ratio()
        price_numerator, price_denominator = price.as_integer_ratio()
        return micros * worth_numerator * price_denominator // (worth_denominator * price_numerator)


def load_rates(path: Path, base_currency: str, now_ms: int) -> Rates:
    """Read a file of rates, however old they are.

    Args:
        path: TOML: `as_of`, a date and time with its offset, and the table `rates`, base currency per unit.
        base_currency: The auction's currency.
        now_ms: Wall clock; rates from the future are refused, because they would never grow old.

    Raises:
        ConfigError: The file cannot be read, is no TOML, or has problems: all of them are listed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            str(path), [f"cannot be read: {error.strerror or error}; auction.rates_file names it"]
        ) from None
    try:
        raw = tomllib.loads(content.decode(), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # not UTF-8, no TOML, absurd numbers or nesting
        raise ConfigError(str(path), [f"is not complete TOML: {error}; was it written only half?"]) from None
    problems = [f"{key}: unknown key; known are as_of and rates" for key in raw if key not in {"as_of", "rates"}]
    as_of = _read_as_of(raw.get("as_of"), now_ms, problems)
    per_unit = _read_per_unit(raw.get("rates"), base_currency, problems)
    if problems or as_of is None:
        raise ConfigError(str(path), problems)
    rate_id = f"{as_of:%Y-%m-%dT%H:%M:%SZ}-{blake2b(content, digest_size=4).hexdigest()}"
    return Rates(rate_id, _epoch_ms(as_of), MappingProxyType(per_unit))


class RateTable:
    """The rates in use, kept up to date with their file. Not thread-safe: one per event loop.

    The file is read again when it changed. A new version that is broken is reported once in the log, and the last good
    one stays in use until it is too old.

    Args:
        path: The file; `None`: there is none, and nothing can be converted.
        base_currency: The auction's currency.
        max_age_hours: Older rates are not used.
        clock: Wall clock for ages, monotonic clock for the intervals between looks at the file.

    Raises:
        ConfigError: At construction: the file is broken or too old.
    """

    def __init__(self, path: Path | None, base_currency: str, max_age_hours: int, clock: Clock) -> None:
        self._path = path
        self._base_currency = base_currency
        self._max_age_hours = max_age_hours
        self._clock = clock
        self._rates: Rates | None = None
        self._is_stale = False
        self._looked_s = clock.monotonic_s()
        self._seen: tuple[int, ...] | None = None
        if path is not None:
            self._seen = _fingerprint(path)
            now_ms = clock.now_ms()
            self._rates = load_rates(path, base_currency, now_ms)
            if self._age_ms(self._rates) > self._max_age_ms:
                raise ConfigError(str(path), [f"as_of: {self._staleness(self._rates)}; fetch newer ones"])
            self._set_age(self._rates)

    def current(self) -> Rates | None:
        """The rates to convert with; `None` when there is no file or they are too old. Cheap: called for every reply.

        Looks at the file at most every `LOOK_INTERVAL_S` seconds, for which it may block as long as a small local read.
        """
        if self._path is None or self._rates is None:
            return None
        monotonic_s = self._clock.monotonic_s()
        if monotonic_s - self._looked_s >= LOOK_INTERVAL_S:
            self._looked_s = monotonic_s
            self._look(self._path)
        return self._rates if self._age_ms(self._rates) <= self._max_age_ms else None

    @property
    def unusable(self) -> str | None:
        """Why there are no rates to convert with, for a human; `None` when there are."""
        if self._rates is None:
            return "no exchange rates: auction.rates_file is not set"
        if self._age_ms(self._rates) > self._max_age_ms:
            return self._staleness(self._rates)
        return None

    @property
    def _max_age_ms(self) -> int:
        return self._max_age_hours * _HOUR_MS

    def _age_ms(self, rates: Rates) -> int:
        return self._clock.now_ms() - rates.as_of_ms

    def _staleness(self, rates: Rates) -> str:
        return f"the exchange rates {rates.id} are older than auction.rates_max_age_hours = {self._max_age_hours}"

    def _look(self, path: Path) -> None:
        seen = _fingerprint(path)
        if seen != self._seen:
            self._seen = seen
            try:
                self._rates = load_rates(path, self._base_currency, self._clock.now_ms())
            except ConfigError as error:
                _LOG.warning("rates_refused", path=str(path), problems=error.problems, kept=self._rate_id())
            else:
                _LOG.info("rates_read", path=str(path), rate_id=self._rate_id())
        if self._rates is not None:
            self._set_age(self._rates)
            self._tell_staleness(self._rates)

    def _tell_staleness(self, rates: Rates) -> None:
        was_stale, self._is_stale = self._is_stale, self._age_ms(rates) > self._max_age_ms
        if self._is_stale and not was_stale:
            _LOG.error("rates_stale", path=str(self._path), reason=self._staleness(rates))

    def _set_age(self, rates: Rates) -> None:
        metrics.RATES_AGE.set(self._age_ms(rates) / 1000)

    def _rate_id(self) -> str | None:
        return self._rates.id if self._rates else None


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    """Changes whenever the file does: also when a link is set to another file, as Kubernetes does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _read_as_of(raw: object, now_ms: int, problems: list[str]) -> datetime | None:
    if not isinstance(raw, datetime) or raw.tzinfo is None:
        problems.append("as_of: a date and time with its offset is needed, e.g. as_of = 2026-01-31T06:00:00Z")
        return None
    if not _YEAR_2000_MS <= _epoch_ms(raw) <= now_ms + _MAX_AHEAD_MS:
        problems.append(f"as_of: {raw.isoformat()} is in the future or before 2000; write when the rates were taken")
        return None
    return raw.astimezone(UTC)


def _read_per_unit(raw: object, base_currency: str, problems: list[str]) -> dict[str, Decimal]:
    if not isinstance(raw, dict) or not raw:
        problems.append("rates: a table of rates is needed, e.g. [rates] and below it EUR = 1.0842")
        return {}
    per_unit = {base_currency: Decimal(1)}
    for currency, value in raw.items():
        rate = _read_rate(value)
        if not _CURRENCY.fullmatch(currency):
            problems.append(f"rates.{currency}: three capital letters are needed, e.g. EUR")
        elif rate is None:
            problems.append(
                f"rates.{currency}: must be how much {base_currency} one {currency} is, {_MIN_RATE} to {_MAX_RATE}, "
                f"with at most {_MAX_DIGITS} digits"
            )
        elif currency == base_currency and rate != 1:
            problems.append(f"rates.{currency}: is the currency that all are counted in (auction.currency); remove it")
        else:
            per_unit[currency] = rate
    return per_unit


def _read_rate(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    rate = Decimal(value)
    if not rate.is_finite() or not _MIN_RATE <= rate <= _MAX_RATE or len(rate.as_tuple().digits) > _MAX_DIGITS:
        return None
    return rate
