"""The four requests to the Kubernetes API that snapshots need; repeated while the server is unwell."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from datastreamx.cli.volumes.account import Account
from datastreamx.cli.volumes.objects import Claim, ClaimList, Snapshot, SnapshotList
from datastreamx.errors import CrashError, RetryableError

P = TypeVar("P", ClaimList, SnapshotList)

TIMEOUT_S = 15.0
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each further attempt: half a minute in all, about what a control plane needs to change its leader."""

_RETRY_AFTER_MAX_S = 60.0
_PAGE = 500
_SNAPSHOTS = "apis/snapshot.storage.k8s.io/v1"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 401, 403, 404, 409, 429, 500
_HINTS = {
    _UNAUTHORIZED: "the token of the pod is not accepted",
    _FORBIDDEN: "the rights of the service account are in k8s/components/snapshots/rights.yaml",
    _NOT_FOUND: "does the cluster know volume snapshots (snapshot.storage.k8s.io/v1)?",
}


class RefusedError(CrashError):
    """The API server has answered, and said no.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        hint = _HINTS.get(status)
        super().__init__(f"the API server refuses (HTTP {status}): {message}" + (f"; {hint}" if hint else ""))
        self.status = status


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the API server answers in place of an object."""

    message: str = ""


class Cluster:
    """The API server, for one namespace.

    Every method raises `RefusedError` if the server says no, `RetryableError` if it does not answer or cannot, and
    `ConfigError` if the token cannot be read.
    """

    def __init__(self, account: Account, sleep: Callable[[float], None] = time.sleep) -> None:
        self._account = account
        self._sleep = sleep
        # Past the proxy of the environment, which does not know the addresses of a cluster.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if account.tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=account.tls))
        self._open = urllib.request.build_opener(*handlers).open

    def claims(self, selector: str) -> list[Claim]:
        """All claims that a label selector matches."""
        pages = self._pages("api/v1", "persistentvolumeclaims", ClaimList, selector)
        return [claim for page in pages for claim in page.items]

    def snapshots(self, selector: str) -> list[Snapshot]:
        """All snapshots that a label selector matches."""
        pages = self._pages(_SNAPSHOTS, "volumesnapshots", SnapshotList, selector)
        return [snapshot for page in pages for snapshot in page.items]

    def make(self, snapshot: dict[str, Any]) -> None:
        """Have a snapshot made. One of that name may be there: from an attempt whose answer was lost."""
        try:
            self._ask("POST", self._path(_SNAPSHOTS, "volumesnapshots"), msgspec.json.encode(snapshot))
        except RefusedError as refusal:
            if refusal.status != _CONFLICT:
                raise

    def delete(self, name: str) -> None:
        """Delete a snapshot. It may be gone already."""
        try:
            self._ask("DELETE", self._path(_SNAPSHOTS, "volumesnapshots") + f"/{urllib.parse.quote(name, safe='')}")
        except RefusedError as refusal:
            if refusal.status != _NOT_FOUND:
                raise

    def _path(self, group: str, resource: str) -> str:
        return f"/{group}/namespaces/{urllib.parse.quote(self._account.namespace, safe='')}/{resource}"

    def _pages(self, group: str, resource: str, kind: type[P], selector: str) -> Iterator[P]:
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            body = self._ask("GET", f"{self._path(group, resource)}?{urllib.parse.urlencode(query)}")
            try:
                page = msgspec.json.decode(body, type=kind)
            except msgspec.MsgspecError as error:
                raise CrashError(f"{resource}: the API server's answer is not understood: {error}") from None
            yield page
            if not page.metadata.next_page:
                return
            query["continue"] = page.metadata.next_page

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        for wait_s in (*WAITS_S, None):
            try:
                return self._ask_once(method, path, body)
            except _UnwellError as unwell:
                if wait_s is None:
                    raise RetryableError(f"the API server at {self._account.address} is unwell: {unwell}") from None
                self._sleep(max(wait_s, unwell.retry_after_s))
        raise AssertionError  # The last round returns or raises.

    def _ask_once(self, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._account.token()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self._account.address + path, data=body, headers=headers, method=method)  # noqa: S310  https, from the environment of the pod
        try:
            with self._open(request, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as refusal:
            with refusal:
                message = _message(refusal)
                if refusal.code == _TOO_MANY or refusal.code >= _SERVER_ERROR:
                    raise _UnwellError(f"HTTP {refusal.code}: {message}", _retry_after_s(refusal)) from None
                raise RefusedError(refusal.code, message) from None
        except (OSError, http.client.HTTPException) as error:
            raise _UnwellError(str(getattr(error, "reason", error)) or type(error).__name__) from None


class _UnwellError(Exception):
    """One attempt has failed in a way that the next one need not."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def _message(refusal: urllib.error.HTTPError) -> str:
    try:
        return msgspec.json.decode(refusal.read(), type=_Status).message or refusal.reason
    except (msgspec.MsgspecError, OSError, http.client.HTTPException):
        return str(refusal.reason)


def _retry_after_s(refusal: urllib.error.HTTPError) -> float:
    text = refusal.headers.get("Retry-After", "")
    return min(float(text), _RETRY_AFTER_MAX_S) if text.isdecimal() else 0.0
