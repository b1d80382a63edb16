"""Which aggregators and dialects there are, and whether a dialect keeps its cases."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from aggregators import cases
from aggregators.registry import build_adapter
from datastreamx.cli.aggregator.report import AggregatorListed, CaseFailure, CasesTold, DialectListed, Listed
from datastreamx.config import AggregatorConfig, Config, load_config


def find(name: str, path: Path) -> tuple[Config | None, AggregatorConfig | None]:
    """Configuration and aggregator of that name; no aggregator if it is a dialect.

    Whoever writes a dialect may have no configuration yet, so for a dialect the file may be missing.

    Raises:
        LookupError: It is neither; says which there are.
        ConfigError: The configuration, or the aggregator's options, are wrong.
    """
    dialects = cases.dialects()
    if name in dialects and not path.exists():
        return None, None
    config = load_config(path)
    chosen = next((one for one in config.aggregators if one.name == name), None)
    if chosen is not None:
        # Told before any case is run.
        build_adapter(chosen)
    elif name not in dialects:
        raise LookupError(
            f"there is no aggregator and no dialect {name!r}. Aggregators in {path}: "
            f"{', '.join(one.name for one in config.aggregators)}; dialects: {', '.join(dialects)}"
        )
    return config, chosen


def run_cases(dialect: str) -> CasesTold:
    """Run all cases of a dialect."""
    results = cases.run_dialect(dialect)
    failures = [CaseFailure(case=case, problems=problems) for case, problems in results.items() if problems]
    # The folder itself is looked at, too, but is no case.
    total = len(results) - 1
    return CasesTold(
        dialect=dialect,
        total=total,
        passed=total - sum(failure.case != "folder" for failure in failures),
        failures=failures,
    )


def listing(config: Config) -> Listed:
    """Configured aggregators in their order, dialects by name."""
    return Listed(
        aggregators=[
            AggregatorListed(
                name=one.name,
                dialect=one.adapter,
                # Without user and password.
                host=urlsplit(one.url).netloc.rpartition("@")[2],
                timeout_ms=one.timeout_ms or config.auction.timeout_ms,
                notices=one.notices,
                withhold=one.withhold,
            )
            for one in config.aggregators
        ],
        dialects=[
            DialectListed(
                name=dialect,
                exemplary=len(cases.paths(dialect, "exemplary")),
                supplemental=len(cases.paths(dialect, "supplemental")),
            )
            for dialect in cases.dialects()
        ],
    )
