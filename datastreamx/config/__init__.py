"""Configuration: one TOML file, strict, every problem reported at once."""

from datastreamx.config.loader import load_config, parse_config
from datastreamx.config.structs import (
    AggregatorConfig,
    AuctionConfig,
    BigQueryConfig,
    Config,
    EventsConfig,
    FloorRule,
    KafkaConfig,
    MetricsConfig,
    NoticeEvent,
    NoticesConfig,
    PrivacyConfig,
    PushConfig,
    RecoveryConfig,
    SelectionConfig,
    TopicsConfig,
    ViewingConfig,
    WarehouseConfig,
)

__all__ = [
    "AggregatorConfig",
    "AuctionConfig",
    "BigQueryConfig",
    "Config",
    "EventsConfig",
    "FloorRule",
    "KafkaConfig",
    "MetricsConfig",
    "NoticeEvent",
    "NoticesConfig",
    "PrivacyConfig",
    "PushConfig",
    "RecoveryConfig",
    "SelectionConfig",
    "TopicsConfig",
    "ViewingConfig",
    "WarehouseConfig",
    "load_config",
    "parse_config",
]
