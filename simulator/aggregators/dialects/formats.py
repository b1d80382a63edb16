"""What answers are made of, and how a sound one is blown up without ceasing to be well-formed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """JSON or XML.

    Attributes:
        headers: Of every answer.
        padded: The document with that many bytes of filling.
        nested: The document with an element nested that deep.
    """

    headers: dict[str, str]
    padded: Callable[[bytes, int], bytes]
    nested: Callable[[bytes, int], bytes]


def _padded_json(body: bytes, size: int) -> bytes:
    return b'{"ext":"' + b"x" * size + b'",' + body[1:]


def _nested_json(body: bytes, depth: int) -> bytes:
    return b'{"ext":' + b"[" * depth + b"]" * depth + b"," + body[1:]


def _padded_xml(body: bytes, size: int) -> bytes:
    return b"<!--" + b"x" * size + b"-->" + body


def _nested_xml(body: bytes, depth: int) -> bytes:
    end = body.rindex(b"</")
    return body[:end] + b"<a>" * depth + b"</a>" * depth + body[end:]


JSON = Format(headers={"Content-Type": "application/json"}, padded=_padded_json, nested=_nested_json)
XML = Format(headers={"Content-Type": "application/xml"}, padded=_padded_xml, nested=_nested_xml)
