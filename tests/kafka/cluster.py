"""A cluster of one or three real Apache Kafka brokers (KRaft) on loopback ports.

    with KafkaCluster(nodes=3, directory=tmp_path) as kafka:
        kafka.create_topic("events", partitions=4)
        Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
        kafka.kill_node(kafka.leader_of("events", 0))

Node ids start at 1. Calls block until the cluster shows their effect, and raise `CrashError` if it does not in time.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from datastreamx.errors import CrashError, MissingTopicError
from tests.kafka.broker import Broker
from tests.kafka.jars import find_java, resolve_jars
from tests.kafka.properties import Ports, server_properties
