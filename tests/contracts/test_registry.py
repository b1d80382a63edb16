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


def test_two_kinds_of_floor_by_duration_exclude_each_other() -> None:
    options: dict[str, str | int | bool] = {
        "publisher_id": "p",
        "app_bundle": "b",
        "floor_per_second": "0.2",
        "duration_floors": "0-15:4",
    }
    with pytest.raises(ConfigError) as caught:
        build_adapter(AggregatorConfig(name="acme", adapter="openrtb", url=URL, options=options))
    assert caught.value.problems == [
        "aggregators.acme.options: floor_per_second and duration_floors exclude each other; keep one"
    ]


@pytest.mark.parametrize("floors", ["15:4", "0-15", "0-15:", "0-15:4,", "0-15:1e3", "a-b:4", "0-15:4.1234567"])
def test_malformed_duration_floors_are_refused(floors: str) -> None:
    options: dict[str, str | int | bool] = {"publisher_id": "p", "app_bundle": "b", "duration_floors": floors}
    with pytest.raises(ConfigError, match="duration_floors"):
        build_adapter(AggregatorConfig(name="acme", adapter="openrtb", url=URL, options=options))


def test_a_tag_with_macros_that_nobody_knows_is_refused_with_a_hint() -> None:
    url = "https://{channel}.tag.example/[CACHEBUSTING]?c=[CACHEBUSTIN]&d={durations}"
    with pytest.raises(ConfigError) as caught:
        build_adapter(AggregatorConfig(name="tern", adapter="vasttag", url=url, options={"mime": "video/mp4"}))
    assert caught.value.problems == [
        "aggregators.tern.url: unknown macro [CACHEBUSTIN]; did you mean [CACHEBUSTING]?",
        "aggregators.tern.url: unknown macro {durations}; did you mean {duration}?",
        "aggregators.tern.url: a macro before the `?`; host and path are for the configuration alone to say",
        "aggregators.tern.options.mime: unknown option; did you mean mimes?",
    ]
