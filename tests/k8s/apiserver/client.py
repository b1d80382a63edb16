"""A caller of the API server: JSON over HTTPS with a bearer token, and the three verbs that tests want most."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

from tests.k8s.render import Resource

_Found = TypeVar("_Found")
_Query = Mapping[str, str | bool]

APPLY = "application/apply-patch+yaml"  # JSON is YAML
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"  # lists such as conditions are merged by their keys

_ANSWER_WITHIN_S = 30.0
_HAPPEN_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said to a request that it carried out."""

    body: Resource
    # Texts of the Warning headers: deprecated fields, pods that a policy would refuse, ignored settings.
    warnings: tuple[str, ...]


class RefusedError(Exception):
    """The API server refused a request."""

    def __init__(self, what: str, status: int, body: Resource) -> None:
        self.status = status
        self.reason: str = body.get("reason", "")
        self.body = body
        super().__init__(f"{what}: {status} {body.get('message', body)}")


class Client:
    """Calls the API server as one user. Not safe for use by several threads at once.

    Args:
        url: `https://127.0.0.1:PORT`.
        authority: PEM file of the certificate authority that signed the server's certificate.
        token: The user's bearer token.
        impersonate: Act as this user instead, as `kubectl --as` does.
    """

    def __init__(self, url: str, authority: Path, token: str, *, impersonate: str | None = None) -> None:
        self._address = urlsplit(url).netloc
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._headers = {"Authorization": f"Bearer {token}"}
        if impersonate is not None:
            self._headers["Impersonate-User"] = impersonate
        self._connection: http.client.HTTPSConnection | None = None
        self._collections: dict[tuple[str, str], tuple[str, bool]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: _Query | None = None,
        content: str = "application/json",
    ) -> Answer:
        """Ask once and wait for the answer.

        Args:
            body: A value to send as JSON, or text that is sent as it is.

        Raises:
            RefusedError: The server answered with 400 or more.
        """
        if query:
            path = f"{path}?{urlencode({key: str(value).replace('True', 'true') for key, value in query.items()})}"
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        headers = {**self._headers, "Content-Type": content}
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read()
        except BaseException:
            self._connection.close()
            self._connection = None
            raise
        read = json.loads(text) if "json" in response.headers.get_content_type() else {"message": text.decode()}
        if response.status >= http.client.BAD_REQUEST:
            raise RefusedError(f"{method} {path}", response.status, read)
        # RFC 7234: code, agent, then the text in quotes.
        warnings = (header.split('"')[1] for header in response.headers.get_all("Warning", []))
        return Answer(read, tuple(warnings))

    def path(self, version: str, kind: str, namespace: str = "", name: str = "", part: str = "") -> str:
        """Find where resources of a kind live; `part` is a subresource such as `status`.

        Raises:
            RefusedError: The server does not know this version of the API.
            KeyError: It knows the version and not the kind.
        """
        if (version, kind) not in self._collections:
            self._discover(version)
        collection, namespaced = self._collections[version, kind]
        folder = f"{_root(version)}/namespaces/{namespace}" if namespaced and namespace else _root(version)
        return "/".join(filter(None, (folder, collection, name, part)))

    def path_of(self, resource: Resource, part: str = "") -> str:
        """Find where this resource lives."""
        meta = resource["metadata"]
        return self.path(resource["apiVersion"], resource["kind"], meta.get("namespace", ""), meta["name"], part)

    def apply(self, resource: Resource, *, dry_run: bool = False) -> Answer:
        """Apply a resource on the server as `kubectl apply --server-side --validate=strict` does.

        Raises:
            RefusedError: The resource is not what the server knows, or a policy forbids it.
        """
        query: dict[str, str | bool] = {"fieldManager": "datastreamx", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return self.request("PATCH", self.path_of(resource), resource, query=query, content=APPLY)

    def create(self, resource: Resource) -> Resource:
        """Create a resource that must not be there yet."""
        path = self.path(resource["apiVersion"], resource["kind"], resource["metadata"].get("namespace", ""))
        return self.request("POST", path, resource, query={"fieldValidation": "Strict"}).body

    def get(self, path: str) -> Resource:
        """Read one resource."""
        return self.request("GET", path).body

    def patch(self, path: str, change: Resource, *, content: str = MERGE) -> Resource:
        """Change some fields of a resource, as `kubectl patch` does."""
        return self.request("PATCH", path, change, content=content).body

    def delete(self, path: str) -> None:
        """Ask for a resource to be deleted; finalizers may keep it for a while."""
        self.request("DELETE", path, {"propagationPolicy": "Background"})

    def list(self, path: str, selector: str = "") -> tuple[Resource, ...]:
        """Read a collection, or the part of it with these labels."""
        return tuple(self.request("GET", path, query={"labelSelector": selector}).body["items"])

    def until(
        self,
        path: str,
        happened: Callable[[tuple[Resource, ...]], _Found | None],
        *,
        selector: str = "",
        fields: str = "",
        within_s: float = _HAPPEN_WITHIN_S,
    ) -> _Found:
        """Watch a collection until `happened` finds in it what the caller waits for, and return that.

        Args:
            path: A collection.
            happened: Asked after every change, with the resources sorted by name; falsy means not yet.
            selector: Only resources with these labels.
            fields: Only resources with these fields, such as `metadata.name=ads`.
            within_s: How long it may take.

        Raises:
            AssertionError: It did not happen in time; the message says what was there instead.
        """
        deadline = time.monotonic() + within_s
        resources: tuple[Resource, ...] = ()
        try:
            for resources in self._versions(path, {"labelSelector": selector, "fieldSelector": fields}, deadline):
                found = happened(resources)
                if found:
                    return found
        except TimeoutError:
            pass
        seen = "\n".join(f"  {_summary(resource)}" for resource in resources) or "  nothing"
        raise AssertionError(f"waited {within_s:g} s on {path} for {happened.__qualname__}; there is\n{seen}")

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _versions(self, path: str, only: dict[str, str], deadline: float) -> Iterator[tuple[Resource, ...]]:
        first = self.request("GET", path, query=only).body
        items = {(i["metadata"].get("namespace", ""), i["metadata"]["name"]): i for i in first["items"]}
        yield tuple(items[key] for key in sorted(items))
        query = {**only, "watch": "true", "resourceVersion": first["metadata"]["resourceVersion"]}
        connection = self._connect()
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers=self._headers)
            response = connection.getresponse()
            while (left_s := deadline - time.monotonic()) > 0:
                connection.sock.settimeout(left_s)
                line = response.readline()
                if not line:
                    raise AssertionError(f"the API server ended the watch of {path}")
                event = json.loads(line)
                meta = event["object"].get("metadata", {})
                if event["type"] == "ERROR":
                    raise AssertionError(f"the watch of {path} failed: {event['object']}")
                key = (meta.get("namespace", ""), meta["name"])
                if event["type"] == "DELETED":
                    items.pop(key, None)
                else:
                    items[key] = event["object"]
                yield tuple(items[key] for key in sorted(items))
        finally:
            connection.close()

    def _discover(self, version: str) -> None:
        for found in self.get(_root(version))["resources"]:
            if "/" not in found["name"]:
                self._collections[version, found["kind"]] = (found["name"], found["namespaced"])

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, context=self._tls, timeout=_ANSWER_WITHIN_S)


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _summary(resource: Resource) -> str:
    status = resource.get("status", {})
    shown = {key: status[key] for key in ("phase", "readyReplicas", "updatedReplicas", "conditions") if key in status}
    return f"{resource['metadata']['name']}: {json.dumps(shown)}"
