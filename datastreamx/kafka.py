"""librdkafka properties from the configuration, shared by every source, sink and command."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

from datastreamx.config import KafkaConfig
from datastreamx.errors import ConfigError

MAX_MESSAGE_BYTES = 8_000_000

Properties = dict[str, Any]


def client_properties(kafka: KafkaConfig, client_id: str) -> Properties:
    """Properties that every client needs: where the brokers are and who we are.

    Raises:
        ConfigError: `oauth = "google"` without the package that fetches the tokens.
    """
    properties: Properties = {
        **kafka.librdkafka,
        "bootstrap.servers": kafka.bootstrap,
        "client.id": client_id,
        "security.protocol": kafka.security_protocol,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log.connection.close": False,
    }
    optional = {
        "sasl.mechanisms": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password.reveal() if kafka.sasl_password else None,
        "ssl.ca.location": kafka.ssl_ca_file,
        "ssl.certificate.location": kafka.ssl_certificate_file,
        "ssl.key.location": kafka.ssl_key_file,
    }
    properties.update({key: value for key, value in optional.items() if value is not None})
    if kafka.oauth == "google":
        properties["oauth_cb"] = google_token_callback()
    elif kafka.oauth == "oidc":
        properties["sasl.oauthbearer.method"] = "oidc"
    return properties


def consumer_properties(kafka: KafkaConfig, client_id: str, group: str) -> Properties:
    """Properties of a consumer that is assigned, not subscribed; `group` keeps what its flow has proven, for witness.

    An offset that the broker no longer holds must be an error: the default jumps to the end and loses what is between.
    """
    return {
        **client_properties(kafka, client_id),
        "group.id": group,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        # A few records of each partition at a time cost the flows ten times as much per record as a dozen do, and a
        # flow that is busy with that lets its pushes wait: so Kafka gathers for 10 ms, or until it has much. The local
        # broker looks through its whole partition for each fetch, and with much less than 10 ms finds nothing in time.
        "fetch.wait.max.ms": 10,
        "fetch.min.bytes": 65_536,
        # The default of 500 ms would be added to the latency of the first records of an empty partition.
        "fetch.error.backoff.ms": 20,
        "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
    }


def producer_properties(kafka: KafkaConfig, client_id: str) -> Properties:
    """Properties of an idempotent producer that never gives up by itself; the caller decides how long to wait."""
    return {
        **client_properties(kafka, client_id),
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 2,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "message.timeout.ms": 0,
        "queue.buffering.max.messages": 1_000_000,
    }


def google_token_callback() -> Callable[[str], tuple[str, float]]:
    """Callback that fetches access tokens by Google application default credentials.

    The token format is the one that Managed Service for Apache Kafka documents: three base64url parts, joined by dots.
    """
    try:
        import google.auth  # noqa: PLC0415 - only deployments on Google Cloud pay for this import
        import google.auth.transport.requests  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise ConfigError("kafka.oauth", [f"google needs the google-auth package: {error}"]) from None
    import base64  # noqa: PLC0415 - likewise
    import json  # noqa: PLC0415 - likewise

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])

    def encode(value: str) -> str:
        return base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")

    def fetch(_config: str) -> tuple[str, float]:
        credentials.refresh(google.auth.transport.requests.Request())  # type: ignore[no-untyped-call] # google-auth
        # google-auth writes UTC without saying so, which `timestamp` would take for local time.
        expiry = credentials.expiry.replace(tzinfo=UTC).timestamp() if credentials.expiry else time.time() + 300
        header = json.dumps({"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"})
        claims = json.dumps(
            {
                "exp": expiry,
                "iss": "Google",
                "iat": time.time(),
                "sub": getattr(credentials, "service_account_email", "default"),
            }
        )
        return ".".join([encode(header), encode(claims), encode(str(credentials.token))]), expiry

    return fetch
