"""What a status of the Storage Write API means to the loader. Pure.

Sources: `google/rpc/code.proto` for the codes, `StorageError` in `google/cloud/bigquery/storage/v1/storage.proto` for
the details, which are more precise and therefore go first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.cloud.bigquery_storage_v1 import types
from grpc import StatusCode

from sinks.bigquery.transport import ReplyKind

_Code = types.StorageError.StorageErrorCode

_BY_STORAGE_ERROR = {
    _Code.OFFSET_ALREADY_EXISTS: ReplyKind.ALREADY_EXISTS,
    _Code.OFFSET_OUT_OF_RANGE: ReplyKind.OUT_OF_RANGE,
    _Code.TABLE_NOT_FOUND: ReplyKind.NOT_FOUND,
    _Code.STREAM_NOT_FOUND: ReplyKind.NOT_FOUND,
    # A column that was added minutes ago is not known to every server yet.
    _Code.SCHEMA_MISMATCH_EXTRA_FIELDS: ReplyKind.DOUBTFUL,
    _Code.KMS_SERVICE_ERROR: ReplyKind.RETRY,
    _Code.KMS_PERMISSION_DENIED: ReplyKind.DOUBTFUL,
    _Code.STREAM_ALREADY_COMMITTED: ReplyKind.FATAL,
    _Code.INVALID_STREAM_TYPE: ReplyKind.FATAL,
    _Code.INVALID_STREAM_STATE: ReplyKind.FATAL,
    _Code.STREAM_FINALIZED: ReplyKind.FATAL,
}

_BY_CODE = {
    code.value[0]: kind
    for code, kind in {
        StatusCode.OK: ReplyKind.OK,
        StatusCode.ALREADY_EXISTS: ReplyKind.ALREADY_EXISTS,
        StatusCode.OUT_OF_RANGE: ReplyKind.OUT_OF_RANGE,
        StatusCode.NOT_FOUND: ReplyKind.NOT_FOUND,
        StatusCode.CANCELLED: ReplyKind.RETRY,
        StatusCode.UNKNOWN: ReplyKind.RETRY,
        StatusCode.DEADLINE_EXCEEDED: ReplyKind.RETRY,
        StatusCode.RESOURCE_EXHAUSTED: ReplyKind.RETRY,
        StatusCode.ABORTED: ReplyKind.RETRY,
        StatusCode.INTERNAL: ReplyKind.RETRY,
        StatusCode.UNAVAILABLE: ReplyKind.RETRY,
        # Grants take minutes to spread, and tokens of a workload identity arrive late at start.
        StatusCode.PERMISSION_DENIED: ReplyKind.DOUBTFUL,
        StatusCode.UNAUTHENTICATED: ReplyKind.DOUBTFUL,
    }.items()
}


def classify(code: int, details: Iterable[Any] = ()) -> ReplyKind:
    """Kind of a status with `google.rpc` code `code` and its packed details; what is not listed can never succeed."""
    for detail in details:
        if detail.Is(types.StorageError.pb().DESCRIPTOR):
            error = types.StorageError.deserialize(detail.value)
            if error.code in _BY_STORAGE_ERROR:
                return _BY_STORAGE_ERROR[error.code]
    return _BY_CODE.get(code, ReplyKind.FATAL)
