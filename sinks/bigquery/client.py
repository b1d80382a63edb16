"""Clients for BigQuery and for the local one: which address, which credentials. Nothing here retries.

The libraries' own retries last for hours (24 h for appends) and hide outages; every call of ours has its own timeout
and leaves waiting to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import google.auth.exceptions
import grpc
import requests.exceptions
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

from datastreamx.config.structs import BigQueryConfig
from datastreamx.errors import CrashError, RetryableError

REST_TIMEOUT_S = 30.0

# The library's types forget that `None`, "do not retry", is allowed.
NO_RETRY: Any = None

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A peer that vanished without a word is noticed within 80 s, also below a connection on which we wait.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The default of 120 s would outlast our own back-off: calls would fail without being tried.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Otherwise all tables of a process share one TCP connection and its flow control.
    ("grpc.use_local_subchannel_pool", 1),
]


def rest_client(config: BigQueryConfig) -> bigquery.Client:
    """Client for tables and queries.

    Raises:
        CrashError: There are no credentials.
    """
    if config.rest_endpoint is None:
        with as_our_errors("connect to BigQuery"):
            return bigquery.Client(project=config.project, location=config.location)
    return bigquery.Client(
        project=config.project,
        location=config.location,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options=ClientOptions(api_endpoint=config.rest_endpoint),
    )


def write_channel(config: BigQueryConfig) -> grpc.Channel:
    """Channel to the Storage Write API; connects in the background.

    Raises:
        CrashError: There are no credentials.
    """
    if config.grpc_endpoint is not None:
        return grpc.insecure_channel(config.grpc_endpoint, options=_CHANNEL_OPTIONS)
    with as_our_errors("connect to BigQuery"):
        return BigQueryWriteGrpcTransport.create_channel(
            BigQueryWriteGrpcTransport.DEFAULT_HOST, options=_CHANNEL_OPTIONS
        )


@contextmanager
def as_our_errors(doing: str) -> Iterator[None]:
    """Turn the REST library's errors into ours; `doing` completes "could not ...".

    Raises:
        RetryableError: BigQuery is unwell or throttles.
        CrashError: It refuses, or there are no usable credentials.
    """
    try:
        yield
    except (
        exceptions.ServerError,
        exceptions.TooManyRequests,
        # Somebody changed the table between our look and our change.
        exceptions.PreconditionFailed,
        exceptions.RetryError,
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        google.auth.exceptions.TransportError,
    ) as error:
        raise RetryableError(f"could not {doing}: {error}") from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise CrashError(
            f"could not {doing}: {error}. Give the process application default credentials, e.g. by workload identity"
        ) from error
    except exceptions.Forbidden as error:
        if any(item.get("reason") in {"rateLimitExceeded", "quotaExceeded"} for item in error.errors):
            raise RetryableError(f"could not {doing}: {error}") from error
        raise CrashError(
            f"could not {doing}: {error}. The service account needs roles/bigquery.dataEditor on the dataset and "
            "roles/bigquery.jobUser on the project"
        ) from error
    except exceptions.GoogleAPICallError as error:
        raise CrashError(f"could not {doing}: {error}") from error
