"""Which adapters exist: one line per folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aggregators.contract import Adapter
from aggregators.openrtb.adapter import build_openrtb
from aggregators.options import suggestion
from aggregators.simple.adapter import build_simple
from aggregators.vasttag.adapter import build_vasttag
from datastreamx.config import AggregatorConfig
from datastreamx.errors import ConfigError

AdapterFactory = Callable[[AggregatorConfig], Adapter]
"""Builds an adapter, or raises `ConfigError` with every problem of its options."""

ADAPTERS: dict[str, AdapterFactory] = {
    "openrtb": build_openrtb,
    "simple": build_simple,
    "vasttag": build_vasttag,
}


def build_adapter(config: AggregatorConfig) -> Adapter:
    """The adapter of one configured aggregator.

    Raises:
        ConfigError: The adapter does not exist or its options are wrong; lists every problem.
    """
    factory = ADAPTERS.get(config.adapter)
    if factory is None:
        problem = f"aggregators.{config.name}.adapter: unknown adapter {config.adapter!r}"
        raise ConfigError(f"aggregator {config.name!r}", [problem + suggestion(config.adapter, ADAPTERS)])
    return factory(config)


def build_adapters(configs: Iterable[AggregatorConfig]) -> dict[str, Adapter]:
    """Adapters by aggregator name, in the order of the configuration.

    Raises:
        ConfigError: Lists the problems of all aggregators, not only the first one's.
    """
    adapters: dict[str, Adapter] = {}
    problems: list[str] = []
    for config in configs:
        try:
            adapters[config.name] = build_adapter(config)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError("aggregators", problems)
    return adapters
