"""Configuration becomes adapters, or every problem is told at once."""

from __future__ import annotations

import pytest

from aggregators.registry import build_adapter, build_adapters
from datastreamx.config import AggregatorConfig
from datastreamx.errors import ConfigError

URL = "https://ads.example/bid"


def test_unknown_adapter_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        build_adapter(AggregatorConfig(name="acme", adapter="openrbt", url=URL))
    assert caught.value.problems == [
        "aggregators.acme.adapter: unknown adapter 'openrbt'; did you mean openrtb?",
    ]


def test_every_wrong_option_is_told_at_once() -> None:
    options: dict[str, str | int | bool] = {"publisherid": "x", "gdpr": 2, "country": "Holland", "test": "yes"}
    with pytest.raises(ConfigError) as caught:
        build_adapter(AggregatorConfig(name="acme", adapter="openrtb", url=URL, options=options))
    told = "\n".join(caught.value.problems)
    assert "aggregators.acme.options.publisherid: unknown option; did you mean publisher_id?" in told
    for key in ("publisher_id", "app_bundle", "gdpr", "country", "test"):
        assert f"aggregators.acme.options.{key}: " in told
    assert len(caught.value.problems) == 6


def test_problems_of_all_aggregators_are_gathered() -> None:
    configs = [
        AggregatorConfig(name="one", adapter="nothing", url=URL),
        AggregatorConfig(name="two", adapter="simple", url=URL),
        AggregatorConfig(name="three", adapter="simple", url=URL, options={"method": "PUT"}),
    ]
    with pytest.raises(ConfigError) as caught:
        build_adapters(configs)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "aggregators.one.adapter",
        "aggregators.three.options.method",
    ]


def test_adapters_keep_the_order_of_the_configuration() -> None:
    configs = [AggregatorConfig(name=name, adapter="simple", url=URL) for name in ("zebra", "ant")]
    assert list(build_adapters(configs)) == ["zebra", "ant"]
