"""Certificates that nobody trusts unless told to."""

from __future__ import annotations

import ssl
from pathlib import Path

CA_FILE = "ca.pem"
_SERVER_FILE = "server.pem"
_MODE_PRIVATE = 0o600


def server_context(directory: Path) -> ssl.SSLContext:
    """Context of a server at 127.0.0.1, with the certificate in `directory`, made if there is none.

    The certificate is signed by `ca.pem` in the same directory, which a client has to be given.

    Raises:
        OSError: The directory cannot be written.
    """
    server = directory / _SERVER_FILE
    if not server.exists():
        _issue(directory / CA_FILE, server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    return context


def _issue(ca_file: Path, server: Path) -> None:
    import trustme  # noqa: PLC0415  not installed where nobody simulates TLS

    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    partial = server.with_suffix(".partial")
    partial.touch(_MODE_PRIVATE)
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(partial)
    # Last and in one step: a server that is there has its authority beside it.
    partial.replace(server)
