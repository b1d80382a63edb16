from __future__ import annotations

import pytest

from datastreamx.hosts import host_allowed, in_domains, normal_host


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("cdn.example.com", True),
        ("CDN.Example.com.", True),
        ("a.media.example", True),
        ("b.a.media.example", True),
        ("media.example", False),
        ("evilmedia.example", False),
        ("cdn.example.com.evil.example", False),
        ("example.com", False),
        ("", False),
        ("127.0.0.1", False),
    ],
)
def test_pattern_covers_its_host_or_with_a_star_what_lies_below(host: str, *, allowed: bool) -> None:
    assert host_allowed(host, ("Cdn.example.com", "*.Media.example")) is allowed


def test_empty_list_covers_nothing() -> None:
    assert not host_allowed("example.com", ())


def test_lone_star_is_no_pattern() -> None:
    assert not host_allowed("example.com", ("*",))


@pytest.mark.parametrize(
    ("domain", "found"),
    [
        ("acme.example", True),
        ("Shop.ACME.example.", True),
        ("a.b.acme.example", True),
        ("notacme.example", False),
        ("example", False),
        ("acme.example.org", False),
    ],
)
def test_domain_covers_itself_and_what_lies_below(domain: str, *, found: bool) -> None:
    assert in_domains(domain, {"acme.example", "casino.example"}) is found


def test_normal_host_is_lower_case_without_the_last_dot() -> None:
    assert normal_host("WWW.Example.COM.") == "www.example.com"
