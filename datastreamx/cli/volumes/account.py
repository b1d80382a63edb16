"""Who a pod is to the Kubernetes API, and where that is: what the kubelet puts into every pod."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datastreamx.errors import ConfigError


@dataclass(frozen=True)
class Account:
    """Address of the API server and the way to be let in.

    Attributes:
        address: `https://host:port`.
        namespace: The one in which everything happens.
        token_file: Read for each request, because the kubelet replaces it every hour.
        tls: Trusts the cluster's own authority; None where `address` is plain http.
    """

    address: str
    namespace: str
    token_file: Path
    tls: ssl.SSLContext | None

    def token(self) -> str:
        """The token of this moment.

        Raises:
            ConfigError: It cannot be read.
        """
        return _text(self.token_file)


def account_of(environment: Mapping[str, str], folder: Path) -> Account:
    """Account of the pod that this process is in.

    Args:
        environment: Variables of the process.
        folder: Where token, ca.crt and namespace are mounted.

    Raises:
        ConfigError: This is no pod, or one without a token.
    """
    host, port = (environment.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    if not host or not port:
        raise ConfigError(
            "the environment",
            ["KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set; run this in a pod, see k8s/README.md"],
        )
    namespace, authority = _text(folder / "namespace"), folder / "ca.crt"
    _text(folder / "token")
    try:
        tls = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise ConfigError(str(authority), [f"is not usable: {error.strerror or error}"]) from None
    bracketed = f"[{host}]" if ":" in host else host
    return Account(f"https://{bracketed}:{port}", namespace, folder / "token", tls)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            str(path), [f"cannot be read: {reason}; the pod needs automountServiceAccountToken: true"]
        ) from None
    if not text:
        raise ConfigError(str(path), ["is empty"])
    return text
